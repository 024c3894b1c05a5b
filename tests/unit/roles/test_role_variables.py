# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""argument_specs.yml is where a role's variables are documented; the defaults must agree, and nothing else be read."""

from __future__ import annotations

import pathlib
import re
import typing as t

import pytest
import yaml

ROLES = pathlib.Path(__file__).resolve().parents[3] / "roles"
NAMES = sorted(path.name for path in ROLES.iterdir() if path.is_dir())


def options(role: str) -> dict[str, t.Any]:
    spec = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    return dict(spec["argument_specs"]["main"]["options"])


def defaults(role: str) -> dict[str, t.Any]:
    return dict(yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text(encoding="utf-8")))


@pytest.mark.parametrize("role", NAMES)
def test_the_documented_defaults_are_the_real_ones(role: str) -> None:
    documented = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert documented == defaults(role)


@pytest.mark.parametrize("role", NAMES)
def test_every_variable_is_used(role: str) -> None:
    files = [path for path in (ROLES / role).rglob("*") if path.parts[-2] in ("tasks", "templates", "vars")]
    # What the variables of a load balancer are is for the controller's plugins to find out.
    files += (ROLES.parent / "plugins" / "action").glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert [name for name in options(role) if not re.search(rf"\b{name}\b", text)] == []
