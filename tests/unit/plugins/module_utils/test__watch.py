# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._watch import Verdict, step
from hypothesis import given
from hypothesis import strategies as st

SETTINGS = {"max_error_rate": 5, "min_requests": 50, "require_requests": True, "name": "green", "rest_name": "blue"}
TRACK = [("shop", "web4"), ("shop", "web5")]
LBS = ("lb1", "lb2")


def server(name: str, requests: t.Any = 0, backend: str = "shop", **other: t.Any) -> dict[str, t.Any]:
    errors = {kind: other.pop(kind, 0) for kind in ("http_5xx", "connect", "response")}
    told = {"health": "up", "status": "UP", "state": "ready", "settled": True, **other}
    return {"backend": backend, "name": name, "requests": requests, "errors": errors, **told}


def told(*servers: dict[str, t.Any], pid: int | None = 1) -> dict[str, t.Any]:
    return {"pid": pid, "servers": list(servers)}


def watch(
    readings: t.Sequence[dict[str, t.Any]],
    total: float = 100.0,
    settings: t.Mapping[str, t.Any] | None = None,
    each: float = 1,
) -> list[Verdict]:
    """The verdict after each reading, one every second; the state goes by way of JSON, as between two tasks."""
    verdicts: list[Verdict] = []
    state: dict[str, t.Any] = {}
    for number, reading in enumerate(readings):
        verdicts.append(step(state, reading, TRACK, SETTINGS if settings is None else settings, number * each, total))
        state = json.loads(json.dumps(verdicts[-1].state))
    return verdicts


def both(*servers: dict[str, t.Any], pid: int = 1) -> dict[str, t.Any]:
    """The same reading from both load balancers."""
    return {lb: told(*copy.deepcopy(servers), pid=pid) for lb in LBS}


# --- Counting


def test_what_was_counted_before_the_first_poll_says_nothing() -> None:
    (first,) = watch([both(server("web4", 1000, http_5xx=900))])
    assert first.verdict == "going"
    assert "green 0 requests, 0 errors" in first.line


def test_requests_and_errors_are_summed_over_load_balancers_and_servers() -> None:
    last = watch(
        [
            both(server("web4", 100), server("web5", 10), server("web1", 7)),
            both(server("web4", 600, http_5xx=1, connect=2), server("web5", 210, response=3), server("web1", 17)),
        ]
    )[-1]
    assert last.line == (
        "1 s of 100 s: green 1410 requests, 12 errors (0.9 %), blue 20 requests; observed share 98.6 % (97.2-99.3 %)"
    )


def of_log(since: str, *servers: dict[str, t.Any]) -> dict[str, t.Any]:
    """A reading whose counters come from a log; ``since`` is empty where it could not be read."""
    return {"lb1": {"pid": since, "from_zero": False, "servers": list(servers)}}


def test_a_poll_without_a_log_makes_nothing_of_before_new() -> None:
    silent = server("web4", None, http_5xx=None, connect=None, response=None)
    readings = [of_log("a", server("web4", 50000)), of_log("", silent), of_log("a", server("web4", 50020))]
    assert watch(readings)[-1].state["mine"][0] == 0
    assert watch([*readings, of_log("a", server("web4", 50030))])[-1].state["mine"][0] == 10


def test_counters_of_a_log_that_begin_anew_do_so_with_what_the_log_has_and_that_is_not_new() -> None:
    last = watch([of_log("a", server("web4", 10)), of_log("b", server("web4", 15000, http_5xx=900))])[-1]
    assert last.state["mine"] == [0, 0, 0, 0]
    more = [of_log("a", server("web4", 10)), of_log("b", server("web4", 15000)), of_log("b", server("web4", 15007))]
    assert watch(more)[-1].state["mine"][0] == 7


def test_a_request_that_was_sent_on_to_another_server_is_one_that_failed_once() -> None:
    before, after = server("web4", 100), server("web4", 100, retries=2, redispatches=1)
    assert "green 1 requests, 1 errors" in watch([{"lb1": told(before)}, {"lb1": told(after)}])[-1].line


def test_a_request_without_an_answer_is_a_request() -> None:
    before, after = server("web4", 100), server("web4", 100, response=3, connect=2)
    assert "green 5 requests, 5 errors (100.0 %)" in watch([{"lb1": told(before)}, {"lb1": told(after)}])[-1].line


def test_a_session_in_tcp_mode_is_counted_also_where_its_connection_fails() -> None:
    before, after = server("web4", 100, http_5xx=None), server("web4", 110, http_5xx=None, connect=10)
    assert "green 10 requests, 10 errors (100.0 %)" in watch([{"lb1": told(before)}, {"lb1": told(after)}])[-1].line


def test_a_new_process_counts_from_zero() -> None:
    readings = [both(server("web4", count), pid=pid) for count, pid in [(1000, 1), (1100, 1), (1200, 2), (1250, 2)]]
    assert [verdict.state["mine"][0] for verdict in watch(readings)] == [0, 200, 2600, 2700]


def test_counters_that_fall_count_from_zero() -> None:
    readings = [both(server("web4", count)) for count in (1000, 1100, 30, 50)]
    assert [verdict.state["mine"][0] for verdict in watch(readings)] == [0, 200, 260, 300]


def test_a_load_balancer_that_was_not_read_keeps_its_place() -> None:
    one = {"lb1": told(server("web4", 10)), "lb2": told(server("web4", 20))}
    two = {"lb1": told(server("web4", 110)), "lb2": None}
    three = {"lb1": told(server("web4", 210)), "lb2": told(server("web4", 220))}
    assert [verdict.state["mine"][0] for verdict in watch([one, two, three])] == [0, 100, 400]


def test_a_load_balancer_that_appears_later_begins_then() -> None:
    readings = [{"lb1": told(server("web4", 10))}, both(server("web4", 5000)), both(server("web4", 5010))]
    assert [verdict.state["mine"][0] for verdict in watch(readings)] == [0, 4990, 5010]


def test_errors_that_are_not_known_are_none() -> None:
    last = watch([both(server("web4", count, http_5xx=None, connect=1)) for count in (0, 100)])[-1]
    assert "green 200 requests, 0 errors" in last.line


# --- Errors


def test_too_many_errors_fail() -> None:
    last = watch([both(server("web4")), both(server("web4", 100, http_5xx=8, connect=2, response=1))])[-1]
    assert last.verdict == "fail"
    assert last.reason == (
        "22 of 206 requests to green failed (10.7 %, at most 5 % may): 16 5xx answers, 4 failed connections, 2 broken answers"
    )


def test_exactly_the_allowed_rate_does_not_fail() -> None:
    assert watch([both(server("web4")), both(server("web4", 100, http_5xx=5))])[-1].verdict == "going"


def test_errors_of_the_rest_do_not_fail() -> None:
    readings = [both(server("web4"), server("web1")), both(server("web4", 100), server("web1", 100, http_5xx=100))]
    assert watch(readings)[-1].verdict == "going"


def test_errors_are_judged_once_there_are_enough_requests() -> None:
    readings = [both(server("web4", 5 * polls, http_5xx=5 * polls)) for polls in range(7)]
    assert [verdict.verdict for verdict in watch(readings)] == ["going"] * 5 + ["fail"] * 2


def test_a_good_past_does_not_hide_errors_of_now() -> None:
    readings = [both(server("web4", 10_000 * polls)) for polls in range(5)]
    readings.append(both(server("web4", 40_030, http_5xx=6)))
    assert watch(readings)[-1].verdict == "fail"


def test_a_bad_moment_does_not_fail_while_few_requests_show_it() -> None:
    readings = [both(server("web4")), both(server("web4", 500)), both(server("web4", 501, http_5xx=1))]
    assert watch(readings)[-1].verdict == "going"


def test_failed_connections_count_without_any_request() -> None:
    assert watch([both(server("web4")), both(server("web4", 0, connect=40))])[-1].verdict == "fail"


# --- Health


def test_a_server_that_is_down_fails_at_once() -> None:
    reading = {"lb1": told(server("web4")), "lb2": told(server("web4", health="down", status="DOWN L4CON"))}
    (first,) = watch([reading])
    assert (first.verdict, first.reason) == ("fail", "lb2 sees shop/web4 down (DOWN L4CON)")


def test_a_server_of_the_rest_may_be_down() -> None:
    assert watch([both(server("web4"), server("web1", health="down"))])[-1].verdict == "going"


def test_a_server_without_checks_is_not_down() -> None:
    assert watch([both(server("web4", health="unchecked", status="no check"))])[-1].verdict == "going"


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_a_server_that_somebody_takes_out_fails(state: str) -> None:
    last = watch([both(server("web4")), {"lb1": told(server("web4")), "lb2": told(server("web4", state=state))}])[-1]
    assert (last.verdict, last.reason) == ("fail", f"somebody took shop/web4 out of rotation on lb2: it is in {state}")


def test_a_server_that_never_was_in_rotation_may_stay_out() -> None:
    assert watch([both(server("web4", state="drain"))] * 2)[-1].verdict == "going"


def test_a_server_that_is_gone_fails() -> None:
    last = watch([both(server("web4"), server("web5")), both(server("web4"))])[-1]
    assert (last.verdict, last.reason) == ("fail", "shop/web5 is gone from lb1; shop/web5 is gone from lb2")


def test_a_failed_probe_fails() -> None:
    verdict = step({}, both(server("web4")), TRACK, SETTINGS, 1, 10, ["web4 answered 500 to lb1"])
    assert (verdict.verdict, verdict.reason) == ("fail", "web4 answered 500 to lb1")


# --- The end


def end(*readings: dict[str, t.Any], **settings: t.Any) -> Verdict:
    """The verdict of the last of these readings, with which the time is over."""
    return watch(readings, total=len(readings) - 1, settings={**SETTINGS, **settings})[-1]


def test_enough_good_requests_pass_at_the_end() -> None:
    verdicts = watch([both(server("web4", 100 * polls)) for polls in range(4)], total=3)
    assert [verdict.verdict for verdict in verdicts] == ["going", "going", "going", "pass"]
    assert verdicts[-1].reason == "0 of 600 requests to green failed (0.0 %)"


def test_too_few_requests_are_inconclusive_where_they_are_required() -> None:
    last = end(both(server("web4")), both(server("web4", 5)))
    assert (last.verdict, last.reason) == ("inconclusive", "green got 10 requests, and 50 are needed to judge it")


def test_too_few_requests_pass_where_health_is_enough() -> None:
    last = end(both(server("web4")), both(server("web4", 5)), require_requests=False)
    assert last.verdict == "pass"
    assert last.reason.startswith("green stayed healthy; green got 10 requests")


@pytest.mark.parametrize("required", [True, False])
def test_few_requests_that_nearly_all_fail_fail_at_the_end(required: bool) -> None:
    last = end(both(server("web4")), both(server("web4", 10, http_5xx=9)), require_requests=required)
    assert last.verdict == "fail"
    assert last.reason.startswith("18 of 20 requests to green failed (90.0 %")


def test_one_load_balancer_without_traffic_does_not_matter() -> None:
    first, second = both(server("web4")), both(server("web4"))
    second["lb1"] = told(server("web4", 1000))
    assert end(first, second).verdict == "pass"


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("reading", [{}, {"lb1": None}, {"lb1": told()}, {"lb1": told(server("web1", 1000))}])
def test_without_a_reading_of_the_track_nothing_passes(reading: dict[str, t.Any], required: bool) -> None:
    last = end(reading, require_requests=required)
    assert (last.verdict, last.reason) == ("inconclusive", "no load balancer told how green does")


# --- Whatever is read

numbers = st.one_of(st.none(), st.integers(min_value=0, max_value=300))
servers = st.builds(
    server,
    st.sampled_from(["web1", "web4", "web5"]),
    numbers,
    backend=st.sampled_from(["shop", "api"]),
    http_5xx=numbers,
    connect=numbers,
    response=numbers,
    health=st.sampled_from(["up", "up", "up", "down", "unchecked", None]),
    state=st.sampled_from(["ready", "ready", "ready", "drain", "maint", None]),
)
load_balancers = st.one_of(
    st.none(),
    st.builds(
        lambda found, pid: told(*{(one["backend"], one["name"]): one for one in found}.values(), pid=pid),
        st.lists(servers, max_size=4),
        st.sampled_from([1, 1, 1, 2, None]),
    ),
)
polls = st.lists(st.dictionaries(st.sampled_from(["lb1", "lb2", "lb3"]), load_balancers), min_size=1, max_size=6)
any_settings = st.fixed_dictionaries(
    {
        "max_error_rate": st.sampled_from([0, 5, 100]),
        "min_requests": st.sampled_from([0, 1, 50]),
        "require_requests": st.booleans(),
    }
)


@given(polls, any_settings)
def test_any_readings_are_judged_and_never_counted_below_zero(
    readings: list[dict[str, t.Any]], settings: dict[str, t.Any]
) -> None:
    before = [0, 0, 0, 0, 0, 0, 0, 0]
    for verdict in watch(readings, total=3, settings=settings):
        assert verdict.verdict in ("going", "pass", "fail", "inconclusive")
        assert bool(verdict.reason) == (verdict.verdict != "going")
        sums = [*verdict.state["mine"], *verdict.state["rest"]]
        assert all(new >= old for old, new in zip(before, sums))
        assert all(value >= 0 for poll in verdict.state["polls"] for value in poll)
        before = sums


@given(polls, any_settings)
def test_the_order_of_load_balancers_and_servers_does_not_matter(
    readings: list[dict[str, t.Any]], settings: dict[str, t.Any]
) -> None:
    turned = [
        {
            lb: one and {**one, "servers": list(reversed(one["servers"]))}
            for lb, one in sorted(reading.items(), reverse=True)
        }
        for reading in readings
    ]
    assert watch(readings, total=3, settings=settings) == watch(turned, total=3, settings=settings)


@given(polls, any_settings)
def test_the_state_survives_json(readings: list[dict[str, t.Any]], settings: dict[str, t.Any]) -> None:
    state: dict[str, t.Any] = {}
    for number, (reading, by_json) in enumerate(zip(readings, watch(readings, total=3, settings=settings))):
        verdict = step(state, reading, TRACK, settings, number, 3)
        state = verdict.state
        assert verdict == by_json
        assert json.loads(json.dumps(verdict.as_dict())) == verdict.as_dict()


@given(polls, any_settings)
def test_a_reading_is_not_changed(readings: list[dict[str, t.Any]], settings: dict[str, t.Any]) -> None:
    before = copy.deepcopy(readings)
    watch(readings, total=3, settings=settings)
    assert readings == before


@given(polls)
def test_nothing_passes_before_its_time(readings: list[dict[str, t.Any]]) -> None:
    assert all(verdict.verdict in ("going", "fail") for verdict in watch(readings, total=100))


@given(polls)
def test_fewer_requests_than_required_never_pass(readings: list[dict[str, t.Any]]) -> None:
    for verdict in watch(readings, total=0, settings={**SETTINGS, "min_requests": 10**6}):
        assert verdict.verdict in ("fail", "inconclusive")


@given(
    st.lists(st.integers(min_value=0, max_value=1000), min_size=1, max_size=8), st.integers(min_value=0, max_value=7)
)
def test_a_reload_hides_nothing_that_the_new_process_counted(growths: list[int], reload_at: int) -> None:
    readings, counted, expected = [both(server("web4", 5))], 5, 0
    for number, growth in enumerate(growths):
        counted = growth if number == reload_at else counted + growth
        expected += 2 * growth
        readings.append(both(server("web4", counted), pid=2 if number >= reload_at else 1))
    assert watch(readings)[-1].state["mine"][0] == expected


def test_the_state_stays_small_however_long_it_goes_on() -> None:
    readings = [both(server("web4", 100 * polls)) for polls in range(200)] + [both(server("web4", 19_900))] * 200
    assert len(watch(readings, total=1000)[-1].state["polls"]) <= 50


# --- Compared with others


def compared(*readings: dict[str, t.Any]) -> str:
    """The verdict where web1 is a stable server, and nothing is told of web2."""
    state: dict[str, t.Any] = {}
    for number, reading in enumerate(readings):
        sides = {"canary": TRACK, "stable": [("shop", "web1")]}
        verdict = step(state, reading, TRACK, SETTINGS, number, len(readings) - 1, sides=sides)
        state = json.loads(json.dumps(verdict.state))
    return verdict.verdict


def test_errors_that_servers_without_the_release_make_too_do_not_fail_it() -> None:
    readings = [
        both(server("web4", 100 * n, http_5xx=20 * n), server("web1", 300 * n, http_5xx=60 * n)) for n in range(4)
    ]
    assert compared(*readings) == "pass"


def test_errors_that_they_do_not_make_fail_it() -> None:
    readings = [
        both(server("web4", 100 * n, http_5xx=20 * n), server("web1", 300 * n, http_5xx=10 * n)) for n in range(4)
    ]
    assert compared(*readings) == "fail"


def test_errors_of_servers_that_run_the_release_already_excuse_nothing() -> None:
    readings = [
        both(server("web4", 100 * n, http_5xx=20 * n), server("web2", 300 * n, http_5xx=60 * n)) for n in range(4)
    ]
    assert compared(*readings) == "fail"


def test_where_errors_have_no_limit_they_fail_nothing() -> None:
    readings = [both(server("web4", 100 * n, http_5xx=90 * n)) for n in range(4)]
    assert watch(readings, total=3, settings={**SETTINGS, "limited": False})[-1].verdict == "pass"


def grown(*readings: dict[str, t.Any]) -> t.Mapping[str, t.Sequence[int]]:
    """What the servers of both sides grew by in the last of these readings."""
    state: dict[str, t.Any] = {}
    for reading in readings:
        verdict = step(state, reading, TRACK, SETTINGS, 1, 10, sides={"canary": TRACK, "stable": [("shop", "web1")]})
        state = json.loads(json.dumps(verdict.state))
    return verdict.grown


def test_the_growth_of_both_sides_is_summed_over_load_balancers() -> None:
    first = both(server("web4", 10), server("web5", 10), server("web1", 100))
    second = both(server("web4", 15, http_5xx=1), server("web5", 17, connect=2), server("web1", 160, response=3))
    assert grown(first, second) == {"canary": (28, 2, 4, 0), "stable": (126, 0, 0, 6)}


def test_the_growth_of_the_first_reading_is_nothing() -> None:
    assert grown(both(server("web4", 1000))) == {"canary": (0, 0, 0, 0), "stable": (0, 0, 0, 0)}


def test_what_began_to_count_anew_did_not_grow() -> None:
    before = both(server("web4", 100), server("web1", 100))
    cleared = both(server("web4", 40, http_5xx=3), server("web1", 110))
    assert grown(before, cleared)["canary"] == (0, 0, 0, 0)
    restarted = both(server("web4", 400), server("web1", 500), pid=2)
    assert grown(before, restarted) == {"canary": (0, 0, 0, 0), "stable": (0, 0, 0, 0)}
    assert grown(before, restarted, both(server("web4", 410), server("web1", 500), pid=2))["canary"] == (20, 0, 0, 0)
