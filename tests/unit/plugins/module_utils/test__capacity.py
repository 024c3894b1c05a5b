# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._capacity import (
    changing,
    loading,
    sessions_after,
    taking_out,
)
from hypothesis import given
from hypothesis import strategies as st

Servers = dict[str, dict[str, t.Any]]

NUMBERS = st.integers(-5, 300) | st.floats() | st.none()
LOOSE = st.dictionaries(
    st.sampled_from(["web1", "web2", "web3"]),
    st.fixed_dictionaries(
        {},
        optional={
            "weight": NUMBERS,
            "base": NUMBERS,
            "sessions": NUMBERS,
            "max_sessions": NUMBERS,
            "state": st.sampled_from(["ready", "drain", "maint", None]),
            "health": st.sampled_from(["up", "down", "unchecked", None]),
            "backup": st.booleans(),
        },
    ),
)
NAMED = st.sets(st.sampled_from(["web1", "web2", "web3", "web9"]))
WEIGHTS = st.dictionaries(st.sampled_from(["web1", "web2", "web3", "web9"]), st.integers(0, 256))
PERCENT = st.integers(0, 100)


@st.composite
def sound(draw: st.DrawFn) -> Servers:
    count = draw(st.integers(2, 6))
    return {
        f"web{i}": {
            "weight": draw(st.integers(0, 256)),
            "base": draw(st.integers(1, 256)),
            "sessions": draw(st.integers(0, 1000)),
            "max_sessions": draw(st.none() | st.integers(1, 2000)),
            "state": draw(st.sampled_from(["ready", "ready", "ready", "drain"])),
            "health": draw(st.sampled_from(["up", "up", "up", "down"])),
        }
        for i in range(count)
    }


def fleet(count: int = 6, **changes: t.Any) -> Servers:
    usual = {"weight": 10, "base": 10, "state": "ready", "health": "up", "sessions": 40, "max_sessions": None}
    return {f"web{i}": {**usual, **changes} for i in range(1, count + 1)}


def colours() -> Servers:
    """web1 to web3 carry; web4 to web6 are the warm, healthy, idle colour."""
    servers = fleet()
    for name in ("web4", "web5", "web6"):
        servers[name].update(state="drain", weight=0, sessions=0)
    return servers


SWAP = {"web1": 0, "web2": 0, "web3": 0, "web4": 10, "web5": 10, "web6": 10}


@given(LOOSE, NAMED, NUMBERS.filter(lambda value: value is not None), NUMBERS.filter(lambda value: value is not None))
def test_taking_out_answers_for_anything(servers, out, least, headroom):
    problem = taking_out(servers, out, least, headroom)
    assert problem is None or problem.startswith("Taking out web")


@given(LOOSE, WEIGHTS, NUMBERS.filter(lambda value: value is not None), NUMBERS.filter(lambda value: value is not None))
def test_loading_answers_for_anything(servers, weights, least, headroom):
    assert loading(servers, weights, least, headroom) != ""


@given(sound(), st.data(), PERCENT, PERCENT, PERCENT, PERCENT)
def test_asking_for_less_never_turns_a_yes_into_a_no(servers, data, least, less, headroom, lower):
    out = data.draw(st.sets(st.sampled_from(sorted(servers))))
    if taking_out(servers, out, least, headroom) is None:
        assert taking_out(servers, out, min(least, less), min(headroom, lower)) is None


@given(sound(), st.data(), PERCENT)
def test_taking_out_fewer_never_turns_a_yes_into_a_no(servers, data, least):
    for server in servers.values():
        server["max_sessions"] = None
    out = data.draw(st.sets(st.sampled_from(sorted(servers))))
    fewer = data.draw(st.sets(st.sampled_from(sorted(out)))) if out else set()
    if taking_out(servers, out, least, 0) is None:
        assert taking_out(servers, fewer, least, 0) is None


@given(sound(), st.data(), PERCENT, PERCENT, st.integers(0, 500))
def test_fewer_sessions_never_turn_a_yes_into_a_no(servers, data, least, headroom, fewer):
    out = data.draw(st.sets(st.sampled_from(sorted(servers))))
    calmer = {name: {**entry, "sessions": max(0, entry["sessions"] - fewer)} for name, entry in servers.items()}
    if taking_out(servers, out, least, headroom) is None:
        assert taking_out(calmer, out, least, headroom) is None


@given(sound(), st.dictionaries(st.sampled_from([f"web{i}" for i in range(6)]), st.integers(0, 256)), PERCENT, PERCENT)
def test_loading_with_less_asked_for_never_turns_a_yes_into_a_no(servers, weights, least, headroom):
    if loading(servers, weights, least, headroom) is None:
        assert loading(servers, weights, least // 2, headroom // 2) is None


@given(sound(), st.dictionaries(st.sampled_from([f"web{i}" for i in range(6)]), st.integers(1, 256), min_size=6))
def test_no_session_is_lost_or_made_by_the_estimate(servers, weights):
    after = sessions_after(servers, weights)
    assert sum(after.values()) == pytest.approx(sum(entry["sessions"] for entry in servers.values()))
    assert min(after.values()) >= -1e-6


@given(sound())
def test_the_same_weights_move_no_session(servers):
    carrying = {
        name: entry["weight"] if (entry["state"], entry["health"]) == ("ready", "up") else 0
        for name, entry in servers.items()
    }
    assert sessions_after(servers, carrying) == pytest.approx(
        {name: entry["sessions"] for name, entry in servers.items()}
    )


def test_sessions_of_servers_taken_out_go_to_the_others_by_weight():
    servers = fleet(3)
    servers["web3"]["weight"] = 30
    assert sessions_after(servers, {"web2": 10, "web3": 30}) == pytest.approx({"web1": 0, "web2": 50, "web3": 70})


def test_enough_left_is_no_problem():
    assert taking_out(fleet(), ["web1", "web2"], 66, 20) is None


def test_too_little_left_is_told_with_numbers():
    assert taking_out(fleet(), ["web1", "web2"], 70, 20) == (
        "Taking out web1, web2 would leave 66.7 % of the capacity in rotation (weight 40 of 60), and 70 % must remain; "
        "bring others back or take out fewer at once."
    )


def test_servers_that_are_out_already_count_as_missing():
    servers = fleet()
    servers["web6"]["state"] = "drain"
    servers["web5"]["health"] = "down"
    assert "weight 30 of 60" in str(taking_out(servers, ["web1"], 60, 0))


def test_unequal_base_weights_count_by_their_weight():
    servers = fleet(2)
    servers["web1"]["base"] = 30
    assert taking_out(servers, ["web2"], 75, 0) is None
    assert "25 %" in str(taking_out(servers, ["web1"], 75, 0))


@pytest.mark.parametrize("least", [0, -5, 50])
def test_the_last_server_is_never_taken_out(least):
    assert "no healthy server in rotation" in str(taking_out(fleet(2), ["web1", "web2"], least, 0))


def test_a_backup_server_is_nobody_that_is_left():
    servers = fleet(2)
    servers["web2"]["backup"] = True
    assert "no healthy server" in str(taking_out(servers, ["web1"], 0, 0))


@pytest.mark.parametrize("change", [{"state": "maint"}, {"state": "drain"}, {"health": "down"}, {"weight": 0}])
def test_what_carries_nothing_may_always_be_taken_out(change):
    servers = fleet(2, health="down")
    servers["web1"].update({"health": "up", **change})
    assert taking_out(servers, ["web1"], 100, 100) is None


def test_unchecked_servers_carry():
    assert taking_out(fleet(3, health="unchecked"), ["web1"], 50, 0) is None


def test_too_many_sessions_are_told_with_numbers():
    assert taking_out(fleet(max_sessions=60), ["web1", "web2"], 50, 20) == (
        "Taking out web1, web2 would bring web3 to about 60 sessions of at most 60, and 20 % are to stay free; "
        "wait for less traffic, or move less at once."
    )


def test_sessions_that_fit_with_headroom_are_no_problem():
    assert taking_out(fleet(max_sessions=60), ["web1"], 50, 20) is None


def test_a_swap_to_an_equal_colour_fits_exactly():
    assert loading(colours(), SWAP, 100, 0) is None


def test_a_swap_to_a_smaller_colour_is_told_with_numbers():
    assert loading(colours(), {**SWAP, "web6": 0}, 70, 0) == (
        "web4 would get 50 % of the traffic, and has 66.7 % of the capacity for it, by base weight against what is in "
        "rotation now; 70 % are needed. Send it less, or to more servers."
    )


def test_a_server_that_is_down_carries_nothing_of_a_swap():
    servers = colours()
    servers["web6"]["health"] = "down"
    assert loading(servers, SWAP, 66, 0) is None
    assert "66.7 %" in str(loading(servers, SWAP, 70, 0))


def test_a_swap_to_a_colour_that_is_down_is_refused():
    servers = colours()
    for name in ("web4", "web5", "web6"):
        servers[name]["health"] = "down"
    assert "No healthy server would carry traffic" in str(loading(servers, SWAP, 0, 0))


def test_a_small_share_fits_on_one_server():
    weights = {**dict.fromkeys(["web1", "web2", "web3"], 19), "web4": 3}
    assert loading(colours(), weights, 100, 0) is None


def test_too_many_sessions_on_the_new_side_are_refused():
    servers = colours()
    servers["web5"]["max_sessions"] = 45
    assert "web5 to about 40 sessions of at most 45, and 20 % are to stay free" in str(loading(servers, SWAP, 100, 20))


def test_a_fleet_where_nothing_carries_yet_may_be_loaded():
    assert loading(fleet(3, state="drain", weight=0, sessions=0), {"web1": 10}, 100, 20) is None


CHANGES = st.dictionaries(
    st.sampled_from(["web1", "web2", "web3", "web9"]),
    st.fixed_dictionaries(
        {}, optional={"weight": st.integers(0, 256), "state": st.sampled_from(["ready", "drain", "maint"])}
    ),
)


@given(LOOSE, CHANGES, PERCENT, PERCENT)
def test_any_change_is_answered(servers, told, least, headroom):
    assert changing(servers, told, least, headroom) != ""


@given(sound(), st.data(), PERCENT, PERCENT, st.sampled_from(["drain", "maint"]))
def test_a_change_of_state_alone_is_judged_as_taking_out(servers, data, least, headroom, state):
    out = data.draw(st.sets(st.sampled_from(sorted(servers))))
    told = {name: {"state": state} for name in out}
    assert changing(servers, told, least, headroom) == taking_out(servers, out, least, headroom)


def test_a_swap_told_as_states_and_weights_is_judged_as_loading():
    told = {name: {"state": "ready", "weight": 10} if weight else {"state": "drain"} for name, weight in SWAP.items()}
    assert changing(colours(), told, 100, 20) is None
    assert "50 % of the traffic" in str(changing(colours(), {**told, "web6": {"state": "drain"}}, 70, 20))


def test_a_server_that_comes_back_takes_from_the_others():
    servers = fleet(6, max_sessions=60)
    servers["web1"].update(state="maint", sessions=0)
    assert changing(servers, {"web1": {"state": "ready"}}, 100, 20) is None


def test_nothing_told_is_no_problem():
    assert changing(fleet(1), {}, 100, 100) is None
