# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""NGINX behind the contract of _driver: weights and states are on its `server` lines, and a change is a verified reload.

One reload moves all servers of an upstream at once: there is no moment between raising some and lowering others. The servers that
gain traffic are seen to accept connections before that.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._driver import Changed, LoadBalancerError, Reading
from ansible_collections.steady.rollout.plugins.module_utils._nginx_calls import NginxCalls
from ansible_collections.steady.rollout.plugins.module_utils._nginx_change import lock_of
from ansible_collections.steady.rollout.plugins.module_utils._nginx_logs import Logs
from ansible_collections.steady.rollout.plugins.module_utils._nginx_reach import await_accepting, unreached
from ansible_collections.steady.rollout.plugins.module_utils._nginx_running import Running, running
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import (
    DRAIN,
    Server,
    aimed,
    as_dicts,
    canonical,
    gaining,
    leaving,
    named,
    restored,
    uncountable,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import Upstream, find

POLL_SECONDS = 0.1
# A worker that was told to end at once does.
CUT_SECONDS = 10.0


@dataclass(frozen=True)
class NginxDriver(NginxCalls):
    """Its options are those of NginxCalls."""

    config: str
    timeout: float = 30.0
    drain_timeout: float = 30.0
    on_drain_timeout: str = "fail"
    health_timeout: float = 30.0
    policy: t.Mapping[str, bool] = field(default_factory=dict)
    unproved: t.Callable[[t.Sequence[Server], float], str] = unreached
    check_mode: bool = False
    admit: t.Callable[[], None] = lambda: None

    def lock_name(self, backend: str) -> str:
        return f"{lock_of(self.config)}!{backend}"

    def locks(self, backend: str) -> tuple[str, str]:
        """Lines of other upstreams may be in the same files."""
        return self.lock_name(backend), lock_of(self.config)

    def read(self, backends: t.Sequence[str]) -> Reading:
        now = running(self.config, self.timeout)
        logs = Logs(self.config, now.files, now.prefix)
        found: dict[str, dict[str, t.Any]] = {}
        for name in backends:
            upstream = find(now.upstreams, name)
            counts, uncounted = logs.of(upstream)
            servers = now.servers(upstream)
            found[name] = {
                "mode": "http" if upstream.kind == "http" else "tcp",
                "algorithm": now.algorithm(upstream),
                "servers": as_dicts(servers, now.algorithm(upstream), counts),
                "uncounted": uncounted or uncountable(servers),
            }
        return Reading({**now.as_dict(), "counters": logs.since}, now.may_change(backends), found)

    def read_with_survival(self, backends: t.Sequence[str]) -> Reading:
        """A reload keeps all: it is how changes are made."""
        return self.read(backends)._replace(survives_reload=True)

    def change(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> Changed:
        self.check(backend, servers)
        servers = named(servers)
        with self.alone(backend):
            now = running(self.config, self.timeout)
            upstream = find(now.upstreams, backend)
            before = now.servers(upstream)
            after = aimed(backend, before, servers, self.allowed, now.drains(upstream))
            going = leaving(after, servers)
            sticking = [one.name for one in going if one.state == DRAIN]
            warnings = (
                [f"clients that stick to {', '.join(sticking)} still get there; down keeps them away, too"]
                if sticking
                else []
            )
            if self.allowed.require_healthy:
                self.prove(backend, gaining(before, after), warnings)
            if self.check_mode:
                return self._told(now, upstream, before, after, servers, warnings=warnings)
            serves = after != before or not now.is_loaded
            if serves:
                now = now.serve(backend, after)
            try:
                cut = self._empty(now, going, warnings) if going else 0
            except LoadBalancerError as exc:
                raise self._undone(backend, exc, before if serves else None) from exc
            return self._told(now, upstream, before, after, servers, cut, warnings)

    def restore(self, backend: str, safe: t.Mapping[str, t.Any]) -> Changed:
        self.check_safe(safe)
        safe = {canonical(name): values for name, values in safe.items()}
        with self.alone(backend):
            now = running(self.config, self.timeout)
            upstream = find(now.upstreams, backend)
            before = now.servers(upstream)
            names = [{"name": name} for name in safe]
            coming = [one for one, old in zip(restored(before, safe, {})[0], before) if one.usable and not old.usable]
            down = {} if self.check_mode or not coming else await_accepting(coming, self.health_timeout)
            after, out = restored(before, safe, down)
            if not self.check_mode and (after != before or not now.is_loaded):
                now = now.serve(backend, after)
            return self._told(now, upstream, before, after, names, out=out)

    def _undone(self, backend: str, problem: LoadBalancerError, before: t.Sequence[Server] | None) -> LoadBalancerError:
        """``before``: what to put back; None where nothing was changed."""
        text = f"upstream {backend}: {str(problem).rstrip('.')}"
        if before is None:
            return LoadBalancerError(f"{text}. Nothing was changed.")
        try:
            running(self.config, self.timeout).serve(backend, before)
        except LoadBalancerError as exc:
            why = str(exc).rstrip(".")
            return LoadBalancerError(
                f"{text}. It could NOT be put back: {why}. Read the upstream before anything else."
            )
        return LoadBalancerError(f"{text}. Everything was put back as it was.")

    def _empty(self, now: Running, going: t.Sequence[Server], warnings: list[str]) -> int:
        """Wait until no worker is left that may still send to servers that go, and treat what is left as the policy says."""
        deadline = time.monotonic() + self.drain_timeout
        while True:
            old = [one for one in process.workers_of(now.master) if one.leaves]
            if not old:
                return 0
            if time.monotonic() >= deadline:
                break
            time.sleep(POLL_SECONDS)
        from ansible_collections.steady.rollout.plugins.module_utils._nginx_sessions import sessions

        left = sessions(old, going)
        words = (
            f"{len(old)} workers of before still serve after {self.drain_timeout:g} s of drain, with "
            f"{', '.join(f'{count} connections to {name}' for name, count in left.items()) or 'no connections to those that go'}"
        )
        if self.on_drain_timeout == "fail":
            raise LoadBalancerError(f"{words}; raise drain_timeout, or choose on_drain_timeout: continue or cut")
        if self.on_drain_timeout == "continue":
            warnings.append(f"{words}; on_drain_timeout: continue leaves them")
            return 0
        process.end(old, CUT_SECONDS)
        warnings.append(f"{words}; they were ended")
        return sum(left.values())

    def _told(
        self,
        now: Running,
        upstream: Upstream,
        before: t.Sequence[Server],
        after: t.Sequence[Server],
        wanted: t.Sequence[t.Mapping[str, t.Any]],
        cut: int = 0,
        warnings: t.Sequence[str] = (),
        out: t.Mapping[str, str] | None = None,
    ) -> Changed:
        names = {str(one["name"]) for one in wanted}
        algorithm = now.algorithm(upstream)
        return Changed(
            changed=list(before) != list(after),
            before=as_dicts(before, algorithm, None, names),
            after=as_dicts(after, algorithm, None, names),
            process=now.as_dict(),
            cut=cut,
            out=dict(out or {}),
            warnings=tuple(warnings),
            survives_reload=True,
        )
