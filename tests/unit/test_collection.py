"""The parts of the collection that must agree with each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "plugins" / "modules").glob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
HEADER = [
    "# Copyright (c) steady.rollout developers",
    "# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)",
    "# SPDX-License-Identifier: GPL-3.0-or-later",
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_action_group_names_every_module() -> None:
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    assert sorted(runtime["action_groups"]["rollout"]) == [module.stem for module in MODULES]


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_plugin_begins_with_licence_header(path: Path) -> None:
    lines = path.read_text().splitlines()
    start = 1 if lines[0].startswith("#!") else 0
    assert lines[start : start + len(HEADER)] == HEADER


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_module_begins_with_python_shebang(path: Path) -> None:
    assert path.read_text().splitlines()[0] == "#!/usr/bin/python"


@pytest.mark.parametrize("path", sorted((ROOT / "plugins" / "module_utils").glob("*.py")), ids=name)
def test_module_util_is_private(path: Path) -> None:
    assert path.name.startswith("_")


def test_version_is_the_newest_of_the_changelog() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    changelog = yaml.safe_load((ROOT / "changelogs" / "changelog.yaml").read_text())
    newest = max(changelog["releases"], key=lambda version: [int(part) for part in version.split(".")])
    assert galaxy["version"] == newest
