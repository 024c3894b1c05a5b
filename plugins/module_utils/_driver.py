# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a rollout asks of a load balancer, whatever its make: read, change, restore.

A server is told as `{name, weight, state, health, ...}`, what a driver cannot know as null. ``latencies`` is a histogram that only
grows, `{upper bound in ms: answers}`: each bound is 1 ms above the one before, and from FINEST_MS on BUCKET times as much.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

FINEST_MS = 20.0
BUCKET = 1.05

Servers = list[dict[str, t.Any]]


class LoadBalancerError(Exception):
    """What was asked, what the load balancer said or did, what to do next: one or two sentences for a person."""


class Reading(t.NamedTuple):
    """``admin``: whether servers can be changed this way. ``backends``: {name: {mode, algorithm, servers}}.

    ``survives_reload`` is None, and its reason empty, where that was not asked for.
    """

    process: dict[str, t.Any]
    admin: bool
    backends: dict[str, dict[str, t.Any]]
    survives_reload: bool | None = None
    survives_reload_reason: str = ""


@dataclass(frozen=True)
class Changed:
    """What became of one backend. ``out``: {server: why} of servers that could not be brought back."""

    changed: bool
    before: Servers
    after: Servers
    process: dict[str, t.Any]
    cut: int = 0
    out: dict[str, str] = field(default_factory=dict)
    warnings: t.Sequence[str] = ()
    survives_reload: bool | None = None
    survives_reload_reason: str = ""


class Driver(t.Protocol):
    def lock_name(self, backend: str) -> str:
        """Names the backend on this host, for locks and pointers."""

    def read(self, backends: t.Sequence[str]) -> Reading:
        """Raises where the load balancer cannot be read, or has no such backend. Does not tell what survives a reload."""

    def read_with_survival(self, backends: t.Sequence[str]) -> Reading:
        """As ``read``, and whether a reload keeps weights and states: the configuration is read for that."""

    def check(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        """Refuse what can be judged without asking the load balancer."""

    def change(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> Changed:
        """Bring servers to a weight, a state, or both, or change nothing and raise."""

    def check_safe(self, safe: t.Mapping[str, t.Any]) -> None:
        """Refuse what is no safe state: {server: {weight, state}}."""

    def restore(self, backend: str, safe: t.Mapping[str, t.Any]) -> Changed:
        """Bring the servers of the safe state back, as far as that can be done."""
