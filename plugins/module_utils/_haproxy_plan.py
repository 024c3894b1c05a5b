# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""From the servers as they are and as they are wanted to an order of commands in which traffic is never without a server.

Pure: nothing here talks to HAProxy. What is refused is refused before the first command. The order is the heart of it:

    park      maint -> drain, so that health checks run again while nothing is sent there; agents off
    wait      until every server that will gain traffic is UP
    raise     weights and `ready` of those servers: the sum of usable weights only grows
    confirm   read back; if the new side is not usable now, nothing has been lowered yet
    lower     weights down, `drain`: the sum only shrinks, towards the end state that was checked beforehand
    empty     wait for no sessions and no queue
    close     `maint`, and all is read back
    release   agents back on
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    DNS_MAINT,
    INHERITED_DRAIN,
    INHERITED_MAINT,
    UNSHARED_ALGORITHMS,
    Backend,
    Server,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError, checked_name

STATES = ("ready", "drain", "maint")
MAX_WEIGHT = 256


class Refused(HaproxyError):
    """Not asked of HAProxy at all; nothing was changed."""


@dataclass(frozen=True)
class Wanted:
    """What one server should be; None leaves it as it is."""

    name: str
    weight: int | None = None
    state: str | None = None


@dataclass(frozen=True)
class Policy:
    """What the user allows, by the options of haproxy_backend of the same names."""

    require_healthy: bool = True
    allow_unchecked: bool = False
    allow_empty: bool = False
    allow_backup: bool = False


class Change(t.NamedTuple):
    """One server's way from what it is to what it should be.

    ``before`` and ``after``: the weights at which it takes new traffic; 0 when it takes none.
    """

    server: Server
    weight: int
    state: str
    weight_asked: bool
    before: int
    after: int

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def differs(self) -> bool:
        return self.server.weight != self.weight or self.server.state != self.state

    @property
    def needed(self) -> bool:
        return self.differs or self.agent_off

    @property
    def gains(self) -> bool:
        return self.after > self.before

    @property
    def leaves_maint(self) -> bool:
        return self.server.state == "maint" and self.state != "maint"

    @property
    def leaves_rotation(self) -> bool:
        return self.server.state == "ready" and self.state != "ready"

    @property
    def held(self) -> bool:
        """Whether we keep the server where its agent-check might not want it: the agent would undo it at its next report."""
        return self.state != "ready" or (self.weight_asked and self.weight != self.server.initial_weight)

    @property
    def agent_off(self) -> bool:
        return self.server.agent == "enabled" and (self.differs or self.held)

    @property
    def agent_returns(self) -> bool:
        """Only an agent switched off by this call, or by an earlier hold that ends now, is given back."""
        hold_ends = self.server.agent == "disabled" and self.differs
        return not self.held and (self.agent_off or hold_ends)


@dataclass(frozen=True)
class Plan:
    """The commands of each phase, and whom the waits in between are for. An empty plan changes nothing."""

    changes: tuple[Change, ...]
    park: tuple[str, ...]
    await_health: tuple[str, ...]
    raises: tuple[str, ...]
    lowers: tuple[str, ...]
    drains: tuple[str, ...]  # names of servers that must be empty before the call may end
    close: tuple[str, ...]
    release: tuple[str, ...]
    warnings: tuple[str, ...]


def check_wanted(wanted: t.Sequence[Wanted]) -> None:
    """Refuse what can be judged without asking HAProxy."""
    if not wanted:
        raise Refused("servers is empty; list the servers to change")
    seen: set[str] = set()
    for item in wanted:
        checked_name("server", item.name)
        if item.name in seen:
            raise Refused(
                f"server {item.name} is listed twice; give each server once, with its weight and state together"
            )
        seen.add(item.name)
        if item.weight is None and item.state is None:
            raise Refused(f"server {item.name} has neither weight nor state; say what it should become")
        if item.weight is not None and not 0 <= item.weight <= MAX_WEIGHT:
            raise Refused(f"server {item.name}: weight {item.weight} is outside HAProxy's range 0 to {MAX_WEIGHT}")
        if item.state is not None and item.state not in STATES:
            raise Refused(f"server {item.name}: state {item.state!r} is not one of {', '.join(STATES)}")


def make_plan(backend: Backend, wanted: t.Sequence[Wanted], policy: Policy, fixed_weights: bool) -> Plan:
    """Order the way from ``backend`` as read to ``wanted``; raise Refused where there is no safe or no possible way.

    ``fixed_weights``: whether the backend takes no weights but 0 and the configured one.
    """
    check_wanted(wanted)
    targets = _targets(backend, wanted)
    changes = [change for change in targets if change.needed]
    for change in changes:
        _refuse_inherited(backend, change)
        _refuse_fixed_weight(backend, change, fixed_weights)
        _refuse_unchecked(backend, change, policy)
    if changes:
        _refuse_outage(backend, changes, policy)
    return _ordered(
        backend,
        changes,
        await_health=[
            change.name
            for change in changes
            if change.gains and policy.require_healthy and change.server.health != "unchecked"
        ],
        drains=[change.name for change in targets if change.state != "ready"],
        agents=_agents(backend, changes),
        warnings=_warnings(backend, changes),
    )


def _change(server: Server, weight: int | None, state: str | None) -> Change:
    now = server.state
    target_weight, target_state = server.weight if weight is None else weight, state or now
    before, after = server.weight if now == "ready" else 0, target_weight if target_state == "ready" else 0
    return Change(server, target_weight, target_state, weight is not None, before, after)


def make_undo(now: Backend, done: Plan) -> Plan:
    """The way back from ``now``, in the same order of phases, to what the servers of ``done`` were before it.

    Nothing is refused: this state was there before. Only a server that must leave maint waits for its health; to the
    others HAProxy sends traffic as it did.
    """
    known = now.by_name()
    back = [
        _change(known[change.name], change.server.weight, change.server.state)
        for change in done.changes
        if change.name in known
    ]
    agents = {
        change.name: change.server.agent
        for change in done.changes
        if change.name in known and change.server.agent is not None and known[change.name].agent != change.server.agent
    }
    return _ordered(
        now,
        [change for change in back if change.differs],
        await_health=[
            change.name
            for change in back
            if change.leaves_maint and change.gains and change.server.health != "unchecked"
        ],
        drains=[],
        agents=([], [f"{_verb(state)} agent {now.name}/{name}" for name, state in agents.items()]),
        warnings=[],
    )


def _verb(agent: str | None) -> str:
    return "enable" if agent == "enabled" else "disable"


def _agents(backend: Backend, changes: t.Sequence[Change]) -> tuple[list[str], list[str]]:
    """Commands that take agents off before anything else, and those that give them back at the end."""
    off = [f"disable agent {backend.name}/{change.name}" for change in changes if change.agent_off]
    back = [f"enable agent {backend.name}/{change.name}" for change in changes if change.agent_returns]
    return off, back


def _ordered(
    backend: Backend,
    changes: t.Sequence[Change],
    await_health: t.Sequence[str],
    drains: t.Sequence[str],
    agents: tuple[list[str], list[str]],
    warnings: t.Sequence[str],
) -> Plan:
    park, raises, lowers, close = list(agents[0]), [], [], []
    for change in changes:
        where = f"{backend.name}/{change.name}"
        weight = [f"set server {where} weight {change.weight}"] if change.weight != change.server.weight else []
        drain = [f"set server {where} state drain"]
        if change.leaves_maint:
            # Never straight to ready: HAProxy would send traffic before the first check.
            park.extend(drain)
        if change.leaves_rotation:
            # Out first: its weight may be about to grow.
            lowers.extend(drain + weight)
        elif change.after < change.before:
            lowers.extend(weight)
        else:
            # The weight first: `ready` lets traffic in at once.
            raises.extend(weight)
        if change.state == "ready" and change.server.state != "ready":
            raises.append(f"set server {where} state ready")
        if change.state == "maint" and change.server.state != "maint":
            close.append(f"set server {where} state maint")
    return Plan(
        changes=tuple(changes),
        park=tuple(park),
        await_health=tuple(await_health),
        raises=tuple(raises),
        lowers=tuple(lowers),
        drains=tuple(drains),
        close=tuple(close),
        release=tuple(agents[1]),
        warnings=tuple(warnings),
    )


def health_proofs(parked: Backend, names: t.Collection[str]) -> list[str]:
    """Commands after which UP means that checks passed, for servers that have just left maint.

    HAProxy calls a server UP the moment it leaves maint, `fall` - 1 checks short of full health. With `fall 1` there is
    no such gap to wait for, so its health is set down, while nothing is sent there, and `rise` checks must pass.
    """
    return [
        f"set server {parked.name}/{server.name} health down"
        for server in parked.servers
        if server.name in names and server.check_fall == 1
    ]


def differences(backend: Backend, plan: Plan) -> list[str]:
    """Where ``backend`` as read back is not what ``plan`` was to make of it, in words."""
    known = backend.by_name()
    found = []
    for change in plan.changes:
        server = known[change.name]
        if (server.weight, server.state) != (change.weight, change.state):
            found.append(
                f"{server.name} is {server.state} with weight {server.weight} instead of {change.state} with weight {change.weight}"
            )
    return found


def refuse_unsafe_lowering(now: Backend, plan: Plan, policy: Policy) -> None:
    """Judge the end state once more on what is true now: much may have gone down while the new side was waited for."""
    servers = now.by_name()
    arrived = [change._replace(server=servers[change.name]) for change in plan.changes]
    down = [change.server.name for change in arrived if change.name in plan.await_health and not change.server.usable]
    if down:
        raise HaproxyError(f"{', '.join(down)} went down right after it was let in, so nothing was taken out")
    _refuse_outage(now, arrived, policy)


def _targets(backend: Backend, wanted: t.Sequence[Wanted]) -> list[Change]:
    known = backend.by_name()
    unknown = [item.name for item in wanted if item.name not in known]
    if unknown:
        some = ", ".join(list(known)[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise Refused(f"backend {backend.name} has no server {', '.join(unknown)}; it has {some}")
    return [_change(known[item.name], item.weight, item.state) for item in wanted]


def _refuse_inherited(backend: Backend, change: Change) -> None:
    admin, where = change.server.admin, f"server {backend.name}/{change.name}"
    kept = {"ready": INHERITED_MAINT | DNS_MAINT | INHERITED_DRAIN, "drain": INHERITED_MAINT | DNS_MAINT, "maint": 0}[
        change.state
    ]
    if change.server.state == change.state or not admin & kept:
        return
    if admin & kept & DNS_MAINT:
        raise Refused(
            f"{where} is in maintenance because its name does not resolve; it cannot become {change.state} until DNS answers"
        )
    raise Refused(
        f"{where} takes its state {change.server.state} from {change.server.tracks or 'the server it tracks'}; change that one to make it {change.state}"
    )


def _refuse_fixed_weight(backend: Backend, change: Change, fixed_weights: bool) -> None:
    initial = change.server.initial_weight
    if fixed_weights and change.weight != change.server.weight and change.weight not in (0, initial):
        raise Refused(
            f"backend {backend.name} balances by a static algorithm ({backend.algorithm}), which takes only 0 or the configured weight {initial} for "
            f"{change.name}, not {change.weight}. Use `balance roundrobin` (or `hash-type consistent`) for other shares"
        )


def _refuse_unchecked(backend: Backend, change: Change, policy: Policy) -> None:
    if change.gains and policy.require_healthy and not policy.allow_unchecked and change.server.health == "unchecked":
        raise Refused(
            f"server {backend.name}/{change.name} would gain traffic but has no health check, so nothing shows that it is healthy. "
            "Add `check` to its server line, or set allow_unchecked: true"
        )


def _refuse_outage(backend: Backend, changes: t.Sequence[Change], policy: Policy) -> None:
    by_name = {change.name: change for change in changes}
    left = [server for server in backend.servers if _usable_after(server, by_name.get(server.name), policy)]
    if any(not server.backup for server in left):
        return
    asked = ", ".join(f"{change.name} {change.state} weight {change.weight}" for change in changes[:5]) + (
        " ..." if len(changes) > 5 else ""
    )
    if left and not policy.allow_backup:
        raise Refused(
            f"backend {backend.name} would be left to its backup servers ({', '.join(server.name for server in left)}) after: {asked}. "
            "Keep another server usable, or set allow_backup: true"
        )
    if not left and not policy.allow_empty:
        raise Refused(
            f"backend {backend.name} would be left without any usable server after: {asked}. "
            "Bring another server up first or in the same call, or set allow_empty: true"
        )


def _usable_after(server: Server, change: Change | None, policy: Policy) -> bool:
    weight, state = (change.weight, change.state) if change else (server.weight, server.state)
    if state != "ready" or weight == 0:
        return False
    if change and change.gains:
        # It is waited for, or the user has taken its health upon himself.
        return policy.require_healthy or server.running or change.leaves_maint
    # A server on its way down must not be what is left.
    return server.running and (not policy.require_healthy or server.health == "unchecked" or server.settled)


def _warnings(backend: Backend, changes: t.Sequence[Change]) -> list[str]:
    found = []
    if backend.algorithm in UNSHARED_ALGORITHMS and any(change.weight != change.server.weight for change in changes):
        found.append(
            f"backend {backend.name} balances by {backend.algorithm}: its weights are not shares of the traffic"
        )
    kept_off = [change.name for change in changes if change.agent_off and not change.agent_returns]
    if kept_off:
        found.append(
            f"the agent-check of {', '.join(kept_off)} is off, as it would overwrite the change; it is given back when "
            "the server is ready at its configured weight again"
        )
    given_back = [change.name for change in changes if change.agent_returns]
    if given_back:
        found.append(f"the agent-check of {', '.join(given_back)} is on and may set weight and state by itself")
    return found
