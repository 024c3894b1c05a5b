# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What servers are told to be, as values, and what can be refused without asking HAProxy. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError, checked_name

STATES = ("ready", "drain", "maint")
MAX_WEIGHT = 256


class Refused(HaproxyError):
    """Not asked of HAProxy at all; nothing was changed."""


class Wanted(t.NamedTuple):
    """What one server should be; None leaves it as it is."""

    name: str
    weight: int | None = None
    state: str | None = None


class Target(t.NamedTuple):
    """What a server is in the safe state. ``weight``: None leaves it as it is."""

    weight: int | None
    state: str


def check_wanted(wanted: t.Sequence[Wanted]) -> None:
    """Refuse what can be judged without asking HAProxy."""
    if not wanted:
        raise Refused("servers is empty; list the servers to change")
    seen: set[str] = set()
    for item in wanted:
        checked_name("server", item.name)
        if item.name in seen:
            raise Refused(
                f"server {item.name} is listed twice; give each server once, with its weight and state together"
            )
        seen.add(item.name)
        if item.weight is None and item.state is None:
            raise Refused(f"server {item.name} has neither weight nor state; say what it should become")
        if item.weight is not None and not 0 <= item.weight <= MAX_WEIGHT:
            raise Refused(f"server {item.name}: weight {item.weight} is outside HAProxy's range 0 to {MAX_WEIGHT}")
        if item.state is not None and item.state not in STATES:
            raise Refused(f"server {item.name}: state {item.state!r} is not one of {', '.join(STATES)}")


def targets(safe: t.Mapping[str, t.Any]) -> dict[str, Target]:
    """From `{name: {weight, state}}`. Raises HaproxyError for what is no safe state."""
    found = {}
    for name, given in safe.items():
        weight, state = (given.get("weight"), given.get("state")) if isinstance(given, dict) else (None, None)
        number = isinstance(weight, int) and not isinstance(weight, bool) and 0 <= weight <= MAX_WEIGHT
        if state not in STATES or not (weight is None or number):
            raise HaproxyError(
                f"the safe state of server {name} is {given!r}, which is no weight from 0 to {MAX_WEIGHT} with one of the "
                f"states {', '.join(STATES)}"
            )
        found[name] = Target(weight, state)
    return found
