# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import (
    DOWN,
    DRAIN,
    READY,
    STATES,
    Policy,
    Refused,
    Server,
    aimed,
    as_dicts,
    check_safe,
    check_wanted,
    gaining,
    leaving,
    restored,
    shares,
    uncountable,
)
from hypothesis import assume, given
from hypothesis import strategies as st

NAMES = ["a:1", "b:1", "c:1"]
LENIENT = Policy(allow_empty=True, allow_backup=True)


def server(name: str, weight: int = 10, state: str = READY, **values: t.Any) -> Server:
    return Server(name, name.partition(":")[0], 1, weight, state, **values)


servers = st.tuples(
    *(st.builds(server, st.just(name), st.integers(1, 99), st.sampled_from(STATES)) for name in NAMES)
).map(list)


def told(name: str, weight: int | None, state: str | None) -> dict[str, t.Any]:
    return {key: value for key, value in (("name", name), ("weight", weight), ("state", state)) if value is not None}


wanted = st.lists(
    st.builds(
        told,
        st.sampled_from(NAMES),
        st.none() | st.integers(0, 99),
        st.none() | st.sampled_from([*STATES, "maint"]),
    ).filter(lambda one: len(one) > 1),
    min_size=1,
    unique_by=lambda one: str(one["name"]),
)


@given(servers, wanted, st.booleans())
def test_a_second_time_there_is_nothing_to_do(
    before: list[Server], asked: list[dict[str, t.Any]], drains: bool
) -> None:
    after = aimed("shop", before, asked, LENIENT, drains)
    assert aimed("shop", after, asked, LENIENT, drains) == after


@given(servers, wanted, st.booleans())
def test_servers_get_what_was_asked_and_the_others_stay(
    before: list[Server], asked: list[dict[str, t.Any]], drains: bool
) -> None:
    told = {one["name"]: one for one in asked}
    for old, new in zip(before, aimed("shop", before, asked, LENIENT, drains)):
        one = told.get(old.name, {})
        assert new.weight == (one.get("weight") or old.weight)
        if one.get("state", old.state) == READY and one.get("weight") != 0:
            assert new.state == READY or old.state != READY
        else:
            assert not new.usable


def test_a_server_that_is_down_stays_down_when_it_is_told_to_drain() -> None:
    before = [server("a:1", state=DOWN), server("b:1")]
    after = aimed("shop", before, [{"name": "a:1", "state": DRAIN}, {"name": "b:1", "state": DRAIN}], LENIENT, True)
    assert [one.state for one in after] == [DOWN, DRAIN]


def test_without_a_state_of_its_own_drain_is_down() -> None:
    (after,) = aimed("shop", [server("a:1")], [{"name": "a:1", "state": DRAIN}], LENIENT, False)
    assert after.state == DOWN


@given(servers, wanted, st.booleans())
def test_no_change_takes_the_last_server_unless_that_is_allowed(
    before: list[Server], asked: list[dict[str, t.Any]], drains: bool
) -> None:
    assume(aimed("shop", before, asked, LENIENT, drains) != before)
    try:
        after = aimed("shop", before, asked, Policy(), drains)
    except Refused:
        assert not any(one.usable for one in aimed("shop", before, asked, LENIENT, drains))
    else:
        assert any(one.usable for one in after)


def test_backup_servers_do_not_take_over_by_accident() -> None:
    before = [server("a:1"), server("b:1", backup=True)]
    with pytest.raises(Refused, match="allow_backup"):
        aimed("shop", before, [{"name": "a:1", "state": DOWN}], Policy(), False)
    after = aimed("shop", before, [{"name": "a:1", "state": DOWN}], Policy(allow_backup=True), False)
    assert after[0].state == DOWN


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], "servers is empty"),
        ([{"name": "a:1"}], "neither weight nor state"),
        ([{"name": "a:1", "weight": 100_001}], "outside 0 to 100000"),
        ([{"name": "a:1", "state": "gone"}], "is not one of ready, drain, down"),
        ([{"name": "a:1", "weight": 1}, {"name": "a:1", "weight": 2}], "listed twice"),
    ],
)
def test_what_makes_no_sense_is_told(asked: list[dict[str, t.Any]], words: str) -> None:
    with pytest.raises(Refused, match=words):
        check_wanted(asked)


@pytest.mark.parametrize("safe", [{"a:1": None}, {"a:1": {"weight": "x", "state": READY}}, {"a:1": {"state": "gone"}}])
def test_what_is_no_safe_state_is_told(safe: dict[str, t.Any]) -> None:
    with pytest.raises(Refused):
        check_safe(safe)


@given(servers, servers, st.sets(st.sampled_from(NAMES)))
def test_a_safe_state_is_reached_but_for_what_is_told(now: list[Server], safe: list[Server], down: set[str]) -> None:
    targets = {one.name: {"weight": one.weight, "state": one.state} for one in safe}
    after, out = restored(now, targets, dict.fromkeys(down, "no connection"))
    for new, old, target in zip(after, now, safe):
        if new.name not in out:
            assert new.weight == target.weight
            assert (new.state == READY) == (target.state == READY)
        elif new.name in down and old.state != READY:
            assert new.state != READY
    if any(one.usable for one in now):
        assert any(one.usable for one in after)


def test_servers_of_a_safe_state_that_are_gone_are_told() -> None:
    assert restored([server("a:1")], {"z:1": {"weight": 1, "state": READY}}, {})[1] == {
        "z:1": "z:1 is not there any more"
    }


@given(servers, wanted)
def test_who_gains_can_get_more_than_before_and_who_leaves_nothing(
    before: list[Server], asked: list[dict[str, t.Any]]
) -> None:
    after = aimed("shop", before, asked, LENIENT, True)
    old = {one.name: one for one in before}
    assert all(
        one.usable and (not old[one.name].usable or one.weight > old[one.name].weight) for one in gaining(before, after)
    )
    assert not any(one.usable for one in leaving(after, asked))


@given(servers)
def test_shares_are_by_weight_and_add_up(of: list[Server]) -> None:
    found = shares(of, "roundrobin")
    usable = [one for one in of if one.usable]
    assert sum(share or 0 for share in found.values()) == pytest.approx(100 if usable else 0, abs=0.001)
    assert set(shares(of, "least_conn").values()) == {None}


def test_what_is_not_known_is_null() -> None:
    (told,) = as_dicts([server("a:1")], "roundrobin", None)
    nothing = ("sessions", "queued", "requests", "latencies", "status")
    assert {name: told[name] for name in nothing} == dict.fromkeys(nothing)
    assert set(told["errors"].values()) == {None}
    (counted,) = as_dicts([Server("10.0.0.1:80", "10.0.0.1", 80, 1, READY)], "roundrobin", {})
    assert (counted["requests"], counted["latencies"]) == (0, {})


def test_what_a_log_calls_a_server_is_its_address_in_one_form() -> None:
    written = Server("[2001:db8:0::1]:80", "2001:DB8:0::1", 80, 1, READY)
    assert written.logged_as == "[2001:db8::1]:80"
    (told,) = as_dicts([written], "roundrobin", {"[2001:db8::1]:80": {"requests": 3}})
    assert told["requests"] == 3
    assert Server("unix:/a", "unix:/a", None, 1, READY).logged_as == "unix:/a"


def test_a_host_name_is_not_counted_and_it_is_told() -> None:
    (told,) = as_dicts([server("a:1")], "roundrobin", {"a:1": {"requests": 3}})
    assert told["requests"] is None
    assert "a:1 is a host name" in uncountable([server("a:1")])
    assert uncountable([Server("10.0.0.1:80", "10.0.0.1", 80, 1, READY)]) == ""
