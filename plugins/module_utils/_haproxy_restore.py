# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Brings a backend back to its safe state, whatever was done to it meanwhile. Used by the rescue, by rollbacks and by hand.

It never goes from maint to ready, as HAProxy would send traffic before the first check: a server leaves maint to drain with its
health set down, and is let in once checks pass. Nothing is lowered before something safe carries, and no session is cut.
Doing it again does no harm, and is the way to bring in what was not UP the first time.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    FORCED_DRAIN,
    FORCED_MAINT,
    Backend,
    Process,
    Server,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_backend import (
    Outcome,
    Request,
    change_backend,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import Policy
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backend
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import Address, HaproxyError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import Survival
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Target, Wanted

POLL_SECONDS = 0.1
# How long a server that was UP a moment ago may take to be judged UP again by the call that lets it in.
SETTLE_SECONDS = 2.0
# The safe state was judged when it was recorded; a server without checks is in it only if nothing was deployed there.
_POLICY = Policy(allow_unchecked=True)
# For servers that take no traffic now.
_UNPROVED = Policy(allow_unchecked=True, require_healthy=False)


@dataclass(frozen=True)
class Restoration:
    """One call. Times in seconds."""

    address: Address
    backend: str
    safe: t.Mapping[str, Target]
    health_timeout: float = 30.0
    timeout: float = 10.0
    state_file: str = "auto"
    check_mode: bool = False


@dataclass
class Restored:
    """``out``: the servers that could not be brought back, each with why."""

    changed: bool
    before: Backend
    after: Backend
    process: Process
    out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    survival: Survival | None = None  # None where nothing was asked of HAProxy


def restore(request: Restoration) -> Restored:
    """Raises HaproxyError only where HAProxy cannot be read; what fails for single servers is in ``out``."""
    process, before = read_backend(request.address, request.backend, request.timeout)
    if request.check_mode:
        return _foreseen(request, process, before)
    work = _Work(request, before)
    work.leave_maint()
    work.bring_in()
    work.take_out_the_rest()
    process, after = read_backend(request.address, request.backend, request.timeout)
    out = {**work.problems, **_missing(request, before), **not_back(after, request.safe, work.problems)}
    return Restored(work.changed, before, after, process, out, work.warnings, work.survival)


def parked(now: Backend, safe: t.Mapping[str, Target]) -> list[str]:
    """Servers that must carry again and are in maint: HAProxy does not check them there."""
    return [server.name for server in _ready(now, safe) if server.own_state == "maint"]


def admissible(now: Backend, safe: t.Mapping[str, Target]) -> list[Wanted]:
    """What can be let in, or set, at once: servers that are UP, or that nothing checks, and are not yet as they should be."""
    return [
        Wanted(server.name, safe[server.name].weight, "ready")
        for server in _ready(now, safe)
        if (server.settled or server.health == "unchecked")
        and server.own_state != "maint"
        and not _is_back(server, safe)
    ]


def awaited(now: Backend, safe: t.Mapping[str, Target]) -> list[str]:
    """Servers that must carry again, and are not UP yet."""
    return [server.name for server in _ready(now, safe) if not server.settled and server.health != "unchecked"]


def carrying(now: Backend, safe: t.Mapping[str, Target]) -> bool:
    """Whether something that belongs to the safe state takes traffic."""
    return any(
        server.usable and not server.backup and (server.settled or server.health == "unchecked")
        for server in _ready(now, safe)
    )


def surplus(now: Backend, safe: t.Mapping[str, Target]) -> list[Wanted]:
    """What is to take no traffic, or is to have another weight in drain. What is out already stays in its state."""
    found = []
    for server in now.servers:
        target = safe.get(server.name)
        if target is None or target.state == "ready":
            continue
        weight = target.weight if target.weight not in (None, server.weight) else None
        state = "drain" if server.own_state == "ready" else None
        if weight is not None or state is not None:
            found.append(Wanted(server.name, weight, state))
    return found


def not_back(now: Backend, safe: t.Mapping[str, Target], known: t.Collection[str] = ()) -> dict[str, str]:
    """The servers that must carry and do not, each with why, but those that are ``known``."""
    return {
        server.name: f"{server.name} is not UP (status {server.status}"
        + (f", last check {server.last_check})" if server.last_check else ")")
        for server in _ready(now, safe)
        if server.name not in known
        and not (server.running and server.state == "ready" and (server.settled or server.health == "unchecked"))
    }


def _ready(now: Backend, safe: t.Mapping[str, Target]) -> list[Server]:
    return [server for server in now.servers if server.name in safe and safe[server.name].state == "ready"]


def _is_back(server: Server, safe: t.Mapping[str, Target]) -> bool:
    weight = safe[server.name].weight
    return server.own_state == "ready" and weight in (None, server.weight)


def _missing(request: Restoration, before: Backend) -> dict[str, str]:
    known = before.by_name()
    return {
        name: f"HAProxy's backend {request.backend} has no server {name} any more"
        for name in request.safe
        if name not in known
    }


class _Work:
    """The changes of one call, each by change_backend, which has its own care for order and undo."""

    def __init__(self, request: Restoration, before: Backend) -> None:
        self._request = request
        self._before = before
        self.changed = False
        self.problems: dict[str, str] = {}
        self.warnings: list[str] = []
        self.survival: Survival | None = None

    def leave_maint(self) -> None:
        self._change_all([Wanted(name, None, "drain") for name in parked(self._before, self._request.safe)])

    def bring_in(self) -> None:
        """Let in what is UP at once, and the rest as it comes UP, until the time is over."""
        deadline = time.monotonic() + self._request.health_timeout
        safe = self._request.safe
        tried: set[str] = set()  # an agent may give it another weight at once, which is none of our business
        while True:
            now = self._read()
            wanted = [one for one in admissible(now, safe) if one.name not in tried]
            tried.update(one.name for one in wanted)
            self._change_all(wanted)
            if not [name for name in awaited(now, safe) if name not in self.problems] or time.monotonic() >= deadline:
                break
            time.sleep(POLL_SECONDS)
        self._set_weights_of_the_down()

    def _set_weights_of_the_down(self) -> None:
        """A ready server that is down takes no traffic; when it comes UP by itself it must have its own weight."""
        safe = self._request.safe
        down = [
            Wanted(server.name, safe[server.name].weight, None)
            for server in _ready(self._read(), safe)
            if server.own_state == "ready" and not _is_back(server, safe) and server.name not in self.problems
        ]
        self._change_all(down, _UNPROVED)

    def take_out_the_rest(self) -> None:
        now = self._read()
        rest = surplus(now, self._request.safe)
        if rest and not carrying(now, self._request.safe):
            names = ", ".join(wanted.name for wanted in rest)
            for wanted in rest:
                self.problems.setdefault(wanted.name, "it still carries, as none of the safe servers takes traffic")
            self.warnings.append(
                f"backend {self._request.backend}: none of its safe servers takes traffic, so {names} was left as it is; "
                "see why they are not UP, then restore again"
            )
            return
        self._change_all(rest)

    def _read(self) -> Backend:
        return read_backend(self._request.address, self._request.backend, self._request.timeout)[1]

    def _change_all(self, wanted: t.Sequence[Wanted], policy: Policy = _POLICY) -> None:
        """All in one call; where that fails one by one, so that one server does not keep the others from coming back."""
        if not wanted:
            return
        try:
            self._keep(self._change(wanted, policy))
        except HaproxyError as exc:
            if len(wanted) == 1:
                self.problems[wanted[0].name] = str(exc)
                return
            self._read()  # a HAProxy that does not answer ends it here
            for one in wanted:
                self._change_all([one], policy)

    def _change(self, wanted: t.Sequence[Wanted], policy: Policy) -> Outcome:
        return change_backend(
            Request(
                address=self._request.address,
                backend=self._request.backend,
                wanted=tuple(wanted),
                policy=policy,
                drain_timeout=0.0,
                on_drain_timeout="continue",
                health_timeout=SETTLE_SECONDS,
                timeout=self._request.timeout,
                state_file=self._request.state_file,
            )
        )

    def _keep(self, outcome: Outcome) -> None:
        self.changed = self.changed or outcome.changed
        self.warnings.extend(warning for warning in outcome.warnings if warning not in self.warnings)
        self.survival = outcome.survival


def _foreseen(request: Restoration, process: Process, before: Backend) -> Restored:
    """In check mode: as if every server came UP."""

    def after(server: Server) -> Server:
        target = request.safe.get(server.name)
        if target is None:
            return server
        weight = server.weight if target.weight is None else target.weight
        if target.state == "ready":
            return server._replace(weight=weight, admin=server.admin & ~(FORCED_MAINT | FORCED_DRAIN))
        admin = server.admin | FORCED_DRAIN if server.own_state == "ready" else server.admin
        return server._replace(weight=weight, admin=admin)

    foretold = before._replace(servers=tuple(after(server) for server in before.servers))
    return Restored(foretold != before, before, foretold, process, _missing(request, before))
