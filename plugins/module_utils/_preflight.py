# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Everything that can be refused before anything changes, in the order in which it can be known. Pure.

``Refused`` carries one clear sentence: what was given, what is wrong with it, what to do.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, field, replace

from ansible_collections.steady.rollout.plugins.module_utils import _capacity, _fleet
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._canary import (
    Ramp,
    canary_in_place,
    canary_side_by_side,
    read_stages,
)
from ansible_collections.steady.rollout.plugins.module_utils._duration import duration
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    FORWARD,
    LoadBalancer,
    Run,
    Settings,
    admitted_at,
    meant_to_carry,
    safe_at,
    shifts,
    walk,
)
from ansible_collections.steady.rollout.plugins.module_utils._fleet import FleetError, Reading, carries
from ansible_collections.steady.rollout.plugins.module_utils._judge import JudgeError
from ansible_collections.steady.rollout.plugins.module_utils._judge_input import settings_of
from ansible_collections.steady.rollout.plugins.module_utils._lease import problem as _lease_problem
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Plan, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._recovery import Recovery, back_from
from ansible_collections.steady.rollout.plugins.module_utils._resume import (
    analysis_of,
    difference,
    first_step,
    paused_at,
)
from ansible_collections.steady.rollout.plugins.module_utils._rolling import rolling
from ansible_collections.steady.rollout.plugins.module_utils._rollout_state import (
    PAUSED,
    ROLLING_BACK,
    WAYS_ON,
    state_of,
)
from ansible_collections.steady.rollout.plugins.module_utils._steps import parse_steps

PROVIDERS = ("haproxy",)
# What a rollout must not inherit, and what it would do.
INHERITED = {
    "any_errors_fatal": "which the rescue would inherit: one bad host would stop the undo on all",
    "ignore_errors": "so that a failing release would not be taken back, but promoted",
    "ignore_unreachable": "so that a dead host would go on with its next task, and count as deployed",
}
STRATEGIES = ("blue_green", "canary", "rolling", "custom")
INCONCLUSIVE = ("hold", "continue", "rollback")
PAUSES = ("rollback", "hold")
# What rollout_analysis hands to the judge, with its defaults.
JUDGE: dict[str, t.Any] = {"tolerance": {}, "alpha": 0.01, "beta": 0.05, "horizon": 180, "absolute_max": 0.5}
GUARDS = ("auto", "systemd", "process", "off")
# drain and admit are no rollouts: hosts out of rotation and in, around tasks of the user's own. status and doctor look.
ACTIONS = ("run", "promote", "resume", "rollback", "drain", "admit", "status", "doctor")
ROLLS_OUT = ("run", "promote", "resume")
# Set by the executor for the user's role. Given as an extra var they would beat it, and an undo would install the new
# release once more.
SET_BY_EXECUTOR = ("rollout_deploy_release", "rollout_deploy_previous", "rollout_deploy_action", "rollout_deploy_track")

PROBE_OPTIONS = (
    "path",
    "port",
    "scheme",
    "host",
    "headers",
    "expect",
    "interval",
    "timeout",
    "rise",
    "follow_redirects",
    "validate_certs",
    "ca_path",
    "server_hostname",
)


class Refused(Exception):
    """The rollout may not start; nothing was changed."""


@dataclass(frozen=True)
class Play:
    """What is known of the play: ``hosts`` are all of it, ``alive`` those that answered."""

    hosts: tuple[str, ...]
    alive: tuple[str, ...]
    batch: tuple[str, ...]
    strategy: str
    inherited: tuple[str, ...]
    limit: str | None
    extra_vars: t.Collection[str]
    inventory: t.Collection[str]
    check_mode: bool


@dataclass(frozen=True)
class Targets:
    """What the variables say, once they are known to make sense."""

    action: str
    release: str
    backends: tuple[str, ...]
    lbs: tuple[LoadBalancer, ...]
    absent: tuple[str, ...]
    settings: Settings
    control: t.Mapping[str, t.Any]
    own: t.Mapping[str, t.Mapping[str, t.Any]]
    deploy_key: str
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, t.Any]:
        return {
            **{name: getattr(self, name) for name in ("action", "release", "deploy_key")},
            **{name: list(getattr(self, name)) for name in ("backends", "absent", "warnings")},
            "lbs": [asdict(lb) for lb in self.lbs],
            "settings": asdict(self.settings),
            "control": dict(self.control),
            "own": {host: dict(given) for host, given in self.own.items()},
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Targets:
        plain = {name: data[name] for name in ("action", "release", "deploy_key", "control", "own")}
        lists: dict[str, t.Any] = {name: tuple(data[name]) for name in ("backends", "absent", "warnings")}
        return cls(
            **plain,
            **lists,
            lbs=tuple(LoadBalancer(**lb) for lb in data["lbs"]),
            settings=Settings(**data["settings"]),
        )


# ---------------------------------------------------------------------------------------------------------------------
# before any load balancer is asked


def check_play(play: Play, action: str) -> None:
    """Refuse plays in which a rescue would not run as it must."""
    if play.strategy != "linear":
        raise Refused(
            f"the play uses strategy {play.strategy}, in which steps do not wait for each other; use strategy: linear"
        )
    if action in ("drain", "admit", "status", "doctor"):
        return
    if set(play.batch) != set(play.hosts):
        raise Refused(
            "the play uses serial, so that a rollout would see a part of the fleet only, and never take back an earlier "
            "batch; remove serial, and use rolling_batches"
        )
    for name in play.inherited:
        raise Refused(f"the play, or a block or role around the rollout, sets {name}, {INHERITED[name]}; remove it")
    forbidden = [name for name in SET_BY_EXECUTOR if name in play.extra_vars]
    if forbidden:
        raise Refused(
            f"{', '.join(forbidden)} was given as extra var, which would beat what the rollout sets: an undo would install the "
            "new release again; give rollout_release instead"
        )
    dead = [host for host in play.hosts if host not in play.alive]
    if dead and action in ROLLS_OUT:
        raise Refused(
            f"{_some(dead)} did not answer or failed earlier in the play, and a rollout needs the whole fleet; mend or remove "
            f"{'it' if len(dead) == 1 else 'them'} first"
        )


def control_of(own: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """The control variables, which must be the same on all hosts. ``own``: {host: {name: value}}."""
    hosts = list(own)
    for name in own[hosts[0]]:
        odd = [host for host in hosts if own[host].get(name) != own[hosts[0]][name]]
        if odd:
            variable, one, other = _difference(name, own[hosts[0]][name], own[odd[0]].get(name))
            raise Refused(
                f"{variable} differs between hosts: {hosts[0]} has {_short(one)}, {odd[0]} has {_short(other)}; it must be the same "
                "on the whole fleet"
            )
    return dict(own[hosts[0]])


def make_targets(
    play: Play,
    control: t.Mapping[str, t.Any],
    own: t.Mapping[str, t.Mapping[str, t.Any]],
    reach: t.Mapping[str, t.Mapping[str, t.Any]],
) -> Targets:
    """Check what the variables say. ``reach``: {lb: {provider, socket, state_dir}}, for hosts of the inventory."""
    action = str(control["action"])
    if action not in ACTIONS:
        raise Refused(f"rollout_action is {action!r}; it can be run, promote, resume or rollback")
    check_play(play, action)
    release = "" if control["release"] is None else str(control["release"])
    if action in ROLLS_OUT and not release.strip():
        raise Refused("rollout_release is not set: say what to roll out, for example -e rollout_release=1.4.2")
    names = _names(control["load_balancers"], "rollout_load_balancers", "the inventory hosts of the load balancers")
    absent = _names(control["absent_lbs"], "rollout_absent_lbs", "load balancers", may_be_empty=True)
    backends = _names(control["backend"], "rollout_backend", "the backends that the fleet serves")
    strange = [name for name in absent if name not in names]
    if strange:
        raise Refused(f"rollout_absent_lbs names {_some(strange)}, which is not in rollout_load_balancers")
    present = sorted(name for name in names if name not in absent)
    if not present:
        raise Refused("all load balancers are in rollout_absent_lbs; at least one must take part")
    _check_reach(play, present, reach)
    try:
        settings = _settings(control)
        lock_wait(action, control)
        if action in ROLLS_OUT:
            _check_strategy(control)
    except PlanError as exc:
        raise Refused(_lowered(exc)) from exc
    lbs = tuple(_reached(name, reach[name]) for name in present)
    return Targets(
        action,
        release,
        tuple(sorted(backends)),
        lbs,
        tuple(absent),
        settings,
        control,
        own,
        _deploy_key(control["deploy"]),
    )


def _reached(name: str, reach: t.Mapping[str, t.Any]) -> LoadBalancer:
    return LoadBalancer(name, str(reach["provider"]), str(reach["socket"]), str(reach["state_dir"]))


def _check_reach(play: Play, names: t.Sequence[str], reach: t.Mapping[str, t.Mapping[str, t.Any]]) -> None:
    unknown = [name for name in names if name not in play.inventory]
    if unknown:
        raise Refused(f"rollout_load_balancers names {_some(unknown)}, which is no host of the inventory")
    providers = {name: reach[name]["provider"] for name in names}
    odd = {name: provider for name, provider in providers.items() if provider not in PROVIDERS}
    if odd:
        name, provider = next(iter(odd.items()))
        raise Refused(f"rollout_provider of {name} is {provider!r}; this version knows {', '.join(PROVIDERS)}")


def _check_strategy(control: t.Mapping[str, t.Any]) -> None:
    strategy = control["strategy"]
    if not isinstance(strategy, t.Mapping) or strategy.get("name") not in STRATEGIES:
        raise Refused(f"rollout_strategy must name one of {', '.join(STRATEGIES)}, not {_short(strategy)}")
    if strategy["name"] == "custom" and not control["steps"]:
        raise Refused(
            "there is no plan: set rollout_steps, or use the role steady.rollout.blue_green, steady.rollout.canary or "
            "steady.rollout.rolling"
        )
    if strategy["name"] == "canary":
        _ramp(strategy)
        if strategy.get("inconclusive", "hold") not in INCONCLUSIVE:
            raise Refused(f"canary_inconclusive is {strategy['inconclusive']!r}; it can be {', '.join(INCONCLUSIVE)}")
    if strategy.get("on_failure", "rollback") not in ("rollback", "hold"):
        raise Refused(f"rolling_on_failure is {strategy['on_failure']!r}; it can be rollback or hold")


def _settings(control: t.Mapping[str, t.Any]) -> Settings:
    analysis = control["analysis"] or {}
    if not isinstance(analysis, t.Mapping):
        raise Refused(f"rollout_analysis must be a map such as {{max_error_rate: 5}}, not {_short(analysis)}")
    known = {"interval": 10, "max_error_rate": 5.0, "min_requests": 50, "inconclusive": "rollback"}
    strange = [name for name in analysis if name not in (*known, *JUDGE)]
    if strange:
        knows = ", ".join((*known, *JUDGE))
        raise Refused(f"rollout_analysis has {_some(strange)}, which it does not know; it knows {knows}")
    given = {**known, **analysis}
    if given["inconclusive"] not in INCONCLUSIVE:
        raise Refused(
            f"rollout_analysis.inconclusive is {given['inconclusive']!r}; it can be {', '.join(INCONCLUSIVE)}"
        )
    if control["on_drain_timeout"] not in ("fail", "continue", "cut"):
        raise Refused(f"rollout_on_drain_timeout is {control['on_drain_timeout']!r}; it can be fail, continue or cut")
    if control["on_restart"] not in ("reassert", "rollback"):
        raise Refused(f"rollout_on_restart is {control['on_restart']!r}; it can be reassert or rollback")
    if control["guard"] not in GUARDS:
        raise Refused(f"rollout_guard is {control['guard']!r}; it can be {', '.join(GUARDS)}")
    probe = control["probe"] or {}
    if not isinstance(probe, t.Mapping):
        raise Refused(f"rollout_probe must be a map such as {{path: /health}}, not {_short(probe)}")
    strange = [name for name in probe if name not in PROBE_OPTIONS]
    if strange:
        raise Refused(
            f"rollout_probe has {_some(strange)}, which it does not know; it knows {', '.join(PROBE_OPTIONS)}"
        )
    strategy = control["strategy"] if isinstance(control["strategy"], t.Mapping) else {}
    return Settings(
        drain_timeout=duration(control["drain_timeout"]),
        on_drain_timeout=control["on_drain_timeout"],
        on_restart=control["on_restart"],
        health_timeout=duration(control["health_timeout"]),
        healthy_deadline=duration(strategy.get("healthy_deadline", control["healthy_deadline"])),
        progress_deadline=duration(strategy.get("progress_deadline", 0)),
        allow_unchecked=bool(control["allow_unchecked"]),
        min_capacity=_percent(control["min_capacity"], "rollout_min_capacity"),
        headroom=_percent(control["headroom"], "rollout_headroom"),
        share_tolerance=_percent(control["share_tolerance"], "rollout_share_tolerance"),
        lb_timeout=max(1.0, duration(control["lb_timeout"])),
        lease=_lease(control["lease_seconds"], "rollout_lease_seconds"),
        deploy_lease=_lease(control["deploy_timeout"], "rollout_deploy_timeout"),
        guard=control["guard"],
        interval=max(0.2, duration(given["interval"])),
        max_error_rate=_percent(given["max_error_rate"], "rollout_analysis.max_error_rate"),
        limits_canary="max_error_rate" in analysis,
        min_requests=_count(given["min_requests"], "rollout_analysis.min_requests"),
        inconclusive=_inconclusive(strategy, given),
        judge=_judge_options(given),
        pause_lease=_pause_lease(control),
        probe=dict(probe),
    )


def _inconclusive(strategy: t.Mapping[str, t.Any], analysis: t.Mapping[str, t.Any]) -> str:
    return str(strategy.get("inconclusive", "hold") if strategy.get("name") == "canary" else analysis["inconclusive"])


def _judge_options(analysis: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The options of canary_analysis, those that were given and the defaults of the others."""
    options = {**JUDGE, **{name: analysis[name] for name in JUDGE if name in analysis}}
    options.update(further={}, min_requests=_count(analysis["min_requests"], "rollout_analysis.min_requests"))
    options["horizon"] = _count(options["horizon"], "rollout_analysis.horizon")
    try:
        settings_of(options)
    except JudgeError as exc:
        raise Refused(f"rollout_analysis: {exc}") from exc
    return options


def _pause_lease(control: t.Mapping[str, t.Any]) -> float | None:
    """For how long a pause is trusted before the guard returns the traffic; None where it is held for as long as it takes."""
    policy = control["pause_policy"]
    if policy not in PAUSES:
        raise Refused(f"rollout_pause_policy is {policy!r}; it can be {' or '.join(PAUSES)}")
    seconds = _lease(control["pause_timeout"], "rollout_pause_timeout")
    return seconds if policy == "rollback" else None


def _ramp(strategy: t.Mapping[str, t.Any]) -> Ramp:
    """What the variables of the role canary say. Raises PlanError."""
    return Ramp(
        read_stages(strategy.get("steps", [5, 25, 50])),
        duration(strategy.get("step_for", 300)),
        duration(strategy.get("step_max", 1800)),
        strategy.get("batches", "25%"),
        strategy.get("max_unavailable", "25%"),
        duration(strategy.get("min_healthy_time", 10)),
    )


def lock_wait(action: str, control: t.Mapping[str, t.Any]) -> float:
    """Seconds to wait for another rollout to end; a rollback is for the one that is there. Raises PlanError."""
    return duration(control["lock_wait"]) if action == "run" else 0.0


def _lease(value: t.Any, variable: str) -> float:
    seconds = duration(value)
    if _lease_problem(seconds):
        raise Refused(f"{variable}: {_lease_problem(seconds)}")
    return seconds


def _deploy_key(deploy: t.Any) -> str:
    """What releases are remembered under: the release of a kernel is no release of the application."""
    if isinstance(deploy, t.Mapping) and len(deploy) == 1:
        kind, value = next(iter(deploy.items()))
        if kind in ("role", "tasks") and isinstance(value, str) and value:
            return f"{kind}:{value.rsplit('/', 1)[-1] if kind == 'tasks' else value}"
    raise Refused(f"rollout_deploy must be {{role: NAME}} or {{tasks: PATH}}, not {_short(deploy)}")


# ---------------------------------------------------------------------------------------------------------------------
# once the load balancers have answered


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
            raise Refused(f"{lb.name}: the socket {lb.socket} may not change servers; use one of `level admin`")
        if answer["survives_reload"] is False and not targets.control["unpersisted"]:
            raise Refused(
                f"{lb.name} would forget the rollout at a reload: {answer['survives_reload_reason']}; mend this (the role "
                "steady.rollout.haproxy does), or accept it with rollout_unpersisted: true"
            )
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
        raise Refused(_lowered(exc)) from exc


def _decide_run(targets: Targets, answers: t.Mapping[str, t.Any], rollout_id: str) -> Decision:
    _refuse_held(targets, answers)
    members = _members(targets, answers)
    lbs = _with_found(targets, answers)
    recorded = _releases(members, targets, answers)
    steps, watched = _steps_of(targets, members, answers, recorded)
    plan = Plan(str(targets.control["strategy"]["name"]), targets.release, targets.backends, members, steps)
    previous = {
        member.key: recorded[member.key] or _given(targets.own[member.host].get("previous")) for member in members
    }
    run = _forward(targets, rollout_id, plan, lbs, previous)
    _refuse_two_slots(run)
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
    if _states(answers, (holder,)) == {PAUSED}:
        until = f" and goes back by itself in {min(left.values()):.0f} s" if left else ""
        raise Refused(f"{held}: it is paused{until}; {_ways_on(answers, holder)}")
    if not left:
        raise Refused(f"{held}: it is running, or did not end well; let it end, or {_ways_on(answers, holder)}")
    lb = max(left, key=lambda name: left[name])
    raise Refused(
        f"{held}, and seems to be at work: on {lb} the lease of its last act runs for another {left[lb]:.0f} s; let it end, or wait "
        f"for that and then {_ways_on(answers, holder)}"
    )


def _ways_on(answers: t.Mapping[str, t.Any], rollout_id: str) -> str:
    """What to do with a rollout that is not at work any more, in words."""
    # All load balancers must be in a state that allows it.
    state = min(_states(answers, (rollout_id,)), key=lambda state: len(WAYS_ON[state]), default=ROLLING_BACK)
    back = "take it back with the playbook steady.rollout.rollback"
    if "promote" in WAYS_ON[state]:
        return f"go on with it by the playbook steady.rollout.promote, or {back}"
    if "resume" not in WAYS_ON[state]:
        return back
    return f"go on with it by the same command and -e rollout_action=resume, or {back}"


def _states(answers: t.Mapping[str, t.Any], rollout_ids: t.Collection[str]) -> set[str]:
    """The states of rollouts on the load balancers, each as its journal tells it."""
    return {
        state_of(record["rollout"], bool((record.get("lock") or {}).get("abandoned")))
        for answer in answers.values()
        for record in (answer.get("records") or {}).values()
        if record.get("rollout") and record["rollout"]["rollout_id"] in rollout_ids
    }


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
                f"step {number} ({step.words()}) deploys two slots of {_some(twice)} at once; give each its own step"
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
    }


def _steps_of(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
) -> tuple[tuple[Step, ...], str]:
    """The steps and a sentence about them; no steps where nothing is to be done."""
    strategy, force = targets.control["strategy"], bool(targets.control["force"])
    if targets.control["steps"]:
        if not force and _all_run(members, recorded, targets.release) and _all_in_rotation(members, answers):
            return (), f"every host runs {targets.release} already"
        steps = parse_steps(targets.control["steps"], members, _fleet.in_rotation(members, answers))
        return steps, f"release {targets.release} by a plan of your own"
    if strategy["name"] == "blue_green":
        return _blue_green_steps(targets, members, answers, recorded, force)
    if strategy["name"] == "canary":
        return _canary_steps(targets, members, answers, recorded, force)
    return _rolling_steps(targets, members, answers, recorded, force)


def _blue_green_steps(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    force: bool,
) -> tuple[tuple[Step, ...], str]:
    strategy = targets.control["strategy"]
    live_name = live_colour(members, answers, strategy.get("live"))
    live = [member for member in members if member.track == live_name]
    idle = [member for member in members if member.track != live_name]
    if not force and _is_settled(live, members, answers) and _all_run(live, recorded, targets.release):
        return (), f"{live_name} is live and runs {targets.release} already"
    steps = blue_green(live, idle, duration(strategy.get("bake", 300)))
    return steps, f"{live_name} is live; release {targets.release} goes to {idle[0].track}"


def _canary_steps(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    force: bool,
) -> tuple[tuple[Step, ...], str]:
    strategy, ramp = targets.control["strategy"], _ramp(targets.control["strategy"])
    if any(member.track for member in members):
        live_name = live_colour(members, answers, strategy.get("live"))
        live = [member for member in members if member.track == live_name]
        idle = [member for member in members if member.track != live_name]
        if not force and _is_settled(live, members, answers) and _all_run(live, recorded, targets.release):
            return (), f"{live_name} is live and runs {targets.release} already"
        words = f"{live_name} is live; release {targets.release} goes to {idle[0].track}, share by share"
        return canary_side_by_side(live, idle, ramp), words
    due = _due(members, answers, recorded, targets.release, force)
    if not due:
        return (), f"every host runs {targets.release} already"
    spread = bool(strategy.get("spread_by"))
    steps = canary_in_place(members, due, part_of_traffic(members, answers), strategy.get("hosts", 1), ramp, spread)
    return steps, f"release {targets.release} goes to a canary, and then to {len(due)} of {len(members)} hosts"


def part_of_traffic(members: t.Sequence[Member], answers: t.Mapping[str, Reading]) -> dict[str, float]:
    """Percent of the traffic that each member carries by its weight: the least of all load balancers and backends."""
    parts: dict[str, float] = {}
    for answer in answers.values():
        backends = {backend for member in members for backend in member.servers}
        for backend in backends:
            servers = _fleet.servers_of(answer, backend)
            weights = {name: server["weight"] if carries(server) else 0 for name, server in servers.items()}
            total = sum(weights.values())
            for member in members:
                if backend in member.servers:
                    part = 100.0 * weights[member.servers[backend]] / total if total else 0.0
                    parts[member.key] = min(part, parts.get(member.key, part))
    return parts


def _is_settled(live: t.Sequence[Member], members: t.Sequence[Member], answers: t.Mapping[str, Reading]) -> bool:
    """Whether exactly the live colour carries, on every load balancer."""
    keys = [member.key for member in live]
    return _fleet.in_rotation(members, answers) == keys and _all_in_rotation(live, answers)


def live_colour(members: t.Sequence[Member], answers: t.Mapping[str, Reading], adopted: t.Any) -> str:
    """The colour that carries, the same on every load balancer; ``adopted`` (blue_green_live) settles what is unclear."""
    colours = list(dict.fromkeys(member.track for member in members))
    without = [member.host for member in members if not member.track]
    if without:
        raise Refused(
            f"{_some(without)} has no colour; set rollout_track to blue or green, or rollout_tracks for two slots"
        )
    if len(colours) == 1:
        other = "green" if colours[0] == "blue" else "blue"
        raise Refused(f"no host is {other}: the other colour is empty; set rollout_track of some hosts to {other}")
    if len(colours) != 2:
        raise Refused(f"there are {len(colours)} colours ({', '.join(colours)}); blue-green has two")
    if adopted:
        if adopted not in colours:
            raise Refused(f"blue_green_live is {adopted!r}; the colours of the fleet are {' and '.join(colours)}")
        return str(adopted)
    live = _fleet.live_tracks(members, answers)
    told = {lb: sorted(tracks) for lb, tracks in live.items()}
    first_lb, first = next(iter(told.items()))
    odd = [lb for lb, tracks in told.items() if tracks != first]
    how = "say which one with blue_green_live: blue or green"
    if odd:
        raise Refused(
            f"the load balancers disagree on the live colour: {first_lb} sends traffic to {' and '.join(first) or 'neither'}, "
            f"{odd[0]} to {' and '.join(told[odd[0]]) or 'neither'}; {how}"
        )
    if len(first) != 1:
        both = "both colours are" if first else "neither colour is"
        raise Refused(f"{both} live on {', '.join(told)}; {how}, and the rollout brings the fleet in order")
    return first[0]


def _rolling_steps(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    force: bool,
) -> tuple[tuple[Step, ...], str]:
    strategy = targets.control["strategy"]
    keys = _due(members, answers, recorded, targets.release, force)
    due = [member for member in members if member.key in keys]
    if not due:
        return (), f"every host runs {targets.release} already"
    spread = bool(strategy.get("spread_by"))
    steps = rolling(
        due,
        strategy.get("batches", 1),
        strategy.get("max_unavailable"),
        duration(strategy.get("min_healthy_time", 10)),
        spread,
    )
    done = len(members) - len(due)
    already = f", {done} run it already" if done else ""
    return steps, f"release {targets.release} goes to {len(due)} of {len(members)} hosts in batches{already}"


def _due(
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    release: str,
    force: bool,
) -> list[str]:
    """Keys of the members that do not run the release yet, or are not in rotation everywhere."""
    return [
        member.key
        for member in members
        if force or recorded[member.key] != release or not _fleet.everywhere_in(member, answers)
    ]


def _all_run(members: t.Sequence[Member], recorded: t.Mapping[str, str | None], release: str) -> bool:
    return all(recorded[member.key] == release for member in members)


def _all_in_rotation(members: t.Sequence[Member], answers: t.Mapping[str, Reading]) -> bool:
    return all(_fleet.everywhere_in(member, answers) for member in members)


def _check_capacity(run: Run, answers: t.Mapping[str, Reading]) -> None:
    """Walk through the plan on what is healthy now; each act is judged again, on what is true then, by the module."""
    for lb in run.lbs:
        for index, step, before in walk(run, lb):
            if index < run.first or step.kind not in ("drain", "deploy", "traffic"):
                continue
            for backend, told in shifts(run, lb, step).items():
                servers = _as_if(answers[lb.name], backend, lb, before[backend], run)
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
    reading: Reading, backend: str, lb: LoadBalancer, states: t.Mapping[str, t.Mapping[str, t.Any]], run: Run
) -> dict[str, dict[str, t.Any]]:
    """The servers as now, in the states that the plan will have brought them to, and healthy where it will have probed."""
    servers = {}
    for name, server in _fleet.servers_of(reading, backend).items():
        state, found = states[name], lb.found[backend][name]
        weight = server["weight"] if state["weight"] is None else state["weight"]
        # What is not in rotation now is deployed and seen healthy before it carries anything; in maint nobody checks it.
        health = server["health"] if carries(found) and carries(server) else "up"
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
        f"no rollout has recorded what runs on {_some(unknown)}: if this one fails there, those hosts stay out of rotation "
        "instead of going back; say what runs now with rollout_previous"
    ]


def _weak(answers: t.Mapping[str, Reading]) -> list[str]:
    return [
        f"{lb}: whether the rollout survives a reload is not known: {answer['survives_reload_reason']}"
        for lb, answer in answers.items()
        if answer["survives_reload"] is None
    ]


def _with_found(targets: Targets, answers: t.Mapping[str, Reading]) -> tuple[LoadBalancer, ...]:
    lbs = []
    for lb in targets.lbs:
        found = _fleet.found(answers[lb.name], targets.backends)
        for backend, servers in found.items():
            weightless = [name for name, server in servers.items() if not server["base"]]
            if weightless:
                raise Refused(
                    f"{lb.name}: server {_some(weightless)} of backend {backend} has weight 0, configured and now, so that it "
                    "could never carry traffic; give it a weight"
                )
        lbs.append(LoadBalancer(lb.name, lb.provider, lb.socket, lb.state_dir, found))
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
            f"rollout {recovery.rollout_id} cannot be resumed, as the servers are not as it left them: {_lowered(exc)}; make them so, or "
            "take it back with the playbook steady.rollout.rollback"
        ) from exc
    # What was in deploy, and was not seen to be good since, may carry nothing before it is.
    good = admitted_at(run, first)
    out = tuple(dict.fromkeys(key for group in recovery.deployed for key in group if key not in good))
    run = replace(run, first=first, out=out, analysis=analysis_of(records))
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
        "resumed": {"of": recovery.rollout_id, "at": first, "by": targets.action},
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
        raise Refused(_lowered(exc)) from exc
    if recovery is None or recovery.done:
        raise Refused(recovery.done if recovery else "no rollout is recorded that could be promoted")
    _state_to_go_on(recovery, usable, "promote")
    return {"strategy": recovery.plan.strategy, "release": recovery.plan.release}


def _state_to_go_on(recovery: Recovery, answers: t.Mapping[str, t.Any], action: str) -> str:
    """The state of the rollout, where it is one that can go on. Raises Refused."""
    states = _states(answers, recovery.holders)
    stuck = sorted(state for state in states if action not in WAYS_ON[state])
    if recovery.ended and recovery.outcome != "paused":
        raise Refused(f"rollout {recovery.rollout_id} ended as {recovery.outcome}; there is nothing to {action}")
    if action == "promote" and stuck and "resume" in WAYS_ON[stuck[0]]:
        raise Refused(
            f"rollout {recovery.rollout_id} is {_spoken(stuck[0])}, and not paused; go on with it by the same command and "
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
            f"rollout {recovery.rollout_id} never began on {_some(late)}, so that the hosts were changed without "
            f"{'it' if len(late) == 1 else 'them'}; take it back with the playbook steady.rollout.rollback"
        )
    return tuple(replace(lb, found=found[name]) for name, lb in now.items())


def _plan_again(
    recovery: Recovery, targets: Targets, members: tuple[Member, ...], lbs: t.Sequence[LoadBalancer]
) -> Plan:
    """The plan, made of the variables as they are now and of what the rollout found; it must be the one on record."""
    as_found = {lb.name: _reading_of(lb) for lb in lbs}
    steps, _words = _steps_of(targets, members, as_found, recovery.target)
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
        LoadBalancer(
            lb.name,
            lb.provider,
            lb.socket,
            lb.state_dir,
            recovery.found.get(lb.name) or now.get(lb.name) or recovery.any_found,
        )
        for lb in targets.lbs
    )
    run = recovery.run(rollout_id, lbs, targets.settings, present, addresses_of(targets, recovery.plan.members))
    _refuse_other_deploy(recovery, run, targets)
    of = {"of": recovery.rollout_id, "after": list(recovery.holders)}
    begin = {**_begin(run, recovery.carried), **of, "deployed": recovery.deployed}
    if recovery.goes_forward:
        if not run.plan.steps:
            return Decision("unchanged", None, (f"rollout {recovery.rollout_id} changed nothing to take back",), (), {})
        lbs_now = _with_found(targets, answers)
        run = replace(run, lbs=lbs_now)
        _check_capacity(run, answers)
        begin = {**_begin(run, _fleet.in_rotation(run.plan.members, answers)), **of}
        holders = recovery.holders if recovery.locked else ()
        return Decision("run", run, (recovery.words,), (), begin, holders, reason, recovery, "hold", "rolled_back")
    return Decision(
        "recover",
        run,
        (recovery.words,),
        (),
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
        raise Refused(f"nobody knows what ran on {_some(unknown)} before; say so with rollout_previous")


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
        raise Refused(f"rollout {recovery.rollout_id} took part on {_some(strangers)}, which is not in this play")


# ---------------------------------------------------------------------------------------------------------------------
# words and small checks


def _names(value: t.Any, variable: str, what: str, may_be_empty: bool = False) -> list[str]:
    names = [value] if isinstance(value, str) and value else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise Refused(f"{variable} must be a list of names, {what}; it is {_short(value)}")
    if not names and not may_be_empty:
        raise Refused(f"{variable} is empty; list {what}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refused(f"{variable} lists {_some(twice)} more than once")
    return list(names)


def _percent(value: t.Any, variable: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 100:
        raise Refused(f"{variable} must be a number from 0 to 100 (percent), not {_short(value)}")
    return number


def _count(value: t.Any, variable: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit() or len(text) > 9:
        raise Refused(f"{variable} must be a whole number from 0, not {_short(value)}")
    return int(text)


def _why(answer: t.Mapping[str, t.Any]) -> str:
    text = str(answer.get("msg") or "did not answer").strip()
    if answer.get("unreachable"):
        return f"is unreachable ({text}); mend it, or leave it out with rollout_absent_lbs"
    return f"cannot be used: {text}"


def _difference(name: str, one: t.Any, other: t.Any) -> tuple[str, t.Any, t.Any]:
    """The variable of the user that differs, and its two values."""
    if name == "strategy" and isinstance(one, t.Mapping) and isinstance(other, t.Mapping):
        for key in one:
            if one[key] != other.get(key) and key != "name":
                return f"{one.get('name')}_{key}", one[key], other.get(key)
    return f"rollout_{name}", one, other


def _lowered(exc: Exception) -> str:
    return str(exc).rstrip(".")


def _spoken(state: str) -> str:
    return state.replace("_", " ")


def _short(value: t.Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _some(names: t.Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
