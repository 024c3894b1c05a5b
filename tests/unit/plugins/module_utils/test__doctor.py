# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._doctor import Fleet, is_well, judge, with_repaired
from ansible_collections.steady.rollout.plugins.module_utils._finding import (
    ERROR,
    NOTE,
    SEVERITIES,
    WARNING,
    Finding,
    Needs,
    Seen,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_settings import settings
from hypothesis import given
from hypothesis import strategies as st

NEEDS = Needs(
    drain_timeout=20, on_drain_timeout="fail", health_timeout=30, interval=10, allow_unchecked=False, unpersisted=False
)
CONFIG = """\
global
    stats socket /run/admin.sock mode 600 level admin
    stats timeout 2m
    hard-stop-after 60s
defaults
    timeout client 20s
    timeout server 20s
    default-server check inter 2s fall 3 rise 2
frontend web
    default_backend shop
backend shop
    balance roundrobin
    server web1 192.0.2.1:80
    server web2 192.0.2.2:80
"""
SAFE = {"rollout_id": "r1", "servers": {name: {"weight": 10, "state": "ready"} for name in ("web1", "web2")}}
LOCK = {"rollout_id": "r1", "since": "2026-01-01T00:00:00Z", "who": {"user": "alice"}}
LEASE = {"rollout_id": "r1", "seconds": 120, "left": 60}

Record = dict[str, t.Any]


def server(name: str, **values: t.Any) -> dict[str, t.Any]:
    told = {
        "name": name,
        "weight": 10,
        "initial_weight": 10,
        "own_state": "ready",
        "health": "up",
        "settled": True,
        "status": "UP",
        "backup": False,
        "agent": None,
        **values,
    }
    return {"state": told["own_state"], **told}


def rollout(**values: t.Any) -> dict[str, t.Any]:
    return {
        "rollout_id": "r1",
        "at": "2026-01-01T00:00:00Z",
        "begin": {},
        "events": [],
        "step": 1,
        "ended": True,
        "outcome": "promoted",
        **values,
    }


OPEN = rollout(ended=False, outcome=None)


def load_balancer(
    name: str = "lb1",
    *servers: dict[str, t.Any],
    record: t.Mapping[str, t.Any] | None = None,
    text: str | None = CONFIG,
    reading: t.Mapping[str, t.Any] | None = None,
    configuration: t.Mapping[str, t.Any] | None = None,
) -> Seen:
    names = {"shop": ["web1", "web2"]}
    return Seen(
        name=name,
        socket="/run/admin.sock",
        state_dir="/var/lib/steady-rollout",
        reading={
            "admin": True,
            "survives_reload": True,
            "survives_reload_reason": "",
            "backends": {
                "shop": {
                    "mode": "http",
                    "algorithm": "roundrobin",
                    "servers": list(servers or (server("web1"), server("web2"))),
                }
            },
            "records": {
                "shop": {
                    "lock": None,
                    "rollout": rollout(),
                    "safe": SAFE,
                    "releases": {},
                    "problem": None,
                    **(record or {}),
                }
            },
            **(reading or {}),
        },
        configuration={
            "problem": None,
            "settings": settings([("haproxy.cfg", text)], names) if text else None,
            "socket_mode": "0600",
            "state_files": {"shop": {"path": "/state", "exists": True, "lagging": []}},
            **(configuration or {}),
        },
        backends=("shop",),
    )


def fleet(*lbs: Seen, **values: t.Any) -> Fleet:
    seen = lbs or (load_balancer("lb1"), load_balancer("lb2"))
    return Fleet(**{"lbs": seen, "backends": ("shop",), "needs": NEEDS, "silent_hosts": {}, **values})


def found(*lbs: Seen, **values: t.Any) -> dict[str, Finding]:
    return {finding.code: finding for finding in judge(fleet(*lbs, **values))}


def pair(**values: t.Any) -> tuple[Seen, Seen]:
    """Two load balancers that tell the same."""
    return load_balancer("lb1", **values), load_balancer("lb2", **values)


# --- who answers


def test_nothing_is_found_where_all_is_well() -> None:
    assert judge(fleet()) == []


def test_a_load_balancer_that_is_silent_is_an_error_and_keeps_the_others_from_being_repaired() -> None:
    silent = Seen("lb2", "/run/admin.sock", "/var/lib", None, None, "unreachable (no route)")
    told = found(load_balancer("lb1", server("web1", own_state="drain"), server("web2")), silent)
    assert told["silent-load-balancer"].severity == ERROR
    assert "no route" in told["silent-load-balancer"].problem
    assert told["out-unclaimed"].repair is None


def test_a_host_that_is_silent_is_an_error() -> None:
    assert found(silent_hosts={"web2": "unreachable (no route)"})["silent-host"].severity == ERROR


# --- locks, leases and guards


def test_a_lock_whose_rollout_has_ended_may_be_freed() -> None:
    stale = found(*pair(record={"lock": LOCK}))["stale-lock"]
    assert stale.repair == {"kind": "release", "rollout_id": "r1", "outcome": "promoted", "safe": {}}


def test_a_lock_whose_rollout_ended_on_the_other_load_balancer_is_freed_with_what_is_safe_there() -> None:
    stale = found(load_balancer("lb1", record={"lock": LOCK, "rollout": OPEN}), load_balancer("lb2"))["stale-lock"]
    assert stale.repair is not None
    assert stale.repair["safe"] == {"shop": SAFE["servers"]}


def test_such_a_lock_is_kept_while_the_load_balancers_disagree() -> None:
    behind = load_balancer(
        "lb1", server("web1", own_state="drain"), server("web2"), record={"lock": LOCK, "rollout": OPEN}
    )
    told = found(behind, load_balancer("lb2"))
    assert told["stale-lock"].repair is None
    assert told["half-shifted"].severity == ERROR


@pytest.mark.parametrize(
    ("record", "code", "severity"),
    [
        pytest.param({"rollout": OPEN}, "unfinished", WARNING, id="no lease is known"),
        pytest.param({"rollout": OPEN, "lease": LEASE, "guard": "running"}, "in-progress", NOTE, id="live"),
        pytest.param({"rollout": OPEN, "lease": {**LEASE, "left": -5}}, "unfinished", ERROR, id="expired"),
        pytest.param({"rollout": OPEN, "lease": LEASE, "guard": "missing"}, "guard-missing", ERROR, id="no guard"),
        pytest.param({"rollout": rollout(outcome="rollback_failed")}, "ended-unsettled", ERROR, id="rollback failed"),
        pytest.param({"rollout": rollout(outcome="paused")}, "ended-unsettled", WARNING, id="held"),
        pytest.param({"rollout": None}, "lock-without-record", ERROR, id="no record"),
        pytest.param({"rollout": rollout(rollout_id="r0")}, "lock-without-record", ERROR, id="another's record"),
        pytest.param(
            {"rollout": OPEN, "lock": {**LOCK, "abandoned": "traffic was returned"}}, "abandoned", ERROR, id="abandoned"
        ),
    ],
)
def test_a_lock_that_may_be_in_use_is_told_and_never_freed(record: Record, code: str, severity: str) -> None:
    told = found(*pair(record={"lock": LOCK, **record}))
    assert told[code].severity == severity
    assert all(finding.repair is None for finding in told.values())


@pytest.mark.parametrize(
    ("record", "code"),
    [
        pytest.param({"rollout": OPEN}, "unfinished", id="unfinished"),
        pytest.param({"rollout": rollout(outcome="paused")}, "ended-unsettled", id="held"),
        pytest.param({"rollout": OPEN, "lock": {**LOCK, "abandoned": "x"}}, "abandoned", id="abandoned"),
    ],
)
def test_what_cannot_be_taken_back_is_not_to_be_rolled_back_without_a_word(record: Record, code: str) -> None:
    event = {"event": "note", "forward_only": ["the migration of 2.0.0"]}
    said = {**record["rollout"], "events": [*record["rollout"]["events"], event]}
    told = found(*pair(record={"lock": LOCK, **record, "rollout": said}))
    assert "the former release runs on what this left" in told[code].remedy
    assert "rollout_action=resume" in told[code].remedy


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"rollout": OPEN}, "unfinished"),
        ({"guard": "running"}, "guard-orphaned"),
        ({"lease": LEASE}, "lease-orphaned"),
        ({"problem": "it is a link"}, "record-unusable"),
    ],
)
def test_what_was_left_behind_without_a_lock_is_found(record: Record, code: str) -> None:
    assert found(*pair(record=record))[code].severity != NOTE


def test_what_is_not_known_of_a_guard_is_no_finding() -> None:
    told = found(*pair(record={"lock": LOCK, "rollout": OPEN, "lease": LEASE, "guard": None}))
    assert set(told) == {"in-progress"}


# --- weights and states


@pytest.mark.parametrize(
    ("record", "severity"),
    [
        ({}, ERROR),
        ({"lock": LOCK, "rollout": OPEN}, WARNING),
        ({"lock": LOCK, "rollout": OPEN, "lease": LEASE}, NOTE),
    ],
)
def test_load_balancers_that_disagree_are_the_worse_the_less_a_rollout_explains_it(
    record: Record, severity: str
) -> None:
    other = load_balancer("lb2", server("web1", weight=3), server("web2"), record=record)
    half = found(load_balancer("lb1", record=record), other)["half-shifted"]
    assert (half.severity, half.servers) == (severity, ("web1",))
    assert "lb2 has it ready with weight 3" in half.problem


def test_weights_that_are_each_load_balancers_own_configuration_are_no_disagreement() -> None:
    other = load_balancer("lb2", server("web1", weight=20, initial_weight=20), server("web2"))
    assert "half-shifted" not in found(load_balancer("lb1"), other)


def test_a_server_that_one_load_balancer_lacks_is_a_disagreement() -> None:
    assert found(load_balancer("lb1"), load_balancer("lb2", server("web1")))["half-shifted"].servers == ("web2",)


def out(**values: t.Any) -> tuple[Seen, Seen]:
    """web1 is out of rotation on both."""
    servers = (server("web1", **{"own_state": "drain", "status": "DRAIN", **values}), server("web2"))
    return load_balancer("lb1", *servers), load_balancer("lb2", *servers)


def test_a_healthy_server_in_drain_that_all_records_want_may_be_let_in() -> None:
    unclaimed = found(*out())["out-unclaimed"]
    assert unclaimed.repair == {"kind": "change", "servers": [{"name": "web1", "weight": 10, "state": "ready"}]}


@pytest.mark.parametrize(
    "values",
    [
        {"own_state": "maint", "health": "down", "settled": False},
        {"settled": False, "status": "UP 1/3"},
        {"health": "unchecked", "settled": False},
    ],
)
def test_a_server_that_is_not_seen_healthy_is_not_let_in(values: dict[str, t.Any]) -> None:
    unclaimed = found(*out(**values))["out-unclaimed"]
    assert (unclaimed.severity, unclaimed.repair) == (WARNING, None)


def test_a_server_that_one_record_has_drained_is_not_let_in() -> None:
    servers = server("web1", own_state="drain"), server("web2")
    drained = {"rollout_id": "r1", "servers": {"web1": {"weight": 10, "state": "drain"}}}
    other = load_balancer("lb2", *servers, record={"safe": drained})
    assert found(load_balancer("lb1", *servers), other)["out-unclaimed"].repair is None


def test_a_server_is_not_let_in_while_a_rollout_holds_the_backend() -> None:
    servers = server("web1", own_state="drain"), server("web2")
    record = {"lock": {**LOCK, "rollout_id": "r2"}, "rollout": {**OPEN, "rollout_id": "r2"}}
    assert "out-unclaimed" not in found(load_balancer("lb1", *servers), load_balancer("lb2", *servers, record=record))


def test_a_server_is_not_let_in_by_a_record_that_a_lock_left_behind_may_have_outdated() -> None:
    servers = server("web1", own_state="drain"), server("web2")
    behind = load_balancer("lb2", *servers, record={"lock": LOCK, "rollout": OPEN})
    assert found(load_balancer("lb1", *servers), behind)["out-unclaimed"].repair is None


def test_a_drained_server_that_the_record_has_drained_is_as_it_should_be() -> None:
    safe = {"rollout_id": "r1", "servers": {"web1": {"weight": 10, "state": "drain"}}}
    servers = server("web1", own_state="drain"), server("web2")
    told = judge(
        fleet(
            load_balancer("lb1", *servers, record={"safe": safe}), load_balancer("lb2", *servers, record={"safe": safe})
        )
    )
    assert told == []


def test_a_server_that_carries_though_the_record_has_it_drained_is_found() -> None:
    safe = {"rollout_id": "r1", "servers": {"web1": {"weight": 10, "state": "drain"}}}
    assert found(*pair(record={"safe": safe}))["in-against-record"].servers == ("web1",)


def test_records_of_releases_that_differ_are_found_also_where_one_says_nothing() -> None:
    told = {"web1": {"role:shop": "2.0.0"}}
    differ = found(load_balancer("lb1", record={"releases": told}), load_balancer("lb2"))["releases-differ"]
    assert "lb1 2.0.0, lb2 nothing" in differ.problem


# --- configurations that will hurt


@pytest.mark.parametrize(
    ("old", "new", "code", "severity", "line"),
    [
        ("    stats timeout 2m", "    stats timeout 1s", "stats-timeout", WARNING, 3),
        ("    stats timeout 2m", "    stats maxconn 2", "stats-maxconn", WARNING, 3),
        ("    hard-stop-after 60s", "    hard-stop-after 5s", "hard-stop-short", WARNING, 4),
        ("    hard-stop-after 60s\n", "", "hard-stop-missing", NOTE, None),
        ("timeout server 20s", "timeout server 5s", "timeout-short", NOTE, 7),
        ("timeout server 20s", "timeout server 5m", "timeout-outlasts-drain", NOTE, 7),
        ("    balance roundrobin", "    timeout tunnel 1h", "timeout-outlasts-drain", WARNING, 12),
        ("    timeout client 20s\n", "", "timeout-missing", WARNING, None),
        ("inter 2s", "inter 20s", "checks-rise", ERROR, 13),
        ("inter 2s", "inter 5s", "checks-fall", WARNING, 13),
        ("inter 2s", "inter 2s downinter 40s", "checks-rise", ERROR, 13),
        ("level admin", "level admin\n    stats socket :9999 level admin", "socket-network", ERROR, 3),
        ("stats timeout 2m", "stats timeout ${QUIET}", "configuration-uncertain", NOTE, None),
    ],
)
def test_a_setting_that_hurts_is_found_where_it_stands(
    old: str, new: str, code: str, severity: str, line: int | None
) -> None:
    assert old in CONFIG
    finding = found(load_balancer(text=CONFIG.replace(old, new)))[code]
    assert (finding.severity, finding.where) == (severity, None if line is None else f"haproxy.cfg:{line}")


def test_conditions_in_the_configuration_leave_everything_unknown_and_so_never_good() -> None:
    text = CONFIG.replace("    stats timeout 2m", ".if defined(X)\n    stats timeout 1s\n.endif")
    told = found(load_balancer(text=text))
    assert set(told) == {"configuration-uncertain"}


def test_a_configuration_that_cannot_be_read_is_not_taken_for_a_good_one() -> None:
    told = found(load_balancer(text=None, configuration={"problem": "the files cannot be read"}))
    assert told["configuration-unread"].severity == WARNING


@pytest.mark.parametrize(
    ("reading", "code", "severity"),
    [
        ({"admin": False}, "socket-level", ERROR),
        ({"survives_reload": False, "survives_reload_reason": "no file."}, "reload-forgets", ERROR),
        ({"survives_reload": None, "survives_reload_reason": "no idea"}, "reload-unknown", WARNING),
    ],
)
def test_what_runs_counts_whatever_is_configured(reading: dict[str, t.Any], code: str, severity: str) -> None:
    assert found(load_balancer(reading=reading))[code].severity == severity


@pytest.mark.parametrize(
    ("algorithm", "hash_type", "code"),
    [
        ("static-rr", "", "static-algorithm"),
        ("source", "", "static-algorithm"),
        ("source", "hash-type consistent", None),
        ("leastconn", "", "unshared-algorithm"),
    ],
)
def test_algorithms_that_take_no_weights_are_found(algorithm: str, hash_type: str, code: str | None) -> None:
    text = CONFIG.replace("balance roundrobin", f"balance {algorithm}\n    {hash_type}")
    servers = [server("web1"), server("web2")]
    reading = {"backends": {"shop": {"mode": "http", "algorithm": algorithm, "servers": servers}}}
    assert set(found(load_balancer(text=text, reading=reading))) == ({code} if code else set())


def test_a_socket_that_everybody_may_write_to_is_an_error() -> None:
    assert found(load_balancer(configuration={"socket_mode": "0666"}))["socket-mode"].where == "haproxy.cfg:2"


def test_servers_without_checks_are_an_error_unless_they_are_allowed() -> None:
    servers = server("web1", health="unchecked", settled=False), server("web2")
    assert found(load_balancer("lb1", *servers))["unchecked"].severity == ERROR
    allowed = dataclasses.replace(NEEDS, allow_unchecked=True)
    assert found(load_balancer("lb1", *servers), needs=allowed)["unchecked"].severity == NOTE


def lags(record: Record) -> Finding:
    files = {"shop": {"path": "/state", "exists": False, "lagging": ["web1"]}}
    return found(load_balancer(record=record, configuration={"state_files": files}))["state-file-lags"]


def test_state_that_a_reload_would_lose_may_be_saved_unless_a_rollout_holds_the_backend() -> None:
    assert lags({}).repair == {"kind": "change", "servers": [{"name": "web1", "state": "ready"}]}
    assert lags({"lock": LOCK, "rollout": OPEN}).repair is None


def test_a_server_that_is_let_in_is_not_saved_as_drained() -> None:
    one, other = out()
    files = {"shop": {"path": "/state", "exists": True, "lagging": ["web1"]}}
    behind = dataclasses.replace(one, configuration={**(one.configuration or {}), "state_files": files})
    told = found(behind, other)
    assert told["out-unclaimed"].repair is not None
    assert told["state-file-lags"].repair is None


# --- what became of repairs


def test_what_is_gone_after_its_repair_is_repaired() -> None:
    before = judge(fleet(*out()))
    after = with_repaired(before, judge(fleet()), {})
    assert {finding.code for finding in after if finding.repaired} == {"out-unclaimed"}
    assert is_well(after)


def test_what_is_still_there_after_its_repair_tells_why() -> None:
    before = judge(fleet(*out()))
    after = with_repaired(before, before, {("lb1", "shop"): "it is not UP."})
    assert not is_well(after)
    assert "the repair failed: it is not UP" in after[0].problem


def test_a_load_balancer_that_fell_silent_after_a_repair_is_not_taken_for_repaired() -> None:
    before = judge(fleet(*out()))
    silent = tuple(Seen(name, "/run/admin.sock", "/var/lib", None, None, "gone") for name in ("lb1", "lb2"))
    after = with_repaired(before, judge(fleet(*silent)), {})
    assert not any(finding.repaired for finding in after)
    assert not is_well(after)


# --- whatever is told

RECORDS = st.fixed_dictionaries(
    {
        "lock": st.sampled_from([None, LOCK, {**LOCK, "abandoned": "x"}, {**LOCK, "rollout_id": "r2"}]),
        "rollout": st.sampled_from([None, OPEN, rollout(), rollout(outcome="rollback_failed")]),
        "safe": st.sampled_from(
            [None, SAFE, {"rollout_id": "r1", "servers": {"web1": {"weight": 0, "state": "drain"}}}]
        ),
        "lease": st.sampled_from([None, LEASE, {**LEASE, "left": -3.5}]),
        "guard": st.sampled_from([None, "running", "missing"]),
    }
)
SERVERS = st.builds(
    server,
    st.just("web1"),
    own_state=st.sampled_from(["ready", "drain", "maint"]),
    weight=st.sampled_from([0, 10, 256]),
    settled=st.booleans(),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    lbs = [
        load_balancer(name, draw(SERVERS), server("web2"), record=draw(RECORDS))
        if draw(st.integers(0, 5))
        else Seen(name, "/s", "/d", None, None, "gone")
        for name in ("lb1", "lb2")
    ]
    return fleet(*lbs)


@given(fleets())
def test_whatever_is_told_is_judged_in_sentences_the_worst_first(given_fleet: Fleet) -> None:
    told = judge(given_fleet)
    order = [SEVERITIES.index(finding.severity) for finding in told]
    assert order == sorted(order)
    for finding in told:
        assert "None" not in finding.words()
        assert "\n" not in finding.words()
        assert Finding.from_dict(finding.as_dict()) == finding


@given(fleets())
def test_no_server_is_let_in_unless_every_load_balancer_answers_holds_nothing_and_wants_it(given_fleet: Fleet) -> None:
    for finding in judge(given_fleet):
        if finding.code != "out-unclaimed" or not finding.repair:
            continue
        for lb in given_fleet.lbs:
            safe = lb.record("shop")["safe"]["servers"]
            assert all(safe[name]["state"] == "ready" for name in finding.servers)
        lb = next(lb for lb in given_fleet.lbs if lb.name == finding.lb)
        assert all(lb.servers("shop")[name]["settled"] for name in finding.servers)


@given(fleets())
def test_no_lock_is_freed_whose_rollout_has_not_ended(given_fleet: Fleet) -> None:
    ended = {
        rollout["rollout_id"]
        for lb in given_fleet.lbs
        for rollout in [lb.record("shop").get("rollout")]
        if rollout and rollout["ended"] and rollout["outcome"] == "promoted"
    }
    for finding in judge(given_fleet):
        if finding.repair and finding.repair["kind"] == "release":
            assert finding.repair["rollout_id"] in ended
