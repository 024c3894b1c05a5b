# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A local fleet: `with Fleet() as fleet: ...`.

Two HAProxy in master-worker mode and some app hosts on 127.N.0.0/24, run by a supervisor that stops them when this
process ends, however it ends. Several fleets run side by side.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import typing as t

import yaml

from local_fleet import app, claims, nginx, supervisor
from local_fleet.incidents import Crash, Incidents, find_crashes, find_killed
from local_fleet.layout import BACKEND, LOAD_BALANCERS, NO_STATE, Layout, Options, parse_version
from local_fleet.polling import poll
from local_fleet.supervisor import FleetError

HERE = os.path.dirname(os.path.abspath(__file__))
DETACHED_NUMBER = 10  # of the fleet that `up` starts: inventories/local knows its place
MAX_SOCKET_PATH = 90  # of 107: HAProxy binds a longer, temporary name first
UP_SECONDS = 15.0
RELOAD_SECONDS = 15.0
DRAIN_SECONDS = 30.0
END_SECONDS = 40.0  # a container takes its time to go
VERSION_SECONDS = 60.0
ANSWER_SECONDS = 60.0

T = t.TypeVar("T")


class RunningFleet:
    """What can be done with a fleet that runs, by its owner or by another process."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @classmethod
    def open(cls, directory: str) -> RunningFleet:
        """The fleet that runs in a directory. Raises FleetError."""
        try:
            with open(os.path.join(directory, "fleet.json"), encoding="utf-8") as file:
                values = json.load(file)
        except OSError as error:
            raise FleetError(f"no fleet runs in {directory}: start one with `up`.") from error
        return cls(Layout(values["number"], directory, Options(apps=values["apps"], lb=values["lb"])))

    @property
    def directory(self) -> str:
        return self.layout.directory

    @property
    def load_balancers(self) -> tuple[str, ...]:
        return LOAD_BALANCERS

    @property
    def app_hosts(self) -> tuple[str, ...]:
        return self.layout.app_hosts

    def endpoint(self, host: str) -> str:
        """address:port of a host."""
        return self.layout.endpoint(host)

    def path(self, host: str, name: str) -> str:
        """A file of a host."""
        return self.layout.path(host, name)

    def log(self, host: str) -> str:
        """The end of what a host's process printed."""
        with contextlib.suppress(OSError), open(self.path(host, "log"), encoding="utf-8", errors="replace") as file:
            return file.read()[-4000:]
        return ""

    # --- processes

    def status(self) -> dict[str, dict[str, t.Any]]:
        """{host: {running, release, pids, exit_code}}."""
        hosts: dict[str, dict[str, t.Any]] = self._order({"op": "status"})["hosts"]
        return hosts

    def pids(self, host: str) -> list[int]:
        """All processes of a host; none when it does not run."""
        return list(self.status()[host]["pids"])

    def start(self, host: str) -> bool:
        """Start a host's process and wait until it listens; return whether it runs."""
        return bool(self._order({"op": "start", "host": host})["running"])

    def stop(self, host: str) -> None:
        """Stop a host's process gracefully."""
        self._order({"op": "stop", "host": host})

    def restart(self, host: str) -> bool:
        """Stop and start a host's process; return whether it runs."""
        return bool(self._order({"op": "restart", "host": host})["running"])

    def kill(self, host: str) -> None:
        """Kill all processes of a host at once (SIGKILL), as if its power went."""
        self._order({"op": "kill", "host": host})

    def signal(self, host: str, number: int) -> None:
        """Send a signal to a host's main process."""
        self._order({"op": "signal", "host": host, "signal": int(number)})

    def deploy(self, host: str, release: str, behaviour: str = "good", **values: t.Any) -> bool:
        """Put a release on an app host and restart it; return whether it runs. `values` are those of app.Release.

        The host is not drained first. Raises app.ReleaseError.
        """
        self.write_release(host, app.Release(release, behaviour, **values))
        return self.restart(host)

    def ensure(self, host: str, release: app.Release) -> bool:
        """Have an app host run just this release; return whether it did not yet.

        The old process is killed whatever it answers, so what was not drained first is seen to be lost. Raises
        FleetError when the new one does not run.
        """
        if self.runs(host, release):
            return False
        self.write_release(host, release)
        self.kill(host)
        if not self.start(host):
            raise FleetError(f"{host} does not run: {self.log(host).strip()}")
        return True

    def runs(self, host: str, release: app.Release) -> bool:
        """Whether an app host runs just this release."""
        told = self.status()[host]
        with contextlib.suppress(OSError, ValueError), open(self.path(host, "release.json"), encoding="utf-8") as file:
            return (
                bool(told["running"]) and told["release"] == release.release and json.load(file) == app.as_json(release)
            )
        return False

    def write_release(self, host: str, release: app.Release) -> None:
        """Write the release file of an app host, which it reads when it starts."""
        _write(self.path(host, "release.json"), json.dumps(app.as_json(release)) + "\n")

    def deploy_drained(self, host: str, release: str, behaviour: str = "good", **values: t.Any) -> None:
        """Deploy as it should be done: drain the host on every load balancer, and let it in again when it is UP.

        Raises FleetError when it does not come up; it stays drained then.
        """
        self.set_state(host, "drain")
        poll(lambda: self._is_idle(host), f"{host} is drained", DRAIN_SECONDS, FleetError)
        self.deploy(host, release, behaviour, **values)
        self.wait_status("DRAIN", host)  # a drained host that is down shows DOWN
        self.set_state(host, "ready")

    def set_state(self, host: str, state: str) -> None:
        """Set the state of an app host on every load balancer: ready, drain or maint. Raises FleetError."""
        for name in LOAD_BALANCERS:
            if self.layout.is_nginx:
                nginx.set_state(self.layout, name, host, state)
                continue
            answer = self.ask(name, f"set server {BACKEND}/{host} state {state}").strip()
            if answer:
                raise FleetError(f"{name} did not set {host} to {state}: it said {answer!r}.")

    def _is_idle(self, host: str) -> bool:
        rows = [self.servers(name)[host] for name in LOAD_BALANCERS]
        return all(row["scur"] == row["qcur"] == "0" for row in rows)

    def _order(self, asked: dict[str, t.Any]) -> dict[str, t.Any]:
        return self._order_all([asked])[0]

    def _order_all(self, asked: t.Sequence[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
        """Have the supervisor do several things at the same time."""
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(self._control()) for _one in asked]
            for connection, one in zip(connections, asked):
                connection.sendall(json.dumps(one).encode() + b"\n")
            return [_read_answer(connection) for connection in connections]

    def _control(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(os.path.join(self.directory, "control.sock"))
        except OSError as error:
            connection.close()
            raise FleetError(f"no fleet runs in {self.directory}: its supervisor does not answer ({error}).") from error
        return connection

    # --- load balancers

    @property
    def keeps_idle_connections(self) -> bool:
        """Whether clients may reuse connections over a change: older NGINX closes those that are idle, with what is on its way."""
        return (
            not self.layout.is_nginx
            or self.layout.options.lb == "nginx_lua"
            or nginx_version() >= nginx.KEEPS_IDLE_SINCE
        )

    def socket(self, load_balancer: str) -> str:
        """The path of the admin socket of a load balancer."""
        return self.path(load_balancer, "admin.sock")

    def ask(self, load_balancer: str, command: str) -> str:
        """The answer of a load balancer's admin socket to one command."""
        return _ask(self.socket(load_balancer), command)

    def worker_pid(self, load_balancer: str) -> int:
        """The pid of the worker that answers on the admin socket."""
        return int(self.ask(load_balancer, "show info").split("\nPid: ")[1].split()[0])

    def servers(self, load_balancer: str) -> dict[str, dict[str, str]]:
        """The rows of `show stat` for the backend's servers, by server; of NGINX the columns that there are."""
        if self.layout.is_nginx:
            return nginx.servers(self.layout, load_balancer)
        return {row["svname"]: row for row in self._statistics(load_balancer, BACKEND, 4)}

    def frontend(self, load_balancer: str) -> dict[str, str]:
        """The row of `show stat` for the frontend that clients use."""
        return self._statistics(load_balancer, "clients", 1)[0]

    def _statistics(self, load_balancer: str, proxy: str, kind: int) -> list[dict[str, str]]:
        text = self.ask(load_balancer, f"show stat {proxy} {kind} -1")
        header, *lines = [line for line in text.splitlines() if line]
        names = header[2:].split(",")
        return [dict(zip(names, line.split(","))) for line in lines]

    def wait_up(self, *hosts: str) -> None:
        """Wait until every load balancer sees these app hosts (default: all) fully UP, or does not check them.

        Raises FleetError.
        """
        self._wait_statuses(("UP", "no check"), hosts or self.app_hosts)

    def wait_status(self, status: str, *hosts: str) -> None:
        """Wait until every load balancer shows a status (`UP`, `DOWN`, `MAINT`...) for app hosts. Raises FleetError."""
        self._wait_statuses((status,), hosts)

    def _wait_statuses(self, statuses: t.Sequence[str], hosts: t.Sequence[str]) -> None:
        def reached() -> bool:
            seen = [self.servers(name) for name in LOAD_BALANCERS]
            return all(rows[host]["status"] in statuses for rows in seen for host in hosts)

        poll(reached, f"the load balancers see {', '.join(hosts)} {' or '.join(statuses)}", UP_SECONDS, FleetError)

    def save_state(self, load_balancer: str) -> None:
        """Dump the runtime state to the file that the next reload reads."""
        _write(self.path(load_balancer, "server-state"), self.ask(load_balancer, "show servers state"))

    def reload(self, load_balancer: str) -> None:
        """Reload a load balancer and wait until its new worker alone answers.

        Runtime state of HAProxy survives only after `save_state`.
        """
        if self.layout.is_nginx:
            nginx.reload(self.layout, load_balancer)
            return
        before = self.worker_pid(load_balancer)
        _ask(self.path(load_balancer, "master.sock"), "reload")

        def reloaded() -> bool:
            with contextlib.suppress(OSError, IndexError):
                return self.worker_pid(load_balancer) != before and not self._answers(load_balancer, before)
            return False

        try:
            poll(reloaded, f"{load_balancer} has a new worker", RELOAD_SECONDS, FleetError)
        except FleetError as error:
            raise FleetError(f"{error} It said: {self.log(load_balancer)[-1000:]}") from error

    def _answers(self, load_balancer: str, worker: int) -> bool:
        """Whether a worker still takes connections: until it stops, it shares the sockets with the one that follows it."""
        answer = _ask(self.path(load_balancer, "master.sock"), f"@!{worker} show info")
        return f"\nPid: {worker}\n" in answer and "\nStopping: 1\n" not in answer

    # --- what happened

    def inventory(self) -> str:
        """The path of the inventory."""
        return os.path.join(self.directory, "inventory.yml")

    def events(self) -> list[dict[str, t.Any]]:
        """What the supervisor noted: starts, stops and crashes, in their order."""
        return _read_lines(os.path.join(self.directory, "events.jsonl"))

    def crashes(self) -> tuple[Crash, ...]:
        """The ends of processes that nobody asked for."""
        return find_crashes(self.events())

    def incidents(self) -> Incidents:
        """The crashes and the requests that they killed."""
        notes = [note for host in self.app_hosts for note in _read_lines(self.path(host, "killed.jsonl"))]
        return Incidents(self.crashes(), find_killed(notes))

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time used so far, by class of process."""
        answer = self._order({"op": "status"})
        status = answer["hosts"]
        return {
            "supervisor": _cpu_seconds(answer["supervisor"]),
            "app": sum(_cpu_seconds(pid) for host in self.app_hosts for pid in status[host]["pids"]),
            self.layout.options.lb: sum(_cpu_seconds(pid) for host in LOAD_BALANCERS for pid in status[host]["pids"]),
        }

    def end(self) -> None:
        """Stop everything and wait until it is gone."""
        self._order({"op": "shutdown"})
        poll(lambda: not os.path.exists(self.directory), f"{self.directory} is removed", END_SECONDS, FleetError)


class Fleet(RunningFleet):
    """A fleet that lives as long as the `with` block or, at the latest, this process.

    `number` and `directory` are picked unless given. Raises FleetError.
    """

    def __init__(self, options: Options | None = None, number: int | None = None, directory: str | None = None) -> None:
        self._options = options or Options()
        self._wanted = (number, directory)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._owner_fd: int | None = None

    def __enter__(self) -> Fleet:
        owner_end, self._owner_fd = os.pipe()
        try:
            self._launch(["--owner-fd", str(owner_end)], [owner_end])
        except BaseException:
            self.close()
            raise
        finally:
            os.close(owner_end)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def start_detached(self) -> None:
        """Start a fleet that outlives this process, until somebody calls `end`."""
        try:
            self._launch([], [])
        except BaseException:
            with contextlib.suppress(FleetError, AttributeError):
                self.end()
            raise

    def close(self) -> None:
        """Stop everything, wait until it is gone, and remove the directory."""
        if self._owner_fd is not None:
            os.close(self._owner_fd)  # to the supervisor this is the same as the death of this process
            self._owner_fd = None
        if self._keeper is None:
            return
        try:
            self._keeper.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in [*supervisor.descendants(self._keeper.pid), self._keeper.pid]:
                supervisor.send(pid, signal.SIGKILL)
            self._keeper.wait()
            raise FleetError(f"the fleet in {self.directory} did not end in {END_SECONDS:g} s.") from None
        self._keeper = None

    @property
    def supervisor_pids(self) -> list[int]:
        """The keeper and the supervisor, in this order."""
        assert self._keeper is not None
        return [self._keeper.pid, *supervisor.children(self._keeper.pid)]

    def _launch(self, arguments: list[str], pass_fds: list[int]) -> None:
        claims.sweep()
        version = (
            nginx_version() if self._options.lb != "haproxy" else haproxy_version(tuple(self._options.haproxy_command))
        )
        if _is_docker(self._options.haproxy_command):
            claims.sweep_containers()
        number, lock = self._claim()
        with lock:
            self.layout = Layout(number, self._make_directory(number), self._options)
            try:
                self._write_files(version)
                self._keeper = _start_supervisor(self.directory, arguments, [*pass_fds, lock.fileno()])
            except BaseException:
                shutil.rmtree(self.directory, ignore_errors=True)
                raise
        poll(self._supervisor_answers, "the fleet's supervisor answers", UP_SECONDS, FleetError)
        self._start_hosts()

    def _claim(self) -> tuple[int, socket.socket]:
        wanted = self._wanted[0]
        if wanted is None:
            return claims.claim_any(self._is_unused)
        lock = claims.claim(wanted)
        if lock is None:
            raise FleetError(f"fleet number {wanted} is taken by another fleet.")
        return wanted, lock

    def _is_unused(self, number: int) -> bool:
        layout = Layout(number, "", self._options)
        return not any(supervisor.listens(layout.endpoint(host)) for host in layout.hosts)

    def _make_directory(self, number: int) -> str:
        wanted = self._wanted[1]
        if wanted is None:
            directory = claims.make_directory(number)
        else:
            directory = os.path.abspath(wanted)
            _make_private(directory)
        if len(directory) + len("/lb1/admin.sock") > MAX_SOCKET_PATH:
            os.rmdir(directory)
            raise FleetError(f"the path {directory} is too long for unix sockets: set TMPDIR to a short one.")
        return directory

    def _write_files(self, version: tuple[int, ...]) -> None:
        for host in self.layout.hosts:
            os.mkdir(os.path.join(self.directory, host))
        for host in LOAD_BALANCERS:
            if self.layout.is_nginx:
                _write(self.path(host, "nginx.conf"), nginx.config(self.layout, host, version))
                _write(self.path(host, "upstream.conf"), nginx.upstream(self.layout))
                for folder in nginx.folders(self.layout):
                    os.mkdir(self.path(host, folder), 0o700)
                continue
            _write(self.path(host, "haproxy.cfg"), self.layout.haproxy_config(host, version[:2]))
            _write(self.path(host, "server-state"), NO_STATE)
        for host in self.app_hosts:
            self.write_release(host, app.Release(self._options.release))
        _write(self.inventory(), yaml.safe_dump(self.layout.inventory(), sort_keys=False))
        hosts = [*map(self._load_balancer, LOAD_BALANCERS), *map(self._app_host, self.app_hosts)]
        values = {"number": self.layout.number, "apps": self._options.apps, "lb": self._options.lb, "hosts": hosts}
        _write(os.path.join(self.directory, "fleet.json"), json.dumps(values))

    def _load_balancer(self, host: str) -> dict[str, t.Any]:
        if self.layout.is_nginx:
            return {
                "name": host,
                "command": nginx.command(f"{self.directory}/{host}"),
                "log": self.path(host, "log"),
                "ready": self.endpoint(host),
                "death_signal": int(signal.SIGTERM),
            }
        command = [word.replace("{dir}", self.directory) for word in self._options.haproxy_command]
        container = ""
        if _is_docker(command):
            container = f"{os.path.basename(self.directory)}-{host}"
            label = f"--label={claims.CONTAINER_LABEL}={claims.claim_name(self.layout.number)}"
            command[2:2] = [f"--name={container}", label]
        path = functools.partial(self.path, host)
        command += ["-W", "-db", "-S", path("master.sock"), "-f", path("haproxy.cfg"), "-p", path("haproxy.pid")]
        return {
            "name": host,
            "command": command,
            "log": path("log"),
            "ready": path("admin.sock"),
            # A docker client passes SIGTERM on; SIGKILL would leave the container alone.
            "death_signal": int(signal.SIGTERM),
            "pid_file": path("haproxy.pid"),
            "container": container,
        }

    def _app_host(self, host: str) -> dict[str, t.Any]:
        release, killed = self.path(host, "release.json"), self.path(host, "killed.jsonl")
        command = [sys.executable, "-I", "-S", os.path.join(HERE, "app.py"), "--host", host]
        command += ["--listen", self.endpoint(host), "--release", release, "--killed", killed]
        return {
            "name": host,
            "command": command,
            "log": self.path(host, "log"),
            "ready": self.endpoint(host),
            "death_signal": int(signal.SIGKILL),
            "release_file": release,
        }

    def _supervisor_answers(self) -> bool:
        assert self._keeper is not None
        if self._keeper.poll() is not None:
            raise FleetError(f"the fleet's supervisor ended at once, with {self._keeper.returncode}.")
        with contextlib.suppress(FleetError):
            return bool(self.status())
        return False

    def _start_hosts(self) -> None:
        # Apps first, so that no load balancer ever sees one of them down.
        for hosts in (self.app_hosts, LOAD_BALANCERS):
            answers = self._order_all([{"op": "start", "host": host} for host in hosts])
            for host, answer in zip(hosts, answers):
                if not answer["running"]:
                    raise FleetError(f"{host} ended at its start with {answer['exit_code']}: {self.log(host).strip()}")
        self.wait_up()


# ---------------------------------------------------------------------------------------------------------------------


def detached_directory() -> str:
    """Where the fleet that `up` starts is: STEADY_FLEET, or a place in the user's cache. inventories/local looks there."""
    return os.environ.get("STEADY_FLEET") or os.path.expanduser("~/.cache/steady-rollout/fleet")


@functools.cache
def nginx_version() -> tuple[int, ...]:
    """Of the system's NGINX. Raises FleetError."""
    try:
        done = subprocess.run(["nginx", "-v"], capture_output=True, timeout=VERSION_SECONDS, check=True, text=True)
        return nginx.parse_version(done.stderr)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise FleetError(f"NGINX cannot be run: {error}") from error


@functools.cache
def haproxy_version(command: tuple[str, ...]) -> tuple[int, int]:
    """(major, minor) of the HAProxy that a command starts. Raises FleetError."""
    words = [word for word in command if "{dir}" not in word]
    try:
        done = subprocess.run(
            [*words, "-v"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VERSION_SECONDS,
            check=True,
            text=True,
        )
        return parse_version(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise FleetError(f"HAProxy cannot be run by `{' '.join(words)}`: {error}") from error


def _is_docker(command: t.Sequence[str]) -> bool:
    return list(command[:2]) == ["docker", "run"]


def _start_supervisor(directory: str, arguments: list[str], pass_fds: list[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", os.path.join(HERE, "supervisor.py"), directory, *arguments]
    with open(os.path.join(directory, "supervisor.log"), "ab") as log:
        return subprocess.Popen(
            [*command, "--lock-fd", str(pass_fds[-1])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=pass_fds,
            start_new_session=True,
            cwd="/",
        )


def _make_private(directory: str) -> None:
    """Make a directory that must not exist yet. Raises FleetError."""
    try:
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        os.mkdir(directory, 0o700)
    except FileExistsError as error:
        raise FleetError(f"{directory} exists already: is a fleet running there? `down` ends it.") from error


def _read_answer(connection: socket.socket) -> dict[str, t.Any]:
    with connection.makefile("rb") as stream:
        line = stream.readline()
    if not line:
        raise FleetError("the fleet's supervisor ended without an answer.")
    answer: dict[str, t.Any] = json.loads(line)
    if "error" in answer:
        raise FleetError(answer["error"])
    return answer


def _ask(path: str, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(functools.partial(connection.recv, 65536), b"")).decode()


def _write(path: str, text: str) -> None:
    """Write a file so that a reader sees all of it or the former one."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _read_lines(path: str) -> list[dict[str, t.Any]]:
    """The JSON objects of a file of lines; none when there is no file."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
    return []


def _cpu_seconds(pid: int) -> float:
    """CPU time that a process and those of its children that it has reaped used; 0 when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="latin-1") as file:
        fields = file.read().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0
