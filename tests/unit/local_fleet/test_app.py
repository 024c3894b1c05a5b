# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the app: releases, request heads and WebSockets."""

from __future__ import annotations

import json
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection, events

from local_fleet.app import (
    App,
    BadFrame,
    BadRequest,
    Release,
    ReleaseError,
    Request,
    WebSocket,
    accept_key,
    as_json,
    parse_head,
    parse_release,
    request_ids,
    take_frame,
)


def test_a_release_survives_its_file() -> None:
    release = Release("2.0.0", "bad_after", rate=0.2, after_s=3.0, then="crash")
    assert parse_release(json.dumps(as_json(release))) == release


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a release"),
        ("[]", "not a release"),
        ('{"colour": "red"}', "colour"),
        ('{"behaviour": "odd"}', "'odd' is none of good, errors"),
        ('{"behaviour": "bad_after", "then": "good"}', "'good' is none of errors"),
        ('{"rate": 1.5}', "not a share"),
        ('{"delay_ms": -1}', "negative"),
    ],
)
def test_a_bad_release_file_is_refused(text: str, said: str) -> None:
    with pytest.raises(ReleaseError, match=said):
        parse_release(text)


@pytest.mark.parametrize(("age", "behaviour"), [(0.0, "good"), (4.9, "good"), (5.0, "slow"), (99.0, "slow")])
def test_a_release_turns_bad_at_its_time(age: float, behaviour: str) -> None:
    assert Release(behaviour="bad_after", after_s=5.0, then="slow").behaviour_at(age) == behaviour


def test_a_head_is_read() -> None:
    head = b"POST /slow?ms=5 HTTP/1.1\r\nhost: lb1\r\ncontent-length: 12\r\nx-request-id: r1"
    assert parse_head(head) == Request("POST", "/slow", "ms=5", 12, True, "r1")


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1", True),
        (b"GET / HTTP/1.1\r\nConnection: close", False),
        (b"GET / HTTP/1.1\r\nConnection: TE, Close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive", True),
    ],
)
def test_a_connection_is_kept_as_asked(head: bytes, keep_alive: bool) -> None:
    assert parse_head(head).keep_alive == keep_alive


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET /", 400),
        (b"GET / HTTP/2.0", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1x", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked", 501),
    ],
)
def test_a_request_that_cannot_be_served_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_head(head)
    assert refused.value.status == status


@given(st.binary(max_size=200))
def test_any_head_is_read_or_refused(head: bytes) -> None:
    try:
        request: t.Any = parse_head(head)
    except BadRequest as refused:
        request = refused.status
    assert request


def test_request_ids_are_found_in_what_came() -> None:
    data = b"GET / HTTP/1.1\r\nX-Request-Id: r1\r\n\r\nGET / HTTP/1.1\r\nx-request-id:r2\r\nhost: x\r\n\r\n"
    assert request_ids(data) == ["r1", "r2"]


# --- WebSockets, against a client that others wrote


class Pair:
    """A WebSocket of the app and its client, which have done their handshake; bytes pass by hand."""

    def __init__(self) -> None:
        self.client = WSConnection(ConnectionType.CLIENT)
        asked = self.client.send(events.Request(host="shop", target="/ws"))
        request = parse_head(asked[:-4])
        app = App("web1", Release(), "")
        assert app.answer(request) == (101, 0.0)
        self.client.receive_data(app.handshake(request))
        self.ends = 0
        self._said = bytearray()
        self._buffer = bytearray()
        self.server = WebSocket("r1", self._said.extend, self._end)
        assert isinstance(next(self.client.events()), events.AcceptConnection)

    def _end(self) -> None:
        self.ends += 1

    def feed(self, data: bytes, size: int = 1 << 20) -> list[events.Event]:
        """What the client sees after the app got some bytes, in pieces of a size."""
        for start in range(0, len(data), size):
            self._buffer += data[start : start + size]
            self.server.feed(self._buffer)
        return self.heard()

    def heard(self) -> list[events.Event]:
        """What the client sees of what the app has said."""
        if self._said:
            self.client.receive_data(bytes(self._said))
        self._said.clear()
        return list(self.client.events())


def texts(heard: t.Iterable[events.Event]) -> str:
    return "".join(event.data for event in heard if isinstance(event, events.TextMessage))


@given(st.text(max_size=300), st.integers(1, 400))
def test_a_message_comes_back_however_it_is_cut_up(text: str, size: int) -> None:
    pair = Pair()
    assert texts(pair.feed(pair.client.send(events.TextMessage(data=text)), size)) == text


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_messages_of_every_form_of_length_come_back(length: int) -> None:
    pair = Pair()
    assert texts(pair.feed(pair.client.send(events.TextMessage(data="x" * length)))) == "x" * length


def test_a_message_in_frames_comes_back_whole_with_a_ping_between_them() -> None:
    pair = Pair()
    frames = pair.client.send(events.TextMessage(data="one ", message_finished=False))
    frames += pair.client.send(events.Ping(payload=b"there?"))
    frames += pair.client.send(events.TextMessage(data="two"))
    heard = pair.feed(frames)
    assert texts(heard) == "one two"
    assert [bytes(event.payload) for event in heard if isinstance(event, events.Pong)] == [b"there?"]


def test_a_close_is_answered_and_ends_the_connection() -> None:
    pair = Pair()
    heard = pair.feed(pair.client.send(events.CloseConnection(code=1000)))
    assert [event.code for event in heard if isinstance(event, events.CloseConnection)] == [1000]
    assert pair.ends == 1


def test_an_app_that_goes_says_so_and_sends_nothing_more() -> None:
    pair = Pair()
    late = pair.client.send(events.TextMessage(data="late"))
    pair.server.close(1001)
    heard = pair.feed(late)
    assert [event.code for event in heard if isinstance(event, events.CloseConnection)] == [1001]
    assert texts(heard) == ""
    assert pair.ends == 0
    assert pair.feed(pair.client.send(events.CloseConnection(code=1001))) == []
    assert pair.ends == 1


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(b"\x81\x01x", 1002, id="not masked"),
        pytest.param(b"\xc1\x80mask", 1002, id="an extension"),
        pytest.param(b"\x83\x80mask", 1002, id="an unknown kind"),
        pytest.param(b"\x09\x80mask", 1002, id="a part of a ping"),
        pytest.param(b"\x89\xfe\x00\x7e", 1002, id="a long ping"),
        pytest.param(b"\x80\x80mask", 1002, id="the end of nothing"),
        pytest.param(b"\x81\xff" + b"\xff" * 8, 1009, id="more than all memory"),
    ],
)
def test_a_client_that_breaks_the_protocol_is_closed(frame: bytes, code: int) -> None:
    pair = Pair()
    heard = pair.feed(frame)
    assert [event.code for event in heard if isinstance(event, events.CloseConnection)] == [code]
    assert pair.ends == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    buffer, code = bytearray(data), 1002
    try:
        while take_frame(buffer):
            assert len(buffer) < len(data)
    except BadFrame as refused:
        code = refused.code
    assert code in (1002, 1009)


def test_a_request_for_a_websocket_without_a_key_is_told_so() -> None:
    request = parse_head(b"GET /ws HTTP/1.1\r\nHost: shop")
    assert App("web1", Release(), "").answer(request)[0] == 426


def test_the_key_is_answered_as_in_the_standard() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_an_unhealthy_release_takes_websockets_and_one_with_errors_refuses_them() -> None:
    request = parse_head(b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: key")
    statuses = [App("web1", Release("2.0.0", bad), "").answer(request)[0] for bad in ("unhealthy", "errors")]
    assert statuses == [101, 500]
