# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""NGINX with steady_rollout.lua behind the contract of _driver: weights and states change without a reload.

One request moves all servers of an upstream at once, and its answer is what is in force: there is no moment between raising some and
lowering others. The servers that gain traffic are seen to accept connections before that.
"""

from __future__ import annotations

import contextlib
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils._driver import Changed, LoadBalancerError, Reading
from ansible_collections.steady.rollout.plugins.module_utils._nginx_calls import NginxCalls
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_api import (
    Api,
    Conflict,
    Lost,
    NginxLuaError,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import Process, workers_of
from ansible_collections.steady.rollout.plugins.module_utils._nginx_reach import await_accepting, unreached
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import (
    READY,
    Refused,
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

POLL_SECONDS = 0.1
# How often a change is made anew because somebody else, or a reload, came in between.
ATTEMPTS = 5
ALGORITHM = "roundrobin"

Counters = t.Mapping[str, t.Mapping[str, t.Any]]


class State(t.NamedTuple):
    """An upstream at one moment. ``process``: as of the contract, and the worker that answered."""

    version: int
    servers: list[Server]
    process: dict[str, t.Any]


class Brought(t.NamedTuple):
    """``reached``: what is in force now; ``put``: whether this call put it there."""

    first: State
    reached: State
    put: bool


@dataclass(frozen=True)
class NginxLuaDriver(NginxCalls):
    """Its options are those of NginxCalls, and ``socket``: of the API; ``config``: what names the log that requests are counted in; "" where
    nobody asks.
    """

    socket: str
    timeout: float = 10.0
    drain_timeout: float = 30.0
    on_drain_timeout: str = "fail"
    health_timeout: float = 30.0
    policy: t.Mapping[str, bool] = field(default_factory=dict)
    unproved: t.Callable[[t.Sequence[Server], float], str] = unreached
    check_mode: bool = False
    config: str = ""
    admit: t.Callable[[], None] = lambda: None

    def lock_name(self, backend: str) -> str:
        return f"{self.socket}!{backend}"

    def locks(self, backend: str) -> tuple[str]:
        return (self.lock_name(backend),)

    def read(self, backends: t.Sequence[str]) -> Reading:
        with self._api() as api:
            answer = _answer(api)
        states = {name: state_of(self.socket, answer, name) for name in backends}
        found, since = self._counted(backends) if self.config else ({}, "")
        told: dict[str, dict[str, t.Any]] = {}
        for name, state in states.items():
            counts, uncounted = found.get(name, (None, "no configuration is named that says where its log is"))
            servers = as_dicts(state.servers, ALGORITHM, counts)
            told[name] = {
                "mode": "http",
                "algorithm": ALGORITHM,
                "servers": servers,
                "uncounted": uncounted or uncountable(state.servers),
            }
        return Reading({**process_of(answer), "counters": since}, True, told)

    def _counted(self, backends: t.Sequence[str]) -> tuple[dict[str, tuple[Counters | None, str]], str]:
        """{upstream: (counts, or None and why)}, and since when."""
        # Only a reading counts, and Python compiles anew at each call what a module imports.
        from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
        from ansible_collections.steady.rollout.plugins.module_utils._nginx_logs import Logs
        from ansible_collections.steady.rollout.plugins.module_utils._nginx_running import installed
        from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import find, upstreams

        try:
            files = DiskFiles(self.config)
            known = upstreams(self.config, files)
            logs = Logs(self.config, files, installed(self.config, files).prefix)
            return {name: logs.of(find(known, name)) for name in backends}, logs.since
        except LoadBalancerError as exc:
            return {name: (None, str(exc)) for name in backends}, ""

    def read_with_survival(self, backends: t.Sequence[str]) -> Reading:
        survives, reason = self._survival(backends)
        return self.read(backends)._replace(survives_reload=survives, survives_reload_reason=reason)

    def change(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> Changed:
        self.check(backend, servers)
        servers = named(servers)
        names = {str(one["name"]) for one in servers}
        warnings: list[str] = []

        def aim(now: State) -> list[Server]:
            after = aimed(backend, now.servers, servers, self.allowed, drains=True)
            self._refuse_cut(backend, now.servers, leaving(after, servers))
            if self.allowed.require_healthy:
                self.prove(backend, gaining(now.servers, after), warnings)
            return after

        with self.alone(backend):
            brought = self._bring(backend, aim)
            going = [one.name for one in leaving(brought.reached.servers, servers)]
            if going and not self.check_mode:
                try:
                    brought = brought._replace(reached=self._drain(backend, going, warnings))
                except LoadBalancerError as exc:
                    raise self._undone(backend, exc, brought, names) from exc
            return self._told(backend, brought, names, warnings=warnings)

    def restore(self, backend: str, safe: t.Mapping[str, t.Any]) -> Changed:
        """What accepts connections comes back at once; nothing is lowered before the rest had its time to come up."""
        self.check_safe(safe)
        safe = {canonical(name): values for name, values in safe.items()}
        with self.alone(backend):
            first = self._state(backend)
            must = [] if self.check_mode else carriers(first.servers, safe)
            down = self._unreachable(must, 0.0)
            raised = False
            if down:
                raised = self._bring(backend, lambda now: raises(now.servers, safe, down)).put
                down = self._unreachable([one for one in must if one.name in down], self.health_timeout)
            out: dict[str, str] = {}

            def aim(now: State) -> list[Server]:
                after, why = restored(now.servers, safe, down)
                out.clear()
                out.update(why)
                return after

            brought = self._bring(backend, aim)
            return self._told(backend, Brought(first, brought.reached, raised or brought.put), set(safe), out)

    def _api(self) -> contextlib.closing[Api]:
        return contextlib.closing(Api(self.socket, self.timeout))

    def _state(self, backend: str) -> State:
        with self._api() as api:
            return state_of(self.socket, _answer(api), backend)

    def _bring(self, backend: str, aim: t.Callable[[State], list[Server]]) -> Brought:
        """Have in force what ``aim`` makes of what is: once more where that changed in between, or the answer was lost."""
        first: State | None = None
        why: LoadBalancerError | None = None
        was_lost = False
        with self._api() as api:
            for _attempt in range(ATTEMPTS):
                now = state_of(self.socket, _answer(api), backend)
                first = first or now
                after = aim(now)
                if after == now.servers:
                    return Brought(first, now, was_lost)
                if self.check_mode:
                    return Brought(first, now._replace(servers=after), False)
                try:
                    return Brought(first, _put(api, backend, now, after), True)
                except (Conflict, Lost) as exc:
                    why, was_lost = exc, was_lost or isinstance(exc, Lost)
        raise NginxLuaError(f"upstream {backend}: {why}, {ATTEMPTS} times in a row. Find out who else changes it.")

    def _refuse_cut(self, backend: str, before: t.Sequence[Server], going: t.Sequence[Server]) -> None:
        """NGINX cannot end single requests, and to end a worker would break requests of every upstream that it serves."""
        idle = {one.name for one in before if one.state != READY and not one.sessions}
        busy = [one.name for one in going if one.name not in idle]
        if busy and self.on_drain_timeout == "cut":
            raise Refused(
                f"upstream {backend}: {', '.join(busy[:5])} would have to be drained, and on_drain_timeout: cut cannot be had here, as nginx "
                "does not end single requests; choose fail or continue. Nothing was changed."
            )

    @staticmethod
    def _unreachable(servers: t.Sequence[Server], seconds: float) -> dict[str, str]:
        return await_accepting(servers, seconds) if servers else {}

    def _drain(self, backend: str, names: t.Sequence[str], warnings: list[str]) -> State:
        """Wait until no worker has a request left on servers that get no new ones."""
        deadline = time.monotonic() + self.drain_timeout
        while True:
            state = self._state(backend)
            now = {one.name: one for one in state.servers}
            gone = [name for name in names if name not in now]
            if gone:
                raise NginxLuaError(
                    f"{', '.join(gone)} left nginx's configuration by a reload, so its requests are not known any more"
                )
            busy = [f"{name} still has {now[name].sessions} requests in flight" for name in names if now[name].sessions]
            if not busy:
                return state
            if time.monotonic() >= deadline:
                words = f"{', '.join(busy[:5])} after {self.drain_timeout:g} s of drain"
                if self.on_drain_timeout != "continue":
                    raise NginxLuaError(f"{words}; raise drain_timeout, or choose on_drain_timeout: continue")
                warnings.append(f"{words}; on_drain_timeout: continue leaves them")
                return state
            time.sleep(POLL_SECONDS)

    def _undone(self, backend: str, problem: LoadBalancerError, brought: Brought, names: set[str]) -> NginxLuaError:
        text = f"upstream {backend}: {str(problem).rstrip('.')}"
        if not brought.put:
            return NginxLuaError(f"{text}. Nothing was changed.")
        old = {one.name: one for one in brought.first.servers if one.name in names}

        def aim(now: State) -> list[Server]:
            return [
                one._replace(weight=old[one.name].weight, state=old[one.name].state) if one.name in old else one
                for one in now.servers
            ]

        try:
            self._bring(backend, aim)
        except LoadBalancerError as exc:
            return NginxLuaError(
                f"{text}. It could NOT be put back: {str(exc).rstrip('.')}. Read the upstream before anything else."
            )
        return NginxLuaError(f"{text}. Everything was put back as it was.")

    def _survival(self, backends: t.Sequence[str]) -> tuple[bool, str]:
        with self._api() as api:
            kept = api.kept()
        problems = [f"upstream {name}: {kept[name]}" for name in backends if kept.get(name)]
        return not problems, "; ".join(problems)

    def _told(
        self,
        backend: str,
        brought: Brought,
        names: set[str],
        out: t.Mapping[str, str] | None = None,
        warnings: t.Sequence[str] = (),
    ) -> Changed:
        # What was put in force just now is on disk, or nginx would not have said so.
        survives, reason = (True, "") if brought.put else self._survival([backend])
        return Changed(
            changed=_settings(brought.first.servers) != _settings(brought.reached.servers),
            before=as_dicts(brought.first.servers, ALGORITHM, None, names),
            after=as_dicts(brought.reached.servers, ALGORITHM, None, names),
            process=brought.first.process,
            out=dict(out or {}),
            warnings=tuple(warnings),
            survives_reload=survives,
            survives_reload_reason=reason,
        )


def _answer(api: Api) -> dict[str, t.Any]:
    """A reading can be asked for again where a reload closed its connection."""
    try:
        return api.read()
    except Lost:
        return api.read()


def _put(api: Api, backend: str, now: State, after: t.Sequence[Server]) -> State:
    """Raises NginxLuaError, and then nothing was changed, unless it is Lost."""
    moved = [one for one, old in zip(after, now.servers) if one != old]
    told = [{"name": one.name, "weight": one.weight, "state": one.state} for one in moved]
    answer = api.put(backend, now.version, told)
    found = now._replace(version=answer["version"], servers=[_server(one, None) for one in answer["servers"]])
    read, wanted = _settings(found.servers), _settings(after)
    wrong = [name for name, setting in wanted.items() if read.get(name) != setting]
    if wrong:
        raise NginxLuaError(
            f"upstream {backend}: read back, {', '.join(wrong[:5])} is not as it was told. Read the upstream before anything else."
        )
    return found


def process_of(answer: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The master: workers come and go."""
    told = answer["process"]
    return {"pid": told["master"], "version": told["nginx"], "uptime": None}


def state_of(path: str, answer: t.Mapping[str, t.Any], name: str) -> State:
    """One upstream of what the API told, with the requests in flight of workers that run."""
    found = answer["upstreams"].get(name)
    if found is None:
        raise NginxLuaError(
            f"nginx has no upstream {name} at {path}; it has {', '.join(answer['upstreams']) or 'none'}. steady_rollout.lua must be told of "
            "it in init_by_lua_block"
        )
    flying = any(one["in_flight"] for one in found["servers"])
    workers = serving(answer) if flying else None
    return State(found["version"], [_server(one, workers) for one in found["servers"]], process_of(answer))


def serving(answer: t.Mapping[str, t.Any]) -> set[int] | None:
    """The workers that run; None where that cannot be seen, as the one that answered is not seen either: nginx is in a container."""
    told = answer["process"]
    workers = {one.pid for one in workers_of(Process(told["master"], 0, 0, ""))}
    return workers if told["worker"] in workers else None


def carriers(servers: t.Sequence[Server], safe: t.Mapping[str, t.Any]) -> list[Server]:
    """What must carry traffic in the safe state, and is there."""
    safest = restored(servers, safe, {})[0]
    return [one for one in safest if one.name in safe and one.state == READY]


def raises(servers: t.Sequence[Server], safe: t.Mapping[str, t.Any], down: t.Mapping[str, str]) -> list[Server]:
    """As ``restored``, but nothing is lowered, and what is down is left as it is."""
    after = restored(servers, safe, down)[0]
    gains = {one.name: one for one in gaining(servers, after) if one.name not in down}
    return [gains.get(one.name, one) for one in servers]


def _settings(servers: t.Sequence[Server]) -> dict[str, tuple[int, str]]:
    return {one.name: (one.weight, one.state) for one in servers}


def _server(told: t.Mapping[str, t.Any], workers: t.Collection[int] | None) -> Server:
    flights = {int(pid): count for pid, count in told["in_flight"].items()}
    return Server(
        name=told["name"],
        address=told["address"],
        port=told["port"],
        weight=told["weight"],
        state=told["state"],
        sessions=sum(count for pid, count in flights.items() if workers is None or pid in workers),
    )
