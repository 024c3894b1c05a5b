# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the bad release of the demo is broken, and what a rollout is told so that this shows within minutes. Pure."""

from __future__ import annotations

import dataclasses
import typing as t

LATE_SECONDS = 60
APPS = 6


# Of answers that take a millisecond it takes many until a quarter more is known not to be there.
TOLERANCE: dict[str, t.Any] = {"ratio": 2, "delta": 0.01, "latency": 3}
ANALYSIS: dict[str, t.Any] = {"interval": 2, "min_requests": 50, "tolerance": TOLERANCE}


@dataclasses.dataclass(frozen=True)
class Fault:
    """``behaviour`` of the app (tests/local_fleet/app.py), in words, and variables of the rollout. ``apps``: hosts of the fleet."""

    words: str
    behaviour: t.Mapping[str, t.Any]
    variables: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    apps: int = APPS


def fault(name: str, strategy: str) -> Fault:
    # A canary is compared with the stable servers; elsewhere a limit on errors decides, and less would not pass it.
    rate = 0.05 if strategy == "canary" else 0.2
    errors = {"behaviour": "errors", "rate": rate}
    known = {
        "errors": Fault(f"{100 * rate:.0f} % of its answers are errors", errors, {"canary_step_for": 60}),
        "crash": Fault(
            "it crashes on one request of 100", {"behaviour": "crash", "rate": 0.01}, {"canary_step_for": 60}
        ),
        "slow": Fault(
            "it takes twice as long",
            {"behaviour": "slow", "rate": 1.0, "delay_ms": 4.0},
            # HAProxy tells means over 1024 requests of each server only, and ten of them take their time; less on fewer servers.
            {
                "canary_step_for": 300,
                "canary_steps": [30],
                "canary_batches": 1,
                "canary_max_unavailable": 1,
                "rollout_analysis": {**ANALYSIS, "tolerance": {**TOLERANCE, "latency": 1.25}},
            },
            apps=3,
        ),
        "unhealthy": Fault("it never becomes healthy", {"behaviour": "unhealthy"}, {"rollout_healthy_deadline": 10}),
        "late": Fault(
            f"it is good for {LATE_SECONDS} s, and then {100 * rate:.0f} % of its answers are errors",
            {"behaviour": "bad_after", "after_s": LATE_SECONDS, "then": "errors", "rate": rate},
            {"canary_step_for": 2 * LATE_SECONDS, "blue_green_bake": 2 * LATE_SECONDS},
        ),
    }
    return known[name]
