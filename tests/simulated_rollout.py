# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet and its load balancers in memory: what a rollout's tasks do, without tasks, so that it can be killed anywhere."""

from __future__ import annotations

import copy
import itertools
import json
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _journal, _preflight, _targets
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._canary import (
    Ramp,
    canary_in_place,
    canary_side_by_side,
    read_stages,
)
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    FORWARD,
    LoadBalancer,
    Run,
    Settings,
    carried,
    end_state,
    how_to_reach,
    result_of,
    safe_at,
    tell,
)
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Plan, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._preflight import Decision
from ansible_collections.steady.rollout.plugins.module_utils._recovery import Recovery, back_from
from ansible_collections.steady.rollout.plugins.module_utils._rolling import rolling
from ansible_collections.steady.rollout.plugins.module_utils._steps import parse_steps
from ansible_collections.steady.rollout.plugins.module_utils._strategies import part_of_traffic
from ansible_collections.steady.rollout.plugins.module_utils._targets import Play, Targets
from hypothesis import assume, reject
from hypothesis import strategies as st

OLD, NEW = "1.0.0", "2.0.0"
DEPLOY_KEY = "role:shop.release"
CONTROL: dict[str, t.Any] = {
    "action": "run",
    "release": NEW,
    "load_balancers": ["lb1", "lb2"],
    "absent_lbs": [],
    "backend": "shop",
    "strategy": {"name": "rolling", "batches": 1, "min_healthy_time": 10},
    "steps": None,
    "deploy": {"role": "shop.release"},
    "analysis": {},
    "probe": {"path": "/health"},
    "drain_timeout": 30,
    "on_drain_timeout": "fail",
    "on_restart": "reassert",
    "health_timeout": 30,
    "healthy_deadline": "5m",
    "allow_unchecked": False,
    "min_capacity": 0,
    "headroom": 0,
    "share_tolerance": 5,
    "lb_timeout": 30,
    "lease_seconds": 120,
    "deploy_timeout": 1800,
    "guard": "auto",
    "steal": "",
    "lock_wait": 0,
    "pause_timeout": "24h",
    "pause_policy": "rollback",
    "full": False,
    "unpersisted": False,
    "force": False,
}


JUDGE = {**_targets.JUDGE, "further": {}, "min_requests": 50}


class Killed(Exception):
    """The controller died at the point that was asked for."""


def settings(**changes: t.Any) -> Settings:
    known: dict[str, t.Any] = {
        "drain_timeout": 30.0,
        "on_drain_timeout": "fail",
        "on_restart": "reassert",
        "health_timeout": 30.0,
        "healthy_deadline": 300.0,
        "progress_deadline": 0.0,
        "allow_unchecked": False,
        "min_capacity": 0.0,
        "headroom": 0.0,
        "share_tolerance": 5.0,
        "lb_timeout": 30.0,
        "lease": 120.0,
        "deploy_lease": 1800.0,
        "guard": "auto",
        "interval": 10.0,
        "max_error_rate": 5.0,
        "min_requests": 50,
        "limits_canary": False,
        "inconclusive": "rollback",
        "judge": JUDGE,
        "pause_lease": 86400.0,
        "probe": {"path": "/health", "rise": 3},
    }
    return Settings(**{**known, **changes})


def play(hosts: t.Sequence[str], **changes: t.Any) -> Play:
    known: dict[str, t.Any] = {
        "hosts": tuple(hosts),
        "alive": tuple(hosts),
        "batch": tuple(hosts),
        "strategy": "linear",
        "inherited": (),
        "limit": None,
        "extra_vars": frozenset(),
        "inventory": frozenset([*hosts, "lb1", "lb2"]),
        "check_mode": False,
    }
    return Play(**{**known, **changes})


def reach(*lbs: str) -> dict[str, dict[str, str]]:
    return {
        lb: {"provider": "haproxy", "socket": f"/run/{lb}.sock", "config": f"/etc/{lb}", "state_dir": f"/var/{lb}"}
        for lb in lbs
    }


def targets(own: t.Mapping[str, t.Mapping[str, t.Any]], **control: t.Any) -> Targets:
    """What the checks before any load balancer is asked make of the variables, after a way through JSON."""
    made = _targets.make_targets(play(list(own)), {**CONTROL, **control}, own, reach("lb1", "lb2"))
    return Targets.from_dict(json.loads(json.dumps(made.as_dict())))


def fleet(count: int, tracks: str = "") -> list[Member]:
    """web1, web2, ...; ``tracks``: a letter for each, b for blue and g for green."""
    names = {"b": "blue", "g": "green"}
    return [
        Member(f"web{i}", f"web{i}", names.get(tracks[i - 1 : i], ""), {"shop": f"web{i}"}) for i in range(1, count + 1)
    ]


def server(state: str = "ready", weight: int = 10, agent: bool = False, **other: t.Any) -> dict[str, t.Any]:
    """A server as a rollout finds it."""
    return {
        "weight": weight,
        "state": state,
        "base": weight or 10,
        "agent": agent,
        "address": None,
        "port": None,
        **other,
    }


def make_run(
    members: t.Sequence[Member],
    steps: t.Sequence[Step],
    found: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]] | None = None,
    lbs: t.Sequence[str] = ("lb1",),
    **changes: t.Any,
) -> Run:
    """A run of ``steps`` on load balancers that all have ``found``: all in rotation where nothing is said."""
    backends = tuple(dict.fromkeys(backend for member in members for backend in member.servers))
    states = found or {
        backend: {member.servers[backend]: server() for member in members if backend in member.servers}
        for backend in backends
    }
    known: dict[str, t.Any] = {
        "rollout_id": "r1",
        "mode": FORWARD,
        "action": "deploy",
        "plan": Plan("custom", NEW, backends, tuple(members), tuple(steps)),
        "lbs": tuple(
            LoadBalancer(lb, "haproxy", f"/run/{lb}.sock", f"/etc/{lb}", f"/var/{lb}", copy.deepcopy(dict(states)))  # type: ignore[arg-type]
            for lb in lbs
        ),
        "settings": settings(),
        "releases": dict.fromkeys((member.key for member in members), NEW),
        "previous": dict.fromkeys((member.key for member in members), OLD),
        "deploy_key": DEPLOY_KEY,
    }
    return Run(**{**known, **changes})


def carrying(states: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> set[tuple[str, str]]:
    """(backend, server) of those that take new requests; of a weight that is None it cannot be known, so they do."""
    return {
        (backend, name)
        for backend, servers in states.items()
        for name, told in servers.items()
        if told["state"] == "ready" and (told["weight"] is None or told["weight"] > 0 or told.get("agent"))
    }


class SimulatedLb:
    """A load balancer whose servers are always UP, with what is recorded on it."""

    def __init__(self, name: str, found: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]) -> None:
        self.name = name
        self.servers: dict[str, dict[str, dict[str, t.Any]]] = {
            backend: {server: dict(told) for server, told in servers.items()} for backend, servers in found.items()
        }
        self.journal: dict[str, list[dict[str, t.Any]]] = {backend: [] for backend in found}
        self.safe: dict[str, dict[str, t.Any]] = {}
        self.lock: dict[str, str | None] = dict.fromkeys(found)
        self.releases: dict[str, dict[str, dict[str, str]]] = {backend: {} for backend in found}
        self._clock = itertools.count()

    def info(self) -> dict[str, t.Any]:
        """What rollout_info returns."""
        return {
            "admin": True,
            "survives_reload": True,
            "survives_reload_reason": "",
            "process": {"pid": 1, "version": "3.2", "uptime": 1},
            "backends": {
                backend: {"servers": [self._told(name, one) for name, one in servers.items()]}
                for backend, servers in self.servers.items()
            },
            "records": {
                backend: {
                    "lock": {"rollout_id": self.lock[backend], "since": "", "who": {}} if self.lock[backend] else None,
                    "rollout": json.loads(json.dumps(_journal.fold(self.journal[backend]))),
                    "releases": copy.deepcopy(self.releases[backend]),
                    "problem": None,
                }
                for backend in self.servers
            },
        }

    def _told(self, name: str, one: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        return {
            "name": name,
            "weight": one["weight"],
            "initial_weight": one["base"],
            "state": one["state"],
            "own_state": one["state"],
            "agent": one["agent"],
            "backup": False,
            "address": one["address"],
            "port": one["port"],
            # In maint nobody checks it.
            "health": "down" if one["state"] == "maint" else "up",
            "status": "MAINT" if one["state"] == "maint" else "UP",
            "sessions": 0,
            "max_sessions": None,
            "requests": 0,
            "errors": {},
        }

    def states(self) -> dict[str, dict[str, dict[str, t.Any]]]:
        return {
            backend: {
                name: {"weight": one["weight"], "state": one["state"], "agent": one["agent"]}
                for name, one in servers.items()
            }
            for backend, servers in self.servers.items()
        }

    def act(self, rollout_id: str, asked: t.Mapping[str, t.Any]) -> None:
        """One call of rollout_act, by way of JSON."""
        asked = json.loads(json.dumps(asked))
        backends = asked["backends"]
        assert asked["act"] == "begin" or all(self.lock[backend] == rollout_id for backend in backends)
        self.safe.update(asked.get("safe") or {})
        for backend, seen in (asked.get("releases") or {}).items():
            for name, releases in seen.items():
                self.releases[backend].setdefault(name, {}).update(releases)
        for result in asked.get("results") or ():
            for backend in backends:
                self._write(backend, "result", rollout_id, result)
        getattr(self, f"_{asked['act']}")(rollout_id, asked)

    def _begin(self, rollout_id: str, asked: t.Mapping[str, t.Any]) -> None:
        for backend in asked["backends"]:
            assert self.lock[backend] in (None, *asked.get("take_over", ())), "another rollout holds it"
            self._write(backend, "begin", rollout_id, asked["record"])
            self.lock[backend] = rollout_id

    def _note(self, rollout_id: str, asked: t.Mapping[str, t.Any]) -> None:
        for backend in asked["backends"]:
            self._write(backend, asked["event"], rollout_id, asked["record"])

    def _shift(self, rollout_id: str, asked: t.Mapping[str, t.Any]) -> None:
        for backend, servers in asked["servers"].items():
            self._write(backend, "intent", rollout_id, {**asked["record"], "act": "shift", "servers": servers})
            for told in servers:
                self.servers[backend][told["name"]].update({k: told[k] for k in ("weight", "state") if k in told})

    def _restore(self, rollout_id: str, asked: t.Mapping[str, t.Any]) -> None:
        for backend in asked["backends"]:
            self._write(backend, "intent", rollout_id, {**asked.get("record", {}), "act": "restore"})
            safe = self.safe[backend]
            for name, told in safe.items():
                if told["state"] == "ready":
                    weight = {} if told["weight"] is None else {"weight": told["weight"]}
                    self.servers[backend][name].update(state="ready", **weight)
            if carrying({backend: safe}):
                for name, told in safe.items():
                    if told["state"] != "ready" and self.servers[backend][name]["state"] == "ready":
                        self.servers[backend][name]["state"] = "drain"

    def _end(self, rollout_id: str, asked: t.Mapping[str, t.Any]) -> None:
        for backend in asked["backends"]:
            self._write(backend, "end", rollout_id, {**asked.get("record", {}), "outcome": asked["outcome"]})
            if not asked.get("keep_lock"):
                self.lock[backend] = None

    def _write(self, backend: str, event: str, rollout_id: str, payload: t.Mapping[str, t.Any]) -> None:
        at = f"2026-01-01T00:00:{next(self._clock):06d}Z"
        frame = {"seq": len(self.journal[backend]) + 1, "rollout": rollout_id, "at": at, "boot": [], "event": event}
        self.journal[backend].append({**frame, **payload})


class World:
    """The load balancers, and what runs on the members. ``kill_at``: the act before which the controller dies."""

    def __init__(self, run: Run, kill_at: int | None = None) -> None:
        self.lbs = {lb.name: SimulatedLb(lb.name, lb.found) for lb in run.lbs}
        self.running = {member.key: OLD for member in run.plan.members}
        self.kill_at = kill_at
        self.acts = 0
        self.concluded: dict[str, t.Any] = {}  # of the last step, for the next act
        self.says = ""  # what the first host says that it did and that cannot be taken back
        self.watchers: list[t.Callable[[], None]] = []

    def survive(self) -> None:
        """Count an act, and die before it when it is the one."""
        for watcher in self.watchers:
            watcher()
        if self.acts == self.kill_at:
            raise Killed
        self.acts += 1

    def answers(self) -> dict[str, t.Any]:
        return {name: lb.info() for name, lb in self.lbs.items()}

    def tell(self, run: Run, asked: t.Sequence[t.Mapping[str, t.Any]]) -> None:
        for one in asked:
            self.survive()
            self.lbs[one["lb"]].act(run.rollout_id, one)

    def begin(self, run: Run, begin: t.Mapping[str, t.Any], take_over: t.Sequence[str] = ()) -> None:
        """``begin``: what Decision says of it. A rollout that is taken over keeps its safe state."""
        for lb in run.lbs:
            record = {"record": {**begin, "found": lb.found}, "safe": None if take_over else safe_at(run, lb, -1)}
            self.tell(run, [{**how_to_reach(lb), **record, "act": "begin", "take_over": take_over}])

    def take(self, run: Run, index: int) -> None:
        """One step, as the tasks of the role take it."""
        told = tell(run, index, False, self.concluded)
        self.tell(run, told["lbs"])
        self.concluded = {}
        for asked in told["hosts"].values():
            self.survive()
            self.running[asked["member"]] = asked["release"]
        said = [self.says] if self.says and any(asked["first"] for asked in told["hosts"].values()) else []
        self.concluded = result_of(run, told, "", forward_only=said)

    def carry_out(self, run: Run) -> None:
        for index in range(run.first, len(run.plan.steps)):
            self.take(run, index)

    def end(self, run: Run, outcome: str) -> None:
        for lb in run.lbs:
            safe = end_state(run, lb) if run.mode == FORWARD else {}
            asked = {**how_to_reach(lb), "act": "end", "outcome": outcome, "safe": safe, **carried(self.concluded)}
            self.tell(run, [asked])

    def roll_out(self, run: Run, begin: t.Mapping[str, t.Any]) -> None:
        self.begin(run, begin)
        self.carry_out(run)
        self.end(run, "promoted")

    def restore(self, run: Run) -> None:
        self.tell(run, [{**how_to_reach(lb), "act": "restore", **carried(self.concluded)} for lb in run.lbs])
        self.concluded = {}

    def hold(self, run: Run, outcome: str = "paused") -> None:
        """What the rescue of a rollout does that may not be undone."""
        self.restore(run)
        for lb in run.lbs:
            self.tell(run, [{**how_to_reach(lb), "act": "end", "outcome": outcome, "keep_lock": True}])

    def rescue(self, run: Run) -> Run:
        """What the rescue of a rollout does; returns the way back that it went."""
        self.restore(run)
        back = self.recovery(run.plan.backends).run(
            run.rollout_id, run.lbs, run.settings, self.answers(), run.addresses
        )
        self.carry_out(back)
        self.end(back, "rolled_back")
        return back

    def take_back(self, decision: Decision) -> Run:
        """What a run of the rollback playbook does with a rollout that another run left."""
        assert decision.kind == "recover"
        assert decision.run is not None
        self.begin(decision.run, decision.begin, decision.take_over)
        return self.rescue(decision.run)

    def recovery(self, backends: t.Sequence[str]) -> Recovery:
        found = back_from(self.answers(), backends)
        assert found is not None
        return found


def begin_of(run: Run) -> dict[str, t.Any]:
    """The record that a run begins with, where ``decide`` was not asked."""
    keys = [
        member.key
        for member in run.plan.members
        if any(place in carrying(lb.found) for lb in run.lbs for place in member.servers.items())
    ]
    return _preflight._begin(run, keys)


# ---------------------------------------------------------------------------------------------------------------------
# runs for properties

STATES = st.builds(
    server,
    state=st.sampled_from(["ready", "ready", "ready", "drain", "maint"]),
    weight=st.sampled_from([0, 1, 10, 256]),
    agent=st.booleans(),
)
SIZES = st.sampled_from([1, 2, "50%", [1, "100%"]])


@st.composite
def members(draw: st.DrawFn, tracks: str = "") -> list[Member]:
    """Members that serve one or two backends, and not always both."""
    made = fleet(draw(st.integers(2, 5)))
    found = []
    for number, member in enumerate(made):
        backends = draw(st.sampled_from([["shop"], ["shop"], ["api", "shop"], ["api"]])) if number else ["shop"]
        track = draw(st.sampled_from(tracks.split(","))) if number > 1 else tracks.split(",")[min(number, 1)]
        found.append(member._replace(servers=dict.fromkeys(backends, member.host), track=track))
    return found


def states(draw: st.DrawFn, fleet_of: t.Sequence[Member]) -> dict[str, dict[str, dict[str, t.Any]]]:
    found: dict[str, dict[str, dict[str, t.Any]]] = {}
    for member in fleet_of:
        for backend, name in member.servers.items():
            found.setdefault(backend, {})[name] = draw(STATES)
    return found


@st.composite
def rolling_runs(draw: st.DrawFn) -> Run:
    made = draw(members(tracks=","))
    steps = rolling(made, draw(SIZES), None, draw(st.sampled_from([0, 10])), False)
    return make_run(made, steps, states(draw, made), lbs=["lb1", "lb2"])


@st.composite
def blue_green_runs(draw: st.DrawFn) -> Run:
    made = draw(members(tracks="blue,green"))
    blue, green = ([one for one in made if one.track == colour] for colour in ("blue", "green"))
    return make_run(made, blue_green(blue, green, draw(st.sampled_from([0, 300]))), states(draw, made))


STAGES: st.SearchStrategy[tuple[t.Any, ...]] = st.sampled_from(
    [(5,), (25, 50), (10, {"pause": {}}, 40), (30, {"pause": {"for": 60}})]
)


@st.composite
def canary_runs(draw: st.DrawFn) -> Run:
    """In place, or side by side."""
    ramp = Ramp(read_stages(draw(STAGES)), 60.0, 120.0, draw(SIZES), "50%", draw(st.sampled_from([0.0, 10.0])))
    if draw(st.booleans()):
        made = draw(members(tracks="blue,green"))
        blue, green = ([one for one in made if one.track == colour] for colour in ("blue", "green"))
        steps, found = canary_side_by_side(blue, green, ramp), states(draw, made)
    else:
        made = draw(members(tracks=","))
        found = states(draw, made)
        due = draw(st.sets(st.sampled_from([member.key for member in made]), min_size=1))
        try:
            steps = canary_in_place(made, due, part_of_traffic(made, reading_of(found)), 1, ramp)
        except PlanError:
            reject()
    return make_run(made, steps, found, lbs=["lb1", "lb2"])


def reading_of(found: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """What the load balancers tell of servers as found."""
    servers = {
        backend: {"servers": [{**one, "name": name, "backup": False} for name, one in told.items()]}
        for backend, told in found.items()
    }
    return {"lb1": {"backends": servers}}


@st.composite
def custom_runs(draw: st.DrawFn) -> Run:
    """A plan of a user's own: steps that parse_steps lets in one after the other."""
    made = draw(members(tracks="blue,green"))
    found = states(draw, made)
    names = ["blue", "green", *(member.host for member in made)]
    on_members = st.builds(
        lambda kind, name: {kind: name},
        st.sampled_from(["deploy", "probe", "drain", "admit", "probe", "admit"]),
        st.sampled_from(names),
    )
    moves = st.sampled_from([0, 5, 50, 100]).map(lambda percent: {"traffic": {"green": percent}})
    waits = st.sampled_from([{"analyse": {"for": 5}}, {"pause": {"for": 5}}])
    carried = {one.key for one in made if any(place in carrying(found) for place in one.servers.items())}
    raw: list[t.Any] = []
    for step in draw(st.lists(on_members | moves | waits, min_size=4, max_size=14)):
        try:
            parse_steps([*raw, step], made, carried)
            raw.append(step)
        except PlanError:
            continue
    assume(raw)
    return make_run(made, parse_steps(raw, made, carried), found)


RUNS = rolling_runs() | blue_green_runs() | canary_runs() | custom_runs()
