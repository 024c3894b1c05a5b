# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one change of a very large NGINX costs, beside what its parts cost by hand, in one run. Only the ratio is judged."""

from __future__ import annotations

import gc
import re
import statistics
import subprocess
import time
import typing as t

import pytest

from e2e.nginx_lab import NginxLab
from local_fleet.polling import poll

SERVERS = 10_000
ROUNDS = 5
TIMES = 3.0


@pytest.fixture
def lab() -> t.Iterator[NginxLab]:
    with NginxLab(apps=1) as running:
        lines = [
            f"    server 127.{1 + place // 60000}.{place // 250 % 240}.{1 + place % 250}:8080 weight=10;"
            for place in range(SERVERS)
        ]
        assert len(set(lines)) == SERVERS
        running.write_upstream("\n".join(lines))
        text = running.upstream.read_text().replace("zone shop 256k", "zone shop 32m")
        running.upstream.write_text(text)
        running.reload()
        yield running


def by_hand(lab: NginxLab, weight: int) -> float:
    """Seconds that a person's own edit takes: the line, `nginx -t`, a reload, and the look at its workers."""
    text = lab.upstream.read_text()
    command = ["nginx", "-p", str(lab.dir), "-c", str(lab.config)]
    before = lab.workers()
    began = time.perf_counter()
    lab.upstream.write_text(re.sub(r"weight=\d+", f"weight={weight}", text, count=1))
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    subprocess.run([*command, "-s", "reload"], check=True, capture_output=True)
    poll(lambda: lab.workers() and not lab.workers() & before, "new workers")
    return time.perf_counter() - began


def by_driver(lab: NginxLab, weight: int) -> float:
    """Seconds that the same takes validated, served and read back."""
    name = re.search(r"server ([0-9.:]+)", lab.upstream.read_text())
    assert name
    began = time.perf_counter()
    changed = lab.driver(policy={"require_healthy": False}).change("shop", [{"name": name[1], "weight": weight}])
    spent = time.perf_counter() - began
    assert changed.after[0]["weight"] == weight
    return spent


def test_a_change_of_ten_thousand_servers_takes_at_most_three_times_as_long_as_by_hand(lab: NginxLab) -> None:
    hand, driver = [], []
    for number in range(ROUNDS):
        gc.collect()
        hand.append(by_hand(lab, 20 + number))
        driver.append(by_driver(lab, 40 + number))
    ratio = statistics.median(driver) / statistics.median(hand)
    print(
        f"\n{SERVERS} servers: by hand {statistics.median(hand):.3f} s, by the driver {statistics.median(driver):.3f} s: {ratio:.2f} times"
    )
    assert ratio <= TIMES
