# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `steady.rollout.status` tells a person and a machine: when all is well, while a rollout runs, and in trouble."""

from __future__ import annotations

import json
import typing as t

import pytest

from e2e.rollouts import Result, Rollouts
from local_fleet.polling import poll

PLAY = [{"hosts": "app", "gather_facts": False, "roles": ["steady.rollout.rollout"]}]


def ask(shop: Rollouts, *arguments: str, **variables: t.Any) -> Result:
    """Run the playbook."""
    return shop.run("status", *arguments, **{"rollout_hosts": "app", "status_sample": 1, **variables})


def verdict(result: Result) -> tuple[int, t.Any]:
    """The exit code, and `rollout_status` of set_stats."""
    return result.code, result.entries[-1]["custom"].get("rollout_status")


def report(result: Result) -> dict[str, t.Any]:
    """The JSON that is told to a machine."""
    messages = [entry["message"] for entry in result.entries if entry.get("task", "").endswith("Tell it to a machine")]
    assert len(messages) == 1, result.output
    return t.cast("dict[str, t.Any]", json.loads(messages[0]))


def test_a_fleet_without_a_record_is_told_in_check_mode_though_none_of_its_hosts_answers(rolling: Rollouts) -> None:
    rolling.gate.cut("web1", "web2", "web3", "web4")
    load = rolling.load()
    result = ask(rolling, "--check", status_format="json")
    load.stop()
    assert verdict(result) == (0, "healthy"), result.output
    assert result.changed == {}, result.output
    told = report(result)
    assert told == result.entries[-1]["custom"]["rollout_status_report"]
    shop = told["backends"]["shop"]
    assert shop["rollout"] is None
    web1 = shop["servers"]["web1"]["lbs"]["lb1"]
    assert (web1["wanted"], web1["state"], web1["health"], web1["release"]) == (None, "ready", "up", None)
    assert 15 < web1["share"] < 35


def test_a_rollout_in_progress_is_told_and_a_server_that_dies_in_it_needs_attention(rolling: Rollouts) -> None:
    running = rolling.start(PLAY, rollout_release="2.0.0", rollout_steps=[{"pause": {"for": "10m"}}])
    poll(lambda: "Step 1 of 1" in running.output and "0 s of 600 s" in running.output, "the pause begins", 120)
    result = ask(rolling)
    running.kill()
    assert verdict(result) == (0, "in_progress"), result.output
    assert "custom of release 2.0.0: in progress, step 1 of 1 (pause for 10m)" in result.output
    assert "lock: held by" in result.output
    rolling.fleet.kill("web3")
    poll(lambda: "web3" not in rolling.carrying("lb1") | rolling.carrying("lb2"), "web3 is seen down", 60)
    result = ask(rolling)
    assert verdict(result) == (2, "needs_attention"), result.output
    assert "web3 of shop should carry traffic and is down" in result.message


@pytest.mark.long
def test_a_promoted_release_is_healthy_until_somebody_takes_a_host_out(rolling: Rollouts) -> None:
    rolling.rolling("2.0.0", rolling_batches=2).expect(0, "promoted")
    result = ask(rolling)
    assert verdict(result) == (0, "healthy"), result.output
    assert "rolling of release 2.0.0: promoted" in result.output
    assert "lock: free" in result.output
    rolling.fleet.set_state("web2", "maint")
    result = ask(rolling)
    assert verdict(result) == (2, "needs_attention"), result.output
    assert "web2 of shop should carry traffic and is in maint on lb1, lb2" in result.message


@pytest.mark.long
def test_a_rollout_that_went_back_by_itself_is_healthy(start_rollouts: t.Callable[..., Rollouts]) -> None:
    shop = start_rollouts(apps=4, hosts={"web1": {"fleet_behaviours": {"2.0.0": {"behaviour": "unhealthy"}}}})
    steps = [{"deploy": "web1"}, {"probe": "web1"}, {"admit": "web1"}]
    shop.run(PLAY, rollout_release="2.0.0", rollout_steps=steps, rollout_previous="1.0.0").expect(2, "rolled_back")
    result = ask(shop)
    assert verdict(result) == (0, "healthy"), result.output
    assert "custom of release 2.0.0: rolled_back" in result.output


@pytest.mark.parametrize("how", ["cut", pytest.param("silence", marks=pytest.mark.long)])
def test_what_one_load_balancer_says_is_told_when_the_other_does_not_answer(rolling: Rollouts, how: str) -> None:
    getattr(rolling.gate, how)("lb2")
    result = ask(rolling, status_format="json", rollout_lb_timeout=12)
    assert verdict(result) == (2, "needs_attention"), result.output
    told = report(result)
    assert [reason["what"].split(":")[0] for reason in told["reasons"]] == ["lb2 does not answer"]
    assert told["load_balancers"]["lb2"]["answers"] is False
    assert list(told["backends"]["shop"]["servers"]["web1"]["lbs"]) == ["lb1"]
    assert "lb2 does not answer" in result.message


def test_every_load_balancer_dead_is_told_not_refused(rolling: Rollouts) -> None:
    for name in ("lb1", "lb2"):
        rolling.fleet.kill(name)
    result = ask(rolling)
    assert verdict(result) == (2, "needs_attention"), result.output
    assert "lb1 does not answer" in result.message
    assert "lb2 does not answer" in result.message


def test_a_lock_that_nobody_has_a_record_of_is_told_and_what_it_says_is_never_templated(rolling: Rollouts) -> None:
    folder = rolling.place("lb1", "rollout") / "shop"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    said = {"rollout_id": "{{ 6 * 7 }}", "since": "2026-01-01T00:00:00Z", "who": {"user": "{{ 6 * 7 }}"}}
    (folder / "lock").write_text(json.dumps(said))
    result = ask(rolling)
    assert verdict(result) == (2, "needs_attention"), result.output
    assert "rollout {{ 6 * 7 }} holds shop on lb1" in result.message
    assert "lock: held by {{ 6 * 7 }} since 2026-01-01T00:00:00Z by {{ 6 * 7 }} on lb1" in result.output


@pytest.mark.parametrize("given", [{"rollout_hosts": "nobody"}, {"rollout_backend": ""}])
def test_what_cannot_work_is_refused_in_one_sentence(rolling: Rollouts, given: dict[str, t.Any]) -> None:
    result = ask(rolling, **given).expect(2, "refused")
    assert next(iter(given)) in result.message
