# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from hypothesis import given
from hypothesis import strategies as st


def members(colour: str, *hosts: str) -> list[Member]:
    return [Member(host, host, colour, {"shop": host}) for host in hosts]


BLUE, GREEN = members("blue", "web1", "web2", "web3"), members("green", "web4", "web5", "web6")


def test_the_release_goes_to_the_idle_colour_is_probed_takes_all_traffic_and_bakes():
    assert [step.words() for step in blue_green(BLUE, GREEN, 300)] == [
        "deploy green (web4, web5, web6)",
        "probe green (web4, web5, web6)",
        "traffic green 100 %, blue 0 %",
        "analyse green (web4, web5, web6) for 5m",
    ]


def test_a_bake_needs_requests():
    assert blue_green(BLUE, GREEN, 300)[-1].options == {"require_requests": True}


def test_without_a_bake_nothing_is_watched():
    assert [step.kind for step in blue_green(BLUE, GREEN, 0)] == ["deploy", "probe", "traffic"]


def test_a_fleet_where_neither_colour_is_live_is_adopted():
    assert blue_green([], GREEN, 0)[-1].shares == {"green": 100.0}


@given(st.integers(0, 5), st.integers(1, 5), st.floats(0, 1000))
def test_the_live_colour_is_never_touched_but_by_the_swap(live, idle, bake):
    steps = blue_green(BLUE[:live], (GREEN * 2)[:idle], bake)
    touched = {key for step in steps for key in step.members}
    assert touched <= {member.key for member in GREEN}


@pytest.mark.parametrize(
    ("live", "idle", "message"),
    [
        (BLUE, [], "No host is of the idle colour"),
        (BLUE, BLUE, "All hosts are blue"),
        (BLUE + GREEN, GREEN, r"several colours \(blue, green\)"),
        (BLUE, members("", "web7"), "web7 has no colour"),
        (members("", "web7"), GREEN, "web7 has no colour"),
    ],
)
def test_what_is_not_two_colours_is_refused(live, idle, message):
    with pytest.raises(PlanError, match=message):
        blue_green(live, idle, 0)
