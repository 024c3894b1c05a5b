# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What each load balancer and each host must be told for one step of a rollout. Pure.

Everything follows from three things that do not change while it runs: the plan, what the servers were when it began, and
the number of the step. So nothing has to be remembered between steps, a step can be told again, and what is safe at
any moment can be computed by whoever has the record.
"""

from __future__ import annotations

import functools
import math
import typing as t
from dataclasses import asdict, dataclass, field, replace

from ansible_collections.steady.rollout.plugins.module_utils._fleet import carries, probe_place
from ansible_collections.steady.rollout.plugins.module_utils._forward_only import on_record
from ansible_collections.steady.rollout.plugins.module_utils._plan import CANARY, STABLE, Member, Plan, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import listed
from ansible_collections.steady.rollout.plugins.module_utils._weights import split

# How long the share of the traffic is observed after it was shifted, at most, and how often it is looked at.
SHARE_SECONDS = 5.0
SHARE_INTERVAL = 1.0
# How long a probe may take to get one good answer while traffic is watched.
LOOK_SECONDS = 5.0
# For how many polls a rollout that was promoted is looked at before it gets more traffic.
GLANCE_POLLS = 3
# How many polls the judge expects at least.
LEAST_HORIZON = 180

FORWARD, UNDO = "forward", "undo"
# The kinds of steps that watch; and those that take servers out, bring them near, or bring them in.
WATCHES = ("analyse", "pause")

ServerState = dict[str, t.Any]  # {weight, state}, as in safe.json
Found = dict[str, dict[str, ServerState]]  # of one load balancer: {backend: {server: {weight, state, base, agent}}}


@dataclass(frozen=True)
class LoadBalancer:
    """How a load balancer is reached, and what its servers were when the rollout began.

    ``socket``: its Runtime API; ``config``: the configuration it runs. Each provider needs one of them.
    """

    name: str
    provider: str
    socket: str
    config: str
    state_dir: str
    found: Found = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """The variables of the user that steps need. Times in seconds, rates and headroom in percent."""

    drain_timeout: float
    on_drain_timeout: str
    on_restart: str
    health_timeout: float
    healthy_deadline: float
    progress_deadline: float
    allow_unchecked: bool
    min_capacity: float
    headroom: float
    share_tolerance: float
    lb_timeout: float  # what a call may take beyond what it was told to wait
    lease: float  # how long an act of traffic or analysis is trusted
    deploy_lease: float  # and one that waits for hosts to be deployed
    guard: str
    interval: float
    max_error_rate: float
    limits_canary: bool  # whether max_error_rate is the user's own, and so holds beside the judge, too
    min_requests: int
    inconclusive: str
    judge: t.Mapping[str, t.Any]  # the options of canary_analysis
    pause_lease: float | None  # how long a pause is trusted; None for as long as it takes
    probe: t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Run:
    """One list of steps under way, as data that survives JSON.

    ``releases``: what to put on each member; ``previous``: what was seen there before; None where nobody knows.
    ``out``: members that were taken out before the first step and must stay out until a step brings them back.
    ``addresses``: (address, port) that the user gave for a member; None where the load balancer's are used.
    ``first``: the number of the step it begins with; those before it were taken by a rollout that it goes on with.
    ``glance``: the number of the step that was paused at, which is looked at once more before more traffic moves; -1 for none.
    ``full``: whether it goes straight to the end from there. ``analysis``: what the judge knew when it was left.
    ``forward_only``: what the rollouts that it goes on with, or takes back, did that cannot be taken back.
    ``action``: deploy or undo, told to the user's role. ``mode``: in UNDO nothing fails, it stops.
    """

    rollout_id: str
    mode: str
    action: str
    plan: Plan
    lbs: tuple[LoadBalancer, ...]
    settings: Settings
    releases: t.Mapping[str, str | None]
    previous: t.Mapping[str, str | None]
    deploy_key: str
    out: tuple[str, ...] = ()
    addresses: t.Mapping[str, t.Sequence[t.Any]] = field(default_factory=dict)
    first: int = 0
    glance: int = -1
    full: bool = False
    analysis: t.Mapping[str, t.Any] = field(default_factory=dict)
    forward_only: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, t.Any]:
        plain = ("rollout_id", "mode", "action", "deploy_key", "first", "glance", "full")
        return {
            **{name: getattr(self, name) for name in plain},
            "analysis": dict(self.analysis),
            "plan": self.plan.as_dict(),
            "lbs": [asdict(lb) for lb in self.lbs],
            "settings": asdict(self.settings),
            "releases": dict(self.releases),
            "previous": dict(self.previous),
            "out": list(self.out),
            "addresses": {key: list(place) for key, place in self.addresses.items()},
            "forward_only": list(self.forward_only),
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Run:
        return cls(
            **{name: data[name] for name in ("rollout_id", "mode", "action", "deploy_key", "releases", "previous")},
            plan=Plan.from_dict(data["plan"]),
            lbs=tuple(LoadBalancer(**lb) for lb in data["lbs"]),
            settings=Settings(**data["settings"]),
            out=tuple(data["out"]),
            addresses=data["addresses"],
            **{name: data[name] for name in ("first", "glance", "full", "analysis")},
            forward_only=tuple(data["forward_only"]),
        )

    @property
    def members(self) -> dict[str, Member]:
        return {member.key: member for member in self.plan.members}


# ---------------------------------------------------------------------------------------------------------------------
# where members stand


def out_at(run: Run, index: int) -> set[str]:
    """The members that may not carry traffic while step ``index`` acts: deployed, and not yet proved since."""
    out = set(run.out) if index < run.first else set()
    for number, step in enumerate(run.plan.steps[: index + 1]):
        if number == run.first:
            out.update(run.out)
        if step.kind == "deploy":
            out.update(step.members)
        elif step.kind == "admit" and _proved_by(run.plan.steps, number) < index:
            out.difference_update(step.members)
    return out


def admitted_at(run: Run, index: int) -> set[str]:
    """The members that were brought back, and watched as far as the plan says so, before step ``index``."""
    back: set[str] = set()
    for number, step in enumerate(run.plan.steps[:index]):
        if step.kind == "deploy":
            back.difference_update(step.members)
        elif step.kind == "admit" and _proved_by(run.plan.steps, number) < index:
            back.update(step.members)
    return back


def _proved_by(steps: t.Sequence[Step], number: int) -> int:
    """The last of the steps that watch right after step ``number``: only after it what it let in counts as good."""
    last = number
    while last + 1 < len(steps) and steps[last + 1].kind in WATCHES:
        last += 1
    return last


def safe_at(run: Run, lb: LoadBalancer, index: int) -> dict[str, dict[str, ServerState]]:
    """What to return to on ``lb`` when something dies while step ``index`` acts: as found, less the hosts in deploy."""
    out, back = out_at(run, index), admitted_at(run, index)
    states: dict[str, dict[str, ServerState]] = {
        backend: {name: _plain(server) for name, server in servers.items()} for backend, servers in lb.found.items()
    }
    for member in run.plan.members:
        for backend, name in member.servers.items():
            server = lb.found[backend][name]
            if member.key in out:
                if carries(server):
                    states[backend][name]["state"] = "maint"
            elif member.key in back:
                states[backend][name] = in_rotation(server)
    return states


def end_state(run: Run, lb: LoadBalancer) -> dict[str, dict[str, ServerState]]:
    """What the servers are when every step is done: what is safe from then on."""
    return expected_at(run, lb, len(run.plan.steps) - 1)


def expected_at(run: Run, lb: LoadBalancer, index: int) -> dict[str, dict[str, ServerState]]:
    """What the servers should be once steps up to ``index`` have told what they tell; a weight of None is not ours."""
    states = _at_first(run, lb)
    for step in run.plan.steps[: index + 1]:
        _apply(states, shifts(run, lb, step))
    return states


def walk(run: Run, lb: LoadBalancer) -> t.Iterator[tuple[int, Step, dict[str, dict[str, ServerState]]]]:
    """Each step with its number and what the servers should be before it; good only until the next one is asked for."""
    states = _at_first(run, lb)
    for index, step in enumerate(run.plan.steps):
        yield index, step, states
        _apply(states, shifts(run, lb, step))


def _at_first(run: Run, lb: LoadBalancer) -> dict[str, dict[str, ServerState]]:
    states: dict[str, dict[str, ServerState]] = {
        backend: {name: _plain(server) for name, server in servers.items()} for backend, servers in lb.found.items()
    }
    for member in run.plan.members:
        if member.key in run.out:
            for backend, name in member.servers.items():
                if carries(lb.found[backend][name]):
                    states[backend][name]["state"] = "maint"
    return states


def _apply(states: dict[str, dict[str, ServerState]], told: t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]) -> None:
    for backend, servers in told.items():
        for one in servers:
            states[backend][one["name"]].update({name: one[name] for name in ("weight", "state") if name in one})


def is_in(state: t.Mapping[str, t.Any]) -> bool:
    """Whether a server that is told so takes new requests; one whose weight is its agent's does."""
    return bool(state["state"] == "ready" and state["weight"] != 0)


def in_rotation(server: ServerState) -> ServerState:
    """A found server as it is when it carries: with its own weight, or with whatever its agent makes of it."""
    return {"weight": None if server["agent"] else server["base"], "state": "ready"}


def _plain(server: ServerState) -> ServerState:
    return {"weight": None if server["agent"] else server["weight"], "state": server["state"]}


# ---------------------------------------------------------------------------------------------------------------------
# what a step tells


def shifts(run: Run, lb: LoadBalancer, step: Step) -> dict[str, list[dict[str, t.Any]]]:
    """{backend: [{name, weight?, state}]} for one load balancer; empty for steps that move no traffic."""
    if step.kind == "traffic":
        return _traffic(run, lb, step)
    states: dict[str, t.Callable[[ServerState], ServerState]] = {
        "drain": lambda server: {"state": "maint"},
        "deploy": lambda server: {"state": "maint"},
        "admit": in_rotation,
        "probe": lambda server: {"state": "drain"},
    }
    if step.kind not in states:
        return {}
    told: dict[str, list[dict[str, t.Any]]] = {}
    for key in step.members:
        if step.kind == "probe" and not _is_out(run, lb, key, step):
            continue  # it carries: a probe is no reason to take it out
        for backend, name in run.members[key].servers.items():
            wanted = states[step.kind](lb.found[backend][name])
            told.setdefault(backend, []).append({"name": name, **_without_none(wanted)})
    return told


def _is_out(run: Run, lb: LoadBalancer, key: str, step: Step) -> bool:
    """Whether earlier steps have the member out of rotation, or it was found so."""
    member = run.members[key]
    out = key in run.out or not all(carries(lb.found[backend][name]) for backend, name in member.servers.items())
    for earlier in run.plan.steps[: _place(run.plan.steps, step)]:
        if key in earlier.members and earlier.kind in ("drain", "deploy", "admit"):
            out = earlier.kind != "admit"
        elif earlier.kind == "traffic" and earlier.members:
            out = out and key not in earlier.members
        elif earlier.kind == "traffic" and member.track in earlier.shares:
            out = not earlier.shares[member.track]
    return out


def _traffic(run: Run, lb: LoadBalancer, step: Step) -> dict[str, list[dict[str, t.Any]]]:
    """Weights for the shares: the side that carries all keeps its own weights, the side that carries none is drained."""
    told: dict[str, list[dict[str, t.Any]]] = {}
    for backend in lb.found:
        sides = _sides_in_place(run, lb, backend, step) if step.members else _sides(run, lb, backend, step)
        carrying = {track: side for track, (percent, side) in sides.items() if percent > 0 and side}
        weights = _weights(sides, carrying)
        for track, (_percent, side) in sides.items():
            for name in side:
                found = lb.found[backend][name]
                if track not in carrying:
                    told.setdefault(backend, []).append({"name": name, "state": "drain"})
                elif len(carrying) == 1:
                    told.setdefault(backend, []).append({"name": name, **_without_none(in_rotation(found))})
                else:
                    told.setdefault(backend, []).append({"name": name, "weight": weights[name], "state": "ready"})
    return told


def _sides(run: Run, lb: LoadBalancer, backend: str, step: Step) -> dict[str, tuple[float, dict[str, int]]]:
    """{track: (percent, {server: base weight})}; what is in no track of the step shares what is left over.

    What was out of rotation, and that no step before has seen to be good, stays out: somebody may be at work there.
    """
    shares = step.shares
    sides: dict[str, tuple[float, dict[str, int]]] = {track: (percent, {}) for track, percent in shares.items()}
    rest = 100.0 - sum(shares.values())
    before = run.plan.steps[: _place(run.plan.steps, step)]
    seen = {key for each in before if each.kind in ("deploy", "probe", "admit") for key in each.members}
    for member in run.plan.members:
        name = member.servers.get(backend)
        if name is not None and (member.key in seen or carries(lb.found[backend][name])):
            track = member.track if member.track in shares else "the rest"
            sides.setdefault(track, (rest, {}))[1][name] = lb.found[backend][name]["base"]
    return sides


def _sides_in_place(run: Run, lb: LoadBalancer, backend: str, step: Step) -> dict[str, tuple[float, dict[str, int]]]:
    """As ``_sides``, where one side is the members of the step, and the other all others that carried everywhere when it began."""
    (mine, percent), (others, rest) = step.shares.items()
    # What some load balancer does not send to is no part of it: nothing would give it its weight back before its own turn.
    stable = {
        member.key for member in run.plan.members if member.key not in run.out and _carried_everywhere(run, member)
    }
    sides: dict[str, tuple[float, dict[str, int]]] = {mine: (percent, {}), others: (rest, {})}
    for member in run.plan.members:
        name = member.servers.get(backend)
        if name is None:
            continue
        found = lb.found[backend][name]
        if member.key in step.members:
            sides[mine][1][name] = found["base"]
        elif member.key in stable:
            sides[others][1][name] = found["base"]
    return sides


def _carried_everywhere(run: Run, member: Member) -> bool:
    return all(carries(lb.found[backend][name]) for lb in run.lbs for backend, name in member.servers.items())


def _weights(
    sides: t.Mapping[str, tuple[float, dict[str, int]]], carrying: t.Mapping[str, dict[str, int]]
) -> t.Mapping[str, int]:
    if len(carrying) != 2:
        return {}
    (first, track), (_second, rest) = carrying.items()
    return _split(tuple(track.items()), tuple(rest.items()), sides[first][0])


@functools.lru_cache(maxsize=256)
def _split(
    track: tuple[tuple[str, int], ...], rest: tuple[tuple[str, int], ...], percent: float
) -> t.Mapping[str, int]:
    """Kept, as what a step tells is computed again for every step after it."""
    return split(dict(track), dict(rest), percent).weights


def _without_none(values: ServerState) -> dict[str, t.Any]:
    return {name: value for name, value in values.items() if value is not None}


def without(run: Run, lost: t.Collection[str]) -> Run:
    """The run with steps that leave the members ``lost`` as they are; on the way back others still can go."""
    if not lost:
        return run
    steps = tuple(
        step._replace(members=tuple(key for key in step.members if key not in lost)) for step in run.plan.steps
    )
    return replace(
        run, plan=replace(run.plan, steps=steps), out=(*run.out, *(key for key in lost if key not in run.out))
    )


def tell(run: Run, index: int, stopped: bool, previous: t.Mapping[str, t.Any] | None = None) -> dict[str, t.Any]:
    """Everything that the tasks of step ``index`` need; with ``stopped`` there is nothing to do any more.

    ``previous``: what the step before was concluded with. Its result goes into the journal with the acts of this one.
    """
    step = run.plan.steps[index]
    told: dict[str, t.Any] = {
        "index": index,
        "mode": run.mode,
        "kind": step.kind,
        "words": f"{'Way back, step' if run.mode == UNDO else 'Step'} {index + 1} of {len(run.plan.steps)}: {step.words()}",
        "lbs": [],
        "polled": [],
        "hosts": {},
        "watch": None,
        "polls": [],
    }
    if stopped:
        why = "the rollout waits to be promoted" if (previous or {}).get("paused") else "the step before it failed"
        return {**told, "words": f"{told['words']}: left out, as {why}"}
    told["lbs"] = [{**_tell_lb(run, lb, index), **carried(previous or {})} for lb in run.lbs]
    told["hosts"] = _tell_hosts(run, step) if step.kind == "deploy" else {}
    told["watch"] = _tell_watch(run, index)
    told["polled"] = [_tell_poll(run, lb, step) for lb in run.lbs] if told["watch"] else []
    told["polls"] = _in_batches(told["watch"]["polls"]) if told["watch"] else []
    return told


def turns(run: Run) -> list[dict[str, t.Any]]:
    """For each step to take the tasks that take it. Only step.yml stops the hosts when it fails: on the way back nothing does."""
    plain = "step.yml" if run.mode == FORWARD else "control.yml"
    return [
        {"index": index, "file": "deploy.yml" if step.kind == "deploy" else plain}
        for index, step in enumerate(run.plan.steps)
        if index >= run.first
    ]


def _in_batches(polls: int) -> list[list[int]]:
    """The numbers of all polls, in batches: those left over once it is decided are passed over batch by batch."""
    size = math.isqrt(polls) or 1
    return [list(range(first, min(first + size, polls))) for first in range(0, polls, size)]


def _tell_lb(run: Run, lb: LoadBalancer, index: int) -> dict[str, t.Any]:
    """One call of rollout_act: the intent, and the traffic it moves."""
    step, settings = run.plan.steps[index], run.settings
    waits = step.kind in ("deploy", "drain")
    drain_timeout = settings.drain_timeout if waits else 0.0
    servers = shifts(run, lb, step)
    # Backends are changed one after the other; each may have to settle, come up, and be drained.
    shifting = len(servers) * (drain_timeout + 2 * settings.health_timeout)
    proof = _tell_proof(run, lb, step)
    return {
        **how_to_reach(lb),
        "act": "shift" if servers else "note",
        "event": "intent",
        "servers": servers,
        "safe": safe_at(run, lb, index),
        "record": {**step.as_dict(), "step": index, "mode": run.mode},
        "drain_timeout": drain_timeout,
        "on_drain_timeout": settings.on_drain_timeout if waits else "continue",
        "health_timeout": settings.health_timeout,
        "allow_unchecked": settings.allow_unchecked,
        "capacity": _tell_capacity(run, lb, index),
        **grant(settings, step.kind),
        **proof,
        "timeout": int(shifting + proof.get("settle_timeout", 0) + _deadline(proof) + settings.lb_timeout),
    }


def grant(settings: Settings, kind: str) -> dict[str, t.Any]:
    """The lease of an act: it must last until the next one, whatever happens between the two."""
    between = settings.interval if kind in WATCHES else settings.healthy_deadline if kind == "probe" else 0.0
    seconds = settings.deploy_lease if kind == "deploy" else settings.lease + between
    return {"lease": seconds, "guard": settings.guard}


def meant_to_carry(lb: LoadBalancer, backend: str, before: t.Mapping[str, ServerState]) -> set[str]:
    """The servers of a backend that are its capacity: those that carried as it was found, or do ``before`` a step."""
    brought_in = {name for name, state in before.items() if is_in(state)}
    return {name for name, server in lb.found[backend].items() if carries(server) or name in brought_in}


def _tell_capacity(run: Run, lb: LoadBalancer, index: int) -> dict[str, t.Any] | None:
    """What must be left when servers are taken out or loaded. Restoring traffic is never refused for that."""
    if run.plan.steps[index].kind not in ("drain", "deploy", "traffic"):
        return None
    before = expected_at(run, lb, index - 1)
    return {
        "min_percent": run.settings.min_capacity,
        "headroom_percent": run.settings.headroom,
        "base": {
            backend: {name: servers[name]["base"] for name in sorted(meant_to_carry(lb, backend, before[backend]))}
            for backend, servers in lb.found.items()
        },
    }


def _tell_proof(run: Run, lb: LoadBalancer, step: Step) -> dict[str, t.Any]:
    """In a probe step every server must answer, and the load balancer itself must see it healthy."""
    if step.kind != "probe":
        return {}
    places = watched(run, step)
    return {
        "probe": _tell_probe(run, lb, places, True),
        "settle": [list(place) for place in places],
        "settle_timeout": run.settings.health_timeout,
    }


def _deadline(asked: t.Mapping[str, t.Any]) -> float:
    return float((asked.get("probe") or {}).get("deadline", 0))


def _tell_probe(
    run: Run, lb: LoadBalancer, places: t.Sequence[tuple[str, str]], patient: bool
) -> dict[str, t.Any] | None:
    """Whom to probe from one load balancer, and how; while watching one good answer in a few seconds is enough."""
    if not places:
        return None
    owners = {place: member for member in run.plan.members for place in member.servers.items()}
    targets: dict[tuple[t.Any, t.Any], dict[str, t.Any]] = {}
    for backend, name in places:
        found = lb.found[backend][name]
        address, port = (run.addresses.get(owners[backend, name].key) or (None, None))[:2]
        address, port = address or found.get("address"), run.settings.probe.get("port") or port or found.get("port")
        targets.setdefault((address, port), {"name": name, **probe_place(address, port)})
    timing: dict[str, t.Any] = {"deadline": run.settings.healthy_deadline}
    if not patient:
        timing = {"rise": 1, "deadline": LOOK_SECONDS}
    options = {name: value for name, value in run.settings.probe.items() if name != "port"}
    return {**options, **timing, "targets": list(targets.values())}


def _tell_poll(run: Run, lb: LoadBalancer, step: Step) -> dict[str, t.Any]:
    """One reading, which prolongs the lease, and in a watch a probe."""
    probe = _tell_probe(run, lb, watched(run, step), False) if step.kind in WATCHES else None
    asked = {"probe": probe} if probe else {}
    return {
        **how_to_reach(lb),
        **grant(run.settings, step.kind),
        **asked,
        "timeout": int(_deadline(asked) + run.settings.lb_timeout),
    }


def result_of(
    run: Run,
    told: t.Mapping[str, t.Any],
    problem: str,
    watch: t.Mapping[str, t.Any] | None = None,
    forward_only: t.Sequence[str] = (),
) -> dict[str, t.Any]:
    """What the next act writes down of a step: its result, what was seen to run, once it was probed, what the judge knows, and what
    cannot be taken back.

    A call of its own would cost as much as the step. Until it is written the step counts as not done, which is safe.
    """
    step = run.plan.steps[told["index"]]
    if told["kind"] in ("drain", "admit", "traffic") and not problem:
        return {"results": [], "releases": {}}  # the module recorded the result of what it changed
    record: dict[str, t.Any] = {
        "step": told["index"],
        "mode": run.mode,
        "kind": step.kind,
        "ok": not problem,
        "problem": problem,
        **on_record(forward_only),
    }
    if told["watch"] and told["watch"]["judge"] and watch and watch.get("key") == told["key"]:
        record.update(verdict=watch["verdict"], reason=watch["reason"], analysis=watch["analysis"])
    seen = seen_releases(run, step) if step.kind == "probe" and not problem else {}
    return {"results": [record], "releases": seen}


def carried(concluded: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The part of a conclusion that goes into the journal with the next act on each load balancer."""
    return {"results": list(concluded.get("results") or ()), "releases": dict(concluded.get("releases") or {})}


def how_to_reach(lb: LoadBalancer) -> dict[str, t.Any]:
    return {
        "lb": lb.name,
        "provider": lb.provider,
        "socket": lb.socket,
        "config": lb.config,
        "state_dir": lb.state_dir,
        "backends": sorted(lb.found),
    }


def _tell_hosts(run: Run, step: Step) -> dict[str, dict[str, t.Any]]:
    """What the user's role is told on each host of a deploy step. A host whose release nobody knows is not undone."""
    told, (number, first) = {}, first_to_deploy(run.plan)
    first = first if number == _place(run.plan.steps, step) else ""
    for key in step.members:
        member = run.members[key]
        if run.releases.get(key) is not None:
            told[member.host] = {
                "release": run.releases[key],
                "previous": run.previous.get(key),
                "action": run.action,
                "track": member.track,
                "member": key,
                "first": run.action == "deploy" and key == first,
            }
    return told


def first_to_deploy(plan: Plan) -> tuple[int, str]:
    """The first deploy of a plan, and its first member: where that is done which a release needs once. (-1, "") without a deploy."""
    deploys = ((number, step) for number, step in enumerate(plan.steps) if step.kind == "deploy" and step.members)
    return next(((number, step.members[0]) for number, step in deploys), (-1, ""))


def coming_deploys(run: Run) -> dict[str, dict[str, t.Any]]:
    """{host: what its role will be told first}, of the deploys that are still to come."""
    told: dict[str, dict[str, t.Any]] = {}
    for step in reversed(run.plan.steps[run.first :]):
        if step.kind == "deploy":
            told.update(_tell_hosts(run, step))
    return told


def unknown_releases(run: Run, step: Step) -> list[str]:
    """Members of a deploy step for which there is no release to put there."""
    return [key for key in step.members if run.releases.get(key) is None] if step.kind == "deploy" else []


def seen_releases(run: Run, step: Step) -> dict[str, dict[str, dict[str, str]]]:
    """What to record once the members of a probe step have answered: {backend: {server: {deploy key: release}}}."""
    seen: dict[str, dict[str, dict[str, str]]] = {}
    for key in step.members:
        release = run.releases.get(key)
        if release is not None:
            for backend, name in run.members[key].servers.items():
                seen.setdefault(backend, {})[name] = {run.deploy_key: release}
    return seen


def _tell_watch(run: Run, index: int) -> dict[str, t.Any] | None:
    """How long to watch, how often, whom, and what is wanted; None for steps that do not watch."""
    step, settings = run.plan.steps[index], run.settings
    glances = index == run.glance or (run.full and index > run.glance)
    if step.kind == "traffic":
        seconds, interval, require = SHARE_SECONDS, SHARE_INTERVAL, False
    elif step.kind in WATCHES and glances:
        polls = GLANCE_POLLS if index == run.glance else 1
        seconds, interval, require = polls * settings.interval, settings.interval, False
    elif step.kind in WATCHES and step.seconds:
        seconds, interval = float(step.seconds), settings.interval
        require = bool(step.options.get("require_requests"))
    else:
        return None
    interval = min(interval, seconds) or SHARE_INTERVAL
    longest = seconds if glances else max(seconds, float(step.options.get("longest", 0)))
    expected = {lb.name: expected_at(run, lb, index) for lb in run.lbs}
    again = {lb.name: _tell_again(run, lb, step) for lb in run.lbs} if settings.on_restart == "reassert" else {}
    return {
        "seconds": seconds,
        "interval": interval,
        # One reading at the start, one after each interval, and none left over.
        # But one more for each load balancer, which may have to be told again.
        "polls": int(-(-longest // interval)) + 1 + len(again),
        "longest": longest,
        "reassert": again,
        "track": [list(place) for place in watched(run, step)],
        "wanted_percent": wanted_share(run, run.lbs[0].found, step, expected[run.lbs[0].name]),
        "require_requests": require,
        "of_share": step.kind == "traffic",
        "limited": settings.limits_canary or not _is_of_canary(run, step),
        "judge": None if step.kind == "traffic" or run.mode == UNDO else _tell_judge(run, index, glances),
        "steps": f"step {index + 1} of {len(run.plan.steps)}",
        "name": _name(run, step),
        "rest_name": _rest_name(run, step),
        "expected": expected,
    }


def _is_of_canary(run: Run, step: Step) -> bool:
    """Whether it is for the judge to say what errors are too many, in this step or in the next one."""
    if step.kind == "traffic":
        return run.plan.strategy == "canary"
    return _judges(step)


def _judges(step: Step) -> bool:
    """Whether its members are a canary that is judged: in a step for that, and while a canary waits."""
    return bool(step.options.get("judged")) or (step.kind == "pause" and bool(step.members))


def _tell_judge(run: Run, index: int, glances: bool) -> dict[str, t.Any] | None:
    """Whom to compare with whom, and what is asked; None where nothing was deployed yet."""
    step = run.plan.steps[index]
    expected = expected_at(run, run.lbs[0], index)
    deployed = {key for each in run.plan.steps[: index + 1] if each.kind == "deploy" for key in each.members}
    due = {key for each in run.plan.steps for key in each.members if each.kind == "deploy"}
    # What runs the release already, and so is not deployed, is no yardstick for it.
    same = {key for key, release in run.previous.items() if release == run.plan.release} - due
    named = set(step.members) if _judges(step) else set()
    sides: dict[str, list[list[str]]] = {"canary": [], "stable": []}
    for member in run.plan.members:
        for backend, name in member.servers.items():
            if not is_in(expected[backend][name]):
                continue
            if member.key in (named or deployed):
                sides["canary"].append([backend, name])
            elif member.key not in deployed | same:
                sides["stable"].append([backend, name])
    if not sides["canary"]:
        return None
    judged = bool(step.options.get("judged")) and not glances
    return {
        "sides": sides,
        "name": "the canary" if named else _name(run, step),
        "past": [] if sides["stable"] else _past(run, index, deployed | same),
        "options": {**run.settings.judge, "horizon": _horizon(run)},
        "judged": judged,
        "asks": judged and bool(step.options.get("asks")),
        "state": dict(run.analysis),
    }


def _past(run: Run, index: int, but: t.Collection[str]) -> list[list[str]]:
    """The servers that carried before, where all traffic moved at once: there is nothing beside the release to compare it with.

    Nothing where they were compared with already, in a step before. ``but``: members that have the release.
    """
    if any(step.kind in WATCHES for step in run.plan.steps[:index]):
        return []
    members = [member for member in run.plan.members if member.key not in but and _carried_everywhere(run, member)]
    return [list(place) for member in members for place in member.servers.items()]


def _horizon(run: Run) -> int:
    """Polls that there will be at most: of all steps that watch, prolonged as far as may be. The user's own number comes first."""
    if run.settings.judge["horizon"]:
        return int(run.settings.judge["horizon"])
    watches = [step for step in run.plan.steps if step.kind in WATCHES]
    longest = [max(step.seconds or 0.0, float(step.options.get("longest", 0))) for step in watches]
    polls = sum(int(-(-seconds // run.settings.interval)) + 1 for seconds in longest)
    return max(LEAST_HORIZON, polls + GLANCE_POLLS)


def _tell_again(run: Run, lb: LoadBalancer, step: Step) -> dict[str, t.Any]:
    """The act that tells a load balancer once more what a restart made it forget, but for the servers."""
    settings = run.settings
    return {
        **how_to_reach(lb),
        "act": "shift",
        "record": {"kind": "reassert"},
        "health_timeout": settings.health_timeout,
        "allow_unchecked": settings.allow_unchecked,
        **grant(settings, step.kind),
        "timeout": int(2 * len(lb.found) * settings.health_timeout + settings.lb_timeout),
    }


def watched(run: Run, step: Step) -> list[tuple[str, str]]:
    """(backend, server) of the new side: what the step names, or else what was brought in last."""
    keys = _watched_keys(run, step)
    return [place for member in run.plan.members if member.key in keys for place in member.servers.items()]


def _watched_keys(run: Run, step: Step) -> set[str]:
    keys = set(step.members) or _brought_in(run, step)
    if step.kind not in WATCHES:
        return keys
    # Nobody checks a server in maint: that it is down there says nothing.
    expected = expected_at(run, run.lbs[0], _place(run.plan.steps, step))
    standing = {
        key
        for key in keys
        if any(
            expected[backend][name]["state"] not in ("maint", "down")
            for backend, name in run.members[key].servers.items()
        )
    }
    return standing or keys


def _brought_in(run: Run, step: Step) -> set[str]:
    steps = run.plan.steps
    for earlier in reversed(steps[: _place(steps, step) + 1]):
        if earlier.kind == "admit":
            return set(earlier.members)
        if earlier.kind == "traffic":
            tracks = {track for track, percent in earlier.shares.items() if percent > 0}
            deployed = {key for each in steps if each.kind == "deploy" for key in each.members}
            keys = {member.key for member in run.plan.members if member.track in tracks}
            return (keys & deployed) or keys
    return {member.key for member in run.plan.members}


def _name(run: Run, step: Step) -> str:
    """What the watched servers are called: their track, or their hosts."""
    keys = _watched_keys(run, step)
    if step.track:
        return step.track
    members = [member for member in run.plan.members if member.key in keys]
    tracks = {member.track for member in members}
    whole = len(tracks) == 1 and all(member.key in keys for member in run.plan.members if member.track in tracks)
    return tracks.pop() or "the fleet" if whole else listed([member.key for member in members])


def _rest_name(run: Run, step: Step) -> str:
    """What the servers are called that are not watched: their track, or the rest."""
    keys = _watched_keys(run, step)
    if step.track == CANARY:
        return STABLE
    others = {member.track for member in run.plan.members if member.key not in keys}
    watched_tracks = {member.track for member in run.plan.members if member.key in keys}
    return others.pop() or "the rest" if len(others) == 1 and not others & watched_tracks else "the rest"


def wanted_share(run: Run, lb_found: Found, step: Step, expected: t.Mapping[str, t.Mapping[str, ServerState]]) -> float:
    """Percent of new traffic that the watched servers should get by the weights told to ``expected``."""
    mine = total = 0.0
    places = set(watched(run, step))
    for backend, servers in expected.items():
        for name, state in servers.items():
            if state["state"] == "ready":
                weight = lb_found[backend][name]["base"] if state["weight"] is None else state["weight"]
                total += weight
                mine += weight if (backend, name) in places else 0
    return 100.0 * mine / total if total else 0.0


def _place(steps: t.Sequence[Step], step: Step) -> int:
    return next(number for number, each in enumerate(steps) if each is step)
