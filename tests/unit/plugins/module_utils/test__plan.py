# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._plan import KINDS, Member, Plan, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, listed, quoted
from hypothesis import example, given
from hypothesis import strategies as st

NAMES = st.text(min_size=1, max_size=6)
NUMBERS = st.floats(0, 1e6) | st.integers(0, 10**6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    hosts = draw(st.lists(NAMES, max_size=5, unique=True))
    members = tuple(
        Member(host, host, draw(st.sampled_from(["", "blue", "green"])), {"shop": host}, draw(st.text(max_size=2)))
        for host in hosts
    )
    keys = st.lists(st.sampled_from(hosts), unique=True).map(tuple) if hosts else st.just(())
    steps = st.builds(
        Step,
        st.sampled_from(KINDS),
        keys,
        st.dictionaries(NAMES, NUMBERS, max_size=2),
        st.none() | NUMBERS,
        st.dictionaries(NAMES, st.booleans() | st.text(max_size=3), max_size=2),
        st.sampled_from(["", "blue"]),
    )
    backends = draw(st.lists(NAMES, max_size=3)) if not members else ["shop"]
    return Plan(draw(NAMES), draw(NAMES), tuple(backends), members, tuple(draw(st.lists(steps, max_size=4))))


def plan(**changes) -> Plan:
    given_parts = {
        "strategy": "blue_green",
        "release": "1.4.2",
        "backends": ("shop",),
        "members": (
            Member("web1", "web1", "blue", {"shop": "web1"}, "rack1"),
            Member("web2", "web2", "green", {"shop": "web2"}, "rack2"),
        ),
        "steps": (
            Step("deploy", ("web2",), track="green"),
            Step("traffic", shares={"green": 100.0, "blue": 0.0}),
            Step("analyse", ("web2",), seconds=300, options={"require_requests": True}, track="green"),
        ),
    }
    return Plan(**{**given_parts, **changes})


@given(plans())
def test_a_plan_survives_json_with_its_hash(made):
    again = Plan.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made
    assert again.hash == made.hash


@given(plans(), plans())
def test_two_plans_have_one_hash_only_when_they_are_equal(one, other):
    assert (one.hash == other.hash) == (one == other)


CHANGES = {
    "strategy": {"strategy": "canary"},
    "release": {"release": "1.4.3"},
    "another backend": {"backends": ("shop", "api")},
    "no members": {"members": (), "steps": ()},
    "order of members": {"members": tuple(reversed(plan().members))},
    "host": {"members": (plan().members[0]._replace(host="web9"), plan().members[1])},
    "track": {"members": (plan().members[0]._replace(track="green"), plan().members[1])},
    "server": {"members": (plan().members[0]._replace(servers={"shop": "s1"}), plan().members[1])},
    "domain": {"members": (plan().members[0]._replace(domain="rack2"), plan().members[1])},
    "one step less": {"steps": plan().steps[:-1]},
    "order of steps": {"steps": tuple(reversed(plan().steps))},
    "kind": {"steps": (plan().steps[0]._replace(kind="drain"), *plan().steps[1:])},
    "who": {"steps": (plan().steps[0]._replace(members=("web1",)), *plan().steps[1:])},
    "share": {"steps": (plan().steps[0], Step("traffic", shares={"green": 99.0, "blue": 1.0}), plan().steps[2])},
    "seconds": {"steps": (*plan().steps[:2], plan().steps[2]._replace(seconds=301))},
    "options": {"steps": (*plan().steps[:2], plan().steps[2]._replace(options={"require_requests": False}))},
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_hash_changes_with(what):
    assert plan(**CHANGES[what]).hash != plan().hash


def test_the_hash_does_not_depend_on_the_order_of_keys_nor_on_whole_numbers_as_floats():
    steps = (
        plan().steps[0],
        Step("traffic", shares={"blue": 0, "green": 100}),
        plan().steps[2]._replace(seconds=300.0),
    )
    assert plan(steps=steps).hash == plan().hash


def test_the_hash_stays_what_it_is_in_journals():
    assert plan().hash == "0a7ee716aa890f8421447583adfa5815f41b5b5802b62756dc3468430593f76c"


@given(JSON)
@example({"kind": "deploy", "members": "web1"})
@example({"kind": "pause", "seconds": float("nan")})
@example({"kind": "pause", "seconds": 10**400})
@example({"kind": "traffic", "shares": {"green": "5"}})
def test_what_is_no_plan_member_or_step_is_a_plan_error(data):
    for read in (Plan.from_dict, Member.from_dict, Step.from_dict):
        with pytest.raises(PlanError):
            read(data)


@pytest.mark.parametrize("part", ["strategy", "release", "backends", "members", "steps"])
def test_a_plan_without_one_of_its_parts_is_refused(part):
    data = plan().as_dict()
    del data[part]
    with pytest.raises(PlanError, match=part):
        Plan.from_dict(data)


def test_a_member_that_is_there_twice_is_refused():
    with pytest.raises(PlanError, match="web1 is there more than once"):
        plan(members=(*plan().members, plan().members[0]))


def test_a_server_of_two_members_is_refused():
    with pytest.raises(PlanError, match="web2 and web3 are both server web2 of backend shop"):
        plan(members=(*plan().members, Member("web3", "web3", "", {"shop": "web2"})))


def test_a_step_for_a_stranger_is_refused():
    with pytest.raises(PlanError, match=r"Step 1 \(probe\) is for web9"):
        plan(steps=(Step("probe", ("web9",)),))


def test_a_member_is_found_by_its_key():
    assert plan().member("web2").track == "green"


def test_a_member_that_is_not_there_is_a_plan_error():
    with pytest.raises(PlanError, match="'web9' is not in the fleet"):
        plan().member("web9")


def test_only_what_is_set_is_written():
    assert Step("probe", ("web1",)).as_dict() == {"kind": "probe", "members": ["web1"]}


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step("deploy", ("web4", "web5", "web6"), track="green"), "deploy green (web4, web5, web6)"),
        (Step("deploy", ("web1:green", "web2:green"), track="green"), "deploy green (web1, web2)"),
        (Step("drain", ("web1", "web2")), "drain web1, web2"),
        (Step("probe", tuple(f"w{i}" for i in range(20))), "probe w0, w1, w2, w3, w4, w5 and 14 more"),
        (Step("traffic", shares={"green": 2.5, "blue": 97.5}), "traffic green 2.5 %, blue 97.5 %"),
        (Step("analyse", ("web4",), seconds=300, track="green"), "analyse green (web4) for 5m"),
        (Step("pause", seconds=5400), "pause for 1h30m"),
    ],
)
def test_steps_are_told_in_words(step, words):
    assert step.words() == words


@given(plans())
def test_the_words_of_a_step_begin_with_its_kind_and_are_one_line_long(made):
    for step in made.steps:
        assert step.words().startswith(step.kind)


@given(st.lists(NAMES, max_size=30))
def test_a_list_names_or_counts_everybody(names):
    told = listed(names, most=3)
    assert told == ", ".join(names) if len(names) <= 4 else told.endswith(f" and {len(names) - 3} more")


@given(JSON | st.binary())
@example(10**5000)
@example(["x" * 5000] * 50)
def test_anything_is_quoted_briefly(value):
    assert len(quoted(value)) < 300
