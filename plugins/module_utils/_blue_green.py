# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Blue-green as a plan: the release goes to the idle colour, is seen healthy there, and then takes all the traffic at once."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, listed


def blue_green(live: t.Sequence[Member], idle: t.Sequence[Member], bake_seconds: float) -> tuple[Step, ...]:
    """The steps that move all traffic from the members ``live`` to the members ``idle`` and then watch for ``bake_seconds``
    while ``live`` stays warm. Nothing is watched with 0 seconds. ``live`` may be empty: neither colour carries traffic yet.

    Raises PlanError where one of them is not one colour, where both are the same, and where ``idle`` has no members.
    """
    if not idle:
        raise PlanError(
            "No host is of the idle colour, so that there is nowhere to put the release; set rollout_track to blue "
            "on some hosts of the fleet and to green on the others."
        )
    colour, old = colour_of(idle), colour_of(live) if live else ""
    if colour == old:
        raise PlanError(f"All hosts are {colour}; set rollout_track of some of them to another colour.")
    keys = tuple(member.key for member in idle)
    shares = {colour: 100.0, **({old: 0.0} if old else {})}
    steps = (Step("deploy", keys, track=colour), Step("probe", keys, track=colour), Step("traffic", shares=shares))
    if not bake_seconds:
        return steps
    return (*steps, Step("analyse", keys, seconds=bake_seconds, options={"require_requests": True}, track=colour))


def colour_of(members: t.Sequence[Member]) -> str:
    """The one colour of all members. Raises PlanError where there is none, or more than one."""
    colours = sorted({member.track for member in members})
    if "" in colours:
        without = (member.key for member in members if not member.track)
        raise PlanError(f"{listed(without)} has no colour; set rollout_track of every host of the fleet.")
    if len(colours) > 1:
        raise PlanError(f"These hosts are of several colours ({', '.join(colours)}), not of one.")
    return colours[0]
