# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The strategies that are killed in, and what is true of a fleet then."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import threading
import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _fence as fence
from ansible_collections.steady.rollout.plugins.module_utils._journal import parse

from e2e.rollouts import COARSE, COLOURS, RUN_SECONDS, Rollouts, Running, rest_green
from faults.points import Point, Use
from local_fleet.layout import LOAD_BALANCERS, Options
from local_fleet.polling import poll
from local_fleet.supervisor import children, descendants, is_running, send

OLD, NEW, NEXT = "1.0.0", "2.0.0", "3.0.0"
# Seconds. The second one is for a machine so slow that the first would run out between two acts.
LEASES = (15.0, 60.0)
PAUSES = 2  # how many leases a pause is trusted for
LATER = 10.0  # seconds after a lease at which traffic is safe at the latest
WATCH_SECONDS = 0.001
ACT_SECONDS = 40.0  # that an act under way may take to its end


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A playbook, and the fleet that it releases to. ``hosts``: all app hosts; ``carrying``: who carries before, and after the way back.

    ``everyday``: whether its controller is killed every day, at every kind of record, or only with --all. ``kills``: at how many
    points of them; None for all. ``playbook``: its playbook, where that is not its name.
    """

    name: str
    hosts: frozenset[str]
    carrying: frozenset[str]
    options: t.Mapping[str, t.Any]
    variables: t.Mapping[str, t.Any]
    everyday: bool = True
    kills: int | None = None
    playbook: str = ""

    @property
    def in_place(self) -> bool:
        """Whether the release goes to the hosts that carry."""
        return self.carrying == self.hosts

    def fleet(self, folder: pathlib.Path) -> Rollouts:
        """Its fleet, not started."""
        return Rollouts(folder, Options(apps=len(self.hosts), **self.options), self.variables, {})

    def rest(self, shop: Rollouts) -> Rollouts:
        """Bring a fleet that has just started to where a release begins."""
        return rest_green(shop)

    def start(self, shop: Rollouts, release: str, lease: float = LEASES[-1], **variables: t.Any) -> Running:
        """Start a release; ``lease`` in seconds for every act."""
        return shop.start(
            self.playbook or self.name, rollout_hosts="app", rollout_release=release, **_leases(lease), **variables
        )

    def runs(self, shop: Rollouts, release: str, lease: float = LEASES[-1], **variables: t.Any) -> t.Iterator[Running]:
        """Start a release, and promote it whenever it waits for that, until it has ended; each run is to be waited for."""
        running = self.start(shop, release, lease, **variables)
        yield running
        while running.process.poll() is not None and running.result().outcome == "paused":
            running = shop.start("promote", rollout_hosts="app", **_leases(lease))
            yield running

    def release(self, shop: Rollouts, release: str, lease: float = LEASES[-1], **variables: t.Any) -> None:
        """Release, and see that it is promoted."""
        result = None
        for running in self.runs(shop, release, lease, **variables):
            result = running.result()
        assert result is not None
        result.expect(0, "promoted")


def _leases(seconds: float) -> dict[str, float]:
    # Between two runs a controller starts and looks at everything.
    return {
        "rollout_lease_seconds": seconds,
        "rollout_deploy_timeout": seconds,
        "rollout_pause_timeout": PAUSES * seconds,
    }


def hosts(count: int) -> frozenset[str]:
    """The first ones of a fleet."""
    return frozenset(f"web{number}" for number in range(1, count + 1))


# Every day the others are killed at every kind of record that a canary has as well, but for a pause: its kills take long.
STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "canary",
            hosts(2),
            hosts(2),
            {},
            # Whether a pass is reached in time must not decide what is written down.
            {"rollout_analysis": COARSE, "canary_steps": [25, {"pause": {}}], "canary_inconclusive": "continue"},
            everyday=False,
        ),
        Strategy(
            "blue_green",
            hosts(4),
            hosts(2),
            {"tracks": COLOURS},
            {"blue_green_bake": 1},
        ),
        Strategy(
            "rolling",
            hosts(4),
            hosts(4),
            {},
            {"rolling_batches": 2},
            # Its acts are those of blue-green, in another order, and those of the rolling releases below.
            everyday=False,
        ),
        # What a driver does in an act is all that is different: its own kills are in e2e.
        *(
            Strategy(
                f"rolling_{lb}",
                hosts(2),
                hosts(2),
                {"lb": lb},
                {"rolling_batches": 1},
                kills=3,
                playbook="rolling",
            )
            for lb in ("nginx", "nginx_lua")
        ),
    )
}


# ---------------------------------------------------------------------------------------------------------------------
# the journals


def journal(shop: Rollouts, load_balancer: str) -> pathlib.Path:
    return shop.place(load_balancer, "rollout/shop/journal.jsonl")


def written(shop: Rollouts, load_balancer: str) -> list[dict[str, t.Any]]:
    """The records of a journal."""
    with contextlib.suppress(FileNotFoundError):
        return parse(journal(shop, load_balancer).read_bytes())
    return []


def guard_acted(shop: Rollouts) -> bool:
    """Whether a guard took the rollout from its controller."""
    return any(record.get("by") == "guard" for name in LOAD_BALANCERS for record in written(shop, name))


def lines(shop: Rollouts) -> dict[str, int]:
    """How many whole lines each journal has."""
    return {name: _lines(journal(shop, name)) for name in LOAD_BALANCERS}


def _lines(path: pathlib.Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes().count(b"\n")
    return 0


def reference(strategy: Strategy, folder: pathlib.Path) -> tuple[list[Use], dict[str, list[dict[str, t.Any]]]]:
    """The calls of a rollout that comes to its end, and the journals that it leaves."""
    uses: list[Use] = []
    with strategy.fleet(folder) as shop:
        strategy.rest(shop)
        shop.load()

        def note(host: str) -> bool:
            uses.append(Use(host, shop.gate.acts[-1], lines(shop)))
            return False

        shop.gate.at(note, lambda: None)
        strategy.release(shop, NEW, 600)
        return uses, {name: written(shop, name) for name in LOAD_BALANCERS}


# ---------------------------------------------------------------------------------------------------------------------
# killing


def kill_controller(running: Running) -> list[int]:
    """Kill ansible-playbook and its workers at once. Returns the modules at work: they go on, as on a host reached by SSH."""
    leader = running.process.pid
    os.kill(leader, signal.SIGSTOP)  # so that it starts no more
    workers = workers_of(running)
    for pid in workers:
        send(pid, signal.SIGSTOP)
    modules = [pid for worker in workers for pid in descendants(worker)]
    for pid in (leader, *workers):
        send(pid, signal.SIGKILL)
    running.process.wait()
    return modules


def workers_of(running: Running) -> list[int]:
    """The forks of ansible-playbook. Each has a process group of its own, so nothing but the parent shows whose they are."""
    return [pid for pid in children(running.process.pid) if b"ansible-playbook" in _command(pid)]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class Killer:
    """Kills the controller of a run at a point.

    ``at``: when that was, in monotonic seconds; None while it was not. ``late``: whether a guard had acted before it.
    ``modules``: what was at work then, and went on.
    """

    def __init__(self, shop: Rollouts, point: Point) -> None:
        self.at: float | None = None
        self.late = False
        self.modules: list[int] = []
        self._shop = shop
        self._point = point
        self._ready = threading.Event()
        self._kills = threading.Lock()
        self._running: Running | None = None
        if point.line is None:
            shop.gate.at(self._is_there, self._kill)

    def watch(self, running: Running) -> None:
        """Wait for the point or, without it, for the end of the run. May be called for one run after the other."""
        self._running = running
        self._ready.set()
        path, line = journal(self._shop, self._point.use.host), self._point.line

        def is_over() -> bool:
            if self.at is None and line is not None and _lines(path) >= line:
                self._kill()
            return self.at is not None or running.process.poll() is not None

        poll(is_over, "the point, or the end of the run", RUN_SECONDS, interval=WATCH_SECONDS)
        self._ready.clear()
        with self._kills:
            self.late |= self.at is None and guard_acted(self._shop)

    def is_busy(self) -> bool:
        """Whether an act is under way that the controller had begun."""
        return any(is_running(pid) for pid in self.modules)

    def _is_there(self, host: str) -> bool:
        use = self._point.use
        return host == use.host and self._shop.gate.acts[-1] == use.act and lines(self._shop) == use.lines

    def _kill(self) -> None:
        self._ready.wait()
        assert self._running is not None
        with self._kills:
            self.at = time.monotonic()
            self.modules = kill_controller(self._running)
            self.late = guard_acted(self._shop)


# ---------------------------------------------------------------------------------------------------------------------
# what is safe


def lease_in_force(shop: Rollouts) -> float:
    """The seconds of the longest lease of any load balancer; 0 where there is none."""
    found = []
    for name in LOAD_BALANCERS:
        with fence.looked_at(str(shop.place(name, "rollout")), "shop") as records:
            lease = records.lease() if records else None
            found.append(lease.seconds if lease else 0.0)
    return max(found)


def unsafe(shop: Rollouts, strategy: Strategy, load_balancer: str) -> str:
    """Why the traffic of a load balancer is not safe, or not yet because the rollout might still move it; "" when it is."""
    carrying = shop.carrying(load_balancer)
    with fence.looked_at(str(shop.place(load_balancer, "rollout")), "shop") as records:
        rollout = records.rollout() if records else None
        if records is None or rollout is None:
            return "" if carrying == strategy.carrying else f"{sorted(carrying)} carry, and nothing had begun"
        holder, lease, safe = records.holder(), records.lease(), records.safe()
    if lease is not None or not (rollout["ended"] or (holder and holder.abandoned)):
        return f"the rollout is not given up: {holder}, {lease}"
    ready = [name for name, server in safe["servers"].items() if server["state"] == "ready"] if safe else []
    expected = {shop.host_of(name) for name in ready}
    if carrying != expected:
        return f"{sorted(carrying)} carry, and {sorted(expected)} are safe"
    unproved = carrying & unproved_members(rollout)
    return f"{sorted(unproved)} carry, and were in deploy" if unproved and not rollout["ended"] else ""


def unproved_members(rollout: t.Mapping[str, t.Any]) -> set[str]:
    """The members that a rollout meant to deploy, and did not watch to a good end since, by its record."""
    found: set[str] = set()
    for event in rollout["events"]:
        members = event.get("members") or ()
        if event["event"] == "intent" and event.get("kind") == "deploy":
            found.update(members)
        elif event["event"] == "result" and event.get("kind") == "analyse" and event.get("ok"):
            found.clear()  # batch after batch: it was watched before the next one began
    return found
