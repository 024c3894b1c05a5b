# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every order of steps, failures, crashes, expiries, rollbacks and reloads that Hypothesis finds, and what holds at each moment.

What works on the load balancers is the real thing, with its files, locks, leases and its guard, and so is every decision of the
controllers. HAProxy and the hosts are simulated, and so are the tasks between them: a controller does one act at a time, can die
between any two, and others come in between.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
import tempfile
import time
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _forward_only, _report
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad
from ansible_collections.steady.rollout.plugins.module_utils._driver import Changed, Reading
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    FORWARD,
    UNDO,
    Run,
    carried,
    end_state,
    how_to_reach,
    result_of,
    tell,
    without,
)
from ansible_collections.steady.rollout.plugins.module_utils._fence import boot_time, looked_at
from ansible_collections.steady.rollout.plugins.module_utils._guard import Guard
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError
from ansible_collections.steady.rollout.plugins.module_utils._preflight import (
    Decision,
    decide,
    planned_on,
    waiting,
)
from ansible_collections.steady.rollout.plugins.module_utils._recovery import back_from
from ansible_collections.steady.rollout.plugins.module_utils._rollout_act import Act, Outdated, perform
from ansible_collections.steady.rollout.plugins.module_utils._rollout_module import DRIVERS
from ansible_collections.steady.rollout.plugins.module_utils._rollout_state import TRANSITIONS, history
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused, Targets
from ansible_collections.steady.rollout.plugins.modules.rollout_info import read_records
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from simulated_rollout import targets

HOSTS = ["web1", "web2", "web3", "web4"]
TRACKS = {host: "blue" if host in HOSTS[:2] else "green" for host in HOSTS}
STRATEGIES: dict[str, dict[str, t.Any]] = {
    "blue_green": {"name": "blue_green", "bake": 300, "live": ""},
    "rolling": {"name": "rolling", "batches": 2, "min_healthy_time": 10},
    "canary": {"name": "canary", "steps": [25, {"pause": {}}, 50], "batches": 1},
}
LEASE = 600.0  # seconds; time passes only where a rule says so
Answers = dict[str, dict[str, t.Any]]
Script = t.Generator[None, None, t.Any]


class Haproxy:
    """One load balancer behind the contract of _driver. A server is UP while its host runs something."""

    def __init__(self, name: str, place: str, up: t.Callable[[str], bool], look: t.Callable[[], None]) -> None:
        self.name, self.state_dir, self.pid = name, os.path.join(place, name), 1
        self._up, self._look = up, look
        self.servers: dict[str, dict[str, t.Any]] = {}

    def carrying(self) -> set[str]:
        return {name for name, one in self.servers.items() if one["state"] == "ready"}

    def lock_name(self, backend: str) -> str:
        return f"{self.state_dir}!{backend}"

    def read(self, backends: t.Sequence[str]) -> Reading:
        servers = [self._told(name) for name in self.servers]
        process = {"pid": self.pid, "version": "3.2", "uptime": 1}
        return Reading(process, True, {"shop": {"servers": servers}}, True, "")

    read_with_survival = read

    def _told(self, name: str) -> dict[str, t.Any]:
        one, up = self.servers[name], self._up(name)
        return {
            **{"name": name, "weight": one["weight"], "initial_weight": 10, "state": one["state"]},
            **{"own_state": one["state"], "agent": False, "backup": False, "address": None, "port": None},
            **{"health": "up" if up else "down", "status": "UP" if up else "DOWN", "settled": up, "last_check": ""},
            **{"sessions": 0, "max_sessions": None, "requests": 0, "errors": {}},
        }

    def check(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> None: ...

    def check_safe(self, safe: t.Mapping[str, t.Any]) -> None: ...

    def change(self, backend: str, servers: t.Sequence[t.Mapping[str, t.Any]]) -> Changed:
        """As haproxy_backend: what gains is UP, what loses comes after it, something is left, or nothing is done."""
        wanted = {one["name"]: one for one in servers}
        before, old = self._told_of(wanted), copy.deepcopy(self.servers)
        gains = [name for name, one in wanted.items() if one.get("state") == "ready"]
        left = (self.carrying() - set(wanted)) | set(gains)
        if any(not self._up(name) for name in gains):
            raise HaproxyError("not UP. Nothing was changed.")
        if self.carrying() and not any(self._up(name) for name in left):
            raise HaproxyError("would leave no healthy server in rotation. Nothing was changed.")
        for name in [*gains, *(name for name in wanted if name not in gains)]:
            self._set(name, wanted[name])
        return Changed(self.servers != old, before, self._told_of(wanted), {"pid": self.pid})

    def restore(self, backend: str, safe: t.Mapping[str, t.Any]) -> Changed:
        """As a restore: what is safe comes in when it is UP, then the others leave, if anything safe carries."""
        before, old, out = self._told_of(safe), copy.deepcopy(self.servers), {}
        for name, one in safe.items():
            if one["state"] == "ready":
                if self._up(name):
                    self._set(name, one)
                else:
                    self._set(name, {"state": "drain"})
                    out[name] = "is DOWN"
        if any(one["state"] == "ready" and name not in out for name, one in safe.items()):
            for name, one in safe.items():
                if one["state"] != "ready" and self.servers[name]["state"] == "ready":
                    self._set(name, {"state": "drain"})
        return Changed(self.servers != old, before, self._told_of(safe), {"pid": self.pid}, out=out)

    def _set(self, name: str, told: t.Mapping[str, t.Any]) -> None:
        self.servers[name].update({key: told[key] for key in ("weight", "state") if told.get(key) is not None})
        self._look()

    def _told_of(self, names: t.Iterable[str]) -> list[dict[str, t.Any]]:
        return [self._told(name) for name in names]


class World:
    """Two load balancers, four hosts, and what must be true of them whenever anything was changed."""

    def __init__(self, strategy: str, place: str) -> None:
        self.strategy = STRATEGIES[strategy]
        self.running: dict[str, str | None] = dict.fromkeys(HOSTS, "1.0.0")  # None: down, in the middle of a deploy
        self.lbs = {name: Haproxy(name, place, self.is_up, self.check) for name in ("lb1", "lb2")}
        idle = HOSTS[2:] if strategy == "blue_green" else []
        for lb in self.lbs.values():
            lb.servers = {host: {"weight": 10, "state": "drain" if host in idle else "ready"} for host in HOSTS}
        self.ids = (f"r{number}" for number in itertools.count(1))
        self.migrates = False  # whether the first host of a release changes what cannot be changed back
        self.migrated: set[str] = set()  # the releases of which that is on record

    def is_up(self, server: str) -> bool:
        return self.running[server] is not None

    def check(self) -> None:
        """Somebody always carries (1), and nobody who is stopped or being changed does (3)."""
        for lb in self.lbs.values():
            assert any(self.is_up(name) for name in lb.carrying()), f"nobody carries on {lb.name}"
            stopped = [name for name in lb.carrying() if not self.is_up(name)]
            assert not stopped, f"{stopped} carry on {lb.name}, and are in deploy"

    def targets(self, action: str, release: str = "", steal: str = "") -> Targets:
        blue_green = self.strategy["name"] == "blue_green"
        own = {host: {"previous": "1.0.0", **({"track": TRACKS[host]} if blue_green else {})} for host in HOSTS}
        return targets(own, action=action, release=release, strategy=self.strategy, steal=steal)

    def answers(self) -> Answers:
        found: Answers = {}
        for name, lb in self.lbs.items():
            told = lb.read(["shop"])._asdict()
            records = {"shop": read_records(lb.state_dir, "shop")}
            found[name] = json.loads(json.dumps({**told, "records": records}))
        return found

    def plan(self, action: str, **given: str) -> tuple[Decision, Answers]:
        """What a run decides to do, and on what it does so. Raises Refused."""
        answers = self.answers()
        return decide(self.targets(action, **given), answers, next(self.ids), HOSTS), answers

    def act(self, rollout_id: str, asked: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        """One call of rollout_act, by way of JSON, and what it returned."""
        options = json.loads(json.dumps(asked))
        lb = self.lbs[options.pop("lb")]
        names = (
            "act",
            "event",
            "take_over",
            "reason",
            "outcome",
            "keep_lock",
            "planned_on",
            "record",
            "results",
            "releases",
            "servers",
        )
        given = {name: options[name] for name in names if options.get(name)}
        ends = options["act"] == "end"
        try:
            done = perform(
                Act(
                    rollout_id=rollout_id,
                    backends=("shop",),
                    state_dir=lb.state_dir,
                    patience=0.0,
                    safe=options.get("safe") or {},
                    lease=LEASE if not ends else options.get("lease"),
                    reach={"provider": "simulated", "place": lb.state_dir},
                    **given,
                ),
                lb,
            )
        except (StateError, HaproxyError) as exc:
            return {
                "item": asked,
                "failed": True,
                "msg": str(exc),
                "abandoned": getattr(exc, "abandoned", ""),
                "outdated": isinstance(exc, Outdated),
            }
        if not ends or options.get("outcome") == "paused":
            with looked_at(lb.state_dir, "shop") as records:
                holder = records.holder() if records else None
            assert holder is not None, "an act without a lock"
            assert (holder.rollout_id, holder.abandoned) == (rollout_id, ""), (
                "an act of a rollout that had lost its lock"
            )
        return {"item": asked, "out": {key: one.out for key, one in done.backends.items() if one.out}}

    def expire(self, name: str) -> None:
        """All leases of a load balancer run out; its guard acts, and acting again changes nothing (5)."""
        lb = self.lbs[name]
        boot, now = boot_time()
        Guard(lb.state_dir, lambda: (boot, now + 2 * LEASE)).look()
        with looked_at(lb.state_dir, "shop") as records:
            holder, lease, safe = (records.holder(), records.lease(), records.safe()) if records else (None, None, None)
        if holder and holder.abandoned and safe:
            before = copy.deepcopy(lb.servers)
            lb.restore("shop", safe["servers"])
            assert lb.servers == before, "a second restore changed something"
        elif lease is not None:
            assert holder is None or holder.abandoned, "the guard left a lease that had run out"


class Controller:
    """One run of a playbook: what the tasks of roles/rollout do, act by act. ``advance`` does the next act."""

    def __init__(self, world: World, decision: Decision, answers: Answers) -> None:
        self._answers = answers
        assert decision.run is not None
        self.world, self.decision, self.run = world, decision, decision.run
        self.fails = False  # the step at hand
        self.outcome = self.message = ""
        self._paused = False
        self._concluded: dict[str, t.Any] = {}
        self._said: list[str] = []  # by the deploys: what cannot be taken back
        self._script = self._play()

    def advance(self) -> bool:
        """Whether there is more to do."""
        try:
            next(self._script)
        except StopIteration:
            return False
        return True

    def finish(self) -> str:
        while self.advance():
            pass
        return self.outcome

    def _tell(self, asked: t.Sequence[t.Mapping[str, t.Any]]) -> t.Generator[None, None, list[dict[str, t.Any]]]:
        answers = []
        for one in asked:
            yield
            answers.append(self.world.act(self.run.rollout_id, one))
            if not bad(answers[-1]) and _forward_only.of_records([{"begin": {}, "events": one.get("results") or ()}]):
                self.world.migrated.add(self.run.plan.release)
        return answers

    def _each(self, **values: t.Any) -> list[dict[str, t.Any]]:
        return [{**how_to_reach(lb), **values} for lb in self.run.lbs]

    def _play(self) -> Script:
        decision, run = self.decision, self.run
        begins = [
            {
                **how_to_reach(lb),
                **{"act": "begin", "take_over": decision.take_over, "reason": decision.reason},
                "planned_on": planned_on(self._answers[lb.name], decision),
                "record": {**decision.begin, "found": lb.found},
                "safe": decision.safe_to_begin(lb),
            }
            for lb in run.lbs
        ]
        failed = [answer for answer in (yield from self._tell(begins)) if bad(answer)]
        outdated = any(answer["outdated"] for answer in failed)
        if failed and (decision.kind == "run" or len(failed) == len(begins) or outdated):
            yield from self._tell(self._each(act="end", outcome="refused"))
            self.outcome = "refused"
        elif decision.kind == "run" and (yield from self._steps(run)) and (yield from self._is_kept()):
            more = carried(self._concluded)
            ends = [{**how_to_reach(lb), "act": "end", "safe": end_state(run, lb), **more} for lb in run.lbs]
            if not self._paused:
                yield from self._tell([{**one, "outcome": decision.outcome} for one in ends])
            self.outcome = "paused" if self._paused else decision.outcome
        else:
            yield from self._way_back()

    def _is_kept(self) -> t.Generator[None, None, bool]:
        """Whether all load balancers know of the pause, if there is one: one that does not would go back alone."""
        if not self._paused:
            return True
        asked = self._each(act="end", outcome="paused", keep_lock=True, lease=LEASE, **carried(self._concluded))
        return not any(bad(answer) for answer in (yield from self._tell(asked)))

    def _steps(self, run: Run) -> t.Generator[None, None, bool]:
        """Whether all steps went well; on the way back what failed is left, and the others go on."""
        lost: set[str] = set()
        problems: list[str] = []
        for index in range(run.first, len(run.plan.steps)):
            now = without(run, sorted(lost))
            step = now.plan.steps[index]
            if run.mode == UNDO and not step.members:
                continue
            told = tell(now, index, False, self._concluded)
            problem = "; ".join(answer["msg"] for answer in (yield from self._tell(told["lbs"])) if bad(answer))
            if not problem:
                for host, what in told["hosts"].items():
                    yield from self._deploy(host, what, run.mode)
            problem = problem or ("the release is bad" if self.fails and run.mode == FORWARD else "")
            said = self._said if step.kind == "deploy" and run.mode == FORWARD else []
            more = {"mode": run.mode, "index": index}
            self._concluded = {**result_of(now, told, problem, forward_only=said), **more}
            if problem:
                problems.append(problem)
                if run.mode == FORWARD:
                    return False
                lost |= set(step.members)
            elif step.kind == "pause" and not told["watch"]:
                self._paused = True
                return True
        self._concluded["problems"] = problems
        return not problems

    def _deploy(self, host: str, what: t.Mapping[str, t.Any], mode: str) -> Script:
        release = what["release"]
        yield
        if what["first"] and self.world.migrates:
            self._said.append(f"the migration of {release}")
        if mode == UNDO and self.decision.kind == "run":
            assert self.run.plan.release not in self.world.migrated, "undone by itself after a migration"
        self.world.running[host] = None
        self.world.check()
        yield
        self.world.running[host] = release

    def _way_back(self) -> Script:
        run, on_failure = self.run, self.decision.on_failure
        restored = yield from self._tell(self._each(act="restore", **carried(self._concluded)))
        self._concluded = {}
        usable = {answer["item"]["lb"] for answer in restored if not bad(answer)}
        answers = {name: answer for name, answer in self.world.answers().items() if name in usable}
        recovery: dict[str, t.Any] = {"steps": [], "problem": "", "words": ""}
        if run.action == "deploy" and (run.forward_only or self._said):
            on_failure, recovery["forward_only"] = "hold", [*run.forward_only, *self._said]
        found = back_from(answers, ["shop"]) if answers and on_failure != "hold" else None
        if on_failure != "hold" and (found is None or found.rollout_id != run.rollout_id):
            recovery["problem"] = "no record"
        elif found is not None:
            back = found.run(run.rollout_id, run.lbs, run.settings, answers, run.addresses)
            if back.plan.steps and len(answers) < len(run.lbs):
                recovery["problem"] = "a load balancer did not answer"
            elif back.plan.steps:
                recovery["steps"] = [{"index": index} for index in range(len(back.plan.steps))]
                yield from self._steps(back)
                self._concluded.setdefault("problems", ["did not come to its end"])
        report = _report.make(run, "it failed", restored, recovery, self._concluded, on_failure)
        more = carried(self._concluded)
        ends = self._each(act="end", outcome=report.outcome, keep_lock=report.keep_lock, **more)
        yield from self._tell([one for one in ends if one["lb"] in report.restored])
        self.outcome, self.message = report.outcome, report.message


class Model(RuleBasedStateMachine):
    """Invariants 1, 3 and 8 are checked at every change; 4 and 5 where leases run out."""

    @initialize(strategy=st.sampled_from(sorted(STRATEGIES)))
    def begin(self, strategy: str) -> None:
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.place = tempfile.mkdtemp(prefix="model-", dir=memory)
        self.world = World(strategy, self.place)
        lbs = {lb.state_dir: lb for lb in self.world.lbs.values()}
        DRIVERS["simulated"] = lambda params, check_mode: lbs[params["place"]]
        self.controllers: list[Controller] = []
        self.refused = ""
        self.releases = (f"{number}.0.0" for number in itertools.count(2))
        self.last_release = "none yet"

    def teardown(self) -> None:
        DRIVERS.pop("simulated", None)
        shutil.rmtree(getattr(self, "place", ""), ignore_errors=True)

    def start(self, action: str, **given: str) -> Decision | None:
        try:
            decision, answers = self.world.plan(action, **given)
        except Refused as exc:
            self.refused = str(exc)
            return None
        if decision.kind != "unchanged":
            self.controllers.append(Controller(self.world, decision, answers))
        return decision

    @precondition(lambda self: len(self.controllers) < 3)
    @rule()
    def release(self) -> None:
        release = next(self.releases)
        decision = self.start("run", release=release)
        if decision is not None and decision.kind == "run":
            self.last_release = release

    @precondition(lambda self: len(self.controllers) < 3)
    @rule(steal=st.sampled_from(["", "it hangs"]))
    def rollback(self, steal: str) -> None:
        self.start("rollback", steal=steal)

    @precondition(lambda self: len(self.controllers) < 3)
    @rule(steal=st.sampled_from(["", "it hangs"]))
    def resume(self, steal: str) -> None:
        self.start("resume", release=self.last_release, steal=steal)

    @precondition(lambda self: len(self.controllers) < 3)
    @rule()
    def promote(self) -> None:
        self.go_on()

    def go_on(self) -> Decision | None:
        """Promote what waits, if anything does."""
        try:
            release = waiting(self.world.targets("status"), self.world.answers())["release"]
        except Refused as exc:
            self.refused = str(exc)
            return None
        return self.start("promote", release=release)

    def complete(self) -> str:
        """How the newest controller comes to its end, promoted whenever it waits."""
        outcome = self.controllers.pop().finish()
        while outcome == "paused":
            assert self.go_on() is not None, self.refused
            outcome = self.controllers.pop().finish()
        return outcome

    @precondition(lambda self: self.controllers)
    @rule(data=st.data(), acts=st.integers(1, 12))
    def advance(self, data: st.DataObject, acts: int) -> None:
        controller = data.draw(st.sampled_from(self.controllers))
        for _act in range(acts):
            if not controller.advance():
                self.controllers.remove(controller)
                return

    @precondition(lambda self: self.controllers)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.controllers)).fails = True

    @precondition(lambda self: self.controllers)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.controllers.remove(data.draw(st.sampled_from(self.controllers)))

    @rule(migrates=st.booleans())
    def migrate(self, migrates: bool) -> None:
        self.world.migrates = migrates

    @rule(name=st.sampled_from(["lb1", "lb2"]))
    def expire(self, name: str) -> None:
        self.world.expire(name)

    @rule(name=st.sampled_from(["lb1", "lb2"]))
    def reload(self, name: str) -> None:
        self.world.lbs[name].pid += 1

    @rule(resumes=st.booleans())
    def all_die(self, resumes: bool) -> None:
        """From any point traffic comes to be safe without a controller (4), and there is a way on."""
        self.controllers.clear()
        for name in self.world.lbs:
            self.world.expire(name)
        self.world.check()
        for lb in self.world.lbs.values():
            with looked_at(lb.state_dir, "shop") as records:
                assert records is None or records.lease() is None, "a lease is left"
                expect_foreseen((records.rollout() if records else None) or {"begin": {}, "events": []})
        if resumes and self.start("resume", release=self.last_release) is not None:
            assert self.complete() == "promoted"
        for _attempt in range(3):
            decision = self.start("rollback")
            assert decision is not None, self.refused
            if decision.kind == "unchanged":
                break
            controller = self.controllers.pop()
            assert controller.finish() == "rolled_back", controller.message
        idle = (
            self.world.strategy["name"] == "blue_green"
        )  # whose hosts are left as they are: the next release replaces it
        assert idle or all(self.world.running.values()), "a host was left stopped"
        one, other = (lb.carrying() for lb in self.world.lbs.values())
        assert one == other, "the load balancers differ"
        assert self.start("run", release=next(self.releases)) is not None, self.refused
        assert self.complete() == "promoted"

    @invariant()
    def traffic_is_safe(self) -> None:
        if hasattr(self, "world"):
            self.world.check()


def expect_foreseen(rollout: t.Mapping[str, t.Any]) -> None:
    """Everything that is on record of a rollout leads from one of its states to another."""
    told = history(rollout)
    for (_before, state), (what, after) in itertools.pairwise(told):
        assert TRANSITIONS[state].get(what) == after, f"{what} in state {state}"


TestModel = Model.TestCase
TestModel.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_clock_that_is_set_neither_ends_nor_prolongs_a_lease(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    model = Model()
    try:
        model.begin("blue_green")
        model.release()
        model.advance(First(model, 0), 3)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + seconds)
        monkeypatch.setattr(time, "gmtime", lambda at=None: time.localtime((real() if at is None else at) + seconds))
        lb = model.world.lbs["lb1"]
        boot, now = boot_time()
        for clock, expected in (
            (lambda: (boot, now + LEASE - 60), ""),
            (lambda: (boot, now + LEASE + 60), "lease"),
        ):
            Guard(lb.state_dir, clock).look()
            with looked_at(lb.state_dir, "shop") as records:
                holder = records.holder() if records else None
            assert holder is not None
            assert expected in holder.abandoned
            assert bool(expected) == bool(holder.abandoned)
    finally:
        model.teardown()


class First:
    """Stands in for what Hypothesis draws: the controller of a number."""

    def __init__(self, model: Model, number: int) -> None:
        self._model, self._number = model, number

    def draw(self, _strategy: object) -> Controller:
        return self._model.controllers[self._number]


ORDERS = {
    "died before it began on the second load balancer": ["blue_green", "release", (0, 2)],
    "went on to deploy after the way back was planned": ["rolling", "release", (0, 4), "rollback", (0, 6), (1, 4)],
    "a way back died before it began on the second load balancer": [
        *["rolling", "release", (0, 6), "rollback", (1, 2)],
    ],
    "frozen in the last step, and promoted on one load balancer only": ["rolling", "release", (0, 30), "lb1", (0, 7)],
    "ended after the way back was planned": ["blue_green", "release", (0, 12), "rollback", (0, 20), (0, 5)],
    "planned before another one was promoted": ["blue_green", "release", "release", (1, 40), (0, 3)],
}


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_orders_that_once_left_no_way_on(order: list[t.Any], resumes: bool) -> None:
    """A pair is a controller and the acts that it does; a load balancer's name, that its leases expire."""
    model = Model()
    try:
        model.begin(order[0])
        for what in order[1:]:
            if isinstance(what, tuple):
                if what[0] < len(model.controllers):
                    model.advance(First(model, what[0]), what[1])
            elif what in model.world.lbs:
                model.expire(what)
            elif what == "rollback":
                model.rollback("it hangs")
            else:
                model.release()
        model.all_die(resumes)
    finally:
        model.teardown()


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
@pytest.mark.parametrize(("way", "outcome"), [("resume", "promoted"), ("rollback", "rolled_back")])
def test_a_release_that_fails_after_a_migration_is_held_until_somebody_decides(
    strategy: str, way: str, outcome: str
) -> None:
    model = Model()
    try:
        model.begin(strategy)
        model.migrate(True)
        model.release()
        controller = model.controllers.pop()
        while not model.world.migrated:
            assert controller.advance()
        controller.fails = True
        assert controller.finish() == "paused"
        assert "the migration of 2.0.0 cannot be taken back" in controller.message
        assert "2.0.0" in model.world.running.values()
        assert model.start(way, release=model.last_release) is not None, model.refused
        assert model.complete() == outcome
    finally:
        model.teardown()
