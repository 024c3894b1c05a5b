# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_history import (
    History,
    Release,
    existing,
    read,
    reconciled,
    surplus,
    switched,
    with_origin,
    with_release,
    without,
    written,
)
from hypothesis import given
from hypothesis import strategies as st

IDS = [f"{number}.0" for number in range(6)]
RELEASES = st.lists(
    st.builds(
        Release,
        id=st.sampled_from(IDS),
        files=st.none() | st.integers(0, 9),
        sha256=st.none() | st.just("ab"),
        origin=st.dictionaries(st.sampled_from(["package", "version"]), st.text(max_size=5)),
    ),
    unique_by=lambda one: one.id,
)
ID = st.none() | st.sampled_from(IDS)
HISTORIES = st.builds(History, RELEASES.map(tuple), ID, ID)


def history(*ids: str, current: str | None = None, previous: str | None = None, files: int | None = 1) -> History:
    return History(tuple(Release(one, files) for one in ids), current, previous)


@given(HISTORIES)
def test_what_is_written_is_read(one: History) -> None:
    assert read(written(one), "x") == one


DAMAGED: list[t.Any] = [[{}], [{"id": "../x"}], [{"id": "a"}, {"id": "a"}], ["a"], None]


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", "null", '{"format": 2}'),
        *(json.dumps({"format": 1, "releases": releases, "current": None, "previous": None}) for releases in DAMAGED),
        json.dumps({"format": 1, "releases": [], "current": "../x", "previous": None}),
    ],
)
def test_a_record_that_is_damaged_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(ReleaseError, match=r"/opt/shop/releases.json cannot be read"):
        read(text, "/opt/shop/releases.json")


@given(HISTORIES, st.integers(1, 7))
def test_what_is_current_or_was_before_is_never_removed(one: History, keep: int) -> None:
    removed = surplus(one, keep)
    assert not {one.current, one.previous} & set(removed)


@given(HISTORIES, st.integers(1, 7))
def test_the_newest_are_kept_and_nothing_more_than_needed(one: History, keep: int) -> None:
    left = without(one, surplus(one, keep))
    assert left.releases[-keep:] == one.releases[-keep:]
    assert len(left.releases) <= keep + 2
    assert surplus(left, keep) == []


@pytest.mark.parametrize("keep", [0, -1])
def test_to_keep_none_is_refused(keep: int) -> None:
    with pytest.raises(ReleaseError, match="at least 1 release is kept"):
        surplus(history("1", "2", current="2"), keep)


@given(HISTORIES, st.sampled_from(IDS))
def test_a_switch_makes_what_was_current_the_one_before(one: History, name: str) -> None:
    after = switched(one, name)
    assert after.current == name
    assert switched(after, name) == after
    if one.current not in (None, name):
        assert after.previous == one.current


def test_a_switch_back_and_forth_knows_both() -> None:
    there = switched(history("1", "2", current="1"), "2")
    assert (there.current, there.previous) == ("2", "1")
    assert (switched(there, "1").current, switched(there, "1").previous) == ("1", "2")


@given(HISTORIES, ID)
def test_a_call_that_ended_after_its_link_is_understood(one: History, name: str | None) -> None:
    after = reconciled(one, name)
    known = one.get(one.current)
    if name is not None or known is None or known.has_folder:
        assert after.current == name
    assert reconciled(after, name) == after


def test_what_the_link_left_is_the_one_before() -> None:
    after = reconciled(history("1", "2", current="1", previous="0"), "2")
    assert (after.current, after.previous) == ("2", "1")


def test_a_package_is_current_without_a_link() -> None:
    one = history("1", current="1", files=None)
    assert reconciled(one, None) == one


@given(HISTORIES, st.sets(st.sampled_from(IDS)))
def test_only_folders_that_are_gone_are_forgotten(one: History, present: set[str]) -> None:
    left = existing(one, present)
    assert [x for x in one.releases if x not in left.releases] == [
        x for x in one.releases if x.has_folder and x.id not in present
    ]
    assert (left.current, left.previous) == (one.current, one.previous)


@given(HISTORIES, st.sampled_from(IDS))
def test_a_release_that_is_put_is_the_newest_and_there_once(one: History, name: str) -> None:
    after = with_release(one, Release(name, 1))
    assert after.releases[-1].id == name
    assert [x.id for x in after.releases].count(name) == 1


def test_the_origin_is_recorded_without_credentials() -> None:
    origin: dict[str, t.Any] = {"repository": "https://me:secret@example.com/x", "revision": "v1", "depth": 1}
    after = with_origin(history("1"), "1", origin, "now")
    assert after.releases == (Release("1", 1, origin={**origin, "repository": "https://example.com/x"}),)


def test_a_release_without_files_is_known_by_its_origin() -> None:
    after = with_origin(history("1"), "2", {"package": "shop"}, "now")
    assert after.releases[-1] == Release("2", origin={"package": "shop"}, added="now")


def test_no_origin_leaves_the_one_that_is_known() -> None:
    known = with_origin(history("1"), "1", {"archive": "x"}, "now")
    assert with_origin(known, "1", {}, "later") == known
