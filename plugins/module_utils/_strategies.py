# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""From variables, the servers and the records to the steps of a rollout, by its strategy. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _fleet
from ansible_collections.steady.rollout.plugins.module_utils._blue_green import blue_green
from ansible_collections.steady.rollout.plugins.module_utils._canary import (
    canary_in_place,
    canary_side_by_side,
)
from ansible_collections.steady.rollout.plugins.module_utils._duration import duration
from ansible_collections.steady.rollout.plugins.module_utils._fleet import Reading, carries
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Step
from ansible_collections.steady.rollout.plugins.module_utils._rolling import rolling
from ansible_collections.steady.rollout.plugins.module_utils._steps import parse_steps
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused, Targets, ramp_of, some


def steps_of(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
) -> tuple[tuple[Step, ...], str]:
    """The steps and a sentence about them; no steps where nothing is to be done."""
    strategy, force = targets.control["strategy"], bool(targets.control["force"])
    if targets.control["steps"]:
        if not force and _all_run(members, recorded, targets.release) and _all_in_rotation(members, answers):
            return (), f"every host runs {targets.release} already"
        steps = parse_steps(targets.control["steps"], members, _fleet.in_rotation(members, answers))
        return steps, f"release {targets.release} by a plan of your own"
    if strategy["name"] == "blue_green":
        return _blue_green_steps(targets, members, answers, recorded, force)
    if strategy["name"] == "canary":
        return _canary_steps(targets, members, answers, recorded, force)
    return _rolling_steps(targets, members, answers, recorded, force)


def _blue_green_steps(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    force: bool,
) -> tuple[tuple[Step, ...], str]:
    strategy = targets.control["strategy"]
    live, idle = _colours(members, answers, strategy)
    if not force and _is_settled(live, members, answers) and _all_run(live, recorded, targets.release):
        return (), f"{live[0].track} is live and runs {targets.release} already"
    steps = blue_green(live, idle, duration(strategy.get("bake", 300)))
    return steps, f"{live[0].track} is live; release {targets.release} goes to {idle[0].track}"


def _colours(
    members: t.Sequence[Member], answers: t.Mapping[str, Reading], strategy: t.Mapping[str, t.Any]
) -> tuple[list[Member], list[Member]]:
    """The members of the live colour, and those of the idle one."""
    live = live_colour(members, answers, strategy.get("live"), f"{strategy['name']}_live")
    return [one for one in members if one.track == live], [one for one in members if one.track != live]


def _canary_steps(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    force: bool,
) -> tuple[tuple[Step, ...], str]:
    strategy, ramp = targets.control["strategy"], ramp_of(targets.control["strategy"])
    if any(member.track for member in members):
        live, idle = _colours(members, answers, strategy)
        if not force and _is_settled(live, members, answers) and _all_run(live, recorded, targets.release):
            return (), f"{live[0].track} is live and runs {targets.release} already"
        words = f"{live[0].track} is live; release {targets.release} goes to {idle[0].track}, share by share"
        return canary_side_by_side(live, idle, ramp), words
    due = _due(members, answers, recorded, targets.release, force)
    if not due:
        return (), f"every host runs {targets.release} already"
    steps = canary_in_place(members, due, part_of_traffic(members, answers), strategy.get("hosts", 1), ramp)
    return steps, f"release {targets.release} goes to a canary, and then to {len(due)} of {len(members)} hosts"


def part_of_traffic(members: t.Sequence[Member], answers: t.Mapping[str, Reading]) -> dict[str, float]:
    """Percent of the traffic that each member carries by its weight: the least of all load balancers and backends."""
    parts: dict[str, float] = {}
    for answer in answers.values():
        backends = {backend for member in members for backend in member.servers}
        for backend in backends:
            servers = _fleet.servers_of(answer, backend)
            weights = {name: server["weight"] if carries(server) else 0 for name, server in servers.items()}
            total = sum(weights.values())
            for member in members:
                if backend in member.servers:
                    part = 100.0 * weights[member.servers[backend]] / total if total else 0.0
                    parts[member.key] = min(part, parts.get(member.key, part))
    return parts


def _is_settled(live: t.Sequence[Member], members: t.Sequence[Member], answers: t.Mapping[str, Reading]) -> bool:
    """Whether exactly the live colour carries, on every load balancer."""
    keys = [member.key for member in live]
    return _fleet.in_rotation(members, answers) == keys and _all_in_rotation(live, answers)


def live_colour(
    members: t.Sequence[Member], answers: t.Mapping[str, Reading], adopted: t.Any, variable: str = "blue_green_live"
) -> str:
    """The colour that carries, the same on every load balancer; ``adopted`` (from ``variable``) settles what is unclear."""
    colours = list(dict.fromkeys(member.track for member in members))
    without = [member.host for member in members if not member.track]
    if without:
        raise Refused(
            f"{some(without)} has no colour; set rollout_track to blue or green, or rollout_tracks for two slots"
        )
    if len(colours) == 1:
        other = "green" if colours[0] == "blue" else "blue"
        raise Refused(f"no host is {other}: the other colour is empty; set rollout_track of some hosts to {other}")
    if len(colours) != 2:
        raise Refused(f"there are {len(colours)} colours ({', '.join(colours)}); there must be two")
    if adopted:
        if adopted not in colours:
            raise Refused(f"{variable} is {adopted!r}; the colours of the fleet are {' and '.join(colours)}")
        return str(adopted)
    live = _fleet.live_tracks(members, answers)
    told = {lb: sorted(tracks) for lb, tracks in live.items()}
    first_lb, first = next(iter(told.items()))
    odd = [lb for lb, tracks in told.items() if tracks != first]
    how = f"say which one with {variable}: blue or green"
    if odd:
        raise Refused(
            f"the load balancers disagree on the live colour: {first_lb} sends traffic to {' and '.join(first) or 'neither'}, "
            f"{odd[0]} to {' and '.join(told[odd[0]]) or 'neither'}; {how}"
        )
    if len(first) != 1:
        both = "both colours are" if first else "neither colour is"
        raise Refused(f"{both} live on {', '.join(told)}; {how}, and the rollout brings the fleet in order")
    return first[0]


def _rolling_steps(
    targets: Targets,
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    force: bool,
) -> tuple[tuple[Step, ...], str]:
    strategy = targets.control["strategy"]
    keys = _due(members, answers, recorded, targets.release, force)
    due = [member for member in members if member.key in keys]
    if not due:
        return (), f"every host runs {targets.release} already"
    spread = bool(strategy.get("spread_by"))
    steps = rolling(
        due,
        strategy.get("batches", 1),
        strategy.get("max_unavailable"),
        duration(strategy.get("min_healthy_time", 10)),
        spread,
    )
    done = len(members) - len(due)
    already = f", {done} run it already" if done else ""
    return steps, f"release {targets.release} goes to {len(due)} of {len(members)} hosts in batches{already}"


def _due(
    members: t.Sequence[Member],
    answers: t.Mapping[str, Reading],
    recorded: t.Mapping[str, str | None],
    release: str,
    force: bool,
) -> list[str]:
    """Keys of the members that do not run the release yet, or are not in rotation everywhere."""
    return [
        member.key
        for member in members
        if force or recorded[member.key] != release or not _fleet.everywhere_in(member, answers)
    ]


def _all_run(members: t.Sequence[Member], recorded: t.Mapping[str, str | None], release: str) -> bool:
    return all(recorded[member.key] == release for member in members)


def _all_in_rotation(members: t.Sequence[Member], answers: t.Mapping[str, Reading]) -> bool:
    return all(_fleet.everywhere_in(member, answers) for member in members)
