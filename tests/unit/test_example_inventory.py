# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""inventories/example is what its README says, and names only variables that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventories" / "example"
# Roles whose variables begin with their name; rollout's own are the fleet's.
PREFIXES = ("blue_green", "canary", "haproxy", "nginx", "release", "rolling", "rollout")
PROGRAM = Path(sys.executable).with_name("ansible-inventory")

Inventory = t.Mapping[str, t.Any]


@pytest.fixture(scope="module", params=["production", "staging"])
def inventory(request: pytest.FixtureRequest) -> Inventory:
    return read(request.param)


def read(name: str) -> Inventory:
    command = [str(PROGRAM), "-i", str(EXAMPLE / f"{name}.yml"), "--list"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    told: Inventory = json.loads(answer.stdout)
    return told


def hosts_of(inventory: Inventory, group: str) -> list[str]:
    found: list[str] = inventory[group].get("hosts", [])
    return found


def test_each_application_is_on_every_machine(inventory: Inventory) -> None:
    variables = inventory["_meta"]["hostvars"]
    machines = set(hosts_of(inventory, "machines"))
    for application in ("shop", "api"):
        names = hosts_of(inventory, application)
        assert {variables[name]["machine"] for name in names} == machines
        assert len(names) == len(machines)
        for name in names:
            assert variables[name]["ansible_host"] == variables[variables[name]["machine"]]["ansible_host"]


def test_the_addresses_are_nobodys(inventory: Inventory) -> None:
    addresses = {host["ansible_host"] for host in inventory["_meta"]["hostvars"].values()}
    assert all(re.fullmatch(r"(192\.0\.2|198\.51\.100)\.\d+", address) for address in addresses)


def test_staging_and_production_share_no_host() -> None:
    first, second = (set(read(name)["_meta"]["hostvars"]) for name in ("production", "staging"))
    assert first
    assert second
    assert not first & second


def test_every_variable_of_a_role_exists() -> None:
    known = set()
    for specs in ROOT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(specs.read_text())["argument_specs"].values():
            known |= set(entry.get("options", {}))
    named = {name for path in (EXAMPLE / "group_vars").glob("*.yml") for name in yaml.safe_load(path.read_text())}
    ours = {name for name in named if name.startswith(tuple(f"{prefix}_" for prefix in PREFIXES))}
    if not (ROOT / "roles" / "release").is_dir():
        ours = {name for name in ours if not name.startswith("release_")}
    assert ours - known == set()
