# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records are kept only where nobody else has a hand in, and are whole or not there."""

from __future__ import annotations

import os
import pathlib
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _state_dir as state_dir
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError, folder_name
from ansible_collections.steady.rollout.plugins.module_utils._state_dir import (
    existing_folder,
    made_folder,
    unusable,
)
from hypothesis import given
from hypothesis import strategies as st

NOBODY = 65534


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A path without links."""
    return tmp_path.resolve()


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> t.Callable[[pathlib.Path], None]:
    """Make a file or folder look like somebody else's: giving it away needs root."""
    others: set[tuple[int, int]] = set()
    real = os.fstat

    def fstat(handle: int) -> t.Any:
        found = real(handle)
        if (found.st_dev, found.st_ino) not in others:
            return found
        return os.stat_result([NOBODY if i == 4 else value for i, value in enumerate(found[:10])])

    def give_away(path: pathlib.Path) -> None:
        found = path.stat()
        others.add((found.st_dev, found.st_ino))

    monkeypatch.setattr(state_dir.os, "fstat", fstat)
    return give_away


def test_folders_are_made_for_the_owner_alone(root: pathlib.Path) -> None:
    with made_folder(f"{root}/a/b", "shop"):
        pass
    assert [(root / path).stat().st_mode & 0o777 for path in ("a", "a/b", "a/b/shop")] == [0o700] * 3


def test_a_folder_that_is_not_there_is_none_and_nothing_is_made(root: pathlib.Path) -> None:
    with existing_folder(f"{root}/a", "shop") as folder:
        assert folder is None
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/", "//", ""])
def test_only_an_absolute_path_is_taken(path: str) -> None:
    with pytest.raises(StateError, match="state_dir must be"), existing_folder(path, "shop"):
        pass


@pytest.mark.parametrize("link", ["link", "link/state", "link/state/shop"])
def test_no_link_is_followed(root: pathlib.Path, link: str) -> None:
    (root / "real/state/shop").mkdir(parents=True, mode=0o700)
    target = root / "real" / link.partition("/")[2]
    place = root / "found" / link.partition("/")[2]
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.symlink_to(target)
    with pytest.raises(StateError, match=f"{place} is a symbolic link"), made_folder(f"{root}/found/state", "shop"):
        pass


def test_a_file_in_the_way_is_told(root: pathlib.Path) -> None:
    (root / "state").write_text("")
    with pytest.raises(StateError, match="cannot be opened as a folder"), made_folder(f"{root}/state", "shop"):
        pass


@pytest.mark.parametrize("path", ["a", "a/state", "a/state/shop"])
def test_a_folder_of_somebody_else_is_refused(
    root: pathlib.Path, path: str, foreign: t.Callable[[pathlib.Path], None]
) -> None:
    with made_folder(f"{root}/a/state", "shop"):
        pass
    foreign(root / path)
    with pytest.raises(StateError, match=f"{root}/{path} belongs to user id 65534"):  # noqa: SIM117
        with existing_folder(f"{root}/a/state", "shop"):
            pass


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
@pytest.mark.parametrize("path", ["a", "a/state", "a/state/shop"])
def test_a_folder_that_others_can_write_is_refused(root: pathlib.Path, path: str, mode: int) -> None:
    with made_folder(f"{root}/a/state", "shop"):
        pass
    (root / path).chmod(mode)
    with pytest.raises(StateError, match=f"{root}/{path} can be written by others"):  # noqa: SIM117
        with existing_folder(f"{root}/a/state", "shop"):
            pass


def test_a_sticky_folder_is_fine_on_the_way_but_not_at_its_end(root: pathlib.Path) -> None:
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    with made_folder(f"{root}/tmp/state", "shop"):
        pass
    with pytest.raises(StateError, match="can be written by others"), made_folder(f"{root}/tmp", "shop"):
        pass


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(root: pathlib.Path) -> None:
    with made_folder(f"{root}/state", "shop") as folder:
        folder.replace("lock", b"one")
        folder.replace("lock", b"two")
        assert folder.read("lock") == b"two"
    assert [path.name for path in (root / "state/shop").iterdir()] == ["lock"]
    assert (root / "state/shop/lock").stat().st_mode & 0o777 == 0o600


def test_a_failed_replacement_leaves_what_was_there(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with made_folder(f"{root}/state", "shop") as folder:
        folder.replace("lock", b"one")
        monkeypatch.setattr(state_dir.os, "fsync", full)
        with pytest.raises(StateError, match="No space left on device"):
            folder.replace("lock", b"two")
        assert folder.read("lock") == b"one"
    assert [path.name for path in (root / "state/shop").iterdir()] == ["lock"]


def test_appending_cuts_what_is_behind_the_whole_lines(root: pathlib.Path) -> None:
    with made_folder(f"{root}/state", "shop") as folder:
        folder.append("journal", b"one\n", 0)
        (root / "state/shop/journal").write_bytes(b"one\ntor")
        folder.append("journal", b"two\n", 4)
        assert folder.read("journal") == b"one\ntwo\n"


@pytest.mark.parametrize("make", ["symlink", "fifo", "folder"])
def test_what_is_no_file_is_not_read(root: pathlib.Path, make: str) -> None:
    with made_folder(f"{root}/state", "shop") as folder:
        place = root / "state/shop/lock"
        {"symlink": lambda: place.symlink_to("/etc/passwd"), "fifo": lambda: os.mkfifo(place), "folder": place.mkdir}[
            make
        ]()
        with pytest.raises(StateError):
            folder.read("lock")


def test_a_file_of_somebody_else_is_not_read(root: pathlib.Path, foreign: t.Callable[[pathlib.Path], None]) -> None:
    with made_folder(f"{root}/state", "shop") as folder:
        folder.replace("lock", b"one")
        foreign(root / "state/shop/lock")
        with pytest.raises(StateError, match="not a plain file of this user"):
            folder.read("lock")


def test_what_is_not_there_need_not_be_removed(root: pathlib.Path) -> None:
    with made_folder(f"{root}/state", "shop") as folder:
        folder.replace("lock", b"one")
        folder.remove("lock")
        folder.remove("lock")
        assert folder.read("lock") is None


def test_a_place_is_judged_without_making_anything(root: pathlib.Path) -> None:
    assert unusable(f"{root}/state", "shop") is None
    assert list(root.iterdir()) == []
    (root / "state").mkdir(mode=0o700)
    (root / "state").chmod(0o777)
    assert "can be written by others" in str(unusable(f"{root}/state", "shop"))


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_each_backend_has_a_folder_of_its_own_below_the_state_folder(one: str, other: str) -> None:
    name = folder_name(one)
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith(".")
    assert (name == folder_name(other)) == (one == other)
