# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Canary as a plan: the release gets a small share of the traffic, is judged there, and gets more; then all of it.

In place, the canary is the first hosts of the fleet, and the next ones join it before a step asks for more than they can carry. Side
by side, it is the idle one of two colours, and only weights move.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._blue_green import colour_of
from ansible_collections.steady.rollout.plugins.module_utils._duration import duration
from ansible_collections.steady.rollout.plugins.module_utils._plan import CANARY, STABLE, Member, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, listed, quoted
from ansible_collections.steady.rollout.plugins.module_utils._rolling import batched, released, size_of

# What the sizes of batches are called here.
BATCHES, MOST = VARIABLES = ("canary_batches", "canary_max_unavailable")
# What shares may be off by.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Ramp:
    """What the steps of a canary have in common. ``stages``: shares in percent, and pauses, in order. Times in seconds.

    ``seconds``: how long each share is judged; ``longest``: how long it may be prolonged where too few requests came. ``batches``,
    ``most`` and ``watch_seconds``: of the rest of the fleet, as for rolling.
    """

    stages: tuple[float | Step, ...]
    seconds: float
    longest: float
    batches: t.Any
    most: t.Any
    watch_seconds: float

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(stage for stage in self.stages if not isinstance(stage, Step))


def read_stages(raw: t.Any) -> tuple[float | Step, ...]:
    """From ``canary_steps``: percents in ascending order, and pauses such as ``{pause: {}}`` or ``{pause: {for: 10m}}``.

    A last share of 100 is what comes anyway, and is left out. Raises PlanError for anything else.
    """
    if isinstance(raw, (str, bytes)) or not isinstance(raw, t.Sequence) or not raw:
        raise PlanError(f"canary_steps is {quoted(raw)}, and must be a list of percents such as [5, 25, 50].")
    stages = [_stage(number, entry) for number, entry in enumerate(raw, 1)]
    shares = [stage for stage in stages if not isinstance(stage, Step)]
    if any(later <= earlier for earlier, later in zip(shares, shares[1:])):
        raise PlanError(f"canary_steps has {quoted(raw)}; each share must be greater than the one before it.")
    if isinstance(stages[0], Step):
        raise PlanError("canary_steps begins with a pause, before there is a canary; begin with a share.")
    if stages[-1] == 100:
        stages.pop()
    if not stages or 100 in stages:
        raise PlanError(
            "canary_steps needs a share below 100 percent, in which the canary is judged, and nothing after 100."
        )
    return tuple(stages)


def _stage(number: int, entry: t.Any) -> float | Step:
    if isinstance(entry, t.Mapping):
        if list(entry) != ["pause"]:
            raise PlanError(f"Step {number} of canary_steps is {quoted(entry)}; besides shares there is only `pause`.")
        return pause(entry["pause"])
    text = entry.strip().removesuffix("%").strip() if isinstance(entry, str) else entry
    try:
        share = -1.0 if isinstance(text, bool) else float(text)
    except (TypeError, ValueError, OverflowError):
        share = -1.0
    if not 0 < share <= 100:
        raise PlanError(f"Step {number} of canary_steps is {quoted(entry)}, and must be above 0 and up to 100 percent.")
    return share


def pause(value: t.Any) -> Step:
    """A step that waits: for a time, or until somebody promotes. Raises PlanError."""
    if value is None or value == {}:
        return Step("pause")
    if not isinstance(value, t.Mapping) or list(value) != ["for"]:
        raise PlanError(
            f"a pause has {quoted(value)}; write {{}} to wait until it is promoted, or a time such as {{for: 10m}}."
        )
    seconds = duration(value["for"])
    if not seconds:
        raise PlanError("a pause of no time at all does nothing; leave it out, or write a time, such as {for: 10m}.")
    return Step("pause", seconds=seconds)


def canary_in_place(
    members: t.Sequence[Member],
    due: t.Collection[str],
    capacity: t.Mapping[str, float],
    hosts: t.Any,
    ramp: Ramp,
) -> tuple[Step, ...]:
    """The steps for a fleet of one group.

    ``due``: keys of the members that do not run the release yet, or are not in rotation; the others are of the canary already.
    ``capacity``: percent of the traffic that each member carries by its own weight; 0 for one that is not in rotation. ``hosts``: how
    many members the canary begins with, a percentage, or a list of names.

    Raises PlanError where no stable member would be left, and for what makes no sense.
    """
    canary = [member for member in members if member.key not in due]
    waiting = _in_order([member for member in members if member.key in due], members, hosts)
    first = _first_size(hosts, len(members))
    steps: list[Step] = []
    before = 0.0
    last = max(number for number, stage in enumerate(ramp.stages) if not isinstance(stage, Step))
    for number, stage in enumerate(ramp.stages):
        if isinstance(stage, Step):
            steps.append(stage._replace(members=_keys(canary), track=CANARY))
            continue
        joining = _joining(canary, waiting, capacity, stage, first)
        steps += _joined(canary, joining, capacity, (before, stage), ramp, len(members))
        canary, before = [*canary, *joining], stage
        waiting = waiting[len(joining) :]
        keys = _keys(canary)
        _check_stable_left(waiting, capacity, stage, len(members))
        shares = {CANARY: stage, STABLE: 100.0 - stage}
        steps.append(Step("traffic", keys, shares=shares, track=CANARY))
        steps.append(_judged(keys, CANARY, ramp, asks=number == last))
    carrying = tuple(
        member.key for member in members if member in canary or (member in waiting and capacity[member.key] > 0)
    )
    steps.append(Step("admit", carrying))
    for batch in batched(waiting, ramp.batches, ramp.most, False, VARIABLES) if waiting else ():
        steps += [*released(_keys(batch)), *_watched(_keys(batch), ramp)]
    return tuple(steps)


def canary_side_by_side(live: t.Sequence[Member], idle: t.Sequence[Member], ramp: Ramp) -> tuple[Step, ...]:
    """The steps that move the traffic from the members ``live`` to the members ``idle``, share by share. Raises PlanError."""
    new, old = colour_of(idle), colour_of(live)
    keys = _keys(idle)
    steps = [Step("deploy", keys, track=new), Step("probe", keys, track=new)]
    shares = ramp.shares
    for stage in ramp.stages:
        if isinstance(stage, Step):
            steps.append(stage._replace(members=keys, track=new))
            continue
        steps.append(Step("traffic", shares={new: stage, old: 100.0 - stage}))
        steps.append(_judged(keys, new, ramp, asks=stage == shares[-1]))
    steps.append(Step("traffic", shares={new: 100.0, old: 0.0}))
    return (*steps, *_watched(keys, ramp, new))


def _judged(keys: tuple[str, ...], track: str, ramp: Ramp, asks: bool) -> Step:
    """A step that judges the canary; the one that ``asks`` is the last one before all traffic, and needs a pass."""
    options = {"judged": True, "longest": max(ramp.seconds, ramp.longest), "require_requests": True, "asks": asks}
    return Step("analyse", keys, seconds=ramp.seconds, options=options, track=track)


def _watched(keys: tuple[str, ...], ramp: Ramp, track: str = "") -> tuple[Step, ...]:
    if not ramp.watch_seconds:
        return ()
    return (Step("analyse", keys, seconds=ramp.watch_seconds, options={"require_requests": False}, track=track),)


def _joined(
    canary: t.Sequence[Member],
    joining: t.Sequence[Member],
    capacity: t.Mapping[str, float],
    shares: tuple[float, float],
    ramp: Ramp,
    fleet: int,
) -> list[Step]:
    """Drained, deployed and seen to be good, no more at once than may be missing; what is done carries before the next ones go.

    ``shares``: of the stage before (0 where there is none), and of the one that comes; the last batch gets traffic with that one.
    """
    steps: list[Step] = []
    batches = batched(joining, size_of(ramp.most, fleet, MOST), None, False, VARIABLES) if joining else ()
    done = list(canary)
    for number, batch in enumerate(batches, 1):
        steps += [step for step in released(_keys(batch)) if step.kind != "admit"]
        done += batch
        if number < len(batches):
            carried = sum(capacity[member.key] for member in done)
            share = shares[0] or min(shares[1] * number / len(batches), carried or shares[1])
            steps.append(Step("traffic", _keys(done), shares={CANARY: share, STABLE: 100.0 - share}, track=CANARY))
    return steps


def _joining(
    canary: t.Sequence[Member],
    waiting: t.Sequence[Member],
    capacity: t.Mapping[str, float],
    share: float,
    first: int,
) -> list[Member]:
    """The members that join, so that the canary has as many as it begins with, and can carry the share by its own weight."""
    joining: list[Member] = []
    carried = sum(capacity[member.key] for member in canary)
    for member in waiting:
        if len(canary) + len(joining) >= first and carried >= share - _ROUNDING:
            break
        joining.append(member)
        carried += capacity[member.key]
    return joining


def _check_stable_left(waiting: t.Sequence[Member], capacity: t.Mapping[str, float], share: float, fleet: int) -> None:
    if any(capacity[member.key] > 0 for member in waiting):
        return
    raise PlanError(
        f"A canary of {share:g} % leaves no stable host in rotation to compare with, of {fleet} in the fleet; use smaller canary_steps or "
        "fewer canary_hosts, or the role steady.rollout.rolling."
    )


def _in_order(due: t.Sequence[Member], members: t.Sequence[Member], hosts: t.Any) -> list[Member]:
    """Those that are named come first, in the order in which they are named."""
    if isinstance(hosts, (str, bytes)) or not isinstance(hosts, t.Sequence):
        return list(due)
    every = {member.host for member in members} | {member.key for member in members}
    strange = [name for name in hosts if name not in every]
    if strange or not hosts:
        raise PlanError(
            f"canary_hosts names {listed(map(str, strange)) or 'nobody'}; name hosts of the play, or write how many."
        )
    named = [member for name in hosts for member in due if name in (member.host, member.key)]
    return [*named, *(member for member in due if member not in named)]


def _first_size(hosts: t.Any, fleet: int) -> int:
    if not isinstance(hosts, (str, bytes)) and isinstance(hosts, t.Sequence):
        return len(set(hosts))
    return size_of(hosts, fleet, "canary_hosts")


def _keys(members: t.Iterable[Member]) -> tuple[str, ...]:
    return tuple(member.key for member in members)
