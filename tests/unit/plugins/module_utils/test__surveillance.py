# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._surveillance import UNANSWERED, poll
from hypothesis import given
from hypothesis import strategies as st

from simulated_rollout import JUDGE, settings

SETTINGS = settings(min_requests=20, max_error_rate=5.0, share_tolerance=5.0)
STATES = {"web1": {"weight": 10, "state": "drain"}, "web2": {"weight": 10, "state": "ready"}}


def told(seconds: float = 10, **watch: t.Any) -> dict[str, t.Any]:
    """A watch of web2, while web1 stays warm."""
    known = {
        "seconds": seconds,
        "interval": 1.0,
        "track": [["shop", "web2"]],
        "wanted_percent": 100.0,
        "require_requests": True,
        "of_share": False,
        "limited": True,
        "judge": None,
        "longest": seconds,
        "steps": "step 4 of 4",
        "name": "green",
        "rest_name": "blue",
        "expected": {lb: {"shop": STATES} for lb in ("lb1", "lb2")},
        "reassert": {lb: {"lb": lb, "act": "shift"} for lb in ("lb1", "lb2")},
    }
    return {"rollout_id": "r1", "key": "forward:3:1", "watch": {**known, **watch}}


def server(name: str, requests: int = 0, errors: int = 0, **other: t.Any) -> dict[str, t.Any]:
    state = STATES[name]["state"]
    return {
        "name": name,
        "backup": False,
        "requests": requests,
        "errors": {"http_5xx": errors, "connect": 0, "response": 0},
        "health": "up",
        "status": "UP",
        "state": state,
        "own_state": state,
        "weight": 10,
        "settled": True,
        **other,
    }


def reading(lb: str, requests: int = 0, errors: int = 0, old: int = 0, **other: t.Any) -> dict[str, t.Any]:
    servers = [server("web1", old), server("web2", requests, errors, **other)]
    return {"item": {"lb": lb}, "process": {"pid": 1}, "backends": {"shop": {"servers": servers}}}


def both(requests: int = 0, errors: int = 0, old: int = 0, **other: t.Any) -> list[dict[str, t.Any]]:
    return [reading(lb, requests, errors, old, **other) for lb in ("lb1", "lb2")]


def silent(lb: str) -> dict[str, t.Any]:
    return {"item": {"lb": lb}, "unreachable": True, "msg": "no route"}


def watch(
    polls: t.Sequence[t.Sequence[dict[str, t.Any]]],
    asked: dict[str, t.Any] | None = None,
) -> list[dict[str, t.Any]]:
    """What each poll says, one each second; what is carried over goes by way of JSON."""
    known: dict[str, t.Any] = {}
    said = []
    for number, readings in enumerate(polls):
        known = json.loads(json.dumps(poll(SETTINGS, asked or told(), readings, known, 1000.0 + number)))
        said.append(known)
    return said


def test_a_watch_with_good_requests_passes_at_its_end():
    said = watch([both(number * 50) for number in range(11)])
    assert [one["verdict"] for one in said] == ["going"] * 10 + ["pass"]
    assert [one["done"] for one in said] == [False] * 10 + [True]


def test_too_many_errors_fail_at_once():
    said = watch([both(), both(100, 20)])
    assert said[-1]["verdict"] == "fail"
    assert "40 of 200 requests to green failed" in said[-1]["reason"]


def test_once_decided_nothing_changes_it_and_it_is_not_told_again():
    first, second, third = watch([both(), both(100, 50), both(9999)])
    assert (second["verdict"], second["again"]) == ("fail", False)
    assert third == {**second, "again": True}
    assert first["again"] is False


def test_what_another_watch_found_is_not_taken_over():
    (other,) = watch([both()], {**told(), "key": "forward:1:1"})
    other.update(done=True, verdict="pass")
    assert poll(SETTINGS, told(), both(), other, 2000.0)["verdict"] == "going"


@pytest.mark.parametrize("polls", range(1, UNANSWERED))
def test_a_load_balancer_may_leave_a_few_polls_unanswered(polls):
    quiet = [[reading("lb1", 100), silent("lb2")]] * polls
    said = watch([both(), *quiet, *[both(400)] * (10 - polls)])
    assert said[-1]["verdict"] == "pass"


def test_a_load_balancer_that_stays_silent_fails_the_watch():
    said = watch([both(), *[[reading("lb1", 100), silent("lb2")]] * UNANSWERED])
    assert said[-1]["verdict"] == "fail"
    assert "lb2 did not answer 3 polls in a row: unreachable (no route)" in said[-1]["reason"]


def test_a_load_balancer_that_was_never_asked_fails_the_watch():
    said = watch([[reading("lb1")]] * UNANSWERED)
    assert said[-1]["verdict"] == "fail"
    assert "lb2 did not answer 3 polls in a row: was not asked" in said[-1]["reason"]


def test_a_load_balancer_that_is_silent_at_the_end_fails_the_watch():
    said = watch([*[both(number * 50) for number in range(10)], [reading("lb1", 500), silent("lb2")]])
    assert said[-1]["verdict"] == "fail"
    assert "lb2 did not answer a poll" in said[-1]["reason"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"own_state": "drain", "state": "drain"},
            "has shop/web2 drain with weight 10 instead of ready with weight 10",
        ),
        (
            {"own_state": "maint", "state": "maint"},
            "has shop/web2 maint with weight 10 instead of ready with weight 10",
        ),
        ({"weight": 3}, "has shop/web2 ready with weight 3 instead of ready with weight 10"),
    ],
)
def test_a_server_that_is_not_as_told_fails_the_watch(other, words):
    said = watch([both(), both(100, **other)])
    assert said[-1]["verdict"] == "fail"
    assert words in said[-1]["reason"]


def test_a_server_of_the_other_side_that_is_not_as_told_fails_the_watch_too():
    changed = both(100)
    changed[1]["backends"]["shop"]["servers"][0].update(own_state="ready", state="ready")
    said = watch([both(), changed])
    assert said[-1]["verdict"] == "fail"
    assert "lb2 has shop/web1 ready with weight 10 instead of drain" in said[-1]["reason"]


def test_the_weight_of_what_carries_nothing_does_not_matter():
    changed = both(100)
    changed[1]["backends"]["shop"]["servers"][0]["weight"] = 1
    assert watch([both(), changed])[-1]["verdict"] == "going"


def test_a_weight_that_is_an_agents_does_not_matter():
    asked = told(expected={lb: {"shop": {"web2": {"weight": None, "state": "ready"}}} for lb in ("lb1", "lb2")})
    assert watch([both(), both(100, weight=77)], asked)[-1]["verdict"] == "going"


def test_a_server_that_goes_down_fails_the_watch():
    said = watch([both(), both(100, health="down", status="DOWN")])
    assert "sees shop/web2 down (DOWN)" in said[-1]["reason"]


def test_a_probe_that_fails_fails_the_watch():
    targets = [{"name": "web2", "health": "down", "last_failure": {"reason": "status 500"}}]
    failed, good = both(100)
    said = watch([both(), [{**failed, "proof": {"ok": False, "msg": "", "targets": targets}}, good]])
    assert said[-1]["verdict"] == "fail"
    assert "from lb1, the probe of web2 failed: status 500" in said[-1]["reason"]


def test_a_watch_without_requests_is_inconclusive_where_they_are_needed():
    assert watch([both()] * 11)[-1]["verdict"] == "inconclusive"
    assert watch([both()] * 11, told(require_requests=False))[-1]["verdict"] == "pass"


def test_no_reading_at_all_never_passes():
    said = watch([[]] * 11, told(require_requests=False))
    assert said[-1]["verdict"] == "fail"


def test_a_share_as_wanted_passes_as_soon_as_it_is_certain():
    said = watch([both(), both(100)], told(5, of_share=True))
    assert said[-1]["verdict"] == "pass"
    assert "green gets 100.0 % of 200 requests" in said[-1]["line"]


def test_a_share_that_stays_off_fails_at_its_end():
    said = watch([both(n * 100, old=n * 100) for n in range(6)], told(5, of_share=True))
    assert [one["verdict"] for one in said] == ["going"] * 5 + ["fail"]
    assert "green gets 50.0 %" in said[-1]["reason"]
    assert "cookies or stick tables" in said[-1]["reason"]


def test_a_share_of_too_few_requests_passes_and_says_so():
    said = watch([both(n) for n in range(6)], told(5, of_share=True))
    assert said[-1]["verdict"] == "pass"
    assert said[-1]["line"].endswith("too few requests to tell")


def test_while_a_share_is_observed_errors_still_fail():
    assert watch([both(), both(100, 50)], told(5, of_share=True))[-1]["verdict"] == "fail"


@pytest.mark.parametrize(("late", "next_poll"), [(0.0, 1001.0), (0.4, 1001.0), (0.6, 1002.0), (5.0, 1006.0)])
def test_the_next_poll_is_due_on_the_grid_of_the_first(late, next_poll):
    first = poll(SETTINGS, told(), both(), {}, 1000.0)
    assert first["next"] == 1001.0
    if late:
        assert poll(SETTINGS, told(), both(), first, 1000.0 + late)["next"] == next_poll


READINGS = st.lists(
    st.sampled_from(
        [
            both(100),
            both(200, 1),
            both(300, old=50),
            [],
            [silent("lb1"), silent("lb2")],
            [reading("lb1", 10), silent("lb2")],
            both(50, health="down"),
            both(50, own_state="maint", state="maint"),
            [{"skipped": True}],
        ]
    ),
    min_size=1,
    max_size=14,
)


@given(READINGS, st.booleans(), st.booleans())
def test_whatever_is_read_a_watch_ends_in_time_and_passes_only_on_good_news(polls, of_share, require):
    said = watch(polls, told(5, of_share=of_share, require_requests=require))
    assert all(one["done"] for one in said[5:])
    bad = [both(50, health="down"), both(50, own_state="maint", state="maint")]
    decided = next((number for number, one in enumerate(said) if one["done"]), None)
    if decided is not None and said[decided]["verdict"] == "pass":
        assert not any(one in bad for one in polls[: decided + 1])
        assert any(len(one) == 2 and "backends" in one[1] for one in polls[: decided + 1])


# --- A load balancer that forgot


def forgetful(requests: int, pid: int = 2) -> list[dict[str, t.Any]]:
    """lb1 was restarted, and has web1 in rotation again."""
    lb1, lb2 = both(requests)
    lb1["process"]["pid"] = pid
    lb1["backends"]["shop"]["servers"][0].update(state="ready", own_state="ready")
    return [lb1, lb2]


def restarted(requests: int) -> list[dict[str, t.Any]]:
    lb1, lb2 = both(requests)
    lb1["process"]["pid"] = 2
    return [lb1, lb2]


def test_a_load_balancer_that_forgot_at_a_restart_is_told_again_at_once():
    said = watch([both(), forgetful(50)])[-1]
    assert said["verdict"] == "going"
    wanted = {"shop": [{"name": "web1", "state": "drain", "weight": 10}]}
    assert said["reassert"] == [{"lb": "lb1", "act": "shift", "servers": wanted}]
    assert said["next"] == 1001.0
    assert "lb1 was reloaded or restarted, and forgot its weights: it is told again" in said["line"]


def test_the_watch_goes_on_when_it_was_of_use():
    said = watch([both(), forgetful(50), *(restarted(number * 50) for number in range(2, 11))])
    assert said[-1]["verdict"] == "pass"
    assert [one for one in said[2:] if one["reassert"]] == []


def test_what_forgets_twice_fails():
    said = watch([both(), forgetful(50), forgetful(100, pid=3)])[-1]
    assert said["verdict"] == "fail"
    assert "lb1 has shop/web1 ready with weight 10 instead of drain" in said["reason"]
    assert said["reassert"] == []


def test_a_restart_at_the_last_poll_is_told_again_before_it_is_judged():
    said = watch([*(both(number * 50) for number in range(10)), forgetful(500), restarted(550)])
    assert [one["verdict"] for one in said[-2:]] == ["going", "pass"]


def test_by_the_policy_rollback_a_restart_that_forgot_fails():
    said = watch([both(), forgetful(50)], told(reassert={}))[-1]
    assert (said["verdict"], said["reassert"]) == ("fail", [])


def test_a_restart_between_two_watches_is_noticed_by_the_first_poll():
    known = poll(SETTINGS, {**told(), "key": "forward:2:1"}, both(), {}, 990.0)
    said = poll(SETTINGS, told(), forgetful(0), known, 1000.0)
    assert [one["lb"] for one in said["reassert"]] == ["lb1"]


def test_what_somebody_changed_without_a_restart_is_not_told_again():
    said = watch([both(), forgetful(50, pid=1)])[-1]
    assert (said["verdict"], said["reassert"]) == ("fail", [])


# --- What carried before

PAST = {"sides": {"canary": [["shop", "web2"]], "stable": []}, "past": [["shop", "web1"]]}
AGAINST_THE_PAST = {
    **PAST,
    "name": "green",
    "options": {**JUDGE, "horizon": 180},
    "judged": False,
    "asks": False,
    "state": {},
}


def test_a_release_that_took_all_traffic_is_compared_with_what_carried_before():
    polls = [both(number * 500, number * 20, old=50_000) for number in range(11)]
    said = watch(polls, told(judge=AGAINST_THE_PAST))
    assert said[-1]["verdict"] == "fail"
    assert "of what carried before" in said[-1]["reason"]
    assert (
        "green 1000 requests, 40 errors (4 %), what carried before 100000 requests, 0 errors (0 %)" in said[1]["line"]
    )


def test_a_load_balancer_that_is_silent_at_first_tells_its_past_later():
    late = [
        [silent("lb1"), both(0, 0, old=0)[1]],
        *[both(number * 500, number * 20, old=50_000) for number in range(1, 11)],
    ]
    said = watch(late, told(judge=AGAINST_THE_PAST))
    assert said[-1]["verdict"] == "fail"
    assert "of what carried before" in said[-1]["reason"]


def test_where_nothing_is_known_of_before_that_is_said():
    said = watch([both(number * 500) for number in range(3)], told(judge=AGAINST_THE_PAST))
    assert "nothing is known of what carried before" in said[-1]["line"]


def test_a_release_that_does_as_well_as_what_carried_before_passes():
    said = watch([both(number * 500, old=50_000) for number in range(11)], told(judge=AGAINST_THE_PAST))
    assert said[-1]["verdict"] == "pass"
