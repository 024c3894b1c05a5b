# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NGINX costs with its servers chosen by Lua, beside what it is measured against, in one run. Only ratios are judged."""

from __future__ import annotations

import contextlib
import gc
import pathlib
import re
import secrets
import statistics
import subprocess
import time
import typing as t

import pytest

from e2e.nginx_lua_lab import CLIENTS, FIRST_APP, UPSTREAM, NginxLuaLab

SERVERS = 20
CHANGES = 40
ROUNDS = 7
SECONDS = 2
BATCHES = 3
CHANGE_TIMES, REQUESTS_LEFT = 2.0, 0.9

APPS = """
worker_processes 1;
pid {dir}/apps.pid;
error_log {dir}/apps.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    server {{
{listens}
        return 200 ok;
    }}
}}
"""


class FastLab(NginxLuaLab):
    """Its servers are somebody else's, so that they are not what is measured."""

    def __init__(self, names: t.Sequence[str]) -> None:
        super().__init__(*[10] * len(names))
        self.names = list(names)
        self.weights = dict.fromkeys(names, 10)

    def start_app(self, name: str) -> t.Any:
        return None


class PlainLab(FastLab):
    """The same configuration, without Lua."""

    def configure(self) -> None:
        super().configure()
        path = self.dir / "nginx.conf"
        servers = "".join(f"server {name} weight={weight};\n" for name, weight in self.weights.items())
        text = re.sub(r"load_module .*\n", "", path.read_text())
        text = re.sub(r"lua_package_path(.|\n)*?log_by_lua_block.*\n", "", text)
        text = re.sub(r"server 0\.0\.0\.1;\n.*\n", f"zone shop 256k;\n{servers}", text)
        text = re.sub(r"server \{\n +listen unix:(.|\n)*?\n    \}\n", "", text)
        assert "lua" not in text.replace(str(self.dir), "")
        path.write_text(text)

    def _is_up(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get()[0] == 200
        return False


@contextlib.contextmanager
def apps(folder: pathlib.Path) -> t.Iterator[list[str]]:
    """Two servers of one nginx."""
    host = f"127.252.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
    names = [f"{host}:{FIRST_APP + place}" for place in range(2)]
    path = folder / "apps.conf"
    listens = "\n".join(f"        listen {name} backlog=512;" for name in names)
    path.write_text(APPS.format(dir=folder, listens=listens))
    command = ["nginx", "-p", str(folder), "-c", str(path), "-g", "daemon off;"]
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield names
    finally:
        running.terminate()
        running.wait(20)


class Changes(t.NamedTuple):
    """Medians in ms."""

    ours: float
    bare: float

    def __str__(self) -> str:
        return f"{SERVERS} servers changed by the driver: {self.ours:.2f} ms, by one PUT: {self.bare:.2f} ms: {self.ours / self.bare:.2f} times"


def measure_changes(lab: NginxLuaLab) -> Changes:
    """In turns. The bare request knows the version that it needs, and judges nothing of what it is told."""
    driver = lab.driver(policy={"require_healthy": False})
    ours, bare = [], []
    for number in range(1, CHANGES + 1):
        wanted = [{"name": name, "weight": number, "state": "ready"} for name in lab.names]
        began = time.perf_counter()
        driver.change(UPSTREAM, wanted)
        ours.append(time.perf_counter() - began)
        told = {"version": lab.version(), "servers": [{**one, "weight": number + 1000} for one in wanted]}
        began = time.perf_counter()
        status, _answer = lab.ask("PUT", f"/upstreams/{UPSTREAM}", told)
        bare.append(time.perf_counter() - began)
        assert status == 200
    return Changes(statistics.median(ours) * 1e3, statistics.median(bare) * 1e3)


def test_a_change_costs_at_most_twice_a_bare_request() -> None:
    gc.collect()
    gc.freeze()
    with FastLab([f"127.0.0.1:{1 + place}" for place in range(SERVERS)]) as lab:
        for _batch in range(BATCHES):
            changes = measure_changes(lab)
            print(f"\n{changes}")
            if changes.ours <= CHANGE_TIMES * changes.bare:
                return
    raise AssertionError(
        f"{BATCHES} times out of {BATCHES} above {CHANGE_TIMES} times a bare request, the last time {changes}"
    )


def requests_per_second(lab: NginxLuaLab) -> float:
    command = ["wrk", "-t1", "-c32", f"-d{SECONDS}s", f"http://{lab.host}:{CLIENTS}/"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    return float(said.split("Requests/sec:")[1].split()[0])


@pytest.mark.long  # for a machine that does nothing else
def test_requests_cost_at_most_a_tenth_more_than_without_lua(tmp_path: pathlib.Path) -> None:
    with apps(tmp_path) as names, FastLab(names) as lua, PlainLab(names) as plain:
        for _batch in range(BATCHES):
            rounds = []
            for number in range(ROUNDS):
                # Whoever is first is not always the same.
                first, second = (lua, plain) if number % 2 else (plain, lua)
                found = {first: requests_per_second(first), second: requests_per_second(second)}
                rounds.append((found[lua], found[plain]))
            ratio = statistics.median(ours / theirs for ours, theirs in rounds)
            ours, theirs = (statistics.median(column) for column in zip(*rounds))
            print(f"\n{ours:.0f} requests/s with Lua, {theirs:.0f} without: {ratio:.3f} times")
            if ratio >= REQUESTS_LEFT:
                return
    raise AssertionError(
        f"{BATCHES} times out of {BATCHES} below {REQUESTS_LEFT} times the requests/s without Lua, the last time {ratio:.3f}"
    )
