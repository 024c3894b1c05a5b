# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import pathlib
import subprocess
import sys
import zipfile

from ansible_collections.steady.rollout.plugins.module_utils import _guard_program as program
from ansible_collections.steady.rollout.plugins.module_utils import _lease


def test_the_guard_runs_by_itself_and_ends_where_nothing_is_to_be_watched(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "guard.pyz"
    path.write_bytes(program.zipapp())
    done = subprocess.run(
        [sys.executable, "-I", str(path), str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_guard_is_the_same_however_often_it_is_made() -> None:
    assert program.zipapp() == program.zipapp()


def test_the_guard_has_what_it_needs_and_nothing_of_ansible() -> None:
    names = zipfile.ZipFile(io.BytesIO(program.zipapp())).namelist()
    assert any(name.endswith("_lease.py") for name in names)
    assert not [name for name in names if "executor" in name or "ansible/module_utils" in name]
    assert _lease.__name__.replace(".", "/") + ".py" in names
