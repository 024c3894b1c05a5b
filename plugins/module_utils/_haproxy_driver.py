# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""HAProxy behind the contract of _driver.

A load balancer compiles what it imports anew at every call: what only some acts need is imported where it is used.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils._driver import Changed, Reading
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import Address, checked_name, lock_name
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Wanted, check_wanted, targets


@dataclass(frozen=True)
class HaproxyDriver:
    """Times in seconds. All but ``address`` as the options of haproxy_backend."""

    address: Address
    timeout: float = 10.0
    drain_timeout: float = 30.0
    on_drain_timeout: str = "fail"
    health_timeout: float = 30.0
    policy: t.Mapping[str, bool] = field(default_factory=dict)
    state_file: str = "auto"
    check_mode: bool = False

    def lock_name(self, backend: str) -> str:
        return lock_name(self.address, checked_name("backend", backend))

    def read(self, backends: t.Sequence[str]) -> Reading:
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy import as_dicts, process_as_dict
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backends

        process, level, found = read_backends(self.address, backends, self.timeout)
        return Reading(
            process=process_as_dict(process),
            admin=level == "admin",
            backends={
                name: {"mode": backend.mode, "algorithm": backend.algorithm, "servers": as_dicts(backend)}
                for name, backend in found.items()
            },
        )

    def read_with_survival(self, backends: t.Sequence[str]) -> Reading:
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import judged

        reading = self.read(backends)
        survivals = [
            judged(reading.process["pid"], name, self.state_file, {server["name"] for server in backend["servers"]})
            for name, backend in reading.backends.items()
        ]
        doubtful = [survival for survival in survivals if survival.survives is not True]
        lost = [survival for survival in doubtful if survival.survives is False]
        return reading._replace(
            survives_reload=False if lost else None if doubtful else True,
            survives_reload_reason=(lost or doubtful)[0].reason if doubtful else "",
        )

    def check(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        checked_name("backend", backend)
        check_wanted(_wanted(servers))

    def change(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> Changed:
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy import as_dicts, process_as_dict
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy_backend import Request, change_backend
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import Policy

        wanted = _wanted(servers)
        outcome = change_backend(
            Request(
                address=self.address,
                backend=backend,
                wanted=wanted,
                policy=Policy(**self.policy),
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
        targets(safe)

    def restore(self, backend: str, safe: t.Mapping[str, t.Any]) -> Changed:
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy import as_dicts, process_as_dict
        from ansible_collections.steady.rollout.plugins.module_utils._haproxy_restore import Restoration, restore

        restored = restore(
            Restoration(
                address=self.address,
                backend=backend,
                safe=targets(safe),
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
