# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from demo.view import LEAST_RATE, Sight, Traffic, affordable, busy, carrying, figures, harm, places, short
from local_fleet.tally import HARMED, LOST, OK, Outcome, Record

RELEASES = {"web1": "1.0.0", "web2": "1.0.0", "web3": "2.0.0", "web4": None}


def record(lb: str, release: str | None) -> Record:
    return Record(0, 0, 1, 0, lb, "GET", True, "id", 200, release)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([], ""),
        (["web1"], "web1"),
        (["web1", "web2", "web3", "web5"], "web1-3, web5"),
        (["web9", "web10", "db11"], "web9-10, db11"),
        (["blue", "green"], "blue, green"),
    ],
)
def test_neighbours_are_told_as_a_range(hosts: list[str], words: str) -> None:
    assert short(hosts) == words


def test_a_server_carries_when_it_is_up_and_has_a_weight() -> None:
    rows = {
        "up": {"status": "UP", "weight": "10"},
        "failing": {"status": "UP 2/3", "weight": "10"},
        "unchecked": {"status": "no check", "weight": "10"},
        "weightless": {"status": "UP", "weight": "0"},
        "drained": {"status": "DRAIN", "weight": "10"},
        "down": {"status": "DOWN", "weight": "10"},
        "away": {"status": "MAINT", "weight": "10"},
    }
    assert carrying(rows) == ["up", "failing", "unchecked"]


def test_load_balancers_that_agree_are_told_together() -> None:
    sight = Sight({"lb1": ["web1", "web2"], "lb2": ["web2", "web1"]}, RELEASES)
    assert places(sight) == "lb1 and lb2: web1-2 (1.0.0) in rotation, web3 (2.0.0) and web4 (stopped) out"


def test_load_balancers_that_differ_are_told_one_by_one() -> None:
    sight = Sight({"lb1": ["web1", "web2", "web3", "web4"], "lb2": []}, RELEASES)
    assert places(sight) == (
        "lb1: web1-2 (1.0.0) and web3 (2.0.0) and web4 (stopped) in rotation; "
        "lb2: nobody in rotation, web1-2 (1.0.0) and web3 (2.0.0) and web4 (stopped) out"
    )


def test_figures_tell_the_shares_of_each_load_balancer_and_what_was_lost_so_far() -> None:
    traffic, total = Traffic(), Traffic(sent=1000, lost=1, harmed=2)
    for lb, release, kind in [
        ("lb2", "1.0.0", OK),
        ("lb1", "2.0.0", OK),
        ("lb1", "1.0.0", OK),
        ("lb1", "1.0.0", HARMED),
        ("lb1", None, LOST),
    ]:
        traffic.add(record(lb, release), Outcome(kind, release, None, ""))
    assert (traffic.sent, traffic.lost, traffic.harmed) == (5, 1, 1)
    assert figures(traffic, 2, total) == (
        "lb1 1.0.0 50 %, 2.0.0 25 %, no release 25 %   lb2 1.0.0 100 %   2 requests/s, so far 1 lost, 2 harmed"
    )


def test_figures_of_nothing_are_told_too() -> None:
    assert figures(Traffic(), 0, Traffic()) == "0 requests/s, so far 0 lost, 0 harmed"


def test_what_a_release_harmed_is_told_with_how_long_it_went_on() -> None:
    def outcome(kind: str, release: str) -> Outcome:
        return Outcome(kind, release, "web1", "")

    bad = [(10.0, outcome(OK, "2.1.0")), (12.0, outcome(HARMED, "2.1.0")), (14.0, outcome(HARMED, "2.1.0"))]
    others = [(15.5, outcome(OK, "2.1.0")), (20.0, outcome(OK, "1.0.0")), (21.0, outcome(HARMED, "1.0.0"))]
    assert harm("2.1.0", [*bad, *others]) == "release 2.1.0 harmed 2 requests; 3.5 s after the first one it got no more"
    assert harm("2.0.0", [*bad, *others]) == "release 2.0.0 harmed no request: it never got one"
    assert harm("2.1.0", [bad[0], others[0]]) == (
        "release 2.1.0 harmed no request; 5.5 s after its first one it got no more"
    )


def test_a_load_that_leaves_too_little_of_the_machine_is_made_smaller() -> None:
    assert affordable(300.0, 0.2) == 300.0
    assert affordable(300.0, 0.7) == 150.0
    assert affordable(300.0, 1.0) == 100.0
    assert affordable(50.0, 1.0) == LEAST_RATE


def test_processors_are_busy_when_they_neither_idle_nor_wait_for_disks() -> None:
    # user, nice, system, idle, iowait, irq, softirq
    assert busy([0] * 7, [20, 5, 5, 60, 10, 0, 0]) == pytest.approx(0.3)
    assert busy([5] * 7, [5] * 7) == 1.0
