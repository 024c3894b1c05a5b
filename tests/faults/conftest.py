# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the fault tests, those of tests/e2e among them; the points of kills; the table that is printed in the end.

Where a controller can be killed is found by a rollout of each strategy that comes to its end, before tests are collected:
once, however many processes then run the tests.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import typing as t
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.conftest import blue_green, rolling, start_blue_green, start_rollouts
from faults.kills import STRATEGIES, Strategy, reference
from faults.points import Point, calls, points

__all__ = ["blue_green", "rolling", "start_blue_green", "start_rollouts"]

POINTS = pytest.StashKey[dict[str, list[Point]]]()
ROW = "kill"  # the property of a test that holds its row of the table
HEADS = ("strategy", "point", "safe after", "at most", "lost")


def pytest_configure(config: pytest.Config) -> None:
    handed = getattr(config, "workerinput", {}).get("kill_points")
    if handed is not None:
        config.stash[POINTS] = {name: [Point.from_dict(one) for one in found] for name, found in handed.items()}
    elif _asked(config):
        config.stash[POINTS] = _find(every="not long" not in config.option.markexpr)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: t.Any) -> None:
    """Hand the points to a process of pytest-xdist."""
    found = node.config.stash.get(POINTS, {})
    node.workerinput["kill_points"] = {name: [point.as_dict() for point in of_it] for name, of_it in found.items()}


def _asked(config: pytest.Config) -> bool:
    """Whether the tests that need points are among those that are collected."""
    places = [pathlib.Path(argument.partition("::")[0]).name for argument in config.args]
    return "faults" in places or "test_kills.py" in places


def _find(every: bool) -> dict[str, list[Point]]:
    def of(strategy: Strategy) -> list[Point]:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            found = points(calls(*reference(strategy, pathlib.Path(folder))), every)
        if every or strategy.kills is None:
            return found
        # Evenly along the rollout.
        return [found[len(found) * (2 * number + 1) // (2 * strategy.kills)] for number in range(strategy.kills)]

    chosen = [strategy for strategy in STRATEGIES.values() if every or strategy.everyday]
    with ThreadPoolExecutor() as pool:
        return dict(zip((strategy.name for strategy in chosen), pool.map(of, chosen)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "point" in metafunc.fixturenames:
        found = metafunc.config.stash.get(POINTS, {})
        metafunc.parametrize(
            ("strategy", "point", "ways"),
            [
                pytest.param(
                    STRATEGIES[name],
                    point,
                    _ways(number, len(of_it)),
                    id=f"{name}-{number + 1:02}-{point.name.partition(' = ')[0].replace(' ', '-')}",
                )
                for name, of_it in found.items()
                for number, point in enumerate(of_it)
            ],
        )


def _ways(number: int, count: int) -> tuple[str, ...]:
    """What is done after the kill at a point: both ways on are tried along a rollout, and the next release once."""
    if number == count // 2:
        return "rollback", "next"
    # To go on takes as long as a rollout.
    return ("resume",) if number % 4 == 1 else ("rollback",)


def pytest_terminal_summary(terminalreporter: t.Any) -> None:
    """The table of all kills."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    told = sorted(json.loads(value) for report in reports for name, value in report.user_properties if name == ROW)
    if not told:
        return
    rows = [HEADS, *(tuple(row[1:]) for row in told)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    terminalreporter.section("kill -9 of the controller")
    for row in rows:
        terminalreporter.write_line("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
