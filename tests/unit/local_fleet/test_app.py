# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the app: releases and request heads."""

from __future__ import annotations

import json
import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fleet.app import BadRequest, Release, ReleaseError, Request, as_json, parse_head, parse_release, request_ids


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
