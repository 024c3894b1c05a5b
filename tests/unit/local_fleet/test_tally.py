# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request counts as."""

from __future__ import annotations

import typing as t

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_fleet.incidents import Crash, Incidents, Killer
from local_fleet.tally import (
    HARMED,
    LOST,
    OK,
    Record,
    SocketRecord,
    Sockets,
    Spread,
    Terms,
    classify,
    classify_socket,
    spread,
    summarise,
)

NOTHING = Incidents()
CRASHED = Incidents(crashes=(Crash("web1", "2.0.0", time=100.0, exit_code=70, until=110.0),))
KILLED = Incidents(killed={"r1": Killer("2.0.0", "web1")})
ANSWER = {"status": 200, "release": "1.0.0", "host": "web1", "server": "web1"}
LB_ERROR = {"status": 503, "server": "web1"}
RESET = {"broken": "ECONNRESET before an answer"}


def record(**values: t.Any) -> Record:
    """A request sent at 100.5 that took 20 ms."""
    given_values = {"due": 100.5, "late_ms": 0.0, "ms": 20.0, "asked_ms": 0.0, "lb": "lb1", "method": "GET"}
    return Record(**{**given_values, "reused": True, "request_id": "r1", **values})


@pytest.mark.parametrize(
    ("values", "incidents", "kind"),
    [
        pytest.param(ANSWER, NOTHING, OK, id="a good answer"),
        pytest.param(ANSWER, CRASHED, OK, id="a good answer of a host that has crashed"),
        pytest.param({**ANSWER, "status": 500}, NOTHING, HARMED, id="an error of the app"),
        pytest.param({**ANSWER, "status": 404}, NOTHING, HARMED, id="a refusal of the app"),
        pytest.param({**ANSWER, "wrong": "the body differs in status"}, NOTHING, HARMED, id="a wrong body"),
        pytest.param({**ANSWER, "ms": 5001.0}, NOTHING, HARMED, id="a late answer"),
        pytest.param({**ANSWER, "ms": 5001.0, "asked_ms": 2000.0}, NOTHING, OK, id="an answer as late as asked"),
        pytest.param({**ANSWER, "release": "3.0.0"}, NOTHING, HARMED, id="an unexpected release"),
        pytest.param(LB_ERROR, NOTHING, LOST, id="an error of the LB"),
        pytest.param(LB_ERROR, CRASHED, HARMED, id="an error of the LB by a crash"),
        pytest.param({**LB_ERROR, "server": "web2"}, CRASHED, LOST, id="an error of the LB by another host's crash"),
        pytest.param({**LB_ERROR, "server": "<NOSRV>"}, CRASHED, LOST, id="an error of the LB without a server"),
        pytest.param({**LB_ERROR, "due": 111.0}, CRASHED, LOST, id="an error of the LB after the crash was mended"),
        pytest.param({**LB_ERROR, "due": 98.0}, CRASHED, LOST, id="an error of the LB before the crash"),
        pytest.param({**LB_ERROR, "due": 98.0, "ms": 2010.0}, CRASHED, HARMED, id="in flight when the crash came"),
        pytest.param({**LB_ERROR, "status": 400}, CRASHED, LOST, id="a refusal of the LB during a crash"),
        pytest.param({"status": 200, "server": "web1"}, NOTHING, LOST, id="an answer that is not the app's"),
        pytest.param(RESET, NOTHING, LOST, id="no answer"),
        pytest.param(RESET, CRASHED, LOST, id="no answer from nobody knows which host, at the time of a crash"),
        pytest.param(RESET, KILLED, HARMED, id="no answer, killed by a crash"),
        pytest.param({**ANSWER, **RESET}, NOTHING, LOST, id="a broken answer"),
        pytest.param({**ANSWER, **RESET}, CRASHED, HARMED, id="a broken answer of a host that crashed"),
        pytest.param({**RESET, "request_id": "r2"}, KILLED, LOST, id="no answer while a crash killed others"),
    ],
)
def test_a_request_counts_as(values: dict[str, t.Any], incidents: Incidents, kind: str) -> None:
    assert classify(record(**values), incidents, Terms(releases=["1.0.0", "2.0.0"])).kind == kind


def test_what_a_crash_harmed_is_laid_to_its_release() -> None:
    outcome = classify(record(**LB_ERROR), CRASHED, Terms())
    assert (outcome.release, outcome.host) == ("2.0.0", "web1")
    assert outcome.cause == "lb1 itself answered 503: web1 had crashed"


def test_a_lost_request_belongs_to_no_release() -> None:
    assert classify(record(**LB_ERROR), NOTHING, Terms()).release is None


def test_any_release_is_expected_when_none_is_named() -> None:
    assert classify(record(**{**ANSWER, "release": "3.0.0"}), NOTHING, Terms()).kind == OK


records = st.lists(
    st.builds(
        record,
        due=st.floats(0, 100).map(lambda value: round(value, 3)),
        ms=st.floats(0, 10_000),
        lb=st.sampled_from(["lb1", "lb2"]),
        request_id=st.sampled_from(["r1", "r2"]),
        status=st.sampled_from([0, 200, 404, 500, 502, 503]),
        release=st.sampled_from([None, "1.0.0", "2.0.0"]),
        server=st.sampled_from([None, "web1", "web2"]),
        broken=st.sampled_from(["", "reset"]),
    ),
    max_size=80,
)


@given(records)
def test_every_request_is_counted_once_in_every_table(requests: list[Record]) -> None:
    summary = summarise(requests, Incidents(CRASHED.crashes, KILLED.killed), Terms())
    assert summary.ok + summary.lost + summary.harmed == summary.sent == len(requests)
    for table in (summary.per_second, summary.per_release, summary.per_lb, summary.per_server):
        for name in ("sent", "ok", "lost", "harmed"):
            assert sum(getattr(count, name) for count in table.values()) == getattr(summary, name)
    assert sum(summary.statuses.values()) == len(requests)


def test_seconds_count_from_the_first_request() -> None:
    requests = [record(due=due, **ANSWER) for due in (100.2, 100.9, 101.3, 101.4)]
    summary = summarise(requests, NOTHING, Terms())
    assert {second: count.sent for second, count in summary.per_second.items()} == {0: 2, 1: 2}
    assert summary.rate == pytest.approx(3 / 1.2)


def test_the_line_tells_the_three_numbers() -> None:
    requests = [record(**ANSWER), record(**LB_ERROR), record(**{**ANSWER, "status": 500})]
    assert summarise(requests, NOTHING, Terms()).line() == "requests: 3 sent, 1 lost, 1 harmed"


def test_twenty_examples_of_each_kind_are_kept() -> None:
    requests = [record(**LB_ERROR)] * 30 + [record(**{**ANSWER, "status": 500})] * 30
    kinds = [example["kind"] for example in summarise(requests, NOTHING, Terms()).examples]
    assert kinds == [LOST] * 20 + [HARMED] * 20


def test_no_requests_make_a_summary_too() -> None:
    summary = summarise([], NOTHING, Terms())
    assert (summary.line(), summary.rate, summary.starved) == ("requests: 0 sent, 0 lost, 0 harmed", 0.0, False)


def test_a_late_generator_is_starved() -> None:
    assert summarise([record(late_ms=500.0, **ANSWER)], NOTHING, Terms()).starved


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Spread()),
        ([7.0], Spread(7.0, 7.0, 7.0, 7.0)),
        ([float(value) for value in range(1, 101)], Spread(50.0, 95.0, 99.0, 100.0)),
    ],
)
def test_percentiles_are_of_the_nearest_rank(values: list[float], expected: Spread) -> None:
    assert spread(values) == expected


# --- WebSockets

OPEN = {"status": 101, "release": "1.0.0", "host": "web1", "server": "web1"}


def websocket(**values: t.Any) -> SocketRecord:
    """One that was begun at 92.0 and ended at 102.0, after 100 messages."""
    return SocketRecord(**{"begun": 92.0, "ended": 102.0, "lb": "lb1", "request_id": "r1", "messages": 100, **values})


@pytest.mark.parametrize(
    ("values", "incidents", "kind", "cut"),
    [
        pytest.param(OPEN, NOTHING, OK, False, id="closed as planned"),
        pytest.param({**OPEN, "broken": "it was closed with 1001"}, NOTHING, LOST, True, id="closed by the app"),
        pytest.param({**OPEN, "broken": "the connection was closed"}, NOTHING, LOST, True, id="cut"),
        pytest.param({**OPEN, "broken": "reset"}, CRASHED, HARMED, True, id="cut by a crash"),
        pytest.param({**OPEN, "broken": "reset"}, KILLED, HARMED, True, id="killed by a crash"),
        pytest.param({**OPEN, "broken": "reset", "ended": 99.0}, CRASHED, LOST, True, id="cut before the crash"),
        pytest.param({**OPEN, "wrong": "'b' came back for 'a'"}, NOTHING, HARMED, False, id="a wrong message"),
        pytest.param({**OPEN, "release": "3.0.0"}, NOTHING, HARMED, False, id="an unexpected release"),
        pytest.param({**OPEN, "status": 500}, NOTHING, HARMED, False, id="refused by the app"),
        pytest.param({"status": 503, "server": "<NOSRV>"}, NOTHING, LOST, False, id="refused by the LB"),
        pytest.param({"broken": "cannot connect"}, NOTHING, LOST, False, id="no LB"),
    ],
)
def test_a_websocket_counts_as(values: dict[str, t.Any], incidents: Incidents, kind: str, cut: bool) -> None:
    told = websocket(**values)
    outcome = classify_socket(told, incidents, Terms(releases=["1.0.0", "2.0.0"]))
    assert (outcome.kind, told.is_cut) == (kind, cut)


def test_websockets_are_counted_apart_from_requests() -> None:
    sockets = [
        websocket(**OPEN),
        websocket(**OPEN, broken="the connection was closed"),
        websocket(status=503),
        websocket(**{**OPEN, "status": 500}),
    ]
    summary = summarise([record(**ANSWER)], NOTHING, Terms(), sockets)
    assert (summary.sent, summary.lost, summary.harmed) == (1, 0, 0)
    assert summary.sockets == Sockets(sent=4, ok=1, lost=2, harmed=1, cut=1, messages=400)
    assert [example["kind"] for example in summary.examples] == [LOST, LOST, HARMED]
    assert summary.line() == ("requests: 1 sent, 0 lost, 0 harmed; websockets: 4 opened, 1 cut, 2 lost, 1 harmed")
