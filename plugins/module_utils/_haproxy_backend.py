# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Carries out a plan on a running HAProxy: the only place that changes one.

Nothing here is called done before it was read back. What fails half-way is put back, traffic first, and both the
failure and what became of the undo are told.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.steady.rollout.plugins.module_utils import _haproxy_state_file as state_file
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    FORCED_DRAIN,
    FORCED_MAINT,
    HASH_ALGORITHMS,
    STATIC_ALGORITHMS,
    Backend,
    Process,
    Server,
    parse_process,
    parse_servers_state,
    refreshed,
    with_stat,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import (
    Plan,
    Policy,
    Refused,
    Wanted,
    check_wanted,
    differences,
    health_proofs,
    make_plan,
    make_undo,
    refuse_unsafe_lowering,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import (
    Address,
    AdminSocket,
    ConnectionLost,
    HaproxyError,
    checked_name,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import Survival

POLL_SECONDS = 0.1
# How often a reload in the middle of a call is answered by doing it again on the new process.
RELOADS_FOLLOWED = 3
# How long `shutdown sessions` may take until the sessions are gone.
CUT_SECONDS = 5.0
# What a worker that was replaced answers to every change.
REPLACED = "Proxy is disabled."


class Reloaded(HaproxyError):
    """The process that we talk to no longer takes new traffic: what it is told counts for nothing."""


@dataclass(frozen=True)
class Request:
    """One call. Times in seconds. ``state_file``: `auto`, a path, or empty for none."""

    address: Address
    backend: str
    wanted: tuple[Wanted, ...]
    policy: Policy = field(default_factory=Policy)
    drain_timeout: float = 30.0
    on_drain_timeout: str = "fail"
    health_timeout: float = 30.0
    timeout: float = 10.0
    state_file: str = "auto"
    check_mode: bool = False


@dataclass
class Outcome:
    changed: bool
    before: Backend
    after: Backend
    process: Process
    survival: Survival
    file_lagged: bool  # whether the state file was behind before this call
    cut: dict[str, int] = field(default_factory=dict)  # sessions cut, per server
    warnings: list[str] = field(default_factory=list)


class Runtime:
    """Reads and changes of one backend over one connection."""

    def __init__(self, connection: AdminSocket, backend: str) -> None:
        self.connection = connection
        self.backend = checked_name("backend", backend)

    def require_admin(self) -> None:
        (level,) = self.connection.run(["show cli level"])
        if level.strip() != "admin":
            raise HaproxyError(
                f"{self.connection.name} is a socket of level {level.strip()!r}, which may not change servers. "
                "Use a `stats socket ... level admin` line. Nothing was changed."
            )

    def read(self) -> tuple[Process, Backend]:
        """Everything HAProxy knows of the backend."""
        _process, backend = self.glance()
        # By number, as a frontend may bear the same name. The process comes last: a worker that was replaced lists no
        # servers here, and that must not be taken for a backend without any.
        stat, info = self.connection.run([f"show stat {backend.id} 6 -1", "show info"])
        process = parse_process(info)
        _refuse_replaced(process)
        return process, with_stat(backend, stat)

    def glance(self) -> tuple[Process, Backend]:
        """Weights, states and check results only: several times faster than ``read``."""
        info, servers = self.connection.run(["show info", f"show servers state {self.backend}"])
        if "Can't find backend" in servers:
            raise HaproxyError(f"HAProxy on {self.connection.name} has no backend {self.backend}. Nothing was changed.")
        if "Permission denied" in servers:
            raise HaproxyError(
                f"{self.connection.name} may not read servers: {servers.strip()}. Use a `stats socket` line of level operator or admin."
            )
        process = parse_process(info)
        _refuse_replaced(process)
        return process, parse_servers_state(self.backend, servers)

    def current(self) -> Backend:
        return self.read()[1]

    def current_glance(self, known: Backend) -> Backend:
        return refreshed(known, self.glance()[1])

    def change(self, commands: t.Sequence[str]) -> None:
        """Run commands whose success is silence; raise HaproxyError with what HAProxy said otherwise."""
        refused = [
            (command, reply.strip()) for command, reply in zip(commands, self.connection.run(commands)) if reply.strip()
        ]
        if not refused:
            return
        if any(REPLACED in reply for command, reply in refused):
            raise Reloaded("HAProxy was reloaded during the call")
        more = f" (and {len(refused) - 1} more commands)" if len(refused) > 1 else ""
        raise HaproxyError(f"HAProxy refused `{refused[0][0]}`{more}: {refused[0][1]}")

    def takes_only_configured_weights(self, backend: Backend) -> bool:
        """Whether the algorithm is static. For hash algorithms HAProxy is asked to add a server without an address.

        That can never succeed; but a static backend is refused for being one first. HAProxy before 2.4 does not know
        the command: there the change itself is refused, and undone.
        """
        if backend.algorithm in STATIC_ALGORITHMS:
            return True
        if backend.algorithm is not None and backend.algorithm not in HASH_ALGORITHMS:
            return False
        (reply,) = self.connection.run([f"add server {backend.name}/{backend.servers[0].name}"])
        return "dynamic load balancing" in reply

    def busy_connections(self, names: t.Collection[str]) -> dict[str, int]:
        """Connections in use per server. A worker that was replaced still tells this, when it tells no sessions."""
        (reply,) = self.connection.run([f"show servers conn {self.backend}"])
        lines = [line.split() for line in reply.splitlines() if line]
        if not lines or "used_cur" not in lines[0]:
            return {}
        column = lines[0].index("used_cur") - 1  # the header starts with a lone `#`
        rows = {line[0].partition("/")[2]: int(line[column]) for line in lines[1:]}
        return {name: rows[name] for name in names if rows.get(name)}


def _refuse_replaced(process: Process) -> None:
    if process.stopping:
        raise Reloaded(f"HAProxy was reloaded: process {process.pid} serves only its last connections")


def read_backend(address: Address, backend: str, timeout: float) -> tuple[Process, Backend]:
    """One reading, for haproxy_backend_info and everybody else who only looks."""
    for _reload in range(RELOADS_FOLLOWED):
        try:
            return _read_once(address, backend, timeout)
        except (Reloaded, ConnectionLost):
            continue
    return _read_once(address, backend, timeout)


def _read_once(address: Address, backend: str, timeout: float) -> tuple[Process, Backend]:
    with AdminSocket(address, timeout) as connection:
        return Runtime(connection, backend).read()


def change_backend(request: Request) -> Outcome:
    """Bring the servers to what is wanted, or leave all as it was and raise HaproxyError.

    A reload in the middle voids what was done so far; it is done again on the new process.
    """
    check_wanted(request.wanted)
    call = _Call(request)
    try:
        return call.run()
    finally:
        call.close()


class _Call:
    """One call of the module, over as many processes as reloads bring."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._connections: list[AdminSocket] = []
        self._first: Backend | None = None
        self._touched = False
        self._warnings: list[str] = []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def run(self) -> Outcome:
        for attempt in range(RELOADS_FOLLOWED + 1):
            runtime = self._connect(patient=attempt > 0)
            try:
                return self._attempt(runtime)
            except (Reloaded, ConnectionLost) as exc:
                reason = exc
                self._warnings.append(
                    f"HAProxy was reloaded or restarted during the call ({exc}); it was done again on the new process"
                )
        raise HaproxyError(
            f"HAProxy on {self._connections[-1].name} was reloaded or restarted {RELOADS_FOLLOWED + 1} times during this call, the last time: {reason}. "
            "Find out who reloads it, read the backend's state, and run again."
        )

    def _connect(self, patient: bool) -> Runtime:
        """Connect; ``patient`` after a reload, when the new process may not be there yet."""
        deadline = time.monotonic() + self.request.timeout
        while True:
            try:
                connection = AdminSocket(self.request.address, self.request.timeout)
                break
            except HaproxyError:
                if not patient or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)
        # Kept until the end: sessions of a replaced worker can be counted only over a connection from before.
        self._connections.append(connection)
        return Runtime(connection, self.request.backend)

    def _attempt(self, runtime: Runtime) -> Outcome:
        runtime.require_admin()
        process, before = runtime.read()
        self._first = self._first or before
        plan = self._plan(runtime, before)
        survival = self._survival(process)
        lag = state_file.lagging(survival.path, before, self._names())
        if self.request.check_mode:
            after = _foretold(before, plan)
            outdated = bool(state_file.lagging(survival.path, after, self._names()))
            return Outcome(
                bool(plan.changes) or outdated,
                before,
                after,
                process,
                survival,
                bool(lag),
                warnings=self._foreseen(plan, before),
            )
        self._touched = self._touched or bool(plan.changes)
        cut, after = self._carry_out_or_undo(runtime, plan, before)
        wrote, survival = self._keep(runtime, survival, after)
        warnings = self._warnings + list(plan.warnings) + _slow_starts(after, plan)
        return Outcome(self._touched or wrote, self._first, after, process, survival, bool(lag), cut, warnings)

    def _plan(self, runtime: Runtime, before: Backend) -> Plan:
        try:
            return make_plan(before, self.request.wanted, self.request.policy, self._fixed_weights(runtime, before))
        except Refused as exc:
            raise Refused(f"{exc}. Nothing was changed.") from exc

    def _fixed_weights(self, runtime: Runtime, backend: Backend) -> bool:
        known = backend.by_name()
        free = [
            item
            for item in self.request.wanted
            if item.weight
            and item.name in known
            and item.weight not in (known[item.name].initial_weight, known[item.name].weight)
        ]
        return bool(free) and runtime.takes_only_configured_weights(backend)

    def _carry_out_or_undo(self, runtime: Runtime, plan: Plan, before: Backend) -> tuple[dict[str, int], Backend]:
        try:
            return self._carry_out(runtime, plan, before)
        except (Reloaded, ConnectionLost):
            raise
        except HaproxyError as exc:
            raise HaproxyError(f"backend {before.name}: {exc}. {self._undo(runtime, plan)}") from exc

    def _carry_out(self, runtime: Runtime, plan: Plan, before: Backend) -> tuple[dict[str, int], Backend]:
        """The phases of _haproxy_plan, in their order; returns the sessions cut and the backend as read back."""
        runtime.change(plan.park)
        if plan.await_health:
            leaving = {change.name for change in plan.changes if change.leaves_maint}
            if leaving:
                runtime.change(health_proofs(runtime.current(), leaving & set(plan.await_health)))
            self._await_health(runtime, plan.await_health)
        runtime.change(plan.raises)
        if plan.raises and plan.lowers:
            refuse_unsafe_lowering(runtime.current_glance(before), plan, self.request.policy)
        runtime.change(plan.lowers)
        left = self._await_empty(runtime, plan.drains)
        if left and self.request.on_drain_timeout == "fail":
            raise HaproxyError(
                f"{_list(left, _session_words)} after {self.request.drain_timeout:g} s of drain. "
                "Raise drain_timeout, or choose on_drain_timeout: continue or cut"
            )
        runtime.change(plan.close)
        after = _read_back(runtime, plan, before)
        _confirm(after, plan)
        runtime.change(plan.release)
        if not left:
            return {}, after
        return self._apply_drain_policy(runtime, left), runtime.current()

    def _await_health(self, runtime: Runtime, names: t.Sequence[str]) -> None:
        deadline = time.monotonic() + self.request.health_timeout
        while True:
            servers = runtime.current().by_name()
            down = [servers[name] for name in names if not servers[name].settled]
            if not down:
                return
            if time.monotonic() >= deadline:
                raise HaproxyError(
                    f"{_list(down, _health_words)} after {self.request.health_timeout:g} s, so no traffic was moved. "
                    "See why its health check fails, or raise health_timeout"
                )
            time.sleep(POLL_SECONDS)

    def _apply_drain_policy(self, runtime: Runtime, left: t.Sequence[Server]) -> dict[str, int]:
        if self.request.on_drain_timeout == "cut":
            return self._cut(runtime, left)
        self._warnings.append(
            f"{_list(left, _session_words)} after {self.request.drain_timeout:g} s of drain; on_drain_timeout: continue leaves them"
        )
        return {}

    def _await_empty(self, runtime: Runtime, names: t.Sequence[str]) -> list[Server]:
        """The servers on which sessions or a queue outlived drain_timeout, workers of before a reload included."""
        if not names:
            return []
        deadline = time.monotonic() + self.request.drain_timeout
        while True:
            servers = runtime.current().by_name()
            old = self._left_on_replaced(names)
            left = [
                server._replace(sessions=server.sessions + old.get(server.name, 0))
                for server in (servers[name] for name in names)
            ]
            left = [server for server in left if server.sessions or server.queued]
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(min(POLL_SECONDS, self.request.drain_timeout))

    def _left_on_replaced(self, names: t.Sequence[str]) -> dict[str, int]:
        total: dict[str, int] = {}
        for connection in self._connections[:-1]:
            try:
                busy = Runtime(connection, self.request.backend).busy_connections(names)
            except (HaproxyError, OSError, ValueError):
                continue  # that worker has ended, and its sessions with it
            for name, count in busy.items():
                total[name] = total.get(name, 0) + count
        return total

    def _cut(self, runtime: Runtime, left: t.Sequence[Server]) -> dict[str, int]:
        servers = runtime.current().by_name()
        cut = {server.name: servers[server.name].sessions for server in left}
        runtime.change([f"shutdown sessions server {self.request.backend}/{name}" for name in cut])
        deadline = time.monotonic() + CUT_SECONDS
        while any(runtime.current().by_name()[name].sessions for name in cut):
            if time.monotonic() >= deadline:
                self._warnings.append(
                    f"sessions of {', '.join(cut)} were still there {CUT_SECONDS:g} s after they were shut down"
                )
                break
            time.sleep(POLL_SECONDS)
        self._warnings.append(
            "cut after drain_timeout: " + ", ".join(f"{count} sessions of {name}" for name, count in cut.items())
        )
        return cut

    def _undo(self, runtime: Runtime, done: Plan) -> str:
        """Put back what was done, and say in words what became of it."""
        try:
            plan = make_undo(runtime.current(), done)
            runtime.change(plan.park)
            if plan.await_health:
                self._await_health(runtime, plan.await_health)
            runtime.change(plan.raises)
            runtime.change(plan.lowers)
            runtime.change(plan.close)
            runtime.change(plan.release)
            _confirm(runtime.current(), plan)
        except HaproxyError as exc:
            return (
                f"It could NOT all be put back: {exc}. Read the backend with haproxy_backend_info before anything else."
            )
        return "Everything was put back as it was." if plan.changes else "Nothing was changed."

    def _foreseen(self, plan: Plan, before: Backend) -> list[str]:
        """In check mode: what a real run would have to wait for."""
        known = before.by_name()
        waiting = [
            known[name] for name in plan.await_health if not known[name].settled and known[name].state != "maint"
        ]
        found = (
            [
                f"{_list(waiting, _health_words)} now; a real run would wait {self.request.health_timeout:g} s for it, then fail"
            ]
            if waiting
            else []
        )
        return list(plan.warnings) + found

    def _names(self) -> set[str]:
        return {item.name for item in self.request.wanted}

    def _keep(self, runtime: Runtime, survival: Survival, after: Backend) -> tuple[bool, Survival]:
        """Dump the runtime state where a reload will look for it, unless it is there already."""
        if survival.path is None or not state_file.lagging(survival.path, after, self._names()):
            return False, survival
        (reply,) = runtime.connection.run(
            ["show servers state" if survival.whole else f"show servers state {self.request.backend}"]
        )
        try:
            state_file.write(survival.path, reply)
        except HaproxyError as exc:
            return False, replace(survival, survives=False, reason=str(exc))
        return True, survival

    def _survival(self, process: Process) -> Survival:
        return state_file.survival(
            state_file.find_restoration(process.pid, self.request.backend), self.request.state_file, process.pid
        )


def _read_back(runtime: Runtime, plan: Plan, before: Backend) -> Backend:
    """What is there now, by the cheapest reading that shows it: of a thousand servers the full one takes 10 ms."""
    if not plan.changes and not plan.drains:
        return before
    weights_only = all(change.state == change.server.state == "ready" for change in plan.changes) and not plan.drains
    ramping = any(server.throttle is not None for server in before.servers)
    return runtime.current_glance(before) if weights_only and not ramping else runtime.current()


def _foretold(before: Backend, plan: Plan) -> Backend:
    """The backend as it will read; what only HAProxy can know then is left out."""
    targets = {change.name: change for change in plan.changes}

    def after(server: Server) -> Server:
        change = targets.get(server.name)
        if change is None:
            return server
        admin = (
            {"ready": 0, "drain": FORCED_DRAIN, "maint": FORCED_MAINT}[change.state]
            if change.state != server.state
            else server.admin
        )
        running = server.running or change.gains
        return server._replace(
            weight=change.weight, admin=admin, running=running, effective_weight=None, throttle=None, status=""
        )

    return replace(before, servers=tuple(after(server) for server in before.servers))


def _confirm(now: Backend, plan: Plan) -> None:
    wrong = differences(now, plan)
    if wrong:
        raise HaproxyError(
            f"read back, {'; '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}: somebody else, or an agent-check, changes this backend too"
        )


def _slow_starts(after: Backend, plan: Plan) -> list[str]:
    servers = after.by_name()
    slow = [
        servers[change.name]
        for change in plan.changes
        if servers[change.name].throttle is not None and servers[change.name].usable
    ]
    return [f"{_list(slow, _slowstart_words)}: the shares are reached when slowstart ends"] if slow else []


def _slowstart_words(server: Server) -> str:
    return f"{server.name} is in slowstart at weight {server.effective_weight} of {server.weight} ({server.throttle} %)"


def _health_words(server: Server) -> str:
    check = f", last check {server.last_check}" if server.last_check else ""
    return f"{server.name} is not UP (status {server.status or ('up' if server.running else 'down')}{check})"


def _session_words(server: Server) -> str:
    return f"{server.name} still has {server.sessions} sessions and {server.queued} queued requests"


def _list(servers: t.Sequence[Server], words: t.Callable[[Server], str]) -> str:
    shown = ", ".join(words(server) for server in servers[:5])
    return f"{shown} and {len(servers) - 5} more" if len(servers) > 5 else shown


def diff(outcome: Outcome, names: t.Collection[str]) -> dict[str, str]:
    """Before and after for Ansible's --diff: a line a server, and one for the state file where it has to catch up."""
    before, after = _lines(outcome.before, names), _lines(outcome.after, names)
    if outcome.file_lagged:
        before += f"state file {outcome.survival.path}: behind\n"
        after += f"state file {outcome.survival.path}: current\n"
    return {"before": before, "after": after}


def _lines(backend: Backend, names: t.Collection[str]) -> str:
    return "".join(
        f"{server.name}: weight {server.weight}, {server.state}\n" for server in backend.servers if server.name in names
    )
