# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of rollouts in the READMEs do what is said of them. e2e.readme_runs tells what is replaced."""

from __future__ import annotations

import contextlib
import json
import pathlib
import typing as t

import pytest

from e2e.readme_runs import BLUE, GREEN, OLD, SHOP, Reader
from e2e.rollouts import rest_green
from local_fleet.layout import LOAD_BALANCERS
from local_fleet.load import Load
from readmes import ROOT, commands, example_of
from runner import collection

NEW = "1.4.2"
RATE = 100.0  # requests/s to each load balancer: what a canary of 5 % needs to have enough of them in some seconds
STRONG = 300.0  # and to have as many as a pass takes


@pytest.fixture
def start_reader(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., Reader]]:
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(Reader(tmp_path, **options))


def expect_no_loss(load: Load) -> None:
    load.stop()
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples


def swap_and_back(reader: Reader, release: str, back: str) -> None:
    """Run the commands of a blue-green release and of its way back."""
    reader.command(release).expect(0, "promoted")
    reader.expect_traffic(NEW, GREEN)
    reader.command(back).expect(0, "rolled_back")
    reader.expect_traffic(OLD, BLUE)


# --- README.md


def test_quick_start(start_reader: t.Callable[..., Reader], tmp_path: pathlib.Path) -> None:
    checkout = collection.copied_tree(ROOT, tmp_path / "checkout") / collection.NAME
    reader = start_reader(desk=checkout, collections=tmp_path / "collections")
    rest_green(reader)
    install, check, release, back = reader.quick_start(example_of("README.md", "commands"))
    load = reader.load(rate=RATE)
    installed = reader.command(install)
    assert installed.code == 0, installed.output
    assert (tmp_path / "collections" / collection.NAME / "MANIFEST.json").is_file()

    started, states = reader.starts(), reader.states()
    shown = reader.command(check)
    assert shown.code == 0, shown.output
    assert (reader.starts(), reader.states()) == (started, states)
    assert all(host in shown.output for host in GREEN)

    swap_and_back(reader, release, back)
    expect_no_loss(load)


# --- roles/blue_green/README.md


@pytest.mark.long
def test_blue_green(start_reader: t.Callable[..., Reader]) -> None:
    reader = start_reader()
    rest_green(reader)
    reader.write("inventory.yml", example_of("roles/blue_green/README.md", "inventory"))
    release, back = commands(example_of("roles/blue_green/README.md", "commands").text)
    load = reader.load(rate=RATE)
    swap_and_back(reader, release, back)
    expect_no_loss(load)


@pytest.mark.long
def test_two_slots_on_each_host(start_reader: t.Callable[..., Reader]) -> None:
    """Each of three hosts has the processes of two app hosts of the local fleet, which all listen on one port."""
    slots = {host: {"blue": host, "green": green} for host, green in zip(BLUE, GREEN)}
    reader = start_reader()
    names = {process: f"{host}-{colour}" for host, pair in slots.items() for colour, process in pair.items()}
    for name in LOAD_BALANCERS:
        config = reader.place(name, "haproxy.cfg")
        text = config.read_text()
        for process, server in names.items():
            text = text.replace(f"server {process} ", f"server {server} ")
        config.write_text(text)
        reader.fleet.reload(name)
        for host in BLUE:
            assert not reader.fleet.ask(name, f"set server shop/{host}-green state drain").strip()
    tracks = example_of("roles/blue_green/README.md", "variables").text.replace("8081", "8080").replace("8082", "8080")
    (reader.desk / "group_vars" / "web.yml").write_text(tracks)
    given = {
        "rollout_load_balancers": list(LOAD_BALANCERS),
        "rollout_backend": "shop",
        "rollout_deploy": {"role": "shop"},
    }
    hosts = {host: {"fleet_slots": pair} for host, pair in slots.items()}
    groups = {"lb": {"hosts": dict.fromkeys(LOAD_BALANCERS)}, "web": {"hosts": hosts, "vars": given}}
    reader.inventory.write_text(json.dumps(groups))
    reader.load(rate=RATE)
    reader.command(
        "ansible-playbook -i inventory.yml steady.rollout.blue_green -e rollout_hosts=web -e rollout_release=1.4.2"
    ).expect(0, "promoted")
    reader.expect_traffic(NEW, [f"{host}-green" for host in BLUE])


# --- roles/canary/README.md


def paused_canary(reader: Reader) -> tuple[str, str]:
    """Have the canary of the README wait in its pause; return the commands to go on and back."""
    reader.write("inventory.yml", example_of("roles/canary/README.md", "inventory"))
    release, on, back = commands(example_of("roles/canary/README.md", "commands").text)
    reader.command(release).expect(0, "paused")
    assert [host for host, now in reader.releases().items() if now == NEW] == ["web1", "web2"]
    return on, back


@pytest.mark.long
def test_canary_and_back_from_its_pause(start_reader: t.Callable[..., Reader]) -> None:
    reader = start_reader()
    load = reader.load(rate=RATE)
    _on, back = paused_canary(reader)
    reader.command(back).expect(0, "rolled_back")
    reader.expect_traffic(OLD, SHOP)
    expect_no_loss(load)


@pytest.mark.long
@pytest.mark.alone
def test_canary_and_on_from_its_pause(start_reader: t.Callable[..., Reader]) -> None:
    reader = start_reader()
    load = reader.load(rate=STRONG)
    on, back = paused_canary(reader)
    reader.command(on).expect(0, "promoted")
    reader.expect_traffic(NEW, SHOP)
    reader.command(back).expect(0, "rolled_back")
    reader.expect_traffic(OLD, SHOP)
    expect_no_loss(load)


# --- roles/rolling/README.md


@pytest.mark.long
def test_rolling(start_reader: t.Callable[..., Reader]) -> None:
    reader = start_reader()
    reader.write("inventory.yml", example_of("roles/rolling/README.md", "inventory"))
    release, back = commands(example_of("roles/rolling/README.md", "commands").text)
    load, watch = reader.load(rate=RATE), reader.watch()
    reader.command(release).expect(0, "promoted")
    reader.expect_traffic(NEW, SHOP)
    # On their way out and in, the hosts of a batch may be seen one by one.
    batches = [{"web1"}, {"web2", "web3", "web4"}, {"web5", "web6"}]
    assert [out for out in watch.out() if out in batches] == batches
    assert all(any(out <= batch for batch in batches) for out in watch.out()), watch.out()
    reader.command(back).expect(0, "rolled_back")
    reader.expect_traffic(OLD, SHOP)
    expect_no_loss(load)


# --- roles/rollout/README.md


@pytest.mark.long
def test_a_plan_of_ones_own(start_reader: t.Callable[..., Reader]) -> None:
    """On the inventory of the quick start, whose hosts have colours."""
    reader = start_reader()
    rest_green(reader)
    reader.quick_start(example_of("README.md", "commands"))
    reader.write("play.yml", example_of("roles/rollout/README.md", "play"))
    load = reader.load(rate=RATE)
    reader.playbook("play.yml").expect(0, "promoted")
    reader.expect_traffic(NEW, GREEN)
    expect_no_loss(load)


# --- Somebody else's playbook


def test_a_playbook_of_somebody_else_needs_no_variable_but_three_and_the_deploy(
    start_reader: t.Callable[..., Reader],
) -> None:
    reader = start_reader(apps=2)
    hosts = {"lb": {"hosts": dict.fromkeys(LOAD_BALANCERS)}, "web": {"hosts": dict.fromkeys(("web1", "web2"))}}
    reader.inventory.write_text(json.dumps(hosts))
    play = {
        "name": "Release the shop",
        "hosts": "web",
        "vars": {
            "rollout_release": NEW,
            "rollout_load_balancers": ["lb1", "lb2"],
            "rollout_backend": "shop",
            "rollout_deploy": {"role": "shop"},
        },
        "roles": ["steady.rollout.rolling"],
        "tasks": [{"name": "Go on", "ansible.builtin.debug": {"msg": "the shop is there"}}],
    }
    (reader.desk / "site.yml").write_text(json.dumps([play]))
    load = reader.load(rate=RATE)
    result = reader.playbook("site.yml").expect(0, "promoted")
    assert [entry["host"] for entry in result.entries if entry.get("message") == "the shop is there"] == [
        "web1",
        "web2",
    ]
    reader.expect_traffic(NEW, ["web1", "web2"])
    expect_no_loss(load)
