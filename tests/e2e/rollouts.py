# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts on a local fleet, run by ansible-playbook as a person does, and what shows how they went."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import typing as t

from local_fleet.fleet import Fleet
from local_fleet.layout import DEPLOY, LOAD_BALANCERS, Options
from local_fleet.load import Balancers, Load, Loadable, Profile
from local_fleet.supervisor import descendants, send
from local_fleet.tally import Summary, Terms

HERE = pathlib.Path(__file__).resolve().parent
RUN_SECONDS = 480.0
# The load must not be late because Ansible is busy: a late request would look like a slow one.
NICENESS = 5
REQUESTS = 12  # of a look at who answers: more than a round of a balancer
SAMPLE_SECONDS = 0.02
# What a rollout takes as a person has it, in seconds that suit a test.
QUICK: dict[str, t.Any] = {
    "rollout_probe": {"path": "/health", "interval": 0.1, "rise": 2, "timeout": 1},
    "rollout_drain_timeout": 15,
    "rollout_health_timeout": 6,
    "rollout_healthy_deadline": 4,
    "rollout_analysis": {"interval": 0.3, "max_error_rate": 5, "min_requests": 20},
    "blue_green_bake": 2,
    "rolling_healthy_deadline": 4,
    "rolling_max_unavailable": "50%",
    "rolling_min_healthy_time": 1,
    "canary_steps": [10, 25],
    "canary_step_for": 2,
    "canary_step_max": 20,
    "canary_max_unavailable": "50%",
    "canary_min_healthy_time": 1,
}
# What a pass can be shown of in some seconds of a gentle load.
COARSE: dict[str, t.Any] = {"interval": 0.5, "min_requests": 20, "tolerance": {"ratio": 2, "delta": 0.05}}
COLOURS = {"web1": "blue", "web2": "blue", "web3": "green", "web4": "green"}
GENTLE = 40.0  # requests/s to each load balancer: enough to judge a release by

# The local fleet's deploy, as a task of a test's own.
RELEASE: dict[str, t.Any] = {"name": "Run the release", "ansible.builtin.include_tasks": str(DEPLOY)}

# The environment of a `Running`, in which Ansible notes what it did.
RECORDING = {
    "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback_plugins"),
    "ANSIBLE_CALLBACKS_ENABLED": "rollout_record",
    "ANSIBLE_NOCOLOR": "1",
}

Play = t.Mapping[str, t.Any]
Condition = t.Callable[[str], bool]


# ---------------------------------------------------------------------------------------------------------------------
# Who can be reached


class Gate:
    """Decides, whenever Ansible is about to use its connection to a host, whether the host can be reached.

    `at` has something done at a moment: the first time that its condition holds for a host about to be used.
    `uses` and `acts` grow with every use; their last items are the one that a condition is asked about.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.uses: list[str] = []  # every host that was used, in this order
        self.acts: list[str] = []  # and what rollout_act is to do there; empty where it is another module's turn
        self.errors: list[BaseException] = []
        self._cut: set[str] = set()
        self._silent: set[str] = set()
        self._acts: list[tuple[Condition, t.Callable[[], object]]] = []
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Gate:
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._held:
            connection.close()
        if self.errors:
            raise self.errors[0]

    def cut(self, *hosts: str) -> None:
        """From now on these hosts are unreachable."""
        self._cut.update(hosts)

    def silence(self, *hosts: str) -> None:
        """From now on these hosts take connections and say nothing."""
        self._silent.update(hosts)

    def heal(self, *hosts: str) -> None:
        """From now on these hosts can be reached again."""
        self._cut.difference_update(hosts)
        self._silent.difference_update(hosts)

    def at(self, condition: Condition, act: t.Callable[[], object]) -> None:
        """Do something, once, before the first use of a host for which `condition(host)` holds."""
        self._acts.append((condition, act))

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            host, act = connection.makefile("r").readline().rstrip("\n").split("\t")
            with self._lock:
                self._use(host, act)
            if host in self._silent:
                self._held.append(connection)
                return
            connection.sendall(b"closed" if host in self._cut else b"open")
        connection.close()

    def _use(self, host: str, rollout_act: str) -> None:
        self.uses.append(host)
        self.acts.append(rollout_act)
        for entry in list(self._acts):
            condition, act = entry
            try:
                if condition(host):
                    self._acts.remove(entry)
                    act()
            except Exception as error:
                self.errors.append(error)


# ---------------------------------------------------------------------------------------------------------------------
# What a run said


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run of ansible-playbook ended. `entries` are what callback_plugins/rollout_record.py wrote."""

    code: int
    output: str
    entries: t.Sequence[t.Mapping[str, t.Any]]

    @property
    def outcome(self) -> str | None:
        """`rollout_outcome` of set_stats."""
        outcome: str | None = self._stats["custom"].get("rollout_outcome")
        return outcome

    @property
    def failures(self) -> list[t.Mapping[str, t.Any]]:
        """The results that failed or were unreachable and are not ignored, rescued ones included."""
        return [entry for entry in self.entries if entry["event"] in ("failed", "unreachable") and not entry["ignored"]]

    @property
    def message(self) -> str:
        """What the last task that failed said, on all hosts on which it did."""
        failures = self.failures
        if not failures:
            return ""
        return "\n".join(entry["message"] for entry in failures if entry["task"] == failures[-1]["task"])

    @property
    def changed(self) -> dict[str, int]:
        """{host: tasks that changed something}, of hosts with any."""
        counts = {host: told["changed"] for host, told in self._stats["hosts"].items()}
        return {host: count for host, count in counts.items() if count}

    @property
    def _stats(self) -> t.Mapping[str, t.Any]:
        assert self.entries, f"the run left no statistics:\n{self.output}"
        assert self.entries[-1]["event"] == "stats", f"the run left no statistics:\n{self.output}"
        return self.entries[-1]

    def expect(self, code: int, outcome: str | None) -> Result:
        """Assert how it ended, and show all that it said otherwise."""
        assert (self.code, self.outcome) == (code, outcome), self.output
        return self


class Running:
    """A run of ansible-playbook under way. What it says goes to `folder`, in which it runs unless `cwd` is another."""

    def __init__(
        self,
        command: t.Sequence[str],
        folder: pathlib.Path,
        env: t.Mapping[str, str],
        niceness: int = NICENESS,
        cwd: pathlib.Path | None = None,
    ) -> None:
        self._output = folder / "output"
        self._record = folder / "record.jsonl"
        self._record.touch()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                # Tests that run beside others do so in processes that ignore SIGINT, and hand that down.
                ["env", "--default-signal=INT", "nice", "-n", str(niceness), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd or folder,
                env={**env, "ROLLOUT_RECORD": str(self._record)},
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def result(self, seconds: float = RUN_SECONDS) -> Result:
        """Wait for the end."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the run did not end in {seconds:g} s:\n{self.output}") from None
        entries = [json.loads(line) for line in self._record.read_text().splitlines()]
        return Result(self.process.returncode, self.output, entries)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to it, its workers and what they started; each worker has a process group of its own."""
        for pid in (self.process.pid, *descendants(self.process.pid)):
            send(pid, number)

    def kill(self) -> None:
        """Kill it, its workers and what they started."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
        self.process.wait()


# ---------------------------------------------------------------------------------------------------------------------
# Runs, and a fleet for them


class Runs:
    """Runs of playbooks on the fleet of an inventory. Use as a context manager.

    `niceness` is that of Ansible and its modules.
    """

    niceness = NICENESS

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._runs = 0

    def __enter__(self) -> Runs:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    @property
    def inventory(self) -> pathlib.Path:
        return self.folder / "inventory.json"

    def start(self, what: str | t.Sequence[Play], *arguments: str, **variables: t.Any) -> Running:
        """Start a playbook of the collection, or plays of one's own, with extra variables."""
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        folder.mkdir()
        (folder / "variables.json").write_text(json.dumps(variables))
        name = f"steady.rollout.{what}" if isinstance(what, str) else self._write_plays(what)
        program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
        command = [program, "-i", str(self.inventory), name, "-e", "@variables.json", *arguments]
        running = Running(command, folder, self._environment(), self.niceness)
        self._stack.callback(running.kill)
        return running

    def run(self, what: str | t.Sequence[Play], *arguments: str, **variables: t.Any) -> Result:
        """Run to the end."""
        return self.start(what, *arguments, **variables).result()

    def blue_green(self, release: str, *arguments: str, **variables: t.Any) -> Result:
        """Release blue-green."""
        return self.run("blue_green", *arguments, rollout_hosts="app", rollout_release=release, **variables)

    def rolling(self, release: str, *arguments: str, **variables: t.Any) -> Result:
        """Release in batches."""
        return self.run("rolling", *arguments, rollout_hosts="app", rollout_release=release, **variables)

    def canary(self, release: str, *arguments: str, **variables: t.Any) -> Result:
        """Release share by share."""
        return self.run("canary", *arguments, rollout_hosts="app", rollout_release=release, **variables)

    def promote(self, *arguments: str, **variables: t.Any) -> Result:
        """Go on with the release that is paused."""
        return self.run("promote", *arguments, rollout_hosts="app", **variables)

    def rollback(self, *arguments: str, **variables: t.Any) -> Result:
        """Go back from the last release."""
        return self.run("rollback", *arguments, rollout_hosts="app", **variables)

    def _write_plays(self, plays: t.Sequence[Play]) -> str:
        # Beside the inventory, whatever folder a run is in.
        path = self.folder / f"plays{self._runs}.json"
        path.write_text(json.dumps(plays))
        return str(path)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **RECORDING,
            "ANSIBLE_CONNECTION_PLUGINS": str(HERE / "connection_plugins"),
            # A module call starts one process instead of five: the rest is not what these tests are about.
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "ANSIBLE_ROLES_PATH": str(self.folder / "roles"),
        }


class Rollouts(Runs):
    """A local fleet of its own, and rollouts on it. Use as a context manager.

    `variables` go to all hosts of the inventory (None takes one out), `hosts` to single hosts: {host: {name: value}}.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        options: Options,
        variables: t.Mapping[str, t.Any],
        hosts: t.Mapping[str, t.Mapping[str, t.Any]],
    ) -> None:
        super().__init__(folder)
        self._options = options
        self._variables = {**QUICK, **variables}
        self._hosts = hosts

    def __enter__(self) -> Rollouts:
        try:
            self.fleet = self._stack.enter_context(Fleet(self._options))
            self.gate = self._stack.enter_context(Gate(pathlib.Path(self.fleet.directory) / "gate.sock"))
            self.write_inventory()
        except BaseException:
            self._stack.close()
            raise
        return self

    @property
    def tracks(self) -> t.Mapping[str, str]:
        """The track of each app host that has one."""
        return self._options.tracks

    def write_inventory(self, change: t.Callable[[dict[str, t.Any]], object] = lambda _inventory: None) -> None:
        """Write the inventory; `change` may alter it first."""
        inventory = copy.deepcopy(self.fleet.layout.inventory())
        everybody = inventory["all"]["vars"]
        everybody.update(self._variables, ansible_connection="fragile", fragile_gate=str(self.gate.path))
        for name in [name for name, value in everybody.items() if value is None]:
            del everybody[name]
        for group in ("lb", "app"):
            for host, variables in inventory["all"]["children"][group]["hosts"].items():
                variables.update(self._hosts.get(host, {}), fragile_host=host)
        change(inventory)
        self.inventory.write_text(json.dumps(inventory, indent=1))

    # --- a user's own deploy

    def write_deploy(self, *tasks: t.Mapping[str, t.Any]) -> dict[str, str]:
        """A deploy of one's own for `rollout_deploy`; RELEASE among its tasks is the local fleet's deploy."""
        path = self.folder / "deploy.json"
        path.write_text(json.dumps(tasks))
        return {"tasks": str(path)}

    def write_role(
        self, name: str, tasks: t.Sequence[t.Mapping[str, t.Any]], handlers: t.Sequence[t.Mapping[str, t.Any]] = ()
    ) -> dict[str, str]:
        """A role of one's own for `rollout_deploy`."""
        for kind, content in (("tasks", tasks), ("handlers", handlers)):
            folder = self.folder / "roles" / name / kind
            folder.mkdir(parents=True)
            (folder / "main.yml").write_text(json.dumps(list(content)))
        return {"role": name}

    # --- load

    def load(self, terms: Terms | None = None, only: str = "", **profile: t.Any) -> Load:
        """Start a load, on both load balancers unless `only` names one; it stops at the end or by the test."""
        seen: Loadable = self.fleet
        if only:
            seen = Balancers({only: self.fleet.endpoint(only)}, self.fleet.incidents)
        if not self.fleet.keeps_idle_connections:
            profile = {"new_connections": 1.0, **profile}
        load = Load(seen, Profile(**{"rate": GENTLE, **profile}), terms)
        return self._stack.enter_context(load)

    # --- what is true now

    def host_of(self, server: str) -> str:
        """The app host that is a server of the load balancers: by its name, or its address."""
        addresses = {self.fleet.endpoint(host): host for host in self.fleet.app_hosts}
        return addresses.get(server, server)

    def carrying(self, load_balancer: str) -> set[str]:
        """The servers that take new requests on a load balancer."""
        return carrying(self.fleet, load_balancer)

    def states(self) -> dict[str, dict[str, tuple[str, str]]]:
        """{lb: {server: (status, weight)}}, as the load balancers show it."""
        return {
            name: {server: (row["status"], row["weight"]) for server, row in self.fleet.servers(name).items()}
            for name in LOAD_BALANCERS
        }

    def releases(self) -> dict[str, str | None]:
        """{app host: the release it runs; None when it does not run}."""
        status = self.fleet.status()
        return {host: status[host]["release"] if status[host]["running"] else None for host in self.fleet.app_hosts}

    def starts(self) -> list[tuple[str, str]]:
        """(host, release) of every start of an app, in this order."""
        events = self.fleet.events()
        return [
            (event["host"], event["release"])
            for event in events
            if event["event"] == "started" and event["host"] not in LOAD_BALANCERS
        ]

    def expect_traffic(self, release: str, servers: t.Collection[str], on: t.Sequence[str] = LOAD_BALANCERS) -> None:
        """Assert that on these load balancers just these servers carry, and that all answers come from a release."""
        for name in on:
            assert self.carrying(name) == set(servers), (name, self.states())
            assert answering(self.fleet, name) == {release}, (name, self.releases())

    def place(self, host: str, name: str) -> pathlib.Path:
        """A file of a host."""
        return pathlib.Path(self.fleet.path(host, name))

    def watch(self) -> Watch:
        """Watch who carries, from now until the end of the test."""
        return self._stack.enter_context(Watch(self.fleet))


def rest_green(shop: Rollouts) -> Rollouts:
    """Have the green servers carry nothing, so that blue is live."""
    for host, track in shop.tracks.items():
        if track == "green":
            shop.fleet.set_state(host, "drain")
    return shop


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a rollout under load did, kept for several tests to look at: it takes its time."""

    result: Result
    started: t.Sequence[tuple[str, str]]  # (host, release) of every start of an app by the rollout, in this order
    releases: t.Mapping[str, str | None]  # what each app host runs in the end
    carrying: t.Mapping[str, set[str]]  # who carries in the end, by load balancer
    answering: t.Mapping[str, set[str]]  # the releases that answer in the end, by load balancer
    states: t.Mapping[str, t.Mapping[str, tuple[str, str]]]  # as Rollouts.states, in the end
    watch: Watch
    summary: Summary


def see(shop: Rollouts, name: str, release: str | None = None, **variables: t.Any) -> Seen:
    """Roll out, or back without a release, under load, and keep what it did."""
    before, watch, load = len(shop.starts()), shop.watch(), shop.load()
    given = {"rollout_hosts": "app", **({"rollout_release": release} if release else {})}
    result = shop.run(name, **given, **variables)
    now = {name: carrying(shop.fleet, name) for name in LOAD_BALANCERS}
    answers = {name: answering(shop.fleet, name) for name in LOAD_BALANCERS}
    load.stop()
    return Seen(result, shop.starts()[before:], shop.releases(), now, answers, shop.states(), watch, load.summary())


def carrying(fleet: Fleet, load_balancer: str) -> set[str]:
    """The servers that take new requests on a load balancer."""
    rows = fleet.servers(load_balancer)
    return {name for name, row in rows.items() if row["status"].startswith(("UP", "no check")) and int(row["weight"])}


def runs(fleet: Fleet, host: str, release: str) -> bool:
    """Whether an app host runs a release now."""
    told = fleet.status()[host]
    return bool(told["running"]) and told["release"] == release


def answering(fleet: Fleet, load_balancer: str) -> set[str]:
    """The releases that answer a number of requests to a load balancer."""
    found = set()
    for _number in range(REQUESTS):
        connection = http.client.HTTPConnection(fleet.endpoint(load_balancer), timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            found.add(response.headers.get("X-Release", f"none: {response.status}"))
    return found


class Watch:
    """Looks at every load balancer again and again, and keeps who carried."""

    def __init__(self, fleet: Fleet) -> None:
        self.seen: dict[str, list[frozenset[str]]] = {name: [] for name in LOAD_BALANCERS}
        self._fleet = fleet
        self._hosts = fleet.app_hosts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            for name, seen in self.seen.items():
                with contextlib.suppress(OSError, IndexError, KeyError):
                    now = frozenset(carrying(self._fleet, name))
                    if not seen or seen[-1] != now:
                        seen.append(now)

    def out(self) -> list[set[str]]:
        """Every set of servers that did not carry on some load balancer, each once, in the order they came."""
        everybody = set(self._hosts)
        found: list[set[str]] = []
        for seen in self.seen.values():
            for now in seen:
                if everybody - now not in found:
                    found.append(everybody - now)
        return found
