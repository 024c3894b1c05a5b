# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load: requests at a constant rate, whatever becomes of them, each counted and none retried.

    with Load(fleet, Profile(rate=300)) as load:      # 300 requests/s to each load balancer
        ...
    print(load.summary().line())

The generator is a process of its own (`python -m local_fleet.load`). It is an open loop: a request is sent when it is
due, on an idle connection or else a new one, never after somebody else's answer; how late it was is recorded. It ends
when its standard input does, so it never outlives its owner.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import errno
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import typing as t
import zlib

import h11

from local_fleet.incidents import Incidents
from local_fleet.polling import poll
from local_fleet.supervisor import FleetError
from local_fleet.tally import Record, SocketRecord, Summary, Terms, summarise
from local_fleet.websockets import Crowd, Manner, Place

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FLUSH_SECONDS = 0.25
FIRST_SECONDS = 15.0  # until the first request is answered
STOP_SECONDS = 5.0  # besides the time that the last requests may take
LEAST_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Profile:
    """What the load consists of. `rate` is requests per second to each load balancer; shares go from 0 to 1.

    Of the requests, a share `new_connections` goes on a connection of its own, `posts` is POST with a body of up to
    `body_bytes`, `slow` takes `slow_ms`. The others share `connections` kept-alive connections to each load balancer.
    A request that is not answered completely in `timeout` seconds is given up.

    Besides, `websockets` WebSockets are always open to each load balancer, with a message every `websocket_ms` on each, and
    closed and opened anew after `websocket_s` seconds.
    """

    rate: float = 300.0
    connections: int = 32
    new_connections: float = 0.2
    posts: float = 0.3
    body_bytes: int = 512
    slow: float = 0.0
    slow_ms: float = 500.0
    timeout: float = 15.0
    websockets: int = 0
    websocket_ms: float = 100.0
    websocket_s: float = 10.0
    seed: int = 1

    def __post_init__(self) -> None:
        shares = (self.new_connections, self.posts, self.slow)
        if self.rate < LEAST_RATE or not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"a rate is at least {LEAST_RATE:g}, and shares go from 0 to 1: {self}")
        if self.websockets < 0 or self.websocket_ms <= 0 or self.websocket_s <= 0:
            raise ValueError(f"WebSockets are not less than 0, and their times more: {self}")


# ---------------------------------------------------------------------------------------------------------------------
# The generator's process


class Request(t.NamedTuple):
    """One request to send."""

    request_id: str
    method: str
    target: str
    body: bytes
    asked_ms: float
    keep_alive: bool


class RequestSource:
    """An endless mix of requests after a profile."""

    def __init__(self, profile: Profile, prefix: str) -> None:
        self._profile = profile
        self._prefix = prefix
        self._random = random.Random(profile.seed)
        self._count = 0
        self._bytes = self._random.randbytes(max(profile.body_bytes, 1))

    def next(self) -> Request:
        chance = self._random.random
        self._count += 1
        slow = chance() < self._profile.slow
        post = chance() < self._profile.posts
        return Request(
            request_id=f"{self._prefix}-{self._count}",
            method="POST" if post else "GET",
            target=f"/slow?ms={self._profile.slow_ms:g}" if slow else "/",
            body=self._bytes[: 1 + self._random.randrange(len(self._bytes))] if post else b"",
            asked_ms=self._profile.slow_ms if slow else 0.0,
            keep_alive=chance() >= self._profile.new_connections,
        )


class Verdict(t.NamedTuple):
    """What is wrong with a body. At most one of the two is not empty."""

    broken: str = ""  # it is no answer of the app to the request: the load balancer or the wire did that
    wrong: str = ""  # it is, and a bad one


def judge(request: Request, status: int, headers: t.Mapping[str, str], body: bytes) -> Verdict:
    """What shows that a body is not what the app should have answered to the request."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):  # an app does not send that, but the first part of its answer reads so
        return Verdict(broken="the body is not JSON")
    if not isinstance(told, dict):
        return Verdict(broken="the body is not an object")
    if told.get("request") != request.request_id:
        return Verdict(broken="the body is not the answer to this request")
    return Verdict(wrong=_find_wrong(request, status, headers, told))


def _find_wrong(request: Request, status: int, headers: t.Mapping[str, str], told: dict[str, t.Any]) -> str:
    expected: dict[str, t.Any] = {
        "release": headers.get("x-release"),
        "host": headers.get("x-host"),
        "request": request.request_id,
        "status": status,
    }
    if request.body:
        expected.update(length=len(request.body), crc32=zlib.crc32(request.body))
    wrong = sorted(name for name in {*told, *expected} if told.get(name) != expected.get(name))
    return f"the body differs in {', '.join(wrong)}" if wrong else ""


class Target:
    """One load balancer and the connections to it that are kept."""

    def __init__(self, name: str, address: str, port: int, kept: int) -> None:
        self.name = name
        self.address = address
        self.port = port
        self.kept = kept
        self.open = 0  # kept connections, in use or idle
        self._idle: collections.deque[Connection] = collections.deque()

    def take(self) -> Connection | None:
        """An idle connection that is still good, or None when a new one is due."""
        while self._idle and self.open >= self.kept:
            connection = self._idle.popleft()
            if connection.is_good():
                return connection
            connection.close()
        return None

    def give_back(self, connection: Connection) -> None:
        if self.open > self.kept:
            connection.close()
        else:
            self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        self.open -= 1
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def close(self) -> None:
        for connection in list(self._idle):
            connection.close()


class Exchange:
    """One request under way: what is known of its answer so far."""

    def __init__(self, generator: Generator, target: Target, request: Request, due: float) -> None:
        self.request = request
        self.target = target
        self.status = 0
        self.reused = False
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.finished = False
        self._generator = generator
        self._due = due
        self._sent = time.monotonic()

    def age(self) -> float:
        """Seconds since it was to be sent."""
        return time.monotonic() - self._sent

    def finish(self, broken: str) -> None:
        """Record the request, the first time this is called."""
        if self.finished:
            return
        self.finished = True
        header = self.headers.get
        verdict = Verdict(broken=broken)
        if not broken and "x-release" in self.headers:
            verdict = judge(self.request, self.status, self.headers, bytes(self.body))
        self._generator.record(
            Record(
                due=self._generator.unix_time(self._due),
                late_ms=round((self._sent - self._due) * 1000, 3),
                ms=round(self.age() * 1000, 3),
                asked_ms=self.request.asked_ms,
                lb=self.target.name,
                method=self.request.method,
                reused=self.reused,
                request_id=self.request.request_id,
                status=self.status,
                release=header("x-release"),
                host=header("x-host"),
                server=header("x-server"),
                broken=verdict.broken,
                wrong=verdict.wrong,
            )
        )


class Connection(asyncio.Protocol):
    """One client connection, with one request at a time on it."""

    def __init__(self, target: Target, kept: bool, timeout: float) -> None:
        self._target = target
        self._kept = kept
        self._timeout = timeout
        self._http = h11.Connection(h11.CLIENT)
        self._exchange: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._used = False
        if kept:
            target.open += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = t.cast(asyncio.Transport, transport)
        # What the kernel knows, the event loop may not have been told yet.
        self._unread = select.poll()
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)

    def is_good(self) -> bool:
        """Whether an idle connection can be used: a careful client looks whether the server has closed it."""
        return not self._transport.is_closing() and not self._unread.poll(0)

    def send(self, exchange: Exchange) -> None:
        """Send a request; its exchange is finished with the answer or without."""
        request = exchange.request
        exchange.reused = self._used
        self._used = True
        self._exchange = exchange
        self._timer = asyncio.get_running_loop().call_later(self._timeout - exchange.age(), self._give_up)
        headers = [("Host", self._target.name), ("X-Request-Id", request.request_id)]
        if request.body:
            headers.append(("Content-Length", str(len(request.body))))
        if not self._kept:
            headers.append(("Connection", "close"))
        head = self._http.send(h11.Request(method=request.method, target=request.target, headers=headers))
        body = self._http.send(h11.Data(data=request.body)) if request.body else b""
        end = self._http.send(h11.EndOfMessage())
        self._transport.write((head or b"") + (body or b"") + (end or b""))

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def eof_received(self) -> None:
        self._feed(b"")
        self._end("the connection was closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(_name_error(exc) if exc else "the connection was closed")
        self.drop()

    def drop(self) -> None:
        """The connection does not, or will not, exist."""
        if self._kept:
            self._kept = False
            self._target.forget(self)

    def close(self) -> None:
        self._transport.abort()

    def _give_up(self) -> None:
        self._end(f"no complete answer in {self._timeout:g} s")

    def _feed(self, data: bytes) -> None:
        if self._exchange is None:
            self.close()  # nothing was asked
            return
        try:
            self._http.receive_data(data)
            while self._exchange is not None and self._read(self._http.next_event(), self._exchange):
                pass
        except h11.RemoteProtocolError as error:
            self._end(f"the connection was closed: {error}" if not data else f"not HTTP: {error}")

    def _read(self, event: t.Any, exchange: Exchange) -> bool:
        """Take one event; return whether there may be another."""
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return False
        if isinstance(event, h11.Response):
            exchange.status = event.status_code
            exchange.headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            exchange.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            self._complete(exchange)
        elif isinstance(event, h11.ConnectionClosed):
            return False
        return True

    def _complete(self, exchange: Exchange) -> None:
        self._exchange = None
        self._stop_timer()
        exchange.finish("")
        if self._kept and self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._target.give_back(self)
        else:
            self.close()

    def _end(self, why: str) -> None:
        """The connection is of no use any more; what was under way on it is broken."""
        self._stop_timer()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            at = "in the middle of the answer" if exchange.status else "before an answer"
            exchange.finish(f"{why} {at}")
        self.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Generator:
    """Sends requests when they are due, to the targets in turn, and writes a record of each to `output`."""

    def __init__(self, profile: Profile, targets: t.Sequence[Target], output: int) -> None:
        self._profile = profile
        self._targets = targets
        self._output = output
        prefix = f"{os.getpid():x}-{random.SystemRandom().getrandbits(32):x}"
        self._source = RequestSource(profile, prefix)
        manner = Manner(profile.websocket_s, profile.websocket_ms / 1000, profile.timeout)
        places = [Place(target.name, target.address, target.port) for target in targets]
        self._crowd = Crowd(profile.websockets, places, manner, prefix, self._record_socket)
        self._lines: list[str] = []
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._epoch = time.time() - time.monotonic()

    async def run(self, stopped: asyncio.Event) -> None:
        """Send until `stopped`, then wait for the last answers and the WebSockets."""
        loop = asyncio.get_running_loop()
        self._interval = 1 / (self._profile.rate * len(self._targets))
        self._start = time.monotonic()
        self._sent = 0
        self._tick()
        flusher = loop.create_task(self._flush_regularly())
        crowd = loop.create_task(self._crowd.run())
        await stopped.wait()
        self._timer.cancel()
        self._crowd.stop()
        while self._under_way:
            await asyncio.sleep(0.01)
        await crowd
        flusher.cancel()
        for target in self._targets:
            target.close()
        self._lines.append(json.dumps({"cpu_s": time.process_time(), "seconds": time.monotonic() - self._start}))
        self._flush()

    def unix_time(self, moment: float) -> float:
        return round(moment + self._epoch, 6)

    def record(self, record: Record) -> None:
        self._under_way -= 1
        self._lines.append(json.dumps(record))

    def _record_socket(self, record: SocketRecord) -> None:
        self._lines.append(json.dumps({"socket": record}))

    def _tick(self) -> None:
        """Send all that is due, and come again when the next one is."""
        now = time.monotonic()
        while True:
            due = self._start + self._sent * self._interval
            if due > now:
                break
            self._send(self._targets[self._sent % len(self._targets)], due)
            self._sent += 1
        self._timer = asyncio.get_running_loop().call_at(due, self._tick)

    def _send(self, target: Target, due: float) -> None:
        request = self._source.next()
        exchange = Exchange(self, target, request, due)
        self._under_way += 1
        connection = target.take() if request.keep_alive else None
        if connection is not None:
            connection.send(exchange)
            return
        new = Connection(target, request.keep_alive, self._profile.timeout)
        task = asyncio.get_running_loop().create_task(self._send_on_new(new, target, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_on_new(self, connection: Connection, target: Target, exchange: Exchange) -> None:
        loop = asyncio.get_running_loop()
        try:
            connecting = loop.create_connection(lambda: connection, target.address, target.port)
            await asyncio.wait_for(connecting, self._profile.timeout)
        except (OSError, asyncio.TimeoutError) as error:
            connection.drop()
            exchange.finish(f"cannot connect: {_name_error(error)}")
            return
        connection.send(exchange)

    async def _flush_regularly(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self._flush()

    def _flush(self) -> None:
        data = memoryview("".join(f"{line}\n" for line in self._lines).encode())
        self._lines.clear()
        while data:
            data = data[os.write(self._output, data) :]


def _name_error(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "it took too long"
    code = getattr(error, "errno", None)
    return errno.errorcode.get(code, str(error)) if code else f"{type(error).__name__}: {error}"


async def generate(profile: Profile, targets: t.Mapping[str, str], seconds: float | None) -> None:
    """Load `targets` ({name: address:port}) until standard input ends, or for some seconds."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(0, _stop_at_end, loop, stopped)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if seconds is not None:
        loop.call_later(seconds, stopped.set)
    parts = [(name, *endpoint.rpartition(":")[::2]) for name, endpoint in targets.items()]
    made = [Target(name, address, int(port), profile.connections) for name, address, port in parts]
    await Generator(profile, made, output=1).run(stopped)


def _stop_at_end(loop: asyncio.AbstractEventLoop, stopped: asyncio.Event) -> None:
    if not os.read(0, 4096):
        loop.remove_reader(0)
        stopped.set()


def main() -> int:
    parser = argparse.ArgumentParser(description="The generator of a load; records go to standard output.")
    parser.add_argument("profile", help="a Profile as JSON")
    parser.add_argument("targets", help='JSON: {"lb1": "address:port", ...}')
    parser.add_argument("--seconds", type=float, help="how long to send; until standard input ends if not given")
    arguments = parser.parse_args()
    asyncio.run(generate(Profile(**json.loads(arguments.profile)), json.loads(arguments.targets), arguments.seconds))
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# The owner's side


class Loadable(t.Protocol):
    """What a load needs to know of a fleet."""

    @property
    def load_balancers(self) -> t.Sequence[str]:
        """The names of the load balancers."""

    def endpoint(self, host: str) -> str:
        """address:port of one."""

    def incidents(self) -> Incidents:
        """The crashes so far."""


@dataclasses.dataclass(frozen=True)
class Balancers:
    """Load balancers wherever they are: {name: address:port}; `find_incidents` tells of crashes, where somebody knows."""

    endpoints: t.Mapping[str, str]
    find_incidents: t.Callable[[], Incidents] = Incidents

    @property
    def load_balancers(self) -> t.Sequence[str]:
        return tuple(self.endpoints)

    def endpoint(self, host: str) -> str:
        return self.endpoints[host]

    def incidents(self) -> Incidents:
        return self.find_incidents()


class Load:
    """A load on the load balancers of a fleet, while the `with` block runs."""

    def __init__(self, fleet: Loadable, profile: Profile | None = None, terms: Terms | None = None) -> None:
        self.profile = profile or Profile()
        self.terms = terms or Terms()
        self.usage: dict[str, float] = {}  # of the generator, once stopped: cpu_s, seconds
        self._fleet = fleet
        self._process: subprocess.Popen[bytes] | None = None
        self._records: list[Record] = []
        self._sockets: list[SocketRecord] = []
        self._incidents = Incidents()
        self._rest = b""
        self._offset = 0

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait for the first answers. Raises FleetError."""
        targets = {name: self._fleet.endpoint(name) for name in self._fleet.load_balancers}
        command = [sys.executable, "-m", "local_fleet.load", json.dumps(dataclasses.asdict(self.profile))]
        command += [json.dumps(targets)]
        path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
        # Files in memory: no pipe that fills up when the owner is busy, and nothing to remove.
        self._output, self._errors = os.memfd_create("records"), os.memfd_create("errors")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        try:
            poll(self._has_begun, "the load has its first answers", FIRST_SECONDS, FleetError)
        except BaseException:
            self._process.kill()
            self._reap()
            raise

    def stop(self) -> None:
        """Send no more, and wait for the last answers. Raises FleetError when the generator failed."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(self.profile.timeout + self.profile.slow_ms / 1000 + STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._take_records()
        self._incidents = self._fleet.incidents()
        code, said = self._process.returncode, self._said()
        self._reap()
        if code != 0 or not self.usage:
            raise FleetError(f"the load's generator ended early, with {code}. It said: {said}")

    @property
    def pid(self) -> int | None:
        """The generator's pid while it runs."""
        return self._process.pid if self._process is not None else None

    def records(self) -> list[Record]:
        """The requests that are finished so far."""
        if self._process is not None:
            self._take_records()
        return self._records

    def sockets(self) -> list[SocketRecord]:
        """The WebSockets that have ended so far."""
        self.records()
        return self._sockets

    def summary(self) -> Summary:
        """The figures of the requests that are finished so far."""
        records = self.records()
        incidents = self._fleet.incidents() if self._process is not None else self._incidents
        return summarise(records, incidents, self.terms, self._sockets)

    def _has_begun(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise FleetError(f"the load's generator ended at once: {self._said()}")
        return bool(self.records())

    def _take_records(self) -> None:
        """Read what the generator wrote since the last time."""
        size = os.fstat(self._output).st_size
        data = self._rest + os.pread(self._output, size - self._offset, self._offset)
        self._offset = size
        *lines, self._rest = data.split(b"\n")
        for line in lines:
            values = json.loads(line)
            if isinstance(values, list):
                self._records.append(Record(*values))
            elif "socket" in values:
                self._sockets.append(SocketRecord(*values["socket"]))
            else:
                self.usage = values

    def _said(self) -> str:
        return os.pread(self._errors, 4000, 0).decode(errors="replace").strip()

    def _reap(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.wait()
        self._process.stdin.close()
        os.close(self._output)
        os.close(self._errors)
        self._process = None


if __name__ == "__main__":
    sys.exit(main())
