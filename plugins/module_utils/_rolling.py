# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Rolling as a plan: the fleet in batches, each taken out of rotation, released, probed and put back. And the way back."""

from __future__ import annotations

import re
import typing as t
from fractions import Fraction

from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, quoted

_PERCENT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%")
_COUNT = re.compile(r"[0-9]{1,9}")


def rolling(
    members: t.Sequence[Member],
    batches: t.Any,
    max_unavailable: t.Any,
    min_healthy_seconds: float,
    spread: bool,
) -> tuple[Step, ...]:
    """Steps for batch after batch: drain, deploy, probe, admit, and watch for ``min_healthy_seconds`` (0: not at all).

    ``batches``, ``max_unavailable`` and ``spread`` as for ``batched``.
    """
    steps: list[Step] = []
    for batch in batched(members, batches, max_unavailable, spread):
        keys = tuple(member.key for member in batch)
        steps += released(keys)
        if min_healthy_seconds:
            steps.append(Step("analyse", keys, seconds=min_healthy_seconds, options={"require_requests": False}))
    return tuple(steps)


def undo_steps(deployed: t.Sequence[t.Sequence[str]], carried: t.Collection[str]) -> tuple[Step, ...]:
    """The way back for the groups of member keys in ``deployed`` (oldest first): the last group first, and only those
    members that carried traffic when the rollout began; the others were not in rotation and stay as they are."""
    steps: list[Step] = []
    done: set[str] = set()
    for group in reversed(deployed):
        keys = tuple(key for key in dict.fromkeys(group) if key in carried and key not in done)
        done.update(keys)
        steps += released(keys) if keys else ()
    return tuple(steps)


def batched(
    members: t.Sequence[Member],
    batches: t.Any,
    max_unavailable: t.Any,
    spread: bool,
    variables: tuple[str, str] = ("rolling_batches", "rolling_max_unavailable"),
) -> tuple[tuple[Member, ...], ...]:
    """``members`` in batches, in their order.

    ``variables``: what both sizes are called in messages.
    ``batches``: a number, a percentage of the fleet (rounded down, at least 1), or a list of these whose last one repeats, as
    Ansible's `serial`. ``max_unavailable``: a number or percentage that no batch exceeds; None for no limit. ``spread``: no
    batch has two members of one failure domain; those that do not fit wait for a later batch.

    Raises PlanError for an empty fleet, and for sizes that are no such thing or 0.
    """
    if not members:
        raise PlanError("The fleet is empty, so that there is nothing to roll; check the hosts of the play.")
    sizes = _sizes(batches, len(members), variables[0])
    most = len(members) if max_unavailable is None else size_of(max_unavailable, len(members), variables[1])
    left = list(members)
    made: list[tuple[Member, ...]] = []
    while left:
        size = min(sizes[min(len(made), len(sizes) - 1)], most)
        batch = _next_batch(left, size, spread)
        taken = {member.key for member in batch}
        left = [member for member in left if member.key not in taken]
        made.append(batch)
    return tuple(made)


def _next_batch(left: t.Sequence[Member], size: int, spread: bool) -> tuple[Member, ...]:
    batch: list[Member] = []
    domains: set[str] = set()
    hosts: set[str] = set()
    for member in left:
        if (spread and member.domain in domains) or member.host in hosts:
            continue
        batch.append(member)
        hosts.add(member.host)  # a host has its slots deployed one after the other
        if member.domain:
            domains.add(member.domain)
        if len(batch) == size:
            break
    return tuple(batch)


def released(keys: tuple[str, ...]) -> tuple[Step, ...]:
    """Members out of rotation, with the release, seen to be good, and in again."""
    return tuple(Step(kind, keys) for kind in ("drain", "deploy", "probe", "admit"))


def _sizes(batches: t.Any, fleet: int, variable: str) -> list[int]:
    several = isinstance(batches, t.Sequence) and not isinstance(batches, (str, bytes))
    sizes = [size_of(value, fleet, variable) for value in (batches if several else [batches])]
    if not sizes:
        raise PlanError(f"{variable} is an empty list; write how many hosts a batch has, such as 1 or 25%.")
    return sizes


def size_of(value: t.Any, fleet: int, variable: str) -> int:
    """Members that ``value`` means: as many, or that percentage of the fleet, rounded down, and at least one."""
    text = str(value).strip() if isinstance(value, str) else ""
    percent = _PERCENT.fullmatch(text)
    if percent and 0 < Fraction(percent.group(1)) <= 100:
        return max(1, int(Fraction(percent.group(1)) * fleet / 100))
    count = int(text) if _COUNT.fullmatch(text) else value
    if percent or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise PlanError(
            f"{variable} has {quoted(value)}; write a number of hosts from 1, or a percentage of the fleet above 0 and up to "
            "100, such as 25%."
        )
    return min(count, fleet)
