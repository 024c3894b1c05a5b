# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file


def test_a_new_file_has_the_text_and_the_mode(tmp_path: pathlib.Path) -> None:
    replace_file(str(tmp_path / "state"), "new\n", 0o640)
    assert (tmp_path / "state").read_text() == "new\n"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o640


def test_an_existing_file_keeps_its_mode(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").write_text("old")
    (tmp_path / "state").chmod(0o604)
    replace_file(str(tmp_path / "state"), "new")
    assert (tmp_path / "state").read_text() == "new"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o604


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "state").symlink_to(tmp_path / "target")
    replace_file(str(tmp_path / "state"), "new")
    assert (tmp_path / "target").read_text() == "old"
    assert not (tmp_path / "state").is_symlink()


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(OSError, match="directory"):
        replace_file(str(tmp_path / "state"), "new")
    assert os.listdir(tmp_path) == ["state"]
