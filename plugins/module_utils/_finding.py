# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""One thing that the doctor found, and what it is measured by. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

# error: the next rollout, or the traffic now, is in danger. warning: something will hurt. note: good to know.
ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)

Answer = t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Finding:
    """``problem``: a sentence that says what, and why it hurts. ``remedy``: the line to change, or the command.

    ``lb``: None where it is a matter between load balancers. ``where``: `file:line` on the load balancer. ``repair``: what would
    mend it, where that is safe: {kind, ...} for the tasks that do it.
    """

    code: str
    severity: str
    problem: str
    remedy: str
    lb: str | None = None
    backend: str | None = None
    servers: tuple[str, ...] = ()
    where: str | None = None
    repair: t.Mapping[str, t.Any] | None = None
    repaired: bool = False

    def is_same(self, other: Finding) -> bool:
        """Whether it is about the same thing, or a part of it."""
        here, there = ((one.code, one.lb, one.backend) for one in (self, other))
        return here == there and (not self.servers or bool(set(self.servers) & set(other.servers)))

    def as_dict(self) -> dict[str, t.Any]:
        names = ("code", "severity", "lb", "backend", "where", "problem", "remedy", "repaired")
        return {
            **{name: getattr(self, name) for name in names},
            "servers": list(self.servers),
            "repair": dict(self.repair) if self.repair else None,
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Finding:
        return cls(**{**data, "servers": tuple(data["servers"])})

    def words(self) -> str:
        """The finding in one line."""
        place = ", ".join(part for part in (self.lb, self.backend) if part)
        where = f" ({self.where})" if self.where else ""
        start = f"{self.severity}: {f'{place}: ' if place else ''}{self.problem}{where}"
        if self.repaired:
            return f"repaired {start}"
        return f"{start}. {self.remedy}{'; or with -e doctor_repair=true' if self.repair else ''}"


@dataclass(frozen=True)
class Needs:
    """What rollouts of this fleet wait for, in seconds, and what they put up with."""

    drain_timeout: float
    on_drain_timeout: str
    health_timeout: float
    interval: float
    allow_unchecked: bool
    unpersisted: bool


@dataclass(frozen=True)
class Seen:
    """One load balancer. ``reading``: what rollout_info returned, ``configuration``: what haproxy_config_info did; None where it did
    not answer, and then ``problem`` says why."""

    name: str
    socket: str
    state_dir: str
    reading: Answer | None
    configuration: Answer | None
    problem: str = ""
    configuration_problem: str = ""
    backends: tuple[str, ...] = field(default=())
    provider: str = "haproxy"

    def told(self, backend: str, server: str, state: str) -> str:
        """What sets the state of a server here, to be read by a person."""
        if self.provider == "haproxy":
            return f"echo 'set server {backend}/{server} state {state}' | socat {self.socket} -"
        return f"steady.rollout.nginx_upstream with upstream {backend}, server {server} and state {'down' if state == 'maint' else state}"

    def record(self, backend: str) -> Answer:
        """The record of a backend; empty where none was read."""
        found: Answer = ((self.reading or {}).get("records") or {}).get(backend) or {}
        return found

    def servers(self, backend: str) -> dict[str, Answer]:
        """The servers of a backend by name, backup ones left out."""
        told = ((self.reading or {}).get("backends") or {}).get(backend) or {}
        return {server["name"]: server for server in told.get("servers") or () if not server["backup"]}


def some(names: t.Sequence[str]) -> str:
    """At most three names, so that a sentence stays one with two hundred servers."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def are(names: t.Sequence[str], one: str = "is", several: str = "are") -> str:
    return one if len(names) == 1 else several
