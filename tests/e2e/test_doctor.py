# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The doctor finds what is wrong and what will hurt, says where, and repairs what is safe to repair, and nothing else."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from e2e.rollouts import Result, Rollouts
from local_fleet.layout import BACKEND, LOAD_BALANCERS

SAFE = {BACKEND: {"web1": {"weight": 10, "state": "ready"}, "web2": {"weight": 10, "state": "ready"}}}


@pytest.fixture
def shop(start_rollouts: t.Callable[..., Rollouts]) -> Rollouts:
    return start_rollouts(apps=2)


def examine(shop: Rollouts, *arguments: str, **values: t.Any) -> tuple[Result, dict[str, t.Mapping[str, t.Any]]]:
    """The run, and the last finding of each code."""
    result = shop.run("doctor", *arguments, rollout_hosts="app", **values)
    told = result.entries[-1]["custom"].get("doctor_findings")
    assert told is not None, result.output
    return result, {finding["code"]: finding for finding in told}


def serious(found: t.Mapping[str, t.Mapping[str, t.Any]]) -> set[str]:
    return {code for code, finding in found.items() if finding["severity"] != "note" and not finding["repaired"]}


def record(shop: Rollouts, hosts: str = "lb", **end: t.Any) -> None:
    """A rollout of both servers that has ended, as the load balancers tell it."""
    options = {
        "rollout_id": "r1",
        "backends": [BACKEND],
        "socket": "{{ rollout_haproxy_socket }}",
        "state_dir": "{{ rollout_state_dir }}",
    }
    acts: list[dict[str, t.Any]] = [
        {"act": "begin", "who": {"user": "alice"}, "safe": SAFE},
        {"act": "end", "outcome": "promoted", **end},
    ]
    tasks = [{"name": act["act"], "steady.rollout.rollout_act": {**options, **act}} for act in acts]
    result = shop.run([{"hosts": hosts, "gather_facts": False, "tasks": tasks}])
    assert result.code == 0, result.output


def test_nothing_is_wrong_with_a_healthy_fleet(shop: Rollouts) -> None:
    before = shop.states()
    result, found = examine(shop, doctor_repair=True)
    assert (result.code, serious(found)) == (0, set()), result.output
    assert result.changed == {}
    assert shop.states() == before


@pytest.mark.long
def test_a_server_that_nobody_claims_is_let_in_when_all_records_want_it(shop: Rollouts) -> None:
    record(shop)
    shop.fleet.ask("lb1", f"set server {BACKEND}/web1 state drain")
    drained = shop.states()
    only_told, found = examine(shop, "--check", doctor_repair=True)
    assert only_told.code == 2, only_told.output
    assert {"half-shifted", "out-unclaimed"} <= serious(found)
    assert shop.states() == drained
    result, found = examine(shop, doctor_repair=True)
    assert (result.code, serious(found)) == (0, set()), result.output
    assert found["out-unclaimed"]["repaired"]
    assert all(shop.carrying(name) == {"web1", "web2"} for name in LOAD_BALANCERS)


@pytest.mark.long
def test_a_server_that_no_record_speaks_of_is_left_alone(shop: Rollouts) -> None:
    record(shop, "lb1")
    shop.fleet.set_state("web2", "drain")
    result, found = examine(shop, doctor_repair=True)
    assert result.code == 2, result.output
    assert not found["out-unclaimed"]["repaired"]
    assert shop.carrying("lb1") == shop.carrying("lb2") == {"web1"}


def test_a_lock_whose_rollout_has_ended_is_freed(shop: Rollouts) -> None:
    record(shop, keep_lock=True)
    lock = shop.place("lb2", f"rollout/{BACKEND}/lock")
    result, found = examine(shop)
    assert result.code == 2, result.output
    assert "r1" in found["stale-lock"]["problem"]
    assert lock.exists()
    result, found = examine(shop, doctor_repair=True)
    assert (result.code, serious(found)) == (0, set()), result.output
    assert not lock.exists()
    assert shop.place("lb2", f"rollout/{BACKEND}/journal.jsonl").read_text().count('"event":"end"') == 2


def test_state_that_a_reload_would_lose_is_saved(shop: Rollouts) -> None:
    for name in LOAD_BALANCERS:
        shop.fleet.ask(name, f"set server {BACKEND}/web2 weight 7")
        shop.place(name, "server-state").unlink()
    result, found = examine(shop, doctor_repair=True)
    assert (result.code, serious(found)) == (0, set()), result.output
    assert found["state-file-lags"]["repaired"]
    shop.fleet.reload("lb1")
    assert shop.states()["lb1"]["web2"][1] == "7"


def test_settings_that_will_hurt_are_told_with_file_and_line(start_rollouts: t.Callable[..., Rollouts]) -> None:
    shop = start_rollouts(
        apps=2, balance="static-rr", extra_global=["stats maxconn 2"], extra_backend=["timeout tunnel 1h"]
    )
    result, found = examine(
        shop, rollout_health_timeout=0.1, rollout_drain_timeout=120, rollout_analysis={"interval": 10}
    )
    assert result.code == 2, result.output
    expected = {
        "stats-maxconn": "stats maxconn 2",
        "static-algorithm": "balance static-rr",
        "timeout-outlasts-drain": "timeout tunnel 1h",
        "hard-stop-short": "hard-stop-after 60s",
        "checks-rise": "server web1",
    }
    for code, line in expected.items():
        path, _colon, number = found[code]["where"].rpartition(":")
        assert line in pathlib.Path(path).read_text().splitlines()[int(number) - 1], found[code]


def test_hosts_that_do_not_answer_are_findings(shop: Rollouts) -> None:
    shop.gate.cut("lb2", "web1", "web2")
    result, found = examine(shop, doctor_repair=True)
    assert result.code == 2, result.output
    assert {"silent-load-balancer", "silent-host"} <= serious(found)
    assert found["silent-load-balancer"]["lb"] == "lb2"
    assert "Traceback" not in result.output
