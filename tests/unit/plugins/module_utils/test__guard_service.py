# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import pathlib
import subprocess
import sys
import zipfile

from ansible_collections.steady.rollout.plugins.module_utils import _guard_service as service
from ansible_collections.steady.rollout.plugins.module_utils import _lease


def test_the_guard_runs_by_itself_and_ends_where_nothing_is_to_be_watched(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "guard.pyz"
    program.write_bytes(service.zipapp())
    done = subprocess.run(
        [sys.executable, "-I", str(program), str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_guard_is_the_same_however_often_it_is_made() -> None:
    assert service.zipapp() == service.zipapp()


def test_the_guard_has_what_it_needs_and_nothing_of_ansible() -> None:
    names = zipfile.ZipFile(io.BytesIO(service.zipapp())).namelist()
    assert any(name.endswith("_lease.py") for name in names)
    assert not [name for name in names if "executor" in name or "ansible/module_utils" in name]
    assert _lease.__name__.replace(".", "/") + ".py" in names


def test_each_state_directory_has_a_unit_of_its_own() -> None:
    assert service.unit_name("/var/lib/steady-rollout") == "steady-rollout-guard.service"
    assert service.unit_name("/srv/a") != service.unit_name("/srv/b")


def test_a_path_cannot_add_anything_to_the_unit() -> None:
    text = service.unit_text('/srv/a" b%c$d', "/srv/p", "/usr/bin/python3")
    assert 'ExecStart="/usr/bin/python3" -I "/srv/p" "/srv/a\\" b%%c$$d"\n' in text
