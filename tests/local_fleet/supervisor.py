# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The init of a local fleet: starts, stops and signals its hosts' processes, and leaves nothing behind.

    python supervisor.py DIRECTORY [--owner-fd N] [--lock-fd N]

DIRECTORY holds `fleet.json` (see `read_hosts`). Two processes run: the supervisor does the work; its parent, the
keeper, waits for it and then kills what is left and removes DIRECTORY. What happens when somebody dies, even by SIGKILL:

    the owner        the pipe of --owner-fd ends: the supervisor stops everything and ends
    the supervisor   apps die with it and load balancers are told to stop (PR_SET_PDEATHSIG); the keeper, to whom orphans
                     fall (PR_SET_CHILD_SUBREAPER), kills the rest
    the keeper       the supervisor gets SIGTERM, stops everything and removes DIRECTORY itself

The control socket DIRECTORY/control.sock takes one JSON object a line and answers each with one:
{"op": "start" | "stop" | "restart" | "kill" | "signal" | "status" | "shutdown", "host": NAME, "signal": NUMBER}.
DIRECTORY/events.jsonl records what happened to each host; an end that nobody asked for is a `crashed`.
Standard library only; signals go only to processes that were started here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import dataclasses
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing as t

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
START_SECONDS = 10.0  # until a started process listens
STOP_SECONDS = 12.0  # from the stop signal to SIGKILL: longer than the app's own grace
SHUTDOWN_SECONDS = 1.0  # the same when the whole fleet ends
DOCKER_SECONDS = 30.0
POLL_SECONDS = 0.01
HARMLESS = {signal.SIGSTOP, signal.SIGCONT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}

_libc = ctypes.CDLL(None, use_errno=True)


class FleetError(Exception):
    """Something asked for cannot be done; the message is for a person."""


@dataclasses.dataclass(frozen=True)
class Host:
    """How the process of one host is run."""

    name: str
    command: t.Sequence[str]
    log: str
    ready: str  # what it listens on when it is up: "address:port" or the path of a unix socket
    death_signal: int  # what it gets when the supervisor dies
    release_file: str = ""
    pid_file: str = ""  # holds the pid to signal, where that is not the started process (a container's client)
    container: str = ""


def read_hosts(directory: str) -> dict[str, Host]:
    """The hosts of DIRECTORY/fleet.json: {"hosts": [{"name": ..., ...}, ...]}, in their order."""
    with open(os.path.join(directory, "fleet.json"), encoding="utf-8") as file:
        return {values["name"]: Host(**values) for values in json.load(file)["hosts"]}


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent(death_signal: int, parent: int) -> None:
    """Have the kernel send `death_signal` to this process when its parent, with pid `parent`, ends."""
    _prctl(PR_SET_PDEATHSIG, death_signal)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def children(pid: int) -> list[int]:
    """The pids of the children of a process; none when it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    return found


def descendants(pid: int) -> list[int]:
    """The pids of a process's children, their children and so on."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def is_running(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def until(condition: t.Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition; return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True


def listens(ready: str) -> bool:
    """Whether something accepts connections at `ready`."""
    address, _colon, port = ready.rpartition(":")
    family = socket.AF_UNIX if ready.startswith("/") else socket.AF_INET
    with socket.socket(family) as connection, contextlib.suppress(OSError):
        connection.settimeout(0.2)
        connection.connect(ready if ready.startswith("/") else (address, int(port)))
        return True
    return False


class Process:
    """The process of one host, as it is now: not started, running or ended."""

    def __init__(self, host: Host, record: t.Callable[..., None]) -> None:
        self.host = host
        self.lock = asyncio.Lock()
        self.release: str | None = None
        self._record = functools.partial(record, host=host.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._end_asked = True

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def pids(self) -> list[int]:
        """The host's processes: the started one, its descendants, and a container's."""
        if self._process is None or not self.running:
            return []
        found = [self._process.pid, *descendants(self._process.pid)]
        main = self.main_pid()
        return found if main in found else [*found, main, *descendants(main)]

    def main_pid(self) -> int:
        """The pid that signals go to."""
        assert self._process is not None
        if self.host.container:
            with contextlib.suppress(OSError, ValueError), open(self.host.pid_file, encoding="ascii") as file:
                return int(file.read())
        return self._process.pid

    def describe(self) -> dict[str, t.Any]:
        code = None if self._process is None else self._process.returncode
        return {"running": self.running, "release": self.release, "pids": self.pids(), "exit_code": code}

    async def start(self) -> None:
        """Start and wait until it listens or ends; what it did is told by `describe`."""
        if self.running:
            return
        self.release = self._read_release()
        if self.host.container:
            await _remove_containers([self.host.container])
        with open(self.host.log, "ab") as log:
            self._process = subprocess.Popen(
                self.host.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a person's Ctrl-C is for the owner
                preexec_fn=functools.partial(die_with_parent, self.host.death_signal, os.getpid()),
            )
        self._end_asked = False
        self._record(event="started", release=self.release, pid=self._process.pid)
        if not await until(lambda: not self.running or listens(self.host.ready), START_SECONDS):
            raise FleetError(f"{self.host.name} does not listen on {self.host.ready} after {START_SECONDS:g} s.")

    def _read_release(self) -> str | None:
        if not self.host.release_file:
            return None
        with contextlib.suppress(OSError, ValueError), open(self.host.release_file, encoding="utf-8") as file:
            return str(json.load(file).get("release"))
        return "?"

    def reap(self) -> None:
        """Note the end of the process, if it has ended."""
        if self._process is None or not self.running or self._process.poll() is None:
            return
        event = "stopped" if self._end_asked else "crashed"
        self._record(event=event, release=self.release, pid=self._process.pid, exit_code=self._process.returncode)

    async def stop(self, seconds: float) -> None:
        """Stop with SIGTERM; after `seconds` with SIGKILL."""
        if self.running:
            await self._end(signal.SIGTERM, seconds)

    async def kill(self) -> None:
        """Kill all processes of the host at once, as if its power went."""
        if self.running:
            await self._end(signal.SIGKILL, 0.0)

    async def _end(self, number: int, seconds: float) -> None:
        self._end_asked = True
        pids = self.pids()

        def ended() -> bool:
            self.reap()
            return not self.running and not any(map(is_running, pids))

        if number != signal.SIGKILL:
            send(self.main_pid(), number)
            if await until(ended, seconds):
                return
        # A new child may appear while its parent still runs, so look again until none is left.
        while not ended():
            pids = sorted({*pids, *self.pids()})
            for pid in pids:
                send(pid, signal.SIGKILL)
            await asyncio.sleep(POLL_SECONDS)

    def signal(self, number: int) -> None:
        """Send any signal to the host's main process."""
        if not self.running:
            raise FleetError(f"{self.host.name} is not running, so it cannot be signalled.")
        if number not in HARMLESS:
            self._end_asked = True
        send(self.main_pid(), number)


# ---------------------------------------------------------------------------------------------------------------------
# The supervisor


class Supervisor:
    """All hosts' processes, and the answers on the control socket."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._events = os.path.join(directory, "events.jsonl")
        self._ended = asyncio.Event()
        self._processes = {name: Process(host, self._record) for name, host in read_hosts(directory).items()}

    def _record(self, **event: t.Any) -> None:
        with open(self._events, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), **event}) + "\n")

    async def run(self, owner_fd: int | None) -> None:
        """Answer until told to end, then stop all hosts."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._ended.set)
        if owner_fd is not None:
            loop.add_reader(owner_fd, self._owner_said, owner_fd)
        path = os.path.join(self._directory, "control.sock")
        server = await asyncio.start_unix_server(self._serve, path)
        os.chmod(path, 0o600)
        await self._ended.wait()
        server.close()
        await self._stop_all()

    def _owner_said(self, owner_fd: int) -> None:
        if not os.read(owner_fd, 1):
            asyncio.get_running_loop().remove_reader(owner_fd)
            self._ended.set()

    def _reap(self) -> None:
        for process in self._processes.values():
            process.reap()

    async def _stop_all(self) -> None:
        await asyncio.gather(*(process.stop(SHUTDOWN_SECONDS) for process in self._processes.values()))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                line = await reader.readline()
                if not line:
                    break
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, t.Any]:
        try:
            return await self._do(json.loads(line))
        except (FleetError, OSError, KeyError, ValueError) as error:
            return {"error": str(error) if isinstance(error, FleetError) else f"{type(error).__name__}: {error}"}

    async def _do(self, asked: dict[str, t.Any]) -> dict[str, t.Any]:
        operation = asked["op"]
        if operation == "status":
            hosts = {name: process.describe() for name, process in self._processes.items()}
            return {"supervisor": os.getpid(), "hosts": hosts}
        if operation == "shutdown":
            self._ended.set()
            return {}
        process = self._processes.get(asked["host"])
        if process is None:
            raise FleetError(f"there is no host {asked['host']}; there are {', '.join(self._processes)}.")
        async with process.lock:
            await self._do_to(process, operation, asked)
            return process.describe()

    async def _do_to(self, process: Process, operation: str, asked: dict[str, t.Any]) -> None:
        if operation in ("stop", "restart"):
            await process.stop(STOP_SECONDS)
        if operation in ("start", "restart"):
            await process.start()
        if operation == "kill":
            await process.kill()
        if operation == "signal":
            process.signal(asked["signal"])
        if operation not in ("start", "stop", "restart", "kill", "signal"):
            raise FleetError(f"there is no operation {operation}.")


async def _remove_containers(names: t.Sequence[str]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, remove_containers, names)


def remove_containers(names: t.Sequence[str]) -> None:
    """Remove containers, running or not, by name."""
    if names and shutil.which("docker"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["docker", "rm", "--force", *names],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=DOCKER_SECONDS,
                check=False,
            )


# ---------------------------------------------------------------------------------------------------------------------
# The keeper


def clean_up(directory: str) -> None:
    """Kill what is left below this process, and remove the fleet's containers and its directory."""
    while True:
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    with contextlib.suppress(OSError, ValueError, KeyError):
        remove_containers([host.container for host in read_hosts(directory).values() if host.container])
    shutil.rmtree(directory, ignore_errors=True)


def keep(supervisor: int, directory: str) -> None:
    """Wait for the supervisor's end, reaping orphans, and clean up after it."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: send(supervisor, signal.SIGTERM))
    while os.waitpid(-1, 0)[0] != supervisor:
        pass
    clean_up(directory)


def main() -> int:
    parser = argparse.ArgumentParser(description="The init of a local fleet.")
    parser.add_argument("directory")
    parser.add_argument("--owner-fd", type=int, help="read end of a pipe: its end means that the owner died")
    parser.add_argument("--lock-fd", type=int, help="is held open, as the lock of the fleet's number, to the very end")
    arguments = parser.parse_args()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        keep(pid, arguments.directory)
        return 0
    die_with_parent(signal.SIGTERM, keeper)
    asyncio.run(supervise(arguments.directory, arguments.owner_fd))
    clean_up(arguments.directory)
    return 0


async def supervise(directory: str, owner_fd: int | None) -> None:
    """Run the hosts of a fleet until its owner goes or says so."""
    # Python 3.9 binds events and locks to the loop that runs where they are made.
    await Supervisor(directory).run(owner_fd)


if __name__ == "__main__":
    sys.exit(main())
