# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a rollout asks of a load balancer, whatever its make: read, change, restore. And HAProxy behind that contract.

A server is told as `{name, weight, state, health, ...}`, what a driver cannot know as null.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils import _haproxy_backend as haproxy
from ansible_collections.steady.rollout.plugins.module_utils import _haproxy_restore as haproxy_restore
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import Backend, Process, as_dicts, process_as_dict
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import Policy, Wanted, check_wanted
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import Address, checked_name
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import (
    Survival,
    find_restoration,
    unwritable,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import survival as weigh

Servers = list[dict[str, t.Any]]


@dataclass(frozen=True)
class Reading:
    """``admin``: whether servers can be changed this way. ``backends``: {name: {mode, algorithm, servers}}."""

    process: dict[str, t.Any]
    admin: bool
    survives_reload: bool | None
    survives_reload_reason: str
    backends: dict[str, dict[str, t.Any]]


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
        """Raises where the load balancer cannot be read, or has no such backend."""

    def check(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        """Refuse what can be judged without asking the load balancer."""

    def change(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> Changed:
        """Bring servers to a weight, a state, or both, or change nothing and raise."""

    def check_safe(self, safe: t.Mapping[str, t.Any]) -> None:
        """Refuse what is no safe state: {server: {weight, state}}."""

    def restore(self, backend: str, safe: t.Mapping[str, t.Any]) -> Changed:
        """Bring the servers of the safe state back, as far as that can be done."""


@dataclass(frozen=True)
class HaproxyDriver:
    """Times in seconds. All but ``address`` as the options of haproxy_backend."""

    address: Address
    timeout: float = 10.0
    drain_timeout: float = 30.0
    on_drain_timeout: str = "fail"
    health_timeout: float = 30.0
    policy: Policy = field(default_factory=Policy)
    state_file: str = "auto"
    check_mode: bool = False

    def lock_name(self, backend: str) -> str:
        return haproxy.lock_name(self.address, checked_name("backend", backend))

    def read(self, backends: t.Sequence[str]) -> Reading:
        process, level, found = haproxy.read_backends(self.address, backends, self.timeout)
        survivals = {name: self._survival(process, backend) for name, backend in found.items()}
        doubtful = {name: survival for name, survival in survivals.items() if survival.survives is not True}
        lost = [survival.reason for survival in doubtful.values() if survival.survives is False]
        return Reading(
            process=process_as_dict(process),
            admin=level == "admin",
            survives_reload=False if lost else None if doubtful else True,
            survives_reload_reason=(lost or [survival.reason for survival in doubtful.values()] or [""])[0],
            backends={
                name: {"mode": backend.mode, "algorithm": backend.algorithm, "servers": as_dicts(backend)}
                for name, backend in found.items()
            },
        )

    def _survival(self, process: Process, backend: Backend) -> Survival:
        found = find_restoration(process.pid, backend.name)
        names = {server.name for server in backend.servers}
        survival = weigh(found, self.state_file, process.pid, names)
        problem = unwritable(survival.path)
        return Survival(False, survival.path, problem) if problem else survival

    def check(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        checked_name("backend", backend)
        check_wanted(_wanted(servers))

    def change(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> Changed:
        wanted = _wanted(servers)
        outcome = haproxy.change_backend(
            haproxy.Request(
                address=self.address,
                backend=backend,
                wanted=wanted,
                policy=self.policy,
                drain_timeout=self.drain_timeout,
                on_drain_timeout=self.on_drain_timeout,
                health_timeout=self.health_timeout,
                timeout=self.timeout,
                state_file=self.state_file,
                check_mode=self.check_mode,
            )
        )
        names = {one.name for one in wanted}
        return Changed(
            changed=outcome.changed,
            before=as_dicts(outcome.before, names),
            after=as_dicts(outcome.after, names),
            process=process_as_dict(outcome.process),
            cut=sum(outcome.cut.values()),
            warnings=outcome.warnings,
            survives_reload=outcome.survival.survives,
            survives_reload_reason=outcome.survival.reason,
        )

    def check_safe(self, safe: t.Mapping[str, t.Any]) -> None:
        haproxy_restore.targets(safe)

    def restore(self, backend: str, safe: t.Mapping[str, t.Any]) -> Changed:
        restored = haproxy_restore.restore(
            haproxy_restore.Restoration(
                address=self.address,
                backend=backend,
                safe=haproxy_restore.targets(safe),
                health_timeout=self.health_timeout,
                timeout=self.timeout,
                state_file=self.state_file,
                check_mode=self.check_mode,
            )
        )
        return Changed(
            changed=restored.changed,
            before=as_dicts(restored.before, safe),
            after=as_dicts(restored.after, safe),
            process=process_as_dict(restored.process),
            out=restored.out,
            warnings=restored.warnings,
            survives_reload=restored.survival.survives if restored.survival else None,
            survives_reload_reason=restored.survival.reason if restored.survival else "",
        )


def _wanted(servers: t.Sequence[t.Mapping[str, t.Any]]) -> tuple[Wanted, ...]:
    return tuple(Wanted(server["name"], server.get("weight"), server.get("state")) for server in servers)
