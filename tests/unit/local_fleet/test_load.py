# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the load: the mix of requests and the check of answers."""

from __future__ import annotations

import json
import typing as t
import zlib

import pytest

from local_fleet.load import Profile, Request, RequestSource, Verdict, judge

HEADERS = {"x-release": "1.0.0", "x-host": "web1"}
GET = Request("r1", "GET", "/", b"", 0.0, True)
POST = Request("r1", "POST", "/", b"hello", 0.0, True)
TOLD = {"release": "1.0.0", "host": "web1", "request": "r1", "status": 200}
TOLD_POST = {**TOLD, "length": 5, "crc32": zlib.crc32(b"hello")}


@pytest.mark.parametrize(
    ("request_", "told", "wrong"),
    [
        (GET, TOLD, ""),
        (POST, TOLD_POST, ""),
        (GET, {**TOLD, "release": "2.0.0", "host": "web2"}, "the body differs in host, release"),
        (GET, {**TOLD, "status": 500}, "the body differs in status"),
        (POST, TOLD, "the body differs in crc32, length"),
        (POST, {**TOLD_POST, "crc32": 1}, "the body differs in crc32"),
    ],
)
def test_a_body_is_checked(request_: Request, told: t.Any, wrong: str) -> None:
    assert judge(request_, 200, HEADERS, json.dumps(told).encode()) == Verdict(wrong=wrong)


@pytest.mark.parametrize(
    ("body", "broken"),
    [
        pytest.param(b"<html>", "the body is not JSON", id="HTML"),
        pytest.param(b"", "the body is not JSON", id="empty"),
        pytest.param(json.dumps(TOLD).encode()[:-1], "the body is not JSON", id="cut short"),
        pytest.param(b"\xff", "the body is not JSON", id="not UTF-8"),
        pytest.param(b"[" * 200_000, "the body is not JSON", id="deep"),
        pytest.param(b"[]", "the body is not an object", id="a list"),
        pytest.param(b"{}", "the body is not the answer to this request", id="no request"),
        pytest.param(
            json.dumps({**TOLD, "request": "r2"}).encode(), "the body is not the answer to this request", id="another's"
        ),
    ],
)
def test_what_is_no_answer_to_the_request_is_broken(body: bytes, broken: str) -> None:
    assert judge(GET, 200, HEADERS, body) == Verdict(broken=broken)


def test_the_shares_of_a_mix_are_as_asked() -> None:
    source = RequestSource(Profile(new_connections=0.2, posts=0.3, slow=0.1, slow_ms=70), "p")
    requests = [source.next() for _request in range(5000)]
    shares = [
        sum(not request.keep_alive for request in requests) / 5000,
        sum(request.method == "POST" for request in requests) / 5000,
        sum(request.target == "/slow?ms=70" for request in requests) / 5000,
    ]
    assert shares == [pytest.approx(share, abs=0.03) for share in (0.2, 0.3, 0.1)]
    assert len({request.request_id for request in requests}) == 5000
    assert all(bool(request.body) == (request.method == "POST") for request in requests)


def test_the_same_seed_makes_the_same_mix() -> None:
    sources = [RequestSource(Profile(seed=7), "p") for _source in range(2)]
    assert [sources[0].next() for _request in range(100)] == [sources[1].next() for _request in range(100)]


@pytest.mark.parametrize("values", [{"rate": 0}, {"posts": 1.1}, {"slow": -0.1}, {"new_connections": 2}])
def test_an_impossible_profile_is_refused(values: dict[str, t.Any]) -> None:
    with pytest.raises(ValueError, match="shares go from 0 to 1"):
        Profile(**values)


@pytest.mark.parametrize("values", [{"websockets": -1}, {"websocket_ms": 0}, {"websocket_s": -1}])
def test_impossible_websockets_are_refused(values: dict[str, t.Any]) -> None:
    with pytest.raises(ValueError, match="WebSockets are not less than 0"):
        Profile(**values)
