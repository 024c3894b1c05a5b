# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The WebSockets of a load: some are always open to each load balancer, and every message must come back.

Each is closed by us at its age, and another one takes its place; so it does when it ends in any other way.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import time
import typing as t

from wsproto import ConnectionType, WSConnection, events
from wsproto.utilities import ProtocolError

from local_fleet.tally import SocketRecord

REOPEN_SECONDS = 0.1  # until the next one, so that a load balancer that refuses all is not flooded


class Place(t.NamedTuple):
    """Where WebSockets are opened."""

    name: str  # the load balancer's
    address: str
    port: int


class Manner(t.NamedTuple):
    """How WebSockets are used: closed after `age` seconds, a message each `interval`, an answer within `timeout`."""

    age: float
    interval: float
    timeout: float


class Client(asyncio.Protocol):
    """One WebSocket, from its handshake to its end; `ended` is done once."""

    def __init__(self, place: Place, request_id: str, manner: Manner, age: float) -> None:
        self.ended: asyncio.Future[SocketRecord] = asyncio.get_running_loop().create_future()
        self._place = place
        self._request_id = request_id
        self._manner = manner
        self._age = age
        self._begun = time.time()
        self._socket = WSConnection(ConnectionType.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._headers: dict[str, str] = {}
        self._status = 0
        self._text: list[str] = []  # what has come of a message
        self._expected: collections.deque[tuple[str, float]] = collections.deque()  # messages, and when each is late
        self._sent = self._returned = 0
        self._closing = False

    def close(self) -> None:
        """Close it as planned, whatever its age."""
        if self._status != 101:
            self._age = 0.0
            return
        if self._closing or self.ended.done():
            return
        self._closing = True
        self._send(events.CloseConnection(code=1000))
        self._after(self._manner.timeout, self.fail, f"its close was not answered in {self._manner.timeout:g} s")

    def fail(self, why: str) -> None:
        """It is of no use any more."""
        self._end(why)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = t.cast(asyncio.Transport, transport)
        headers = [(b"X-Request-Id", self._request_id.encode())]
        self._send(events.Request(host=self._place.name, target="/ws", extra_headers=headers))
        self._after(self._manner.timeout, self._expect_handshake)

    def data_received(self, data: bytes) -> None:
        try:
            self._socket.receive_data(data)
            for event in self._socket.events():
                self._take(event)
        except ProtocolError as error:
            self._end(f"no WebSocket: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection was lost: {exc}" if exc else "the connection was closed")

    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.AcceptConnection):
            self._open(event)
        elif isinstance(event, events.RejectConnection):
            self._status, self._headers = event.status_code, _texts(event.headers)
            self._end("")
        elif isinstance(event, events.TextMessage):
            self._text.append(event.data)
            if event.message_finished:
                self._check("".join(self._text))
                self._text.clear()
        elif isinstance(event, events.Ping):
            self._send(event.response())
        elif isinstance(event, events.CloseConnection):
            self._end("" if self._closing else f"it was closed with {event.code}")

    def _open(self, event: events.AcceptConnection) -> None:
        self._status, self._headers = 101, _texts(event.extra_headers)
        self._after(self._age, self.close)
        self._say()

    def _say(self) -> None:
        """Send a message, and come again when the next one is due."""
        now = time.monotonic()
        if self._closing or self.ended.done():
            return
        if self._expected and self._expected[0][1] < now:
            self._end(f"a message did not come back in {self._manner.timeout:g} s")
            return
        self._sent += 1
        text = f"{self._request_id} {self._sent}"
        self._expected.append((text, now + self._manner.timeout))
        self._send(events.TextMessage(data=text))
        self._after(self._manner.interval, self._say)

    def _check(self, text: str) -> None:
        """Take a message that came back."""
        expected = self._expected.popleft()[0] if self._expected else "nothing"
        self._returned += text == expected
        if text != expected:
            self._end("", f"{text!r} came back for {expected!r}")

    def _expect_handshake(self) -> None:
        if not self._status:
            self._end(f"no handshake in {self._manner.timeout:g} s")

    def _send(self, event: events.Event) -> None:
        if self._transport:
            self._transport.write(self._socket.send(event))

    def _after(self, seconds: float, act: t.Callable[..., None], *arguments: t.Any) -> None:
        asyncio.get_running_loop().call_later(seconds, act, *arguments)

    def _end(self, broken: str, wrong: str = "") -> None:
        """Record the WebSocket, the first time this is called."""
        if self.ended.done():
            return
        self.ended.set_result(self._record(broken, wrong))
        if self._transport:
            self._transport.abort()

    def _record(self, broken: str, wrong: str) -> SocketRecord:
        header = self._headers.get
        return SocketRecord(
            begun=round(self._begun, 6),
            ended=round(time.time(), 6),
            lb=self._place.name,
            request_id=self._request_id,
            messages=self._returned,
            status=self._status,
            release=header("x-release"),
            host=header("x-host"),
            server=header("x-server"),
            broken=broken,
            wrong=wrong,
        )


def _texts(headers: t.Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


class Crowd:
    """Keeps `count` WebSockets open at each place, and hands the record of each that ended to `record`."""

    def __init__(
        self,
        count: int,
        places: t.Sequence[Place],
        manner: Manner,
        prefix: str,
        record: t.Callable[[SocketRecord], None],
    ) -> None:
        self._seats = [(place, (seat + 1) / count) for place in places for seat in range(count)]
        self._manner = manner
        self._ids = map(f"{prefix}-ws{{}}".format, itertools.count(1))
        self._record = record
        self._open: set[Client] = set()
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Go on until `stop`, and until the last one is closed."""
        await asyncio.gather(*(self._keep(place, part) for place, part in self._seats))

    def stop(self) -> None:
        """Close them all as planned."""
        self._stopped.set()
        for client in self._open:
            client.close()

    async def _keep(self, place: Place, part: float) -> None:
        """Keep one open after the other; the first ones end at different ages, so that not all end together."""
        age = self._manner.age * part
        while not self._stopped.is_set():
            self._record(await self._use(place, age))
            age = self._manner.age
            try:
                await asyncio.wait_for(self._stopped.wait(), REOPEN_SECONDS)
            except asyncio.TimeoutError:
                continue

    async def _use(self, place: Place, age: float) -> SocketRecord:
        """Open one, and wait for its end."""
        client = Client(place, next(self._ids), self._manner, age)
        connecting = asyncio.get_running_loop().create_connection(lambda: client, place.address, place.port)
        self._open.add(client)
        try:
            await asyncio.wait_for(connecting, self._manner.timeout)
        except asyncio.TimeoutError:
            client.fail(f"no connection in {self._manner.timeout:g} s")
        except OSError as error:
            client.fail(f"cannot connect: {error}")
        try:
            return await client.ended
        finally:
            self._open.discard(client)
