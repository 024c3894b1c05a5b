# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Two views of the same servers' health: that of a probe and that of a load balancer. Pure."""

from __future__ import annotations

import typing as t

PROBE_HEALTHS = ("up", "down")
LB_HEALTHS = ("up", "down", "unchecked")


class HealthError(Exception):
    """What was given is not a list of servers with their health."""


def health_differences(probed: t.Any, servers: t.Any) -> list[dict[str, str | None]]:
    """Where the two disagree, as ``{name, probe, lb}``, in the order of the probe, then of the load balancer.

    A server that only one of them knows is None on the other side. `unchecked` agrees with nothing: the load balancer
    does not know.
    """
    probe = _healths(probed, PROBE_HEALTHS, "The targets of the probe")
    lb = _healths(servers, LB_HEALTHS, "The servers of the load balancer")
    return [
        {"name": name, "probe": probe.get(name), "lb": lb.get(name)}
        for name in {**probe, **lb}
        if probe.get(name) != lb.get(name)
    ]


def _healths(entries: t.Any, known: t.Sequence[str], what: str) -> dict[str, str]:
    if isinstance(entries, (str, bytes)) or not isinstance(entries, t.Sequence):
        raise HealthError(f"{what} are not a list, but {type(entries).__name__}.")
    healths: dict[str, str] = {}
    for entry in entries:
        name, health = (entry.get("name"), entry.get("health")) if isinstance(entry, t.Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(health, str) or health not in known:
            raise HealthError(f"{what} must each have a name and a health of {', '.join(known)}; one of them has not.")
        if name in healths:
            raise HealthError(f"{what} have {name!r} more than once, so that it cannot be told which one is meant.")
        healths[name] = health
    return healths
