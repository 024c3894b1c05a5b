# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import tempfile
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._release import Unfit
from ansible_collections.steady.rollout.plugins.module_utils._release_archive import (
    BLOCK,
    DIRECTORY,
    FILE,
    HARD_LINK,
    LINK,
    MARGIN,
    OTHER,
    Entry,
    Member,
    Room,
    check_room,
    entries,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

PARTS = st.sampled_from(["a", "b", "c", ".", "..", ""])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
MEMBERS = st.lists(
    st.builds(
        Member,
        number=st.just(0),
        name=PATHS,
        kind=st.sampled_from([FILE, DIRECTORY, DIRECTORY, LINK, LINK, HARD_LINK]),
        mode=st.integers(0, 0o7777),
        target=PATHS,
    ),
    max_size=8,
)


def file(name: str, size: int = 1, mode: int = 0o644) -> Member:
    return Member(0, name, FILE, size, mode)


def folder(name: str, mode: int = 0o755) -> Member:
    return Member(0, name, DIRECTORY, 0, mode)


def link(name: str, target: str) -> Member:
    return Member(0, name, LINK, target=target)


def hard_link(name: str, target: str) -> Member:
    return Member(0, name, HARD_LINK, target=target)


def paths(found: t.Sequence[Entry]) -> dict[str, str]:
    return {one.path: one.kind for one in found}


def written(found: t.Sequence[Entry], root: str) -> None:
    """As Linux does it; whatever follows a link on the way does so here."""
    for kind in (DIRECTORY, FILE, HARD_LINK, LINK):
        for one in found:
            path = os.path.join(root, one.path)
            if one.kind != kind:
                continue
            if kind == DIRECTORY:
                os.mkdir(path)
            elif kind == FILE:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            elif kind == LINK:
                os.symlink(one.target, path)
            else:
                os.link(os.path.join(root, one.target), path)


@settings(max_examples=500)
@given(MEMBERS, st.integers(0, 2))
@example([link("a/b/c", "../.."), link("b", "a/b/c/../x"), folder("a/b")], 0)
@example([link("a", "b/.."), link("b", "c"), folder("c")], 0)
def test_nothing_that_is_accepted_is_or_leads_outside(members: list[Member], strip: int) -> None:
    try:
        found = entries(members, strip)
    except Unfit:
        return
    with tempfile.TemporaryDirectory() as outer:
        root = os.path.join(outer, "releases", "1")
        os.makedirs(root)
        written(found, root)
        assert os.listdir(outer) == ["releases"]
        assert os.listdir(os.path.join(outer, "releases")) == ["1"]
        for place, folders, files in os.walk(root):
            for name in (*folders, *files):
                real = os.path.realpath(os.path.join(place, name))
                assert real == root or real.startswith(f"{root}/")


@given(MEMBERS)
def test_no_mode_gives_more_than_it_may(members: list[Member]) -> None:
    try:
        found = entries(members)
    except Unfit:
        return
    assert all(one.mode & ~0o755 == 0 for one in found)
    assert all(one.mode & 0o600 == 0o600 for one in found)


NAMES = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(tuple)


@given(st.dictionaries(NAMES, st.integers(0, 9), min_size=1))
def test_files_that_are_in_no_others_way_are_accepted(found: dict[tuple[str, ...], int]) -> None:
    leaves = {
        parts: size for parts, size in found.items() if not any(o[: len(parts)] == parts and o != parts for o in found)
    }
    members = [file("./" + "/".join(parts), size) for parts, size in leaves.items()]
    accepted = entries(members)
    assert {one.parts: one.size for one in accepted if one.kind == FILE} == leaves
    order = [one.parts for one in accepted]
    assert all(order.index(parts[:-1]) < order.index(parts) for parts in order if len(parts) > 1)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([file("/etc/passwd")], "outside of the release"),
        ([file("../x")], "outside of the release"),
        ([file("a/../../x")], "outside of the release"),
        ([file("a/../x")], "outside of the release"),
        ([file("a\0b")], "outside of the release"),
        ([link("l", "/etc"), file("x")], "leads out of the release"),
        ([link("l", "../x")], "leads out of the release"),
        ([folder("a/b"), link("a/b/l", "../../.."), file("x")], "leads out of the release"),
        ([folder("a"), link("l", "a/../../x")], "leads out of the release"),
        # `..` after a link is the parent of where that leads.
        ([folder("a/b"), link("a/b/up", "../.."), link("l", "a/b/up/../x")], "leads out of the release"),
        ([link("one", "two/.."), link("two", "three"), file("x")], "not known where that leads"),
        ([link("l", "none/../x")], "not known where that leads"),
        ([link("l", "l")], "in a circle"),
        ([link("one", "two"), link("two", "one")], "in a circle"),
        ([link("l", "")], "no path"),
        ([link("l", "a"), file("l/x")], "below 'l', which is a link"),
        ([file("l/x"), link("l", "a")], "twice|below 'l', which is a link"),
        ([folder("d"), link("d", "a")], "twice"),
        ([file("x"), file("x")], "twice"),
        ([file("x"), file("./x")], "twice"),
        ([file("x"), folder("x")], "twice"),
        ([file("x"), file("x/y")], "below 'x', which is a file"),
        ([hard_link("h", "/etc/shadow")], "outside of the release"),
        ([hard_link("h", "../x")], "outside of the release"),
        ([hard_link("h", "x"), file("x")], "no file before it"),
        ([link("x", "y"), hard_link("h", "x")], "no file before it"),
        ([Member(0, "d", OTHER, words="a block device")], "'d' is a block device"),
        ([file("x", size=-512)], "size of -512"),
        ([file("x" * 256)], "too long"),
        ([file("/".join(["x" * 200] * 20))], "too long"),
        ([], "nothing in it"),
        ([folder(".")], "nothing in it"),
    ],
)
def test_a_hostile_member_is_refused(members: list[Member], reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        entries([*members])


def test_a_long_chain_of_links_is_refused() -> None:
    with pytest.raises(Unfit, match="more than 40 links"):
        entries([file("l0"), *(link(f"l{n}", f"l{n - 1}") for n in range(1, 50))])


def test_links_within_the_release_are_kept_as_they_are() -> None:
    found = entries(
        [folder("lib"), file("lib/so.1"), link("lib/so", "so.1"), link("bin/so", "../lib/so"), link("x", ".")]
    )
    assert {one.path: one.target for one in found if one.kind == LINK} == {
        "lib/so": "so.1",
        "bin/so": "../lib/so",
        "x": ".",
    }


def test_a_link_to_what_is_not_there_is_kept() -> None:
    assert paths(entries([link("l", "none/x")])) == {"l": LINK}


def test_leading_components_are_left_out_of_names_and_of_hard_links() -> None:
    found = entries(
        [file("top.txt"), folder("app-1"), file("app-1/x"), hard_link("app-1/y", "app-1/x"), link("app-1/l", "x")], 1
    )
    assert paths(found) == {"x": FILE, "y": HARD_LINK, "l": LINK}
    assert next(one.target for one in found if one.kind == HARD_LINK) == "x"


def test_leaving_out_a_component_does_not_let_a_link_out() -> None:
    with pytest.raises(Unfit, match="leads out of the release"):
        entries([folder("app/x"), link("app/l", "../y")], 1)


def test_nothing_left_is_told_with_what_was_left_out() -> None:
    with pytest.raises(Unfit, match="below its first 2 path components"):
        entries([file("app/x")], 2)


def test_a_folder_may_be_there_twice() -> None:
    assert paths(entries([folder("a"), file("a/x"), folder("a")])) == {"a": DIRECTORY, "a/x": FILE}


def test_folders_without_a_member_of_their_own_are_there() -> None:
    assert paths(entries([file("a/b/x")])) == {"a": DIRECTORY, "a/b": DIRECTORY, "a/b/x": FILE}


@pytest.mark.parametrize(
    ("mode", "left"), [(0o6755, 0o755), (0o1777, 0o755), (0o4000, 0o600), (0o664, 0o644), (0o400, 0o600)]
)
def test_of_a_mode_of_a_file_is_left_what_may_be(mode: int, left: int) -> None:
    assert entries([file("x", mode=mode)])[0].mode == left


def test_a_folder_can_be_entered_by_its_owner() -> None:
    assert entries([folder("d", 0o000)])[0].mode == 0o700


@given(st.integers(0, 10**9), st.integers(0, 2 * 10**9))
def test_what_is_accepted_leaves_the_margin_free(size: int, free: int) -> None:
    if size + 2 * BLOCK + MARGIN <= free:
        entries([file("x", size)], room=Room(free, None))
    if size + MARGIN > free:
        with pytest.raises(Unfit, match="are free"):
            entries([file("x", size)], room=Room(free, None))


def test_members_are_read_no_further_than_there_is_room() -> None:
    def members() -> t.Iterator[Member]:
        yield file("a", 10**15)
        pytest.fail("it was read on, which decompresses all before it")

    with pytest.raises(Unfit, match=r"909\.5 TiB or more"):
        entries(members(), room=Room(10**9, None))


def test_more_files_than_there_are_inodes_are_refused() -> None:
    with pytest.raises(Unfit, match=r"has 3 files or more.*room for 2"):
        entries([file(name) for name in "abcd"], room=Room(10**9, 2))


def test_folders_without_a_member_take_room_too() -> None:
    with pytest.raises(Unfit, match="inodes"):
        entries([file("a/b/c/d")], room=Room(10**9, 3))


def test_room_is_told_in_numbers() -> None:
    with pytest.raises(
        Unfit, match=r"needs 812 MiB or more, and 100 MiB are free, of which 32 MiB are left for others"
    ):
        check_room(812 * 2**20, 1, Room(100 * 2**20, None))


def test_a_name_that_is_not_text_is_refused_and_told_or_kept(tmp_path: pathlib.Path) -> None:
    found = entries([file("caf\udce9")])
    written(found, str(tmp_path))
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]
