# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of `./demo`: which releases are rolled out, and how. Pure."""

from __future__ import annotations

import argparse
import dataclasses
import typing as t

STRATEGIES = ("canary", "blue_green", "rolling")
# How a release can be broken; what each means is in demo.faults.
FAULTS = ("errors", "crash", "slow", "unhealthy", "late")
LOAD_BALANCERS = ("haproxy", "nginx", "nginx_lua")
FIRST_RELEASE = "1.0.0"
GOOD_RELEASE = "2.0.0"
BAD_RELEASE = "2.1.0"


class UsageError(Exception):
    """The command line asks for something that is not there; the message says what is."""


@dataclasses.dataclass(frozen=True)
class Act:
    """One release of the demo, and whether it should be promoted."""

    strategy: str
    release: str
    good: bool
    fault: str = FAULTS[0]  # how it is broken, where it is not good
    lb: str = LOAD_BALANCERS[0]  # what the load balancers run

    @property
    def wanted(self) -> str:
        """The outcome that the demo must show."""
        return "promoted" if self.good else "rolled_back"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> t.NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}; `./demo --help` shows what can be asked for.")


def parse(arguments: t.Sequence[str]) -> list[Act]:
    """The releases to roll out, in their order. Raises UsageError."""
    parser = _Parser(
        prog="./demo",
        description="Release on a fleet of this machine, two load balancers and six app hosts, under up to 600 requests/s.",
        epilog="Without options a good release is rolled out, then a bad one.",
        allow_abbrev=False,
    )
    parser.add_argument("--strategy", help=f"how to release: {', '.join(STRATEGIES)}")
    parser.add_argument("--lb", default=LOAD_BALANCERS[0], help=f"the load balancers: {', '.join(LOAD_BALANCERS)}")
    parser.add_argument("--bad", action="store_true", help="the release is broken, and must be rolled back by itself")
    parser.add_argument("--fault", help=f"how it is broken, with --bad: {', '.join(FAULTS)}")
    asked = parser.parse_args(list(arguments))
    _check("strategy", asked.strategy or STRATEGIES[0], STRATEGIES)
    _check("lb", asked.lb, LOAD_BALANCERS)
    _check("fault", asked.fault or FAULTS[0], FAULTS)
    if asked.fault and not asked.bad:
        raise UsageError("--fault says how a bad release is broken; give it with --bad.")
    strategy = asked.strategy or STRATEGIES[0]
    if asked.fault == "slow" and strategy != "canary":
        raise UsageError(
            "--fault slow is found beside stable servers for some minutes; give it with --strategy canary."
        )
    good = Act(strategy, GOOD_RELEASE, True, lb=asked.lb)
    bad = Act(strategy, BAD_RELEASE, False, asked.fault or FAULTS[0], asked.lb)
    if asked.bad:
        return [bad]
    return [good] if asked.strategy else [good, bad]


def _check(option: str, value: str, known: t.Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"--{option} {value} is not known; there is {', '.join(known[:-1])} and {known[-1]}.")
