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

from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    DNS_MAINT,
    INHERITED_DRAIN,
    INHERITED_MAINT,
    UNSHARED_ALGORITHMS,
    Backend,
    Server,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import (
    STATES,
    Refused,
    Wanted,
    check_wanted,
)


class Unsettled(Refused):
    """Refused only because servers that would be left are still `UP 1/3`, as they all are right after a reload."""


class Policy(t.NamedTuple):
    """What the user allows, by the options of haproxy_backend of the same names."""

    require_healthy: bool = True
    allow_unchecked: bool = False
    allow_empty: bool = False
    allow_backup: bool = False


class Change(t.NamedTuple):
    """One server's way from what it is to what it should be.

    ``before`` and ``after``: the weights at which it takes new traffic; 0 when it takes none. ``state`` is its own, which a
    server that it tracks may overrule.
    """

    server: Server
    weight: int
    state: str
    weight_asked: bool
    state_asked: bool
    before: int
    after: int

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def differs(self) -> bool:
        return self.server.own_state != self.state or self.sets_weight

    @property
    def needed(self) -> bool:
        return self.differs or self.agent_off

    @property
    def steered(self) -> bool:
        """Whether its agent says what the configured weight means now."""
        return self.server.agent == "enabled" and not self.held

    @property
    def sets_weight(self) -> bool:
        return self.server.weight != self.weight and not self.steered

    @property
    def gains(self) -> bool:
        return self.after > self.before

    @property
    def leaves_maint(self) -> bool:
        return self.server.own_state == "maint" and self.state != "maint"

    @property
    def leaves_rotation(self) -> bool:
        return self.server.own_state == "ready" and self.state != "ready"

    @property
    def lowers(self) -> bool:
        return self.after < self.before or self.leaves_rotation

    @property
    def enters(self) -> bool:
        """Whether requests may reach it afterwards that could not before, be it by a cookie at weight 0."""
        return self.gains or (self.leaves_maint and self.state == "ready")

    @property
    def held(self) -> bool:
        """Whether we keep the server where its agent-check might not want it: it would undo that at its next report."""
        return self.state != "ready" or (self.weight_asked and self.weight != self.server.initial_weight)

    @property
    def agent_off(self) -> bool:
        return self.server.agent == "enabled" and (self.server.own_state != self.state or self.held)

    @property
    def agent_returns(self) -> bool:
        """Only an agent switched off by this call, or by an earlier hold that ends now, is given back."""
        hold_ends = self.server.agent == "disabled" and self.differs
        return not self.held and (self.agent_off or hold_ends)


class Plan(t.NamedTuple):
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


def make_plan(backend: Backend, wanted: t.Sequence[Wanted], policy: Policy, fixed_weights: bool) -> Plan:
    """Order the way from ``backend`` as read to ``wanted``; raise Refused where there is no safe or no possible way.

    ``fixed_weights``: whether the backend takes no weights but 0 and the configured one.
    """
    check_wanted(wanted)
    targets = _targets(backend, wanted)
    changes = [change for change in targets if change.needed]
    ends = _end_states(backend, {change.name: change.state for change in targets})
    for change in targets:
        if change.state_asked:
            _refuse_inherited(backend, change, ends[change.name])
        if fixed_weights:
            _refuse_fixed_weight(backend, change)
        if change.server.health == "unchecked":
            _refuse_unchecked(backend, change, policy)
    _refuse_outage(backend, targets, policy)
    checked = policy.require_healthy
    return _ordered(
        backend,
        changes,
        await_health=[
            change.name for change in changes if change.enters and checked and change.server.health != "unchecked"
        ],
        prove=checked,
        drains=_drains(backend, targets, ends),
        agents=_agents(backend, changes),
        warnings=_warnings(backend, changes),
    )


def make_undo(now: Backend, originals: t.Mapping[str, Server]) -> Plan:
    """The way back from ``now``, in the same order of phases, to what the servers were before the call.

    Nothing is refused: this state was there before. Only a server that must leave maint waits for its health; to the
    others HAProxy sends traffic as it did. Whether it is safe to lower the new side is for ``emptied`` to say.
    """
    known = now.by_name()
    wanted = [Wanted(name, before.weight, before.own_state) for name, before in originals.items() if name in known]
    back = _targets(now, wanted)
    agents = [
        f"{'enable' if before.agent == 'enabled' else 'disable'} agent {now.name}/{name}"
        for name, before in originals.items()
        if name in known and before.agent is not None and known[name].agent != before.agent
    ]
    return _ordered(
        now,
        [change for change in back if change.differs],
        await_health=[
            change.name
            for change in back
            if change.leaves_maint and change.enters and change.server.health != "unchecked"
        ],
        prove=True,
        drains=[],
        agents=([], agents),
        warnings=[],
    )


def _agents(backend: Backend, changes: t.Sequence[Change]) -> tuple[list[str], list[str]]:
    """Commands that take agents off before anything else, and those that give them back at the end."""
    steered = [change for change in changes if change.server.agent]
    off = [f"disable agent {backend.name}/{change.name}" for change in steered if change.agent_off]
    back = [f"enable agent {backend.name}/{change.name}" for change in steered if change.agent_returns]
    return off, back


def _ordered(
    backend: Backend,
    changes: t.Sequence[Change],
    await_health: t.Sequence[str],
    prove: bool,
    drains: t.Sequence[str],
    agents: tuple[list[str], list[str]],
    warnings: t.Sequence[str],
) -> Plan:
    park, raises, lowers, close = list(agents[0]), [], [], []
    for change in changes:
        where = f"{backend.name}/{change.name}"
        weight = [f"set server {where} weight {change.weight}"] if change.sets_weight else []
        if change.leaves_maint:
            park.extend(_leave_maint(where, change.server, prove))
        if change.leaves_rotation:
            # Out first: its weight may be about to grow.
            lowers.extend([f"set server {where} state drain", *weight])
        elif change.lowers:
            lowers.extend(weight)
        else:
            # The weight first: `ready` lets traffic in at once.
            raises.extend(weight)
        if change.state == "ready" and change.server.own_state != "ready":
            raises.append(f"set server {where} state ready")
        if change.state == "maint" and change.server.own_state != "maint":
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


def _leave_maint(where: str, server: Server, prove: bool) -> list[str]:
    """Never straight to ready: HAProxy calls a server UP the moment it leaves maint, before any check.

    So its health is set down in the same breath, and `rise` checks must pass: else requests that a cookie binds to it, which
    a drain does not keep away, would reach it unproved, and with `fall 1` nothing would be left to wait for.
    """
    down = [f"set server {where} health down"] if prove and server.checked else []
    return [f"set server {where} state drain", *down]


def differences(backend: Backend, plan: Plan) -> list[str]:
    """Where ``backend`` as read back is not what ``plan`` was to make of it, in words."""
    servers = backend.several([change.name for change in plan.changes])
    return [
        f"{server.name} is {server.own_state} with weight {server.weight} instead of {change.state} with weight {change.weight}"
        for change, server in zip(plan.changes, servers)
        if server.own_state != change.state or (server.weight != change.weight and not change.steered)
    ]


def refuse_unsafe_lowering(now: Backend, plan: Plan, policy: Policy) -> None:
    """Judge the end state once more on what is true now: much may have gone down while the new side was waited for."""
    servers = now.several([change.name for change in plan.changes])
    down = [server.name for server in servers if server.name in plan.await_health and not _admits(server, plan)]
    if down:
        raise HaproxyError(f"{', '.join(down)} went down right after it was let in, so nothing was taken out")
    rest = [Wanted(change.name, change.weight, change.state) for change in plan.changes]
    _refuse_outage(now, _targets(now, rest), policy)


def _admits(server: Server, plan: Plan) -> bool:
    weightless = any(change.name == server.name and change.weight == 0 for change in plan.changes)
    return server.running and server.state == "ready" if weightless else server.usable


def emptied(now: Backend, plan: Plan) -> bool:
    """Whether the lowerings of ``plan`` would leave nothing that can take traffic, where something can now."""
    lenient = Policy(require_healthy=False)
    rest = [Wanted(change.name, change.weight, change.state) for change in plan.changes]
    return bool(_left(now, _targets(now, []), lenient)) and not _left(now, _targets(now, rest), lenient)


def _targets(backend: Backend, wanted: t.Sequence[Wanted]) -> list[Change]:
    known = backend.by_name()
    unknown = [item.name for item in wanted if item.name not in known]
    if unknown:
        some = ", ".join(list(known)[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise Refused(f"backend {backend.name} has no server {', '.join(unknown)}; it has {some}")
    states = {item.name: item.state for item in wanted if item.state}
    ends = _end_states(backend, states)
    return [_change(known[item.name], item, ends[item.name]) for item in wanted]


def _change(server: Server, wanted: Wanted, end: str) -> Change:
    weight = server.weight if wanted.weight is None else wanted.weight
    return Change(
        server,
        weight,
        wanted.state or server.own_state,
        wanted.weight is not None,
        wanted.state is not None,
        server.weight if server.state == "ready" else 0,
        weight if end == "ready" else 0,
    )


def _end_states(backend: Backend, states: t.Mapping[str, str]) -> dict[str, str]:
    """What every server will be once some have the ``states`` asked for: its own state, or the worse one of whom it tracks."""
    known = backend.by_name()
    own = {server.name: server.own_state for server in backend.servers}
    own.update(states)
    inheriting = INHERITED_MAINT | INHERITED_DRAIN | DNS_MAINT
    if not any(server.tracks or server.admin & inheriting for server in backend.servers):
        return own
    ends: dict[str, str] = {}

    def end(name: str) -> str:
        if name not in ends:
            ends[name] = own[name]  # also the end of a circle, which HAProxy refuses anyway
            ends[name] = max(own[name], inherited(known[name]), key=STATES.index)
        return ends[name]

    def inherited(server: Server) -> str:
        followed = _followed(backend, server)
        if server.admin & DNS_MAINT or (followed is None and server.admin & INHERITED_MAINT):
            return "maint"
        if followed is not None:
            return end(followed)
        return "drain" if server.admin & INHERITED_DRAIN else "ready"

    for server in backend.servers:
        end(server.name)
    return ends


def _followed(backend: Backend, server: Server) -> str | None:
    """The server of this backend that ``server`` tracks."""
    of, _slash, name = (server.tracks or "").partition("/")
    return name if of == backend.name and any(other.name == name for other in backend.servers) else None


def _drains(backend: Backend, targets: t.Sequence[Change], ends: t.Mapping[str, str]) -> list[str]:
    """Who must be empty in the end: those that were asked to go, and those that follow them."""
    going = [change.name for change in targets if change.state_asked and change.state != "ready"]
    followers = [
        server.name
        for server in backend.servers
        if server.tracks
        and server.name not in going
        and ends[server.name] != "ready"
        and _followed(backend, server) in going
    ]
    return going + followers


def _refuse_inherited(backend: Backend, change: Change, end: str) -> None:
    if STATES.index(end) <= STATES.index(change.state):
        return
    where = f"server {backend.name}/{change.name}"
    if change.server.admin & DNS_MAINT:
        raise Refused(
            f"{where} is in maintenance because its name does not resolve; it cannot become {change.state} until DNS answers"
        )
    raise Refused(
        f"{where} takes its state {end} from {change.server.tracks or 'the server it tracks'}; "
        f"change that one to make it {change.state}"
    )


def _refuse_fixed_weight(backend: Backend, change: Change) -> None:
    initial = change.server.initial_weight
    if change.weight != change.server.weight and change.weight not in (0, initial):
        raise Refused(
            f"backend {backend.name} balances by a static algorithm ({backend.algorithm}), which takes only 0 or the "
            f"configured weight {initial} for {change.name}, not {change.weight}. "
            "Use `balance roundrobin` (or `hash-type consistent`) for other shares"
        )


def _refuse_unchecked(backend: Backend, change: Change, policy: Policy) -> None:
    careful = policy.require_healthy and not policy.allow_unchecked
    if careful and change.enters:
        raise Refused(
            f"server {backend.name}/{change.name} would gain traffic but has no health check, so nothing shows that it "
            "is healthy. Add `check` to its server line, or set allow_unchecked: true"
        )


def _refuse_outage(backend: Backend, targets: t.Sequence[Change], policy: Policy) -> None:
    """Refuse an end state without a usable server, or one in which backup servers take over unasked.

    What lowers nothing makes nothing worse, and is never refused for the state that it found.
    """
    if not any(change.lowers and change.needed for change in targets):
        return
    try:
        _refuse_left(backend, targets, policy, _left(backend, targets, policy))
    except Refused as exc:
        if policy.require_healthy:
            _refuse_left(backend, targets, policy, _left(backend, targets, policy._replace(require_healthy=False)))
            raise Unsettled(str(exc)) from exc
        raise


def _refuse_left(backend: Backend, targets: t.Sequence[Change], policy: Policy, left: t.Sequence[Server]) -> None:
    if any(not server.backup for server in left):
        return
    asked = ", ".join(f"{change.name} {change.state} weight {change.weight}" for change in targets[:5])
    asked += " ..." if len(targets) > 5 else ""
    had_active = any(server.usable and not server.backup for server in backend.servers)
    if left and had_active and not policy.allow_backup:
        raise Refused(
            f"backend {backend.name} would be left to its backup servers ({', '.join(server.name for server in left)}) "
            f"after: {asked}. Keep another server usable, or set allow_backup: true"
        )
    if not left and not policy.allow_empty:
        raise Refused(
            f"backend {backend.name} would be left without any usable server after: {asked}. "
            "Bring another server up first or in the same call, or set allow_empty: true"
        )


def _left(backend: Backend, targets: t.Sequence[Change], policy: Policy) -> list[Server]:
    """The servers that can take traffic once ``targets`` are done, as far as can be told now."""
    by_name = {change.name: change for change in targets}
    ends = _end_states(backend, {change.name: change.state for change in targets})
    known = backend.by_name()

    def usable(server: Server) -> bool:
        change = by_name.get(server.name)
        if ends[server.name] != "ready" or (change.weight if change else server.weight) == 0:
            return False
        return healthy(server)

    def healthy(server: Server) -> bool:
        change, followed = by_name.get(server.name), _followed(backend, server)
        if followed is not None:
            return healthy(known[followed])
        if change and change.enters:
            # It is waited for, or the user has taken its health upon himself.
            return policy.require_healthy or server.running or change.leaves_maint
        # A server on its way down must not be what is left.
        return server.running and (not policy.require_healthy or server.health == "unchecked" or server.settled)

    return [server for server in backend.servers if usable(server)]


def _warnings(backend: Backend, changes: t.Sequence[Change]) -> list[str]:
    found = []
    if backend.algorithm in UNSHARED_ALGORITHMS and any(change.sets_weight for change in changes):
        found.append(
            f"backend {backend.name} balances by {backend.algorithm}: its weights are not shares of the traffic"
        )
    steered = [change for change in changes if change.server.agent]
    kept_off = [change.name for change in steered if change.agent_off and not change.agent_returns]
    if kept_off:
        found.append(
            f"the agent-check of {', '.join(kept_off)} is off, as it would overwrite the change; it is given back when "
            "the server is ready at its configured weight again"
        )
    given_back = [change.name for change in steered if change.agent_returns]
    if given_back:
        found.append(f"the agent-check of {', '.join(given_back)} is on and may set weight and state by itself")
    return found
