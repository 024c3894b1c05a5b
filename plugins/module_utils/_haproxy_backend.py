# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Carries out a plan on a running HAProxy: the only place that changes one.

Nothing here is called done before it was read back. What fails half-way is put back, traffic first, and both the
failure and what became of the undo are told.
"""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils import _haproxy_state_file as state_file
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    FORCED_DRAIN,
    FORCED_MAINT,
    Backend,
    Process,
    Server,
    parse_process,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import (
    Plan,
    Policy,
    Unsettled,
    differences,
    emptied,
    make_plan,
    make_undo,
    refuse_unsafe_lowering,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import (
    RELOADS_FOLLOWED,
    Reloaded,
    Runtime,
    refuse_replaced,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import (
    Address,
    AdminSocket,
    ConnectionLost,
    HaproxyError,
    checked_name,
    lock_name,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import Survival
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Refused, Wanted, check_wanted
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError, exclusive, exclusive_folder

POLL_SECONDS = 0.1
# How long sessions may take to be gone after `shutdown sessions`, those of a queue included.
CUT_SECONDS = 5.0
# How long a request that slipped in before maint may take at least.
LATE_SECONDS = 1.0


def admit_all() -> None:
    pass


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
    # Called when no other call can change the backend any more, before anything is read; raises to refuse the call.
    admit: t.Callable[[], None] = admit_all

    @property
    def patience(self) -> float:
        """Seconds to wait for a call like this one to end."""
        return self.timeout + self.health_timeout + self.drain_timeout


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


def change_backend(request: Request) -> Outcome:
    """Bring the servers to what is wanted, or leave all as it was and raise HaproxyError.

    A reload in the middle voids what was done so far; it is done again on the new process.
    """
    check_wanted(request.wanted)
    checked_name("backend", request.backend)
    call = _Call(request)
    try:
        if request.check_mode:
            request.admit()
            return call.run()
        # Two calls that each leave the other's server would together leave none.
        with exclusive(lock_name(request.address, request.backend), request.patience):
            request.admit()
            return call.run()
    except LockError as exc:
        # Whoever may not lock may often not reach the socket either, which is what he can do something about.
        AdminSocket(request.address, request.timeout).close()
        raise HaproxyError(f"cannot lock backend {request.backend}: {exc}. Nothing was changed.") from exc
    finally:
        call.close()


class _Call:
    """One call of the module, over as many processes as reloads bring."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._connections: list[AdminSocket] = []
        self._first: Backend | None = None
        self._touched: dict[str, Server] = {}  # every server that was changed, as it was before the call
        self._warnings: list[str] = []

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def run(self) -> Outcome:
        reason = HaproxyError("")
        for attempt in range(RELOADS_FOLLOWED + 1):
            try:
                return self._attempt(self._connect(patient=attempt > 0))
            except (Reloaded, ConnectionLost) as exc:
                reason = exc
                self._warnings.append(
                    f"HAProxy was reloaded or restarted during the call ({exc}); it was done again on the new process"
                )
            except (HaproxyError, OSError, ValueError, LookupError) as exc:
                raise self._undone(exc) from exc
        raise self._undone(
            HaproxyError(
                f"HAProxy was reloaded or restarted {RELOADS_FOLLOWED + 1} times during this call, the last time: {reason}. "
                "Find out who reloads it"
            )
        )

    def _connect(self, patient: bool) -> Runtime:
        """Connect; ``patient`` after a reload, when the new process may not be there yet."""
        deadline = time.monotonic() + self.request.timeout
        while True:
            try:
                runtime = self._open()
                if patient:
                    runtime.refuse_replaced()
                return runtime
            except HaproxyError:
                if not patient or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _open(self) -> Runtime:
        connection = AdminSocket(self.request.address, self.request.timeout)
        # Kept until the end: sessions of a replaced worker can be counted only over a connection from before.
        self._connections.append(connection)
        return Runtime(connection, self.request.backend)

    def _attempt(self, runtime: Runtime) -> Outcome:
        runtime.require_admin()
        process, before, plan = self._plan_once_settled(runtime)
        self._first = self._first or before
        survival = self._survival(process)
        lag = state_file.lagging(survival.path, before, self._names())
        if self.request.check_mode:
            return self._foreseen(process, before, plan, survival, bool(lag))
        originals = self._first.by_name()
        for change in plan.changes:
            self._touched.setdefault(change.name, originals.get(change.name, change.server))
        cut, after = self._carry_out(runtime, plan, before)
        wrote, survival = self._keep(runtime, survival, after)
        warnings = self._warnings + list(plan.warnings) + _slow_starts(after, plan)
        return Outcome(bool(self._touched) or wrote, self._first, after, process, survival, bool(lag), cut, warnings)

    def _plan_once_settled(self, runtime: Runtime) -> tuple[Process, Backend, Plan]:
        """Read and plan; wait for servers that are still `UP 1/3`, as all are after a reload, before refusing for them."""
        deadline = time.monotonic() + self.request.health_timeout
        while True:
            process, before = runtime.read()
            try:
                return process, before, self._plan(runtime, before, self.request.policy)
            except Unsettled as exc:
                if self.request.check_mode:
                    self._warnings.append(f"{exc}; a real run would wait for the others to be UP, then fail")
                    lenient = self.request.policy._replace(require_healthy=False)
                    return process, before, self._plan(runtime, before, lenient)
                if time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def _plan(self, runtime: Runtime, before: Backend, policy: Policy) -> Plan:
        known = before.by_name()
        free = [
            item.name
            for item in self.request.wanted
            if item.weight
            and item.name in known
            and item.weight not in (known[item.name].initial_weight, known[item.name].weight)
        ]
        fixed = runtime.takes_only_configured_weights(before) if free else False
        if fixed is None and self.request.check_mode:
            self._warnings.append(
                f"whether backend {before.name} ({before.algorithm}) takes other weights than the configured ones shows "
                "only when one is set"
            )
        return make_plan(before, self.request.wanted, policy, bool(fixed))

    def _carry_out(self, runtime: Runtime, plan: Plan, before: Backend) -> tuple[dict[str, int], Backend]:
        """The phases of _haproxy_plan, in their order; returns the sessions cut and the backend as read back."""
        runtime.change(plan.park)
        if plan.await_health:
            self._await_health(runtime, plan.await_health)
        runtime.change(plan.raises)
        if plan.lowers and (plan.park or plan.raises):
            # Time has passed since the plan was made, more than a few milliseconds where health was waited for.
            refuse_unsafe_lowering(runtime.current_glance(before), plan, self.request.policy)
        runtime.change(plan.lowers)
        cut = self._empty_and_close(runtime, plan)
        after = _read_back(runtime, plan, before)
        _confirm(after, plan)
        runtime.change(plan.release)
        return cut, after

    def _await_health(self, runtime: Runtime, names: t.Sequence[str]) -> None:
        deadline = time.monotonic() + self.request.health_timeout
        while True:
            down = [server for server in runtime.current().several(names) if not server.settled]
            if not down:
                return
            if time.monotonic() >= deadline:
                raise HaproxyError(
                    f"{_list(down, _health_words)} after {self.request.health_timeout:g} s, so no traffic was moved. "
                    "See why its health check fails, or raise health_timeout"
                )
            time.sleep(POLL_SECONDS)

    def _empty_and_close(self, runtime: Runtime, plan: Plan) -> dict[str, int]:
        """Wait until nothing is left on the servers that go, close them, and treat what is left as the policy says."""
        deadline = time.monotonic() + self.request.drain_timeout
        left = self._await_empty(runtime, plan.drains, deadline)
        self._fail_for(left)
        cut: dict[str, int] = {}
        if left and self.request.on_drain_timeout == "cut":
            # Before maint, where every request can be counted: HAProxy 3.2 answers 503 to the queue of a server in maint.
            cut = self._cut(runtime, [server.name for server in left])
        runtime.change(plan.close)
        if left and self.request.on_drain_timeout == "continue":
            return self._leave(runtime, left)
        # A request that a cookie binds to the server may have come between the last look and maint; no more can.
        late = (
            self._await_empty(runtime, plan.drains, max(deadline, time.monotonic() + LATE_SECONDS))
            if plan.close
            else []
        )
        self._fail_for(late)
        if late and self.request.on_drain_timeout == "cut":
            for name, count in self._cut(runtime, [server.name for server in late]).items():
                cut[name] = cut.get(name, 0) + count
        elif late:
            return self._leave(runtime, late)
        if cut:
            left_over = self._busy(runtime, list(cut))
            if left_over:
                raise HaproxyError(f"{_list(left_over, _session_words)} although all were shut down; try state: maint")
            self._warnings.append(f"cut after {self.request.drain_timeout:g} s of drain: {_counts(cut)}")
        return cut

    def _fail_for(self, left: t.Sequence[Server]) -> None:
        if left and self.request.on_drain_timeout == "fail":
            raise HaproxyError(
                f"{_list(left, _session_words)} after {self.request.drain_timeout:g} s of drain. "
                "Raise drain_timeout, or choose on_drain_timeout: continue or cut"
            )

    def _await_empty(self, runtime: Runtime, names: t.Sequence[str], deadline: float) -> list[Server]:
        """The servers on which sessions or a queue outlived the deadline."""
        while names:
            left = self._busy(runtime, names)
            if not left or time.monotonic() >= deadline:
                return left
            time.sleep(POLL_SECONDS)
        return []

    def _busy(self, runtime: Runtime, names: t.Sequence[str]) -> list[Server]:
        """The servers with sessions or a queue; connections of workers of before a reload are added to the sessions."""
        old = self._left_on_replaced(names)
        servers = [
            server._replace(sessions=server.sessions + old.get(server.name, 0))
            for server in runtime.current().several(names)
        ]
        return [server for server in servers if server.sessions or server.queued]

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

    def _leave(self, runtime: Runtime, left: t.Sequence[Server]) -> dict[str, int]:
        """Let sessions end by themselves, but tell those that HAProxy ended when the server was closed."""
        still = {server.name: server.sessions for server in self._busy(runtime, [server.name for server in left])}
        ended = {server.name: server.sessions - still.get(server.name, 0) for server in left}
        self._warnings.append(
            f"{_list(left, _session_words)} after {self.request.drain_timeout:g} s of drain; on_drain_timeout: continue leaves them"
        )
        gone = {name: count for name, count in ended.items() if count > 0}
        if gone:
            self._warnings.append(
                f"{_counts(gone)} ended when it was taken out; `on-marked-down shutdown-sessions` does that at maint"
            )
        return gone

    def _cut(self, runtime: Runtime, names: t.Sequence[str]) -> dict[str, int]:
        """Shut sessions down until none is left, not even those that came out of the queue meanwhile; count them.

        Gives up after CUT_SECONDS: requests that a cookie binds to a server in drain may come without end.
        """
        old = self._left_on_replaced(names)
        if old:
            raise HaproxyError(
                f"{_counts(old)} are served by a worker from before a reload, which nothing can tell to cut them"
            )
        cut = dict.fromkeys(names, 0)
        deadline = time.monotonic() + CUT_SECONDS
        while time.monotonic() < deadline:
            busy = [server for server in runtime.current().several(names) if server.sessions or server.queued]
            if not busy:
                break
            runtime.change([f"shutdown sessions server {self.request.backend}/{server.name}" for server in busy])
            for server in busy:
                cut[server.name] += server.sessions
            time.sleep(POLL_SECONDS)
        return {name: count for name, count in cut.items() if count}

    def _undone(self, problem: Exception) -> HaproxyError:
        """Put everything back that the call has changed, over a new connection, as the old one may be out of step."""
        text = str(problem) if isinstance(problem, HaproxyError) else f"{type(problem).__name__}: {problem}"
        text = text.rstrip(".")
        if not self._touched:
            kind = Refused if isinstance(problem, Refused) else HaproxyError
            return kind(f"{text}. Nothing was changed.")
        for _reload in range(RELOADS_FOLLOWED):
            try:
                return HaproxyError(
                    f"backend {self.request.backend}: {text}. {self._undo(self._connect(patient=True))}"
                )
            except (Reloaded, ConnectionLost) as exc:
                why: Exception = exc
            except (HaproxyError, OSError, ValueError, LookupError) as exc:
                why = exc
                break
        return HaproxyError(
            f"backend {self.request.backend}: {text}. It could NOT all be put back: {str(why).rstrip('.')}. "
            "Read the backend with haproxy_backend_info before anything else."
        )

    def _undo(self, runtime: Runtime) -> str:
        """The way back, traffic first; says in words what became of it."""
        plan = make_undo(runtime.current(), self._touched)
        runtime.change(plan.park)
        down = self._still_down(runtime, plan.await_health)
        if down:
            # They stay in drain: what does not come up must not get traffic.
            plan = make_undo(runtime.current(), {name: old for name, old in self._touched.items() if name not in down})
        runtime.change(plan.raises)
        now = runtime.current()
        if plan.lowers and emptied(now, plan):
            runtime.change(plan.release)
            kept = ", ".join(
                f"{server.name} {server.own_state} with weight {server.weight}"
                for server in now.servers
                if server.usable
            )
            return f"It was NOT all put back, as that would leave nothing to take traffic: kept is {kept}. See why the others are down."
        runtime.change(plan.lowers)
        runtime.change(plan.close)
        _confirm(runtime.current(), plan)
        runtime.change(plan.release)
        if down:
            return f"All but {', '.join(down)} was put back: not UP, so left in drain."
        return "Everything was put back as it was." if plan.changes else "Nothing was changed."

    def _still_down(self, runtime: Runtime, names: t.Sequence[str]) -> list[str]:
        try:
            self._await_health(runtime, names)
        except (Reloaded, ConnectionLost):
            raise
        except HaproxyError:
            return [server.name for server in runtime.current().several(names) if not server.settled]
        return []

    def _foreseen(self, process: Process, before: Backend, plan: Plan, survival: Survival, lagged: bool) -> Outcome:
        """In check mode: what a real run would do, as far as that can be told."""
        after = _foretold(before, plan)
        outdated = bool(state_file.lagging(survival.path, after, self._names()))
        problem = state_file.unwritable(survival.path) if outdated else ""
        if problem:
            survival = survival._replace(survives=False, reason=problem)
        waiting = [
            server for server in before.several(plan.await_health) if not server.settled and server.state != "maint"
        ]
        warnings = [*self._warnings, *plan.warnings]
        if waiting:
            warnings.append(
                f"{_list(waiting, _health_words)} now; a real run would wait {self.request.health_timeout:g} s for it, then fail"
            )
        changed = bool(plan.changes) or (outdated and not problem)
        return Outcome(changed, before, after, process, survival, lagged, warnings=warnings)

    def _names(self) -> set[str]:
        return {item.name for item in self.request.wanted}

    def _keep(self, runtime: Runtime, survival: Survival, after: Backend) -> tuple[bool, Survival]:
        """Dump the runtime state where a reload will look for it, unless it is there already."""
        names = self._names()
        if survival.path is None or not state_file.lagging(survival.path, after, names):
            return False, survival
        dump = "show servers state" if survival.whole else f"show servers state {self.request.backend}"
        try:
            with exclusive_folder(os.path.dirname(survival.path), self.request.timeout):
                reply, info = runtime.connection.run([dump, "show info"])
                refuse_replaced(parse_process(info))
                state_file.write(survival.path, reply)
        except (OSError, LockError) as exc:
            reason = f"cannot write the server-state file {survival.path}: {getattr(exc, 'strerror', None) or exc}"
            return False, survival._replace(survives=False, reason=reason)
        if state_file.lagging(survival.path, after, names):
            survival = survival._replace(survives=False, reason="somebody else changes these servers, too")
        return True, survival

    def _survival(self, process: Process) -> Survival:
        found = state_file.find_restoration(process.pid, self.request.backend)
        return state_file.survival(found, self.request.state_file, process.pid, self._names())


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

    return before._replace(servers=tuple(after(server) for server in before.servers))


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


def _counts(sessions: t.Mapping[str, int]) -> str:
    return ", ".join(f"{count} sessions of {name}" for name, count in sessions.items())


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
