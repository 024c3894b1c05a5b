# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Everything that can be refused once the load balancers have answered, and the decision what a run is to do. Pure."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.steady.rollout.plugins.module_utils import _capacity, _fleet
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    FORWARD,
    LoadBalancer,
    Run,
    admitted_at,
    meant_to_carry,
    safe_at,
    shifts,
    walk,
)
from ansible_collections.steady.rollout.plugins.module_utils._fleet import FleetError, Reading, carries
from ansible_collections.steady.rollout.plugins.module_utils._forward_only import gone_back, on_record
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Plan
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._recovery import Recovery, back_from
from ansible_collections.steady.rollout.plugins.module_utils._resume import (
    analysis_of,
    difference,
    first_step,
    paused_at,
)
from ansible_collections.steady.rollout.plugins.module_utils._rollout_state import (
    PAUSED,
    ROLLING_BACK,
    WAYS_ON,
    state_of,
    waits,
)
from ansible_collections.steady.rollout.plugins.module_utils._strategies import steps_of
from ansible_collections.steady.rollout.plugins.module_utils._targets import ROLLS_OUT, Refused, Targets, lowered, some

# Why servers cannot be changed, and what to do.
_NOT_ADMIN = {
    "haproxy": "the socket {lb.socket} may not change servers; use one of `level admin`",
    "nginx": "the files of {lb.config} cannot be written, or nginx not be told to read them; see rollout_become",
    "nginx_lua": "the socket {lb.socket} may not change servers; see rollout_become",
}


@dataclass(frozen=True)
class Decision:
    """What a run is to do: ``kind`` is `unchanged`, `run` (a plan, with a rescue) or `recover` (undo what another left)."""

    kind: str
    run: Run | None
    words: tuple[str, ...]  # told before it starts
    warnings: tuple[str, ...]
    begin: t.Mapping[str, t.Any]  # for the journal, without what differs per load balancer
    take_over: tuple[str, ...] = ()  # rollouts whose locks may be taken
    reason: str = ""  # why it may be taken over although its lease may still run
    recovery: Recovery | None = None
    on_failure: str = "rollback"
    outcome: str = "promoted"  # when all went well
    untouched: tuple[str, ...] = ()  # load balancers that the rollout to recover never began on: what is there is safe

    def safe_to_begin(self, lb: LoadBalancer) -> dict[str, t.Any] | None:
        """What is safe on a load balancer when the run begins; None where what is on record stays so."""
        if self.run is None or (self.kind == "recover" and lb.name not in self.untouched):
            return None
        return safe_at(self.run, lb, self.run.first if self.run.first else -1)


def check_readings(targets: Targets, answers: t.Mapping[str, t.Mapping[str, t.Any]], rollout_id: str) -> None:
    """Refuse load balancers that cannot be told, or would forget, or are held by another rollout."""
    for lb in targets.lbs:
        answer = answers.get(lb.name) or {}
        if answer.get("failed") or answer.get("unreachable") or "backends" not in answer:
            raise Refused(f"load balancer {lb.name} {_why(answer)}")
        if not answer["admin"]:
            raise Refused(f"{lb.name}: {_NOT_ADMIN[lb.provider].format(lb=lb)}")
        if answer["survives_reload"] is False and not targets.control["unpersisted"]:
            raise Refused(
                f"{lb.name} would forget the rollout at a reload: {answer['survives_reload_reason']}; mend this (the role "
                "steady.rollout.haproxy does), or accept it with rollout_unpersisted: true"
            )
        for backend, told in answer["backends"].items():
            if told.get("uncounted") and targets.action in ROLLS_OUT:
                raise Refused(f"{lb.name} does not count what becomes of requests of {backend}: {told['uncounted']}")
        for backend, record in answer["records"].items():
            if record["problem"]:
                raise Refused(f"{lb.name}: the record of backend {backend} cannot be used: {record['problem']}")


def planned_on(answer: t.Mapping[str, t.Any], decision: Decision) -> dict[str, dict[str, t.Any]]:
    """The last rollout on each backend, as a load balancer told it before anything was planned.

    Who goes on with a rollout does so from where it was; whoever takes it back covers what it did since.
    """
    last = {backend: record.get("rollout") or {} for backend, record in (answer.get("records") or {}).items()}
    planned = {
        backend: {key: one[key] for key in ("rollout_id", "ended") if key in one} for backend, one in last.items()
    }
    if "resumed" in decision.begin:
        for backend, one in last.items():
            planned[backend]["events"] = len(one.get("events") or ())
    return planned


def held_by(answers: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, list[str]]:
    """{rollout id: load balancers on which it holds a backend}."""
    holders: dict[str, list[str]] = {}
    for lb, answer in answers.items():
        for record in (answer.get("records") or {}).values():
            if record.get("lock"):
                places = holders.setdefault(record["lock"]["rollout_id"], [])
                if lb not in places:
                    places.append(lb)
    return holders


def decide(
    targets: Targets, answers: t.Mapping[str, t.Mapping[str, t.Any]], rollout_id: str, alive: t.Collection[str]
) -> Decision:
    """From what the load balancers told to what is to be done. Raises Refused."""
    try:
        if targets.action == "rollback":
            return _decide_rollback(targets, answers, rollout_id, alive)
        check_readings(targets, answers, rollout_id)
        if targets.action in ("promote", "resume"):
            return _decide_resume(targets, answers, rollout_id)
        return _decide_run(targets, answers, rollout_id)
    except (PlanError, FleetError) as exc:
        raise Refused(lowered(exc)) from exc


def _decide_run(targets: Targets, answers: t.Mapping[str, t.Any], rollout_id: str) -> Decision:
    _refuse_held(targets, answers)
    members = _members(targets, answers)
    lbs = _with_found(targets, answers)
    recorded = _releases(members, targets, answers)
    steps, watched = steps_of(targets, members, answers, recorded)
    plan = Plan(str(targets.control["strategy"]["name"]), targets.release, targets.backends, members, steps)
    previous = {
        member.key: recorded[member.key] or _given(targets.own[member.host].get("previous")) for member in members
    }
    run = _forward(targets, rollout_id, plan, lbs, previous)
    _refuse_two_slots(run)
    _refuse_agents(run)
    if not steps:
        return Decision("unchanged", run, (watched,), (), {})
    _check_capacity(run, answers)
    carried = _fleet.in_rotation(members, answers)
    warnings = [*_unknown_previous(run, carried), *_weak(answers)]
    on_failure = str(targets.control["strategy"].get("on_failure", "rollback"))
    return Decision("run", run, (watched,), tuple(warnings), _begin(run, carried), on_failure=on_failure)


def _forward(
    targets: Targets,
    rollout_id: str,
    plan: Plan,
    lbs: tuple[LoadBalancer, ...],
    previous: t.Mapping[str, str | None],
) -> Run:
    """A run that puts the release of ``targets`` on every member of the plan."""
    return Run(
        rollout_id=rollout_id,
        mode=FORWARD,
        action="deploy",
        plan=plan,
        lbs=lbs,
        settings=targets.settings,
        releases=dict.fromkeys((member.key for member in plan.members), targets.release),
        previous=previous,
        deploy_key=targets.deploy_key,
        addresses=addresses_of(targets, plan.members),
    )


def _refuse_held(targets: Targets, answers: t.Mapping[str, t.Any]) -> None:
    """One rollout at a time; of one that a controller has left, the ways on are told."""
    holders = held_by(answers)
    if not holders:
        return
    holder, places = next(iter(holders.items()))
    held = f"rollout {holder} holds {', '.join(targets.backends)} on {', '.join(places)}"
    left = _lease_left(answers, (holder,))
    ways_on = _ways_on(answers, holder, targets.backends)
    if _states(answers, (holder,)) == {PAUSED}:
        until = f" and goes back by itself in {min(left.values()):.0f} s" if left else ""
        raise Refused(f"{held}: it is paused{until}; {ways_on}")
    if not left:
        raise Refused(f"{held}: it is running, or did not end well; let it end, or {ways_on}")
    lb = max(left, key=lambda name: left[name])
    raise Refused(
        f"{held}, and seems to be at work: on {lb} the lease of its last act runs for another {left[lb]:.0f} s; let it end, or wait "
        f"for that and then {ways_on}"
    )


def _ways_on(answers: t.Mapping[str, t.Any], rollout_id: str, backends: t.Sequence[str]) -> str:
    """What to do with a rollout that is not at work any more, in words."""
    # All load balancers must be in a state that allows it.
    state = min(_states(answers, (rollout_id,)), key=lambda state: len(WAYS_ON[state]), default=ROLLING_BACK)
    back = "take it back with the playbook steady.rollout.rollback"
    if "promote" in WAYS_ON[state] and _waits(answers, (rollout_id,)):
        return f"go on with it by the playbook steady.rollout.promote, or {back}"
    if "resume" not in WAYS_ON[state] and not _is_held(answers, rollout_id, backends):
        return back
    return f"go on with it by the same command and -e rollout_action=resume, or {back}"


def _is_held(answers: t.Mapping[str, t.Any], rollout_id: str, backends: t.Sequence[str]) -> bool:
    """Whether it did what cannot be taken back, so that none of its hosts was undone."""
    try:
        recovery = back_from({lb: answer for lb, answer in answers.items() if answer.get("records")}, backends)
    except PlanError:
        return False
    return recovery is not None and recovery.rollout_id == rollout_id and recovery.is_held


def _states(answers: t.Mapping[str, t.Any], rollout_ids: t.Collection[str]) -> set[str]:
    """The states of rollouts on the load balancers, each as its journal tells it."""
    return {
        state_of(record["rollout"], bool((record.get("lock") or {}).get("abandoned")))
        for record in _records_on_all(answers, rollout_ids)
    }


def _waits(answers: t.Mapping[str, t.Any], rollout_ids: t.Collection[str]) -> bool:
    """Whether rollouts wait to be promoted wherever they are on record, and were not held after a failure."""
    return all(waits(record["rollout"]) for record in _records_on_all(answers, rollout_ids))


def _records_on_all(answers: t.Mapping[str, t.Any], rollout_ids: t.Collection[str]) -> list[t.Mapping[str, t.Any]]:
    """What the load balancers have on record of rollouts, by backend."""
    return [
        record
        for answer in answers.values()
        for record in (answer.get("records") or {}).values()
        if record.get("rollout") and record["rollout"]["rollout_id"] in rollout_ids
    ]


def _members(targets: Targets, answers: t.Mapping[str, Reading]) -> tuple[Member, ...]:
    """The members of the play, which are exactly those that the load balancers know."""
    members = _fleet.make_members(targets.own, targets.backends)
    hint = f" (--limit {targets.control['limit']} is in force)" if targets.control.get("limit") else ""
    _fleet.check_servers(members, answers, hint)
    return members


def _refuse_two_slots(run: Run) -> None:
    """The user's role runs once per host and step, for one slot."""
    for number, step in enumerate(run.plan.steps, 1):
        hosts = [run.members[key].host for key in step.members] if step.kind == "deploy" else []
        twice = sorted({host for host in hosts if hosts.count(host) > 1})
        if twice:
            raise Refused(
                f"step {number} ({step.words()}) deploys two slots of {some(twice)} at once; give each its own step"
            )


def _refuse_agents(run: Run) -> None:
    """An agent-check sets the weight of its server by itself: a share would be gone with its next report, or its weight with ours."""
    if not any(0 < percent < 100 for step in run.plan.steps for percent in step.shares.values()):
        return
    for lb in run.lbs:
        for backend, servers in lb.found.items():
            agents = [name for name, server in servers.items() if server["agent"]]
            if agents:
                raise Refused(
                    f"{lb.name}: server {some(agents)} of backend {backend} has an agent-check, which sets its weight by itself, so that "
                    "no share of the traffic can be kept; turn it off, or use blue-green or rolling"
                )


def _begin(run: Run, carried: t.Sequence[str]) -> dict[str, t.Any]:
    """What the record of a rollout starts with: enough to take it back without the controller that began it."""
    return {
        "strategy": run.plan.strategy,
        "action": run.action,
        "release": run.plan.release,
        "hash": run.plan.hash,
        "plan": run.plan.as_dict(),
        "releases": dict(run.releases),
        "previous": dict(run.previous),
        "deploy_key": run.deploy_key,
        "carried": list(carried),
        **on_record(run.forward_only),
    }


def _check_capacity(run: Run, answers: t.Mapping[str, Reading]) -> None:
    """Walk through the plan on what is healthy now; each act is judged again, on what is true then, by the module."""
    for lb in run.lbs:
        probed: set[str] = set()
        for index, step, before in walk(run, lb):
            if index < run.first:
                continue  # what was seen healthy then may be down now
            if step.kind == "probe":
                probed.update(step.members)
            if step.kind not in ("drain", "deploy", "traffic"):
                continue
            for backend, told in shifts(run, lb, step).items():
                seen = {run.members[key].servers[backend] for key in probed if backend in run.members[key].servers}
                servers = _as_if(answers[lb.name], backend, lb, before[backend], seen)
                meant = meant_to_carry(lb, backend, before[backend])
                meant.update(each["name"] for each in told)
                problem = _capacity.changing(
                    {name: server for name, server in servers.items() if name in meant},
                    {each["name"]: each for each in told},
                    run.settings.min_capacity,
                    run.settings.headroom,
                )
                if problem:
                    raise Refused(f"{lb.name}, step {index + 1} ({step.words()}): {problem.rstrip('.')}")


def _as_if(
    reading: Reading, backend: str, lb: LoadBalancer, states: t.Mapping[str, t.Mapping[str, t.Any]], seen: set[str]
) -> dict[str, dict[str, t.Any]]:
    """The servers as now, in the states that the plan will have brought them to, and healthy where it will have ``seen`` them so."""
    servers = {}
    for name, server in _fleet.servers_of(reading, backend).items():
        state, found = states[name], lb.found[backend][name]
        weight = server["weight"] if state["weight"] is None else state["weight"]
        # What is not in rotation now is deployed and seen healthy before it carries anything; in maint nobody checks it.
        health = server["health"] if carries(found) and carries(server) and name not in seen else "up"
        servers[name] = {**server, "state": state["state"], "weight": weight, "base": found["base"], "health": health}
    return servers


def addresses_of(targets: Targets, members: t.Sequence[Member]) -> dict[str, tuple[t.Any, t.Any]]:
    """(address, port) that the user gave for each member; None where he gave none."""
    found = {}
    for member in members:
        own = targets.own.get(member.host) or {}
        slot = (own.get("tracks") or {}).get(member.track) or {}
        found[member.key] = (own.get("address"), slot.get("port") or own.get("port"))
    return found


def _unknown_previous(run: Run, carried: t.Collection[str]) -> list[str]:
    """Rolling replaces what carries traffic: without knowing what runs there, a failure cannot be undone."""
    deployed = [key for step in run.plan.steps if step.kind == "deploy" for key in step.members if key in carried]
    unknown = [key for key in deployed if run.previous.get(key) is None]
    if not unknown:
        return []
    return [
        f"no rollout has recorded what runs on {some(unknown)}: if this one fails there, those hosts stay out of rotation "
        "instead of going back; say what runs now with rollout_previous"
    ]


def _weak(answers: t.Mapping[str, Reading]) -> list[str]:
    doubtful = [
        f"{lb}: whether the rollout survives a reload is not known: {answer['survives_reload_reason']}"
        for lb, answer in answers.items()
        if answer["survives_reload"] is None
    ]
    closing = [lb for lb, answer in answers.items() if (answer.get("process") or {}).get("keeps_idle") is False]
    if closing:
        version = answers[closing[0]]["process"]["version"]
        doubtful.append(
            f"{some(closing)}: each change is a reload, and nginx {version} as it is configured closes idle connections of clients then: "
            "one that sends a request on such a connection at that moment sees it reset, and has to try again; 1.27.4 with "
            "keepalive_min_timeout, or rollout_provider: nginx_lua, has no such moment"
        )
    return doubtful


def _with_found(targets: Targets, answers: t.Mapping[str, Reading]) -> tuple[LoadBalancer, ...]:
    lbs = []
    for lb in targets.lbs:
        found = _fleet.found(answers[lb.name], targets.backends)
        for backend, servers in found.items():
            weightless = [name for name, server in servers.items() if not server["base"]]
            if weightless:
                raise Refused(
                    f"{lb.name}: server {some(weightless)} of backend {backend} has weight 0, configured and now, so that it "
                    "could never carry traffic; give it a weight"
                )
        lbs.append(replace(lb, found=found))
    return tuple(lbs)


def _releases(members: t.Sequence[Member], targets: Targets, answers: t.Mapping[str, t.Any]) -> dict[str, str | None]:
    return _fleet.releases(members, {lb: answer["records"] for lb, answer in answers.items()}, targets.deploy_key)


# ---------------------------------------------------------------------------------------------------------------------
# going on with a rollout that another run left


def _decide_resume(targets: Targets, answers: t.Mapping[str, t.Any], rollout_id: str) -> Decision:
    recovery = back_from(answers, targets.backends)
    if recovery is None:
        raise Refused(f"no rollout is recorded that could be {targets.action}d; leave rollout_action out to start one")
    state = _state_to_go_on(recovery, answers, targets.action)
    reason = _reason_to_take_over(recovery, answers, str(targets.control.get("steal") or ""))
    members = _members(targets, answers)
    lbs = _as_it_found(recovery, targets, answers)
    plan = _plan_again(recovery, targets, members, lbs)
    if targets.deploy_key != recovery.deploy_key:
        raise Refused(
            f"rollout {recovery.rollout_id} deployed by {recovery.deploy_key}, and rollout_deploy is {targets.deploy_key} now; give "
            "the same to go on with it"
        )
    run = _forward(targets, rollout_id, plan, lbs, _with_given(recovery, targets).target)
    records = {lb.name: _records_of(answers[lb.name], recovery.holders) for lb in lbs}
    try:
        first = first_step(run, records, answers)
    except PlanError as exc:
        raise Refused(
            f"rollout {recovery.rollout_id} cannot be resumed, as the servers are not as it left them: {lowered(exc)}; make them so, or "
            "take it back with the playbook steady.rollout.rollback"
        ) from exc
    # What was in deploy, and was not seen to be good since, may carry nothing before it is.
    good = admitted_at(run, first)
    out = tuple(dict.fromkeys(key for group in recovery.deployed for key in group if key not in good))
    run = replace(run, first=first, out=out, analysis=analysis_of(records), forward_only=recovery.forward_only)
    if targets.action == "promote":
        glance = paused_at(run, records)
        run = replace(
            run, first=min(first, glance) if glance >= 0 else first, glance=glance, full=bool(targets.control["full"])
        )
    _check_capacity(run, answers)
    first = run.first
    begin = {
        **_begin(run, recovery.carried),
        "after": list(recovery.holders),
        "resumed": {"of": recovery.rollout_id, "at": first, "by": targets.action, "analysis": dict(run.analysis)},
    }
    count = len(plan.steps)
    where = f"step {first + 1} of {count} ({plan.steps[first].words()})" if first < count else "its end"
    words = f"rollout {recovery.rollout_id} of release {plan.release} is {_spoken(state)}; it goes on from {where}"
    if run.full:
        words += ", and straight to its end"
    on_failure = str(targets.control["strategy"].get("on_failure", "rollback"))
    warnings = tuple(_weak(answers))
    return Decision("run", run, (words,), warnings, begin, recovery.holders, reason, recovery, on_failure)


def waiting(targets: Targets, answers: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, str]:
    """{strategy, release} of the rollout that is paused. Raises Refused where none is."""
    usable = {name: answer for name, answer in answers.items() if answer.get("records") and not answer.get("failed")}
    for lb in targets.lbs:
        if lb.name not in usable:
            raise Refused(f"load balancer {lb.name} {_why(answers.get(lb.name) or {})}")
    try:
        recovery = back_from(usable, targets.backends)
    except PlanError as exc:
        raise Refused(lowered(exc)) from exc
    if recovery is None or recovery.done:
        raise Refused(recovery.done if recovery else "no rollout is recorded that could be promoted")
    _state_to_go_on(recovery, usable, "promote")
    return {"strategy": recovery.plan.strategy, "release": recovery.plan.release}


def _state_to_go_on(recovery: Recovery, answers: t.Mapping[str, t.Any], action: str) -> str:
    """The state of the rollout, where it is one that can go on. Raises Refused."""
    states = _states(answers, recovery.holders)
    stuck = sorted(state for state in states if action not in WAYS_ON[state])
    if action == "resume" and recovery.is_held:
        stuck = []  # only traffic went back, and whether the servers are as some step left them is seen below
    if recovery.ended and recovery.outcome != "paused":
        raise Refused(f"rollout {recovery.rollout_id} ended as {recovery.outcome}; there is nothing to {action}")
    held = not stuck and not _waits(answers, recovery.holders)
    if action == "promote" and (held or (stuck and "resume" in WAYS_ON[stuck[0]])):
        how = "was held after a failure" if held else f"is {_spoken(stuck[0])}"
        raise Refused(
            f"rollout {recovery.rollout_id} {how}, and does not wait to be promoted; go on with it by the same command and "
            "-e rollout_action=resume, or take it back with the playbook steady.rollout.rollback"
        )
    if recovery.undoing or stuck:
        raise Refused(
            f"rollout {recovery.rollout_id} is {_spoken(stuck[0] if stuck else ROLLING_BACK)}; it can only be taken back, with the playbook "
            "steady.rollout.rollback"
        )
    return sorted(states)[0]


def _as_it_found(recovery: Recovery, targets: Targets, answers: t.Mapping[str, Reading]) -> tuple[LoadBalancer, ...]:
    """The load balancers as they were when the rollout began; as they are, where its controller died before it began there."""
    now = {lb.name: lb for lb in _with_found(targets, answers)}
    found = {name: recovery.found.get(name) or lb.found for name, lb in now.items()}
    # Nobody held those back while the rollout went on without them.
    late = [name for name in now if name not in recovery.found and any(recovery.deployed)]
    if late:
        raise Refused(
            f"rollout {recovery.rollout_id} never began on {some(late)}, so that the hosts were changed without "
            f"{'it' if len(late) == 1 else 'them'}; take it back with the playbook steady.rollout.rollback"
        )
    return tuple(replace(lb, found=found[name]) for name, lb in now.items())


def _plan_again(
    recovery: Recovery, targets: Targets, members: tuple[Member, ...], lbs: t.Sequence[LoadBalancer]
) -> Plan:
    """The plan, made of the variables as they are now and of what the rollout found; it must be the one on record."""
    as_found = {lb.name: _reading_of(lb) for lb in lbs}
    steps, _words = steps_of(targets, members, as_found, recovery.target)
    plan = Plan(str(targets.control["strategy"]["name"]), targets.release, targets.backends, members, steps)
    differs = difference(recovery.plan, plan)
    if differs:
        raise Refused(
            f"rollout {recovery.rollout_id} cannot be resumed by another plan: {differs}; give the variables and the inventory that it "
            "began with, or take it back with the playbook steady.rollout.rollback"
        )
    return plan


def _reading_of(lb: LoadBalancer) -> dict[str, t.Any]:
    """What a load balancer told of its servers when the rollout began."""
    return {
        "backends": {
            backend: {"servers": [{**server, "name": name, "backup": False} for name, server in servers.items()]}
            for backend, servers in lb.found.items()
        }
    }


def _records_of(answer: t.Mapping[str, t.Any], rollout_ids: t.Collection[str]) -> list[t.Mapping[str, t.Any]]:
    rollouts = (record.get("rollout") for record in answer["records"].values())
    return [rollout for rollout in rollouts if rollout and rollout["rollout_id"] in rollout_ids]


# ---------------------------------------------------------------------------------------------------------------------
# the way back, asked for by a person


def _decide_rollback(
    targets: Targets, answers: t.Mapping[str, t.Mapping[str, t.Any]], rollout_id: str, alive: t.Collection[str]
) -> Decision:
    usable = {name: answer for name, answer in answers.items() if answer.get("records") and not answer.get("failed")}
    if not usable:
        lb = targets.lbs[0].name
        raise Refused(
            f"no load balancer answered, so that nothing can be taken back: {lb} {_why(answers.get(lb) or {})}"
        )
    recovery = back_from(usable, targets.backends)
    if recovery is None:
        return Decision("unchanged", None, ("nothing is recorded that could be taken back",), (), {})
    if recovery.done:
        return Decision("unchanged", None, (recovery.done,), (), {})
    reason = _reason_to_take_over(recovery, usable, str(targets.control.get("steal") or ""))
    if recovery.goes_forward:
        check_readings(targets, answers, rollout_id)
    recovery = _with_given(recovery, targets)
    present = {lb.name: answers[lb.name] for lb in targets.lbs if lb.name in usable and "backends" in usable[lb.name]}
    _match(recovery, targets, present)
    # A controller may have died before it began everywhere.
    untouched = tuple(
        name
        for name, answer in present.items()
        if name not in recovery.found and not any(record.get("lock") for record in answer["records"].values())
    )
    now = {name: _fleet.found(present[name], targets.backends) for name in untouched}
    lbs = tuple(
        replace(lb, found=recovery.found.get(lb.name) or now.get(lb.name) or recovery.any_found) for lb in targets.lbs
    )
    run = recovery.run(rollout_id, lbs, targets.settings, present, addresses_of(targets, recovery.plan.members))
    _refuse_other_deploy(recovery, run, targets)
    of = {"of": recovery.rollout_id, "after": list(recovery.holders)}
    begin = {**_begin(run, recovery.carried), **of, "deployed": recovery.deployed}
    warnings = tuple(text for text in [gone_back(recovery.forward_only)] if text)
    if recovery.goes_forward:
        if not run.plan.steps:
            return Decision("unchanged", None, (f"rollout {recovery.rollout_id} changed nothing to take back",), (), {})
        lbs_now = _with_found(targets, answers)
        run = replace(run, lbs=lbs_now)
        _check_capacity(run, answers)
        begin = {**_begin(run, _fleet.in_rotation(run.plan.members, answers)), **of}
        holders = recovery.holders if recovery.locked else ()
        return Decision(
            "run", run, (recovery.words,), warnings, begin, holders, reason, recovery, "hold", "rolled_back"
        )
    return Decision(
        "recover",
        run,
        (recovery.words,),
        warnings,
        begin,
        take_over=recovery.holders,
        reason=reason,
        recovery=recovery,
        untouched=untouched,
    )


def _reason_to_take_over(recovery: Recovery, answers: t.Mapping[str, t.Mapping[str, t.Any]], steal: str) -> str:
    """Why the rollout may be taken over. Refused while its controller seems to be at work, unless a person says why."""
    if steal:
        return steal
    if recovery.outcome:
        return f"it ended as {recovery.outcome}"
    left = _lease_left(answers, recovery.holders)
    if left:
        lb = max(left, key=lambda name: left[name])
        raise Refused(
            f"rollout {recovery.rollout_id} seems to be at work: on {lb} the lease of its last act runs for another {left[lb]:.0f} s. "
            "Let it end, or wait until its lease has expired, or say in rollout_steal why it is to be taken over"
        )
    return ""


def _lease_left(answers: t.Mapping[str, t.Mapping[str, t.Any]], rollout_ids: t.Collection[str]) -> dict[str, float]:
    """Seconds for which the last acts of rollouts are trusted still, by load balancer; without those that are over."""
    left = {
        lb: float(lease["left"])
        for lb, answer in answers.items()
        for record in (answer.get("records") or {}).values()
        for lease in [record.get("lease")]
        if lease and lease["rollout_id"] in rollout_ids and not (record.get("lock") or {}).get("abandoned")
    }
    return {lb: seconds for lb, seconds in left.items() if seconds > 0}


def _with_given(recovery: Recovery, targets: Targets) -> Recovery:
    """What nobody has recorded may be said now, by rollout_previous."""
    if recovery.undoing:
        return recovery
    hosts = {member.key: member.host for member in recovery.plan.members}
    given = {key: _given((targets.own.get(host) or {}).get("previous")) for key, host in hosts.items()}
    return replace(recovery, target={key: release or given.get(key) for key, release in recovery.target.items()})


def _refuse_other_deploy(recovery: Recovery, run: Run, targets: Targets) -> None:
    deployed = [key for step in run.plan.steps if step.kind == "deploy" for key in step.members]
    if deployed and targets.deploy_key != recovery.deploy_key:
        raise Refused(
            f"rollout {recovery.rollout_id} deployed by {recovery.deploy_key}, and rollout_deploy is {targets.deploy_key} now; give "
            "the same to take it back"
        )
    unknown = [key for key in deployed if recovery.target.get(key) is None]
    if unknown and recovery.goes_forward:
        raise Refused(f"nobody knows what ran on {some(unknown)} before; say so with rollout_previous")


def _given(value: t.Any) -> str | None:
    """What a variable says; ansible-core before 2.19 makes text of a None in a template."""
    text = "" if value is None else str(value).strip()
    return text or None


def _match(recovery: Recovery, targets: Targets, present: t.Mapping[str, Reading]) -> None:
    """The record speaks of hosts and servers; both must still be what it says."""
    now = {member.key: member for member in _fleet.make_members(targets.own, targets.backends)}
    for member in recovery.plan.members:
        if member.key in now and now[member.key].servers != member.servers:
            raise Refused(
                f"rollout {recovery.rollout_id} knew {member.key} as {dict(member.servers)}, and now it is "
                f"{dict(now[member.key].servers)}; make the inventory as it was, and try again"
            )
    strangers = [member.key for member in recovery.plan.members if member.key not in now]
    if strangers:
        raise Refused(f"rollout {recovery.rollout_id} took part on {some(strangers)}, which is not in this play")


# ---------------------------------------------------------------------------------------------------------------------
# words and small checks


def _why(answer: t.Mapping[str, t.Any]) -> str:
    text = str(answer.get("msg") or "did not answer").strip()
    if answer.get("unreachable"):
        return f"is unreachable ({text}); mend it, or leave it out with rollout_absent_lbs"
    return f"cannot be used: {text}"


def _spoken(state: str) -> str:
    return state.replace("_", " ")
