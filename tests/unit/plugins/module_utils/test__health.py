# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._health import HealthError, health_differences
from hypothesis import given
from hypothesis import strategies as st

PROBED = st.dictionaries(st.text(), st.sampled_from(["up", "down"]))
SERVERS = st.dictionaries(st.text(), st.sampled_from(["up", "down", "unchecked"]))


def listed(healths: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "health": health} for name, health in healths.items()]


def test_equal_views_have_no_differences() -> None:
    both = listed({"web1": "up", "web2": "down"})
    assert health_differences(both, both) == []


def test_disagreement_is_listed() -> None:
    assert health_differences(listed({"web1": "up"}), listed({"web1": "down"})) == [
        {"name": "web1", "probe": "up", "lb": "down"}
    ]


def test_server_that_one_side_does_not_know_is_listed() -> None:
    assert health_differences(listed({"web1": "up"}), listed({"web2": "up"})) == [
        {"name": "web1", "probe": "up", "lb": None},
        {"name": "web2", "probe": None, "lb": "up"},
    ]


@pytest.mark.parametrize("probe", ["up", "down"])
def test_unchecked_agrees_with_nothing(probe: str) -> None:
    assert health_differences(listed({"web1": probe}), listed({"web1": "unchecked"})) == [
        {"name": "web1", "probe": probe, "lb": "unchecked"}
    ]


@given(PROBED, SERVERS)
def test_what_is_not_listed_is_known_and_the_same_on_both_sides(probe: dict[str, str], lb: dict[str, str]) -> None:
    differences = health_differences(listed(probe), listed(lb))
    names = [difference["name"] for difference in differences]
    assert len(names) == len(set(names))
    for name in probe.keys() | lb.keys():
        assert (name in names) == (probe.get(name) != lb.get(name))


@pytest.mark.parametrize(
    ("probed", "servers", "told"),
    [
        ("web1", [], "The targets of the probe are not a list, but str"),
        ([], None, "The servers of the load balancer are not a list, but NoneType"),
        (["web1"], [], "must each have a name"),
        ([{"name": "web1"}], [], "up, down"),
        ([{"name": "web1", "health": "unchecked"}], [], "up, down"),
        ([{"name": "web1", "health": ["up"]}], [], "up, down"),
        ([], listed({"web1": "up"}) * 2, "'web1' more than once"),
    ],
)
def test_what_is_not_a_list_of_healths_is_refused(probed: t.Any, servers: t.Any, told: str) -> None:
    with pytest.raises(HealthError, match=told):
        health_differences(probed, servers)
