# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases and rollbacks under load lose no request, on the oldest and the newest HAProxy."""

from __future__ import annotations

import os
import re
import subprocess
import typing as t

import pytest

from e2e.lab import haproxy_command
from e2e.rollouts import Rollouts
from local_fleet.load import Load
from local_fleet.polling import poll
from local_fleet.tally import Terms

pytestmark = pytest.mark.alone

HOSTS = [f"web{number}" for number in range(1, 7)]
COLOURS = {"blue": HOSTS[:3], "green": HOSTS[3:]}
TRACKS = {host: colour for colour, hosts in COLOURS.items() for host in hosts}
RATE = 300
WRK_SECONDS = 600  # it is stopped when the swap is over


def forms(short: int, whole: int) -> list[t.Any]:
    """How many releases on which HAProxy: a short form each time, the whole one with --all."""
    limit = pytest.mark.timeout(1200)
    return [
        pytest.param("newest", short, marks=pytest.mark.containers),
        *(
            pytest.param(version, whole, marks=[pytest.mark.long, pytest.mark.containers, limit])
            for version in ("oldest", "newest")
        ),
    ]


def expect_nothing_lost(load: Load, version: str) -> None:
    load.stop()
    summary = load.summary()
    print(f"{version}: {summary.line()}; p99 {summary.latency.p99:.1f} ms; late p99 {summary.lateness.p99:.1f} ms")
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples


@pytest.mark.parametrize(("version", "count"), forms(1, 5))
@pytest.mark.long
def test_blue_green_releases_and_rollbacks_lose_no_request(
    start_blue_green: t.Callable[..., Rollouts], version: str, count: int
) -> None:
    shop = start_blue_green(apps=6, tracks=TRACKS, haproxy_command=haproxy_command(version))
    releases = [f"{number}.0.0" for number in range(2, 2 + count)]
    load = shop.load(Terms(releases=["1.0.0", *releases]), rate=RATE, slow=0.01, slow_ms=1500)
    for release in releases:
        shop.blue_green(release, blue_green_bake=1).expect(0, "promoted")
        shop.rollback().expect(0, "rolled_back")
    shop.expect_traffic("1.0.0", COLOURS["blue"])
    expect_nothing_lost(load, version)


@pytest.mark.parametrize(("version", "count"), forms(1, 3)[1:])
def test_rolling_releases_with_long_requests_in_flight_lose_no_request(
    start_rollouts: t.Callable[..., Rollouts], version: str, count: int
) -> None:
    shop = start_rollouts(
        haproxy_command=haproxy_command(version),
        variables={"rolling_batches": 3},
        hosts={"web6": {"fleet_behaviours": {"9.0.0": {"behaviour": "unhealthy"}}}},
    )
    load = shop.load(rate=RATE, slow=0.003, slow_ms=10_000, timeout=25)
    poll(lambda: len(load.records()) > 10 * RATE, "long requests are in flight", 60)
    for number in range(count):
        shop.rolling(f"{number + 2}.0.0").expect(0, "promoted")
    shop.rolling("9.0.0").expect(2, "rolled_back")
    shop.expect_traffic(f"{count + 1}.0.0", HOSTS)
    expect_nothing_lost(load, version)


def test_a_swap_loses_no_request_of_a_saturating_load(start_blue_green: t.Callable[..., Rollouts]) -> None:
    shop = start_blue_green()
    command = ["wrk", "-t1", "-c32", f"-d{WRK_SECONDS}", f"http://{shop.fleet.endpoint('lb1')}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        try:
            shop.blue_green("2.0.0", blue_green_bake=1).expect(0, "promoted")
        finally:
            os.kill(wrk.pid, 2)
        said, _errors = wrk.communicate(timeout=30)
    print(said)
    found = re.search(r"(\d+) requests in", said)
    assert found, said
    assert int(found[1]) > 1000, said
    assert "Socket errors" not in said, said
    assert "Non-2xx" not in said, said
    shop.expect_traffic("2.0.0", {"web3", "web4"})
