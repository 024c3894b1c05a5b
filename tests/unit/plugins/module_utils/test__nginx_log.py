# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import (
    NUMBERS,
    Counts,
    Tally,
    bucket_of,
    count,
    merged,
)
from hypothesis import given
from hypothesis import strategies as st

ONE, TWO = "10.0.0.1:80", "10.0.0.2:80"


def line(up: str, us: str = "200", uc: str = "0.001", uh: str = "0.002", ur: str = "0.003", **more: t.Any) -> bytes:
    return json.dumps(
        {"t": 1.5, "ph": "shop", "up": up, "us": us, "uc": uc, "uh": uh, "ur": ur, "st": 200, **more}
    ).encode()


def counted(*lines: bytes) -> dict[str, Counts]:
    tally: Tally = {}
    assert sum(count(one, tally) for one in lines) == len(lines)
    return tally.get("shop", {})


def numbers(counts: Counts) -> tuple[int, ...]:
    return tuple(getattr(counts, name) for name in NUMBERS)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (line(ONE), (1, 0, 0, 0, 0)),
        (line(ONE, us="503", st=503), (1, 1, 0, 0, 0)),
        (line(ONE, us="404", st=404), (1, 0, 1, 0, 0)),
        (line(ONE, us="502", uc="-", uh="-", st=502), (1, 0, 0, 1, 0)),
        (line(ONE, us="504", uh="-", st=504), (1, 0, 0, 0, 1)),
        # Its client left: what it would have said is not known.
        (line(ONE, us="-", uh="-", st=499), (1, 0, 0, 0, 0)),
        (line(ONE, us="-", uc="-", uh="-", st=499), (1, 0, 0, 0, 0)),
    ],
)
def test_what_became_of_a_request_is_counted_once(entry: bytes, expected: tuple[int, ...]) -> None:
    assert numbers(counted(entry)[ONE]) == expected


@pytest.mark.parametrize("between", [", ", " : "])
def test_each_try_counts_for_its_own_server(between: str) -> None:
    def several(*values: str) -> str:
        return between.join(values)

    found = counted(
        line(
            several(ONE, TWO),
            several("502", "200"),
            several("-", "0.001"),
            several("-", "0.002"),
            several("0.0", "0.003"),
        )
    )
    assert numbers(found[ONE]) == (1, 0, 0, 1, 0)
    assert numbers(found[TWO]) == (1, 0, 0, 0, 0)
    assert (found[ONE].times, found[TWO].times) == ({}, {"4": 1})


def test_a_try_that_was_broken_before_its_client_left_is_an_error_of_its_server() -> None:
    found = counted(line(f"{ONE}, {TWO}", "504, -", "0.001, 0.001", "-, -", "1.000, 0.100", st=499))
    assert (found[ONE].response, found[TWO].response) == (1, 0)


def test_requests_that_went_to_no_server_count_for_none() -> None:
    assert counted(line("-"), line(""), line("shop", us="502", st=502)) == {}


def test_servers_on_unix_sockets_and_ipv6_are_told_apart() -> None:
    assert set(counted(line("unix:/run/a.sock"), line("[::1]:80"))) == {"unix:/run/a.sock", "[::1]:80"}


def test_a_stream_has_sessions_and_failed_connections() -> None:
    tally: Tally = {}
    for entry in ({"up": f"{ONE}, {TWO}", "uc": "-, 0.001", "st": 200}, {"up": ONE, "uc": "0.001", "st": 200}):
        assert count(json.dumps({"t": 1, **entry}).encode(), tally)
    assert numbers(tally[""][ONE]) == (2, 0, 0, 1, 0)
    assert numbers(tally[""][TWO]) == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'{"up":1}',
        b'10.0.0.1 - - "GET / HTTP/1.1" 200',
        b'{"up":"a:1","uc":"-","st":"x"}',
        b"\xff",
    ],
)
def test_lines_of_another_format_say_nothing(entry: bytes) -> None:
    tally: Tally = {}
    assert not count(entry, tally)
    assert not any(tally.values())


@given(st.binary(max_size=200))
def test_no_line_makes_it_fail(entry: bytes) -> None:
    count(entry, {})


@given(st.floats(0, 10**7))
def test_a_time_is_in_the_bucket_whose_bounds_are_around_it(milliseconds: float) -> None:
    upper = float(bucket_of(milliseconds))
    assert milliseconds <= upper + 0.01
    assert upper <= max(milliseconds + 1, 1.05 * milliseconds) + 0.01


def test_a_time_that_nginx_cut_to_whole_milliseconds_is_up_to_one_longer() -> None:
    assert counted(line(ONE, ur="0.000"))[ONE].times == {"1": 1}
    assert counted(line(ONE, ur="0.012"))[ONE].times == {"13": 1}


counts = st.builds(
    Counts,
    *[st.integers(0, 10)] * len(NUMBERS),
    times=st.dictionaries(st.sampled_from(["1", "2", "21.00"]), st.integers(1, 9)),
)


@given(st.lists(counts, max_size=4))
def test_merged_counts_are_sums_and_survive_json(several: list[Counts]) -> None:
    total = merged(several)
    assert Counts.from_dict(json.loads(json.dumps(total.as_dict()))) == total
    for name in NUMBERS:
        assert getattr(total, name) == sum(getattr(one, name) for one in several)
    assert sum(total.times.values()) == sum(sum(one.times.values()) for one in several)
