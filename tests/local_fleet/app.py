# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The app of the test fleets: a small HTTP/1.1 server whose release decides how it behaves.

    python app.py --host web1 --listen 127.20.0.21:8080 --release release.json [--killed killed.jsonl] [--grace 10]

Without options it is what a unit on a host of its own starts: it listens on PORT of the environment, on every address, its
release file is beside it, and its name is the host's. The release file is read at the start: {"release": "1.0.0",
"behaviour": "good", ...}. Behaviours and what they read:

    good             every request is answered with 200
    errors           a share `rate` (0 to 1) of the requests is answered with 500
    slow             a share `rate` of the requests is answered after `delay_ms` more milliseconds
    unhealthy        /health is answered with 503, all else is good
    crash_on_start   the process ends with exit code 1 before it listens
    crash            the process ends on a share `rate` of the requests, and kills with it all that is in flight
    bad_after        good for `after_s` seconds, then as `then` (errors, slow, unhealthy or crash) says

/slow?ms=N takes its time, and /ws is a WebSocket that sends back each message; a bad release behaves at its handshake.

On SIGTERM it goes on to answer on open connections, with `Connection: close`, until they have been idle for a moment. A
WebSocket goes on too, and is closed with 1001 after the grace, so only a drain saves one from a restart. It ends with 0
then, at the latest. It needs nothing but the standard library of Python 3.9, and is one file.

A crash first appends the ids of the requests that it kills to the file of --killed: HAProxy closes a reused client
connection without a word when its server dies, so nobody else could tell these requests from ones the LB lost.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import select
import signal
import socket
import sys
import time
import typing as t
import zlib
from urllib.parse import parse_qs

HERE = os.path.dirname(os.path.abspath(__file__))
GRACE = 10.0  # seconds from SIGTERM to the end, at most
GOODBYE = 0.5  # seconds after that in which clients of WebSockets may answer that they are closed
LINGER = 0.2  # seconds that a connection must be idle before a stopping app closes it: a request may be on its way
BACKLOG = 512
MAX_HEAD = 16384
MAX_BODY = 1 << 20
MAX_MESSAGE = 1 << 16
CRASH_EXIT_CODE = 70
CRASH_READS = 0.2  # seconds in which a crashing app still notes the requests that were on their way to it

BEHAVIOURS = ("good", "errors", "slow", "unhealthy", "crash_on_start", "crash", "bad_after")
LATER_BEHAVIOURS = ("errors", "slow", "unhealthy", "crash")
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 413: "Payload Too Large", 500: "Internal Server Error"}
REASONS.update({426: "Upgrade Required", 501: "Not Implemented", 503: "Service Unavailable"})


class ReleaseError(ValueError):
    """A release file says something that the app does not know."""


@dataclasses.dataclass(frozen=True)
class Release:
    """What a release file says."""

    release: str = "1.0.0"
    behaviour: str = "good"
    rate: float = 1.0
    delay_ms: float = 1000.0
    after_s: float = 5.0
    then: str = "errors"

    def __post_init__(self) -> None:
        if self.behaviour not in BEHAVIOURS:
            raise ReleaseError(f"behaviour {self.behaviour!r} is none of {', '.join(BEHAVIOURS)}.")
        if self.then not in LATER_BEHAVIOURS:
            raise ReleaseError(f"then {self.then!r} is none of {', '.join(LATER_BEHAVIOURS)}.")
        if not 0 <= self.rate <= 1:
            raise ReleaseError(f"rate {self.rate} is not a share from 0 to 1.")
        if self.delay_ms < 0 or self.after_s < 0:
            raise ReleaseError("delay_ms and after_s must not be negative.")

    def behaviour_at(self, age: float) -> str:
        """The behaviour at `age` seconds after the start."""
        if self.behaviour != "bad_after":
            return self.behaviour
        return self.then if age >= self.after_s else "good"


def parse_release(text: str) -> Release:
    """Read a release file's text. Raises ReleaseError."""
    try:
        values = json.loads(text)
        return Release(**values)
    except (TypeError, json.JSONDecodeError) as error:
        raise ReleaseError(f"not a release: {error}.") from error


def as_json(release: Release) -> dict[str, t.Any]:
    """What a release file holds."""
    return dataclasses.asdict(release)


class Request(t.NamedTuple):
    """The head of a request, as far as the app reads it."""

    method: str
    path: str
    query: str
    length: int
    keep_alive: bool
    request_id: str
    websocket_key: str = ""  # of a request to become a WebSocket


class BadRequest(Exception):
    """A request that cannot be served; `status` is the answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def parse_head(head: bytes) -> Request:
    """Parse a request head without its final blank line. Raises BadRequest."""
    first, _newline, rest = head.decode("latin-1").partition("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest(400)
    length, keep_alive, request_id, upgrade, key = 0, words[2] == "HTTP/1.1", "", False, ""
    for line in rest.split("\r\n") if rest else ():
        name, _colon, value = line.partition(":")
        name = name.lower()
        if name == "content-length":
            length = _length(value.strip())
        elif name == "connection":
            keep_alive = _keeps_alive(value.lower(), keep_alive)
        elif name == "x-request-id":
            request_id = value.strip()
        elif name == "upgrade":
            upgrade = value.strip().lower() == "websocket"
        elif name == "sec-websocket-key":
            key = value.strip()
        elif name == "transfer-encoding":
            raise BadRequest(501)
    path, _mark, query = words[1].partition("?")
    return Request(words[0], path, query, length, keep_alive, request_id, key if upgrade else "")


def _length(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise BadRequest(400)
    if int(value) > MAX_BODY:
        raise BadRequest(413)
    return int(value)


def _keeps_alive(value: str, default: bool) -> bool:
    tokens = [token.strip() for token in value.split(",")]
    if "close" in tokens:
        return False
    return default or "keep-alive" in tokens


# ---------------------------------------------------------------------------------------------------------------------
# WebSockets, as RFC 6455 has them, without extensions

ACCEPT_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
GOING_AWAY, PROTOCOL_ERROR, TOO_BIG = 1001, 1002, 1009


class BadFrame(Exception):
    """A client breaks the protocol; `code` is what its WebSocket is closed with."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Frame(t.NamedTuple):
    """One frame of a client, unmasked; the last one of a message is `final`."""

    opcode: int
    final: bool
    payload: bytes


def accept_key(key: str) -> str:
    """What the answer to a handshake with this key must carry."""
    return base64.b64encode(hashlib.sha1((key + ACCEPT_SUFFIX).encode("latin-1")).digest()).decode()


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """A whole message of the server in one frame, of at most MAX_MESSAGE bytes."""
    if len(payload) < 126:
        return bytes([0x80 | opcode, len(payload)]) + payload
    if len(payload) < 1 << 16:
        return bytes([0x80 | opcode, 126]) + len(payload).to_bytes(2, "big") + payload
    return bytes([0x80 | opcode, 127]) + len(payload).to_bytes(8, "big") + payload


def take_frame(buffer: bytearray) -> Frame | None:
    """Take the first frame of a client out of a buffer; None while it is not whole. Raises BadFrame."""
    if len(buffer) < 2:
        return None
    opcode, length, start = buffer[0] & 0x0F, buffer[1] & 0x7F, 2
    if buffer[0] & 0x70 or not buffer[1] & 0x80 or opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise BadFrame(PROTOCOL_ERROR)
    if opcode >= CLOSE and (length > 125 or not buffer[0] & 0x80):
        raise BadFrame(PROTOCOL_ERROR)
    if length > 125:
        start = 4 if length == 126 else 10
        if len(buffer) < start:
            return None
        length = int.from_bytes(buffer[2:start], "big")
    if length > MAX_MESSAGE:
        raise BadFrame(TOO_BIG)
    end = start + 4 + length
    if len(buffer) < end:
        return None
    mask, masked = buffer[start : start + 4], buffer[start + 4 : end]
    frame = Frame(opcode, bool(buffer[0] & 0x80), bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked)))
    del buffer[:end]
    return frame


class WebSocket:
    """An open WebSocket that sends each message back; `write` sends bytes, `end` closes the connection."""

    def __init__(self, request_id: str, write: t.Callable[[bytes], object], end: t.Callable[[], object]) -> None:
        self.request_id = request_id
        self._write = write
        self._end = end
        self._opcode: int | None = None  # of the message that is coming
        self._message = bytearray()
        self._closing = False

    def feed(self, buffer: bytearray) -> None:
        """Serve the frames in a buffer, and take them out of it."""
        try:
            while frame := take_frame(buffer):
                self._serve(frame)
        except BadFrame as error:
            self.close(error.code)
            self._end()

    def close(self, code: int) -> None:
        """Say that it is closed; the client's answer, or its end, ends the connection."""
        if not self._closing:
            self._closing = True
            self._write(encode_frame(CLOSE, code.to_bytes(2, "big")))

    def _serve(self, frame: Frame) -> None:
        if frame.opcode == CLOSE:
            if not self._closing:
                self._write(encode_frame(CLOSE, frame.payload[:2]))
            self._closing = True
            self._end()
        elif frame.opcode == PING:
            self._write(encode_frame(PONG, frame.payload))
        elif frame.opcode != PONG:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        """Take a part of a message, and answer the whole."""
        if (frame.opcode == CONTINUATION) != (self._opcode is not None):
            raise BadFrame(PROTOCOL_ERROR)
        self._opcode = self._opcode or frame.opcode
        self._message += frame.payload
        if len(self._message) > MAX_MESSAGE:
            raise BadFrame(TOO_BIG)
        if not frame.final:
            return
        if not self._closing:
            self._write(encode_frame(self._opcode, bytes(self._message)))
        self._opcode = None
        self._message.clear()


# ---------------------------------------------------------------------------------------------------------------------
# The server


class Crash(Exception):
    """The release is to crash now."""


class App:
    """One app host: its release, its open connections, and whether it is stopping."""

    def __init__(self, host: str, release: Release, killed_file: str) -> None:
        self.host = host
        self.release = release
        self.listener: socket.socket | None = None
        self._killed_file = killed_file
        self.connections: set[Connection] = set()
        self.stopping = False
        self.stopped = asyncio.Event()
        self._started = time.monotonic()
        self._random = random.Random()
        self._headers = f"X-Release: {release.release}\r\nX-Host: {host}\r\n"

    def behaviour(self) -> str:
        return self.release.behaviour_at(time.monotonic() - self._started)

    def answer(self, request: Request) -> tuple[int, float]:
        """(status, delay in seconds) of the answer. Raises Crash, if such is the release."""
        behaviour = self.behaviour()
        if request.path == "/health":
            return (503 if behaviour == "unhealthy" else 200), 0.0
        delay = self._asked_delay(request)
        if behaviour in ("errors", "slow", "crash") and self._random.random() < self.release.rate:
            if behaviour == "crash":
                raise Crash
            if behaviour == "errors":
                return 500, delay
            delay += self.release.delay_ms / 1000
        if request.path == "/ws":
            return (101 if request.websocket_key else 426), delay
        return (200 if request.path in ("/", "/slow", "/echo") else 404), delay

    def _asked_delay(self, request: Request) -> float:
        """Seconds that a request for /slow?ms=N is to take."""
        if request.path != "/slow":
            return 0.0
        try:
            return min(max(float(parse_qs(request.query)["ms"][0]), 0.0), 60_000.0) / 1000
        except (KeyError, ValueError) as error:
            raise BadRequest(400) from error

    def response(self, status: int, request: Request, body: bytes, close: bool) -> bytes:
        """The bytes of a response. Its body tells enough to find out that an answer belongs to another request."""
        told = {"release": self.release.release, "host": self.host, "request": request.request_id, "status": status}
        if body:
            told.update(length=len(body), crc32=zlib.crc32(body))
        payload = json.dumps(told).encode()
        connection = "Connection: close\r\n" if close else ""
        content = f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\n{self._headers}{connection}{content}\r\n"
        return head.encode("latin-1", "replace") + (payload if request.method != "HEAD" else b"")

    def handshake(self, request: Request) -> bytes:
        """The answer after which a connection is a WebSocket."""
        accept = f"Sec-WebSocket-Accept: {accept_key(request.websocket_key)}\r\n"
        head = f"HTTP/1.1 101 Switching Protocols\r\n{self._headers}Upgrade: websocket\r\nConnection: Upgrade\r\n{accept}\r\n"
        return head.encode("latin-1", "replace")

    def stop(self) -> None:
        self.stopping = True
        for connection in list(self.connections):
            connection.close_when_idle()
        self.forget(None)

    def say_goodbye(self) -> None:
        """Close the WebSockets that are left."""
        for connection in list(self.connections):
            connection.close_websocket(GOING_AWAY)

    def crash(self) -> t.NoReturn:
        """End the process and the requests in flight, and note which ones they are.

        As when the kernel ends a process, new connections are refused and open ones get a FIN. Unlike then, they are
        read until the other side has closed too, because until it learns of the FIN it may send another request.
        """
        killed = {request_id for connection in self.connections for request_id in connection.request_ids()}
        assert self.listener is not None
        accepted = _accept_all(self.listener)
        self.listener.close()
        received = _read_to_the_end([*_connected_sockets(), *accepted], CRASH_READS)
        killed.update(request_id for data in received for request_id in request_ids(data))
        self._note_killed(killed)
        os._exit(CRASH_EXIT_CODE)

    def _note_killed(self, killed: set[str]) -> None:
        note = {"time": time.time(), "host": self.host, "release": self.release.release, "requests": sorted(killed)}
        if self._killed_file:
            with open(self._killed_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
        sys.stderr.write(f"crash: a request hit the defect of release {self.release.release}\n")
        sys.stderr.flush()

    def forget(self, connection: Connection | None) -> None:
        """A connection is gone (None: look only); the last one ends a stopping app."""
        if connection is not None:
            self.connections.discard(connection)
        if self.stopping and not self.connections:
            self.stopped.set()


class Connection(asyncio.Protocol):
    """One connection: a buffer and at most one request at a time."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._buffer = bytearray()
        self._request: Request | None = None  # its body is still coming
        self._busy = False  # an answer is due
        self._timer: asyncio.TimerHandle | None = None
        self._websocket: WebSocket | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = t.cast(asyncio.Transport, transport)
        self._app.connections.add(self)
        if self._app.stopping:
            self.close_when_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer:
            self._timer.cancel()
        self._app.forget(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._websocket:
            self._websocket.feed(self._buffer)
        elif not self._busy:
            self._serve()

    def eof_received(self) -> bool:
        return self._busy  # a client may send its end early and still wait for the answer

    def close_when_idle(self) -> None:
        """Close after LINGER seconds without a request; a request in between is answered and ends the connection."""
        if not self._busy and not self._timer and not self._websocket:
            self._timer = asyncio.get_running_loop().call_later(LINGER, self._transport.close)

    def close_websocket(self, code: int) -> None:
        """Close the WebSocket that the connection may be."""
        if self._websocket:
            self._websocket.close(code)

    def request_ids(self) -> list[str]:
        """The ids of the requests that have come and are not answered, and of the one that became a WebSocket."""
        if self._websocket:
            return [self._websocket.request_id]
        current = [self._request.request_id] if self._request is not None and self._request.request_id else []
        return [*current, *request_ids(bytes(self._buffer))]

    def _serve(self) -> None:
        try:
            request = self._request or self._next_head()
            if request is None:
                return
            self._request = request
            if len(self._buffer) < request.length:
                return
            body = bytes(self._buffer[: request.length])
            del self._buffer[: request.length]
            self._start(request, body)
        except BadRequest as error:
            nothing = Request("GET", "", "", 0, False, "")
            self._finish(error.status, nothing, b"")
        except Crash:
            self._app.crash()

    def _next_head(self) -> Request | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadRequest(400)
            return None
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        return parse_head(head)

    def _start(self, request: Request, body: bytes) -> None:
        status, delay = self._app.answer(request)
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if not delay:
            self._finish(status, request, body)
            return
        self._busy = True
        self._timer = asyncio.get_running_loop().call_later(delay, self._finish, status, request, body)

    def _finish(self, status: int, request: Request, body: bytes) -> None:
        self._timer = None
        self._busy = False
        self._request = None
        if status == 101:
            self._transport.write(self._app.handshake(request))
            self._websocket = WebSocket(request.request_id, self._transport.write, self._transport.close)
            self._websocket.feed(self._buffer)
            return
        close = self._app.stopping or not request.keep_alive
        self._transport.write(self._app.response(status, request, body, close))
        if close:
            self._transport.close()
        elif self._buffer:
            self._serve()


def request_ids(data: bytes) -> list[str]:
    """The request ids in what came on a connection."""
    found = re.findall(rb"(?i)\r\nx-request-id:[ \t]*([^\r\n]+)", data)
    return [value.strip().decode("latin-1") for value in found]


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """The connections that nobody accepted yet."""
    accepted = []
    with contextlib.suppress(OSError):
        while True:
            accepted.append(listener.accept()[0])
    return accepted


def _connected_sockets() -> list[socket.socket]:
    """Every TCP connection of this process, those included that asyncio has accepted and not handed over yet."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=os.dup(int(name)))
            connection.getpeername()
            if connection.family == socket.AF_INET:
                found.append(connection)
    return found


def _read_to_the_end(connections: t.Sequence[socket.socket], seconds: float) -> list[bytes]:
    """Close the sending side of connections, and return what still comes on each until its end, or for some seconds."""
    received = {connection: bytearray() for connection in connections}
    for connection in connections:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
    coming = set(connections)
    end = time.monotonic() + seconds
    while coming and time.monotonic() < end:
        for connection in select.select(coming, [], [], max(end - time.monotonic(), 0))[0]:
            data = b""
            with contextlib.suppress(OSError):
                data = connection.recv(65536)
            received[connection] += data
            if not data:
                coming.remove(connection)
    return list(map(bytes, received.values()))


def listen(address: str, port: int) -> socket.socket:
    """A listening socket."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


async def serve(app: App, address: str, port: int, grace: float) -> None:
    """Serve until SIGTERM or SIGINT, then end what is in flight within `grace` seconds."""
    loop = asyncio.get_running_loop()
    listener = listen(address, port)
    app.listener = listener
    terminated = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminated.set)
    # asyncio sets TCP_NODELAY on every connection by itself.
    server = await loop.create_server(lambda: Connection(app), sock=listener, backlog=BACKLOG)
    await terminated.wait()
    server.close()
    app.stop()
    if not await _ends(app, grace):
        print(f"stopped with {len(app.connections)} connections open after {grace:g} s", file=sys.stderr)
        app.say_goodbye()
        await _ends(app, GOODBYE)


async def _ends(app: App, seconds: float) -> bool:
    """Wait for the last connection's end, or for some seconds."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(app.stopped.wait(), seconds)
    return app.stopped.is_set()


def main() -> int:
    parser = argparse.ArgumentParser(description="The app of the test fleets.")
    parser.add_argument("--host", default=socket.gethostname(), help="the name that answers carry")
    parser.add_argument("--listen", default=f"0.0.0.0:{os.environ.get('PORT', '8080')}", metavar="ADDRESS:PORT")
    parser.add_argument(
        "--release", default=os.path.join(HERE, "release.json"), metavar="FILE", help="the release file"
    )
    parser.add_argument("--killed", default="", metavar="FILE", help="where a crash notes the requests it kills")
    parser.add_argument(
        "--grace", type=float, default=GRACE, metavar="SECONDS", help="from SIGTERM to the end, at most"
    )
    arguments = parser.parse_args()
    try:
        with open(arguments.release, encoding="utf-8") as file:
            release = parse_release(file.read())
    except (OSError, ReleaseError) as error:
        print(f"{arguments.release}: {error}", file=sys.stderr)
        return 2
    if release.behaviour == "crash_on_start":
        print("crash: this release ends at its start", file=sys.stderr)
        return 1
    address, _colon, port = arguments.listen.rpartition(":")
    try:
        asyncio.run(_run(arguments, release, address, int(port)))
    except OSError as error:
        print(f"cannot listen on {arguments.listen}: {error}", file=sys.stderr)
        return 3
    return 0


async def _run(arguments: argparse.Namespace, release: Release, address: str, port: int) -> None:
    # Python 3.9 binds an Event to the loop that runs where it is made.
    await serve(App(arguments.host, release, arguments.killed), address, port, arguments.grace)


if __name__ == "__main__":
    sys.exit(main())
