# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo itself: a fleet, a load that never stops, and a release by ansible-playbook, told as it goes."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
import typing as t

from demo import cli, faults, view
from demo.story import Story
from local_fleet import supervisor
from local_fleet.fleet import Fleet
from local_fleet.layout import Options
from local_fleet.load import Load, Profile
from local_fleet.supervisor import FleetError
from local_fleet.tally import classify
from runner import processes

HERE = pathlib.Path(__file__).resolve().parent
RUN_SECONDS = 420.0
LOOK_SECONDS = 0.4
FIGURES_SECONDS = 5.0
RATE = 300.0  # requests/s to each load balancer, where the machine can
REST_SECONDS = 3.0
NICE = 5
TRACKS = {**{f"web{n}": "blue" for n in (1, 2, 3)}, **{f"web{n}": "green" for n in (4, 5, 6)}}
# What suits minutes of a demo; a rollout of one's own takes the defaults.
SETTINGS: dict[str, t.Any] = {
    "canary_steps": [10, 40],
    "canary_step_for": 8,
    "canary_step_max": 60,
    "canary_batches": 3,
    "canary_max_unavailable": 3,
    "canary_min_healthy_time": 4,
    "blue_green_bake": 12,
    "rolling_batches": [1, 2, 3],
    "rolling_max_unavailable": 3,
    "rolling_min_healthy_time": 4,
    # A coarser tolerance than the default one: its verdicts take a minute instead of some.
    "rollout_analysis": faults.ANALYSIS,
    "rollout_probe": {"path": "/health", "interval": 0.2, "rise": 3, "timeout": 1},
}

Command = t.Sequence[str]


class Scene:
    """A fleet under load, and what is told of it on standard output."""

    def __init__(self, fleet: Fleet, load: Load) -> None:
        self._fleet = fleet
        self._load = load
        # The load has begun before.
        self._start = time.monotonic() - (time.time() - load.records()[0].due)
        self._seen = 0
        self._recent = view.Traffic()
        self._recent_since = self._start
        self._total = view.Traffic()
        self._places = ""

    def say(self, text: str) -> None:
        """One line, with the seconds since the load began."""
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", flush=True)

    def look(self) -> None:
        """Tell what has changed, and now and then how the load fares."""
        self._count()
        places = view.places(self._sight())
        if places != self._places:
            self._places = places
            self.say(f"  [{places}]")
        if time.monotonic() - self._recent_since >= FIGURES_SECONDS:
            self.figures()

    def figures(self) -> None:
        """Tell which release answers how much, since the last time this was told."""
        now = time.monotonic()
        self.say(f"  [{view.figures(self._recent, now - self._recent_since, self._total)}]")
        self._recent, self._recent_since = view.Traffic(), now

    def harm(self, release: str) -> str:
        """What a release did to requests, and for how long: from the first one it harmed to when it got no more."""
        incidents, terms = self._fleet.incidents(), self._load.terms
        records = self._load.records()
        told = [(record, classify(record, incidents, terms)) for record in records]
        return view.harm(release, [(record.due, outcome) for record, outcome in told])

    def _sight(self) -> view.Sight:
        status = self._fleet.status()
        return view.Sight(
            carrying={lb: view.carrying(self._fleet.servers(lb)) for lb in self._fleet.load_balancers},
            releases={
                host: status[host]["release"] if status[host]["running"] else None for host in self._fleet.app_hosts
            },
        )

    def _count(self) -> None:
        records = self._load.records()
        incidents = self._fleet.incidents()
        for record in records[self._seen :]:
            outcome = classify(record, incidents, self._load.terms)
            self._recent.add(record, outcome)
            self._total.add(record, outcome)
        self._seen = len(records)


class Ansible:
    """A run of ansible-playbook, whose events are told while it goes on."""

    def __init__(self, command: Command, folder: pathlib.Path) -> None:
        self.story = Story()
        # The events come on standard output alone; warnings are for the person as they are.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=folder,
            env={
                **os.environ,
                "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
                "ANSIBLE_STDOUT_CALLBACK": "events",
                "ANSIBLE_PIPELINING": "1",
                "ANSIBLE_RETRY_FILES_ENABLED": "0",
            },
            start_new_session=True,
            preexec_fn=functools.partial(_yield_to_the_load, os.getpid()),
        )

    def __enter__(self) -> Ansible:
        return self

    def __exit__(self, *_exc: object) -> None:
        processes.stop_group(self._process)

    def follow(self, scene: Scene, seconds: float) -> int:
        """Tell what it does until it ends; return its exit code. Raises FleetError after some seconds."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        output = self._process.stdout.fileno()
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while time.monotonic() < end:
                if selector.select(LOOK_SECONDS):
                    data = os.read(output, 65536)
                    if not data:
                        return self._process.wait(max(0.0, end - time.monotonic()))
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._tell(line.decode(errors="replace"), scene)
                scene.look()
        raise FleetError(f"ansible-playbook did not end in {seconds:g} s.")

    def _tell(self, line: str, scene: Scene) -> None:
        try:
            told = self.story.lines(json.loads(line))
        except ValueError:
            told = [line]  # a word of Ansible's own
        for words in told:
            scene.say(words)


def _yield_to_the_load(parent: int) -> None:
    """A controller is a machine of its own; here it must not take the CPU from the load balancers and the load."""
    os.nice(NICE)
    supervisor.die_with_parent(signal.SIGTERM, parent)


def write_settings(act: cli.Act, folder: pathlib.Path) -> pathlib.Path:
    """The file of extra variables."""
    path = folder / "settings.json"
    broken = {} if act.good else faults.fault(act.fault, act.strategy).variables
    behaviours = {} if act.good else {act.release: faults.fault(act.fault, act.strategy).behaviour}
    path.write_text(json.dumps({**SETTINGS, **broken, "fleet_behaviours": behaviours}, indent=1))
    return path


def perform(act: cli.Act, scene: Scene, fleet: Fleet, workspace: pathlib.Path) -> str | None:
    """Roll out one release and tell how it goes; return the outcome."""
    kind = "a good release" if act.good else f"a bad release: {faults.fault(act.fault, act.strategy).words}"
    print(f"\n== {act.release}, {act.strategy}, {kind}")
    wanted = [f"steady.rollout.{act.strategy}", "-e", "rollout_hosts=app", "-e", f"rollout_release={act.release}"]
    settings = write_settings(act, workspace)
    print(f"$ ansible-playbook -i inventory {shlex.join(wanted)}   (and short times, for a demo)\n", flush=True)
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    command = [program, "-i", fleet.inventory(), *wanted, "-e", f"@{settings}"]
    with Ansible(command, workspace) as ansible:
        code = ansible.follow(scene, RUN_SECONDS)
        outcome = ansible.story.outcome
    scene.look()
    scene.say(f"ansible-playbook ended with exit code {code}, outcome {outcome}")
    return outcome if (code == 0) == (outcome in ("promoted", "unchanged")) else f"{outcome} with exit code {code}"


def verdict(acts: t.Sequence[cli.Act], outcomes: t.Sequence[str | None], lost: int) -> tuple[list[str], int]:
    """The last lines, one for each release, and the exit code of the demo."""
    lines = [f"release {act.release}: {_words(outcome)}" for act, outcome in zip(acts, outcomes)]
    right = all(act.wanted == outcome for act, outcome in zip(acts, outcomes))
    return lines, 0 if right and len(outcomes) == len(acts) and not lost else 1


def _words(outcome: str | None) -> str:
    return (outcome or "no outcome").replace("_", " ")


def profile_of(fleet: Fleet) -> Profile:
    """The load, at the rate that it should have."""
    if fleet.keeps_idle_connections:
        return Profile(rate=RATE)
    return Profile(rate=RATE, new_connections=1.0)


def affordable_rate(fleet: Fleet, profile: Profile) -> float:
    """The rate, to each load balancer, that leaves the processors to Ansible.

    A load that falls behind tells of the machine, and nothing of a rollout.
    """
    with Load(fleet, profile):
        before = _processors()
        time.sleep(REST_SECONDS)
        busy = view.busy(before, _processors())
    return view.affordable(RATE, busy)


def _processors() -> list[int]:
    """What the processors did since the machine started, as /proc/stat counts it."""
    return [int(number) for number in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]


def show(acts: t.Sequence[cli.Act], workspace: pathlib.Path) -> int:
    """Do all of it; return the exit code. Raises FleetError."""
    tracks = TRACKS if any(act.strategy == "blue_green" for act in acts) else {}
    outcomes: list[str | None] = []
    apps = min(faults.APPS if act.good else faults.fault(act.fault, act.strategy).apps for act in acts)
    options = Options(apps=apps, lb=acts[0].lb, release=cli.FIRST_RELEASE, tracks=tracks)
    with Fleet(options, directory=str(workspace / "fleet")) as fleet:
        for host in (host for host, track in tracks.items() if track == "green"):
            fleet.set_state(host, "drain")
        print(
            f"the fleet runs on 127.{fleet.layout.number}.0.0/24: lb1 and lb2 in front of {view.short(fleet.app_hosts)}"
        )
        profile = profile_of(fleet)
        profile = dataclasses.replace(profile, rate=affordable_rate(fleet, profile))
        with Load(fleet, profile) as load:
            print(f"the load runs: {2 * profile.rate:.0f} requests/s, and none is repeated")
            if profile.new_connections == 1:
                print("each has a connection of its own, as a reload of this NGINX closes those that clients keep open")
            scene = Scene(fleet, load)
            for act in acts:
                outcomes.append(perform(act, scene, fleet, workspace))
        summary = load.summary()
        harms = [scene.harm(act.release) for act in acts if not act.good]
    for example in summary.examples[:3] if summary.lost else ():
        print(f"lost: {example['request_id']} on {example['lb']}: {example['cause']}")
    if summary.starved:
        print(
            f"this machine was too busy: 1 % of the requests were sent more than {summary.lateness.p99 / 1000:.1f} s late"
        )
    lines, code = verdict(acts, outcomes, summary.lost)
    print("\n".join(["", *harms, *lines, summary.line()]), flush=True)
    return code


def main() -> int:
    workspace = pathlib.Path(sys.argv[1])
    # Whatever ends it, it cleans up.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _interrupt)
    processes.adopt_orphans()
    try:
        return show(cli.parse(sys.argv[2:]), workspace)
    except FleetError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything is stopped", file=sys.stderr)
        return 130
    finally:
        processes.stop_orphans(keep=())
        shutil.rmtree(workspace, ignore_errors=True)


def _interrupt(_number: int, _frame: object) -> None:
    # Once: what cleans up must not be interrupted in turn.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
