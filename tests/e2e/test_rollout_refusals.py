# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input is refused in one clear sentence, before anything changes."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from e2e.rollouts import Result, Rollouts
from local_fleet.polling import poll

BLUE, GREEN = {"web1", "web2"}, {"web3", "web4"}
LONG = 600  # characters: more is no clear sentence


@pytest.fixture
def refuses(blue_green: Rollouts) -> t.Iterator[t.Callable[..., None]]:
    """Assert that a run was refused in a sentence with these words, and that nothing has changed in the end."""
    started, states = blue_green.starts(), blue_green.states()

    def check(result: Result, *words: str) -> None:
        result.expect(2, "refused")
        said = set(result.message.splitlines())
        assert all(len(line) < LONG for line in said), result.message
        for word in words:
            assert word in result.message, result.message
        assert "Traceback" not in result.output
        assert result.changed == {}, result.output

    yield check
    assert blue_green.starts() == started
    assert blue_green.states() == states


Refuses = t.Callable[..., None]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"rollout_backend": "nowhere"}, ["nowhere", "lb1"], id="unknown backend"),
        pytest.param(
            {"rollout_load_balancers": []}, ["rollout_load_balancers"], id="no load balancers", marks=pytest.mark.long
        ),
        pytest.param({"rollout_load_balancers": ["lb9"]}, ["lb9"], id="unknown load balancer", marks=pytest.mark.long),
        pytest.param({"rollout_release": ""}, ["rollout_release"], id="no release", marks=pytest.mark.long),
        pytest.param({"rollout_deploy": {"role": "nowhere"}}, ["nowhere"], id="unknown role"),
        pytest.param(
            {"rollout_deploy": {"tasks": "nowhere.yml"}}, ["nowhere.yml"], id="no tasks file", marks=pytest.mark.long
        ),
        pytest.param({"rollout_deploy": {}}, ["rollout_deploy"], id="a deploy of nothing", marks=pytest.mark.long),
        pytest.param({"rollout_deploy_release": "1.0.0"}, ["rollout_deploy_release"], id="executor's own variable"),
        pytest.param({"blue_green_bake": "soon"}, ["soon"], id="no duration", marks=pytest.mark.long),
        pytest.param({"blue_green_live": "red"}, ["red"], id="no colour", marks=pytest.mark.long),
        pytest.param({"rollout_server": "web1"}, ["web1"], id="one server for all hosts", marks=pytest.mark.long),
        pytest.param({"rollout_probe": {"pfad": "/"}}, ["pfad"], id="unknown word in rollout_probe"),
    ],
)
def test_bad_input_is_refused(
    blue_green: Rollouts, refuses: Refuses, given: dict[str, t.Any], words: list[str]
) -> None:
    values = {"rollout_hosts": "app", "rollout_release": "2.0.0", **given}
    refuses(blue_green.run("blue_green", **values), *words)


def test_a_limit_is_refused(blue_green: Rollouts, refuses: Refuses) -> None:
    result = blue_green.blue_green("2.0.0", "--limit", "localhost,web1,web2,web3")
    refuses(result, "web4")


def test_a_host_pattern_that_matches_nothing_is_refused(blue_green: Rollouts, refuses: Refuses) -> None:
    refuses(blue_green.run("blue_green", rollout_hosts="nobody", rollout_release="2.0.0"), "nobody")


@pytest.mark.parametrize(("values", "word"), [({"serial": 2}, "serial"), ({"strategy": "free"}, "free")])
def test_a_play_that_cannot_roll_back_is_refused(
    blue_green: Rollouts, refuses: Refuses, values: dict[str, t.Any], word: str
) -> None:
    play = {"hosts": "app", "gather_facts": False, "roles": ["steady.rollout.blue_green"], **values}
    refuses(blue_green.run([play], rollout_release="2.0.0"), word)


def test_control_variables_that_differ_between_hosts_are_refused(blue_green: Rollouts, refuses: Refuses) -> None:
    blue_green.write_inventory(
        lambda inventory: inventory["all"]["children"]["app"]["hosts"]["web2"].update(blue_green_bake=7)
    )
    refuses(blue_green.blue_green("2.0.0"), "bake", "web1", "web2")


@pytest.mark.long
def test_a_colour_without_hosts_is_refused(blue_green: Rollouts, refuses: Refuses) -> None:
    def paint(inventory: dict[str, t.Any]) -> None:
        for variables in inventory["all"]["children"]["app"]["hosts"].values():
            variables["rollout_track"] = "blue"

    blue_green.write_inventory(paint)
    refuses(blue_green.blue_green("2.0.0"), "green")


@pytest.mark.long
def test_a_host_without_a_colour_is_refused(blue_green: Rollouts, refuses: Refuses) -> None:
    blue_green.write_inventory(
        lambda inventory: inventory["all"]["children"]["app"]["hosts"]["web4"].pop("rollout_track")
    )
    refuses(blue_green.blue_green("2.0.0"), "web4", "rollout_track")


def test_a_server_that_no_host_of_the_play_has_is_refused(blue_green: Rollouts, refuses: Refuses) -> None:
    blue_green.write_inventory(lambda inventory: inventory["all"]["children"]["app"]["hosts"].pop("web4"))
    refuses(blue_green.blue_green("2.0.0"), "web4")


@pytest.mark.long
def test_a_host_whose_server_is_on_no_load_balancer_is_refused(blue_green: Rollouts, refuses: Refuses) -> None:
    blue_green.write_inventory(
        lambda inventory: inventory["all"]["children"]["app"]["hosts"]["web4"].update(rollout_server="web44")
    )
    refuses(blue_green.blue_green("2.0.0"), "web44")


def test_two_live_colours_are_refused(start_rollouts: t.Callable[..., Rollouts]) -> None:
    shop = start_rollouts(apps=2, tracks={"web1": "blue", "web2": "green"})
    result = shop.blue_green("2.0.0").expect(2, "refused")
    assert "blue_green_live" in result.message
    shop.expect_traffic("1.0.0", {"web1", "web2"})


@pytest.mark.long
def test_a_server_that_one_load_balancer_lacks_is_refused(start_blue_green: t.Callable[..., Rollouts]) -> None:
    shop = start_blue_green()
    config = pathlib.Path(shop.fleet.path("lb2", "haproxy.cfg"))
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "server web4 " not in line))
    for name in ("lb1", "lb2"):
        shop.fleet.save_state(name)
    shop.fleet.reload("lb2")
    started = shop.starts()
    result = shop.blue_green("2.0.0").expect(2, "refused")
    assert "web4" in result.message
    assert "lb2" in result.message
    assert shop.starts() == started


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        pytest.param([{"explode": "green"}], ["1", "explode"], id="unknown step", marks=pytest.mark.long),
        pytest.param(
            [{"deploy": "green"}, {"traffic": {"green": 100}}],
            ["2", "prob"],
            id="traffic before a probe",
            marks=pytest.mark.long,
        ),
        pytest.param([{"deploy": "red"}], ["1", "red"], id="unknown track"),
        pytest.param([], ["rollout_steps"], id="no steps"),
    ],
)
def test_a_plan_with_a_mistake_is_refused(
    blue_green: Rollouts, refuses: Refuses, steps: list[dict[str, t.Any]], words: list[str]
) -> None:
    play = {"hosts": "app", "gather_facts": False, "roles": ["steady.rollout.rollout"]}
    refuses(blue_green.run([play], rollout_release="2.0.0", rollout_steps=steps), *words)


@pytest.mark.long
def test_a_second_rollout_is_refused_while_one_runs(blue_green: Rollouts) -> None:
    blue_green.load()
    first = blue_green.start("blue_green", rollout_hosts="app", rollout_release="2.0.0", blue_green_bake=12)
    poll(lambda: blue_green.carrying("lb1") == blue_green.carrying("lb2") == GREEN, "green has taken over", 60)
    blue_green.blue_green("3.0.0").expect(2, "refused")
    first.result().expect(0, "promoted")
    blue_green.expect_traffic("2.0.0", GREEN)


@pytest.mark.long
def test_a_second_rollout_waits_for_the_first_one_on_request(blue_green: Rollouts) -> None:
    blue_green.load()
    first = blue_green.start("blue_green", rollout_hosts="app", rollout_release="2.0.0", blue_green_bake=12)
    poll(lambda: blue_green.carrying("lb1") == blue_green.carrying("lb2") == GREEN, "green has taken over", 60)
    blue_green.blue_green("3.0.0", rollout_lock_wait="5m").expect(0, "promoted")
    first.result().expect(0, "promoted")
    assert {blue_green.releases()[host] for host in ("web1", "web2")} == {"3.0.0"}
