# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a person gives the judge, as values. Pure. Everything that makes no sense is a JudgeError that says where."""

from __future__ import annotations

import math
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _judge, _latency_evidence
from ansible_collections.steady.rollout.plugins.module_utils._error_evidence import Counts, Tolerance
from ansible_collections.steady.rollout.plugins.module_utils._judge import ERRORS, Averages, JudgeError, Poll, Settings
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import quoted

SIDES = ("canary", "stable")
TOLERANCE = ("ratio", "delta", "latency", "pass_ratio", "pass_delta")


def settings_of(options: t.Mapping[str, t.Any]) -> Settings:
    """From ``tolerance``, ``further``, ``alpha``, ``beta``, ``horizon``, ``min_requests`` and ``absolute_max``."""
    given = _known(options["tolerance"], "tolerance", TOLERANCE)
    numbers = {name: _number(value, f"tolerance.{name}") for name, value in given.items()}
    fails = Tolerance(numbers.get("ratio", _judge.DEFAULT.ratio), numbers.get("delta", _judge.DEFAULT.delta))
    passes = Tolerance(numbers.get("pass_ratio", fails.ratio), numbers.get("pass_delta", fails.delta))
    return Settings(
        fails=fails,
        passes=passes,
        latency=numbers.get("latency", 1.25),
        alpha=_number(options["alpha"], "alpha"),
        beta=_number(options["beta"], "beta"),
        horizon=options["horizon"],
        min_requests=options["min_requests"],
        absolute_max=_number(options["absolute_max"], "absolute_max"),
        further={str(name): _further(name, one) for name, one in _mapping(options["further"], "further").items()},
    )


def state_of(options: t.Mapping[str, t.Any], settings: Settings) -> _judge.State:
    """The state that was given, or a new one that judges by what there is."""
    if not options["state"]:
        return _judge.begin(settings, bool(options["latencies"]), bool(options["averages"]))
    return _judge.State.from_dict(options["state"])


def polls_of(options: t.Mapping[str, t.Any]) -> list[Poll]:
    """The polls, oldest first, each with its latencies and averages."""
    polls = options["polls"]
    for name in ("latencies", "averages"):
        if options[name] and len(options[name]) != len(polls):
            raise JudgeError(
                f"{name} has {len(options[name])} entries for {len(polls)} polls; there must be one for each"
            )
    names = (ERRORS, *options["further"])
    found = []
    for place, given in enumerate(polls):
        where = f"polls[{place}]"
        poll = _known(given, where, SIDES)
        canary, stable = (_counts(poll.get(side), names, f"{where}.{side}") for side in SIDES)
        slow = _known(options["latencies"][place], f"latencies[{place}]", SIDES) if options["latencies"] else {}
        means = options["averages"][place] if options["averages"] else None
        found.append(
            Poll(
                {name: Counts(canary[0], canary[1][name], stable[0], stable[1][name]) for name in names},
                _samples(slow.get("canary"), f"latencies[{place}].canary"),
                _samples(slow.get("stable"), f"latencies[{place}].stable"),
                None if means is None else _averages(means, f"averages[{place}]"),
            )
        )
    return found


def _further(name: t.Any, given: t.Any) -> Tolerance:
    numbers = _known(given, f"further.{name}", ("ratio", "delta"))
    if len(numbers) != 2:
        raise JudgeError(f"further.{name} needs a ratio and a delta, such as {{ratio: 2, delta: 0.005}}")
    return Tolerance(
        _number(numbers["ratio"], f"further.{name}.ratio"), _number(numbers["delta"], f"further.{name}.delta")
    )


def _counts(given: t.Any, names: t.Sequence[str], where: str) -> tuple[int, dict[str, int]]:
    """Requests, and bad answers by name; a side that is left out did nothing."""
    told = _known({} if given is None else given, where, ("requests", *names))
    requests = _count(told.get("requests", 0), f"{where}.requests")
    return requests, {name: _count(told.get(name, 0), f"{where}.{name}") for name in names}


def _averages(given: t.Any, where: str) -> Averages:
    told = _known(given, where, (*SIDES, "servers"))
    canary, stable = (
        None if told.get(side) is None else _number(told[side], f"{where}.{side}", least=0.0) for side in SIDES
    )
    return Averages(canary, stable, _count(told.get("servers", 1), f"{where}.servers"))


def _samples(given: t.Any, where: str) -> _latency_evidence.Samples:
    try:
        return _latency_evidence.samples(given)
    except ValueError as exc:
        raise JudgeError(f"{where}: {exc}") from exc


def _known(given: t.Any, where: str, names: t.Collection[str]) -> dict[str, t.Any]:
    found = _mapping(given, where)
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise JudgeError(f"{where} has {quoted(unknown[0])}, and knows only {', '.join(names)}")
    return found


def _mapping(given: t.Any, where: str) -> dict[str, t.Any]:
    if not isinstance(given, t.Mapping) or not all(isinstance(name, str) for name in given):
        raise JudgeError(f"{where} is {quoted(given)}, and must be a map")
    return dict(given)


def _count(value: t.Any, where: str) -> int:
    """Ansible makes text of a number in a template before ansible-core 2.19."""
    text = value.strip() if isinstance(value, str) else ""
    if text.isascii() and text.isdigit() and len(text) < 40:
        value = int(text)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise JudgeError(f"{where} is {quoted(value)}, and must be a whole number from 0")
    return value


def _number(value: t.Any, where: str, least: float | None = None) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or (least is not None and number < least):
        raise JudgeError(
            f"{where} is {quoted(value)}, and must be a number{'' if least is None else f' from {least:g}'}"
        )
    return number
