# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""`rollout_steps`: a plan that a user wrote, read and checked. Every mistake is told with the number of its step."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._canary import pause
from ansible_collections.steady.rollout.plugins.module_utils._duration import duration
from ansible_collections.steady.rollout.plugins.module_utils._plan import KINDS, Member, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, listed, quoted

_TRACKS = ("blue", "green", "canary", "stable")


def parse_steps(raw: t.Any, members: t.Sequence[Member], carrying: t.Collection[str] | None = None) -> tuple[Step, ...]:
    """The steps of ``raw``, a list such as ``[{deploy: green}, {probe: green}, {traffic: {green: 100}}]``, for a fleet.

    ``carrying`` are the keys of the members that are in rotation now; None where that is not known, and then less is checked.
    Raises PlanError for everything that is wrong with ``raw``, and never anything else.
    """
    if isinstance(raw, (str, bytes)) or not isinstance(raw, t.Sequence):
        raise PlanError(f"rollout_steps is {quoted(raw)}, and must be a list of steps such as [deploy: green].")
    if not raw:
        raise PlanError("rollout_steps is an empty list: it would do nothing. Leave it out, or write steps.")
    steps: list[Step] = []
    for number, entry in enumerate(raw, 1):
        kind, value = _one_key(number, entry)
        try:
            steps.append(_READERS[kind](value, members, steps))
        except PlanError as error:
            raise PlanError(f"Step {number} ({kind}) of rollout_steps: {error}") from None
    _check_order(steps, members, carrying)
    return tuple(steps)


def _one_key(number: int, entry: t.Any) -> tuple[str, t.Any]:
    if not isinstance(entry, t.Mapping) or len(entry) != 1:
        raise PlanError(
            f"Step {number} of rollout_steps is {quoted(entry)}, and must be one word with what it is for, such as "
            "deploy: green."
        )
    kind, value = next(iter(entry.items()))
    if not isinstance(kind, str) or kind not in KINDS:
        raise PlanError(f"Step {number} of rollout_steps: {quoted(kind)} is no step; there are {', '.join(KINDS)}.")
    return str(kind), value


def _on_members(kind: str) -> t.Callable[..., Step]:
    def read(value: t.Any, members: t.Sequence[Member], _before: t.Sequence[Step]) -> Step:
        keys = _selected(value, members)
        return Step(kind, keys, track=_track_of(keys, members))

    return read


def _traffic(value: t.Any, members: t.Sequence[Member], _before: t.Sequence[Step]) -> Step:
    return Step("traffic", shares=_shares(value, members))


def _pause(value: t.Any, _members: t.Sequence[Member], _before: t.Sequence[Step]) -> Step:
    return pause(value)


def _analyse(value: t.Any, members: t.Sequence[Member], before: t.Sequence[Step]) -> Step:
    """Watches what the plan has put a release on so far; where it has not, what it has brought into rotation."""
    seconds = _for(value)
    watched = {key for step in before if step.kind == "deploy" for key in step.members} or {
        key for step in before for key in _admitted(step, members)
    }
    if not watched:
        raise PlanError("nothing was deployed or brought into rotation before it, so that there is nothing to watch.")
    keys = tuple(member.key for member in members if member.key in watched)
    return Step("analyse", keys, seconds=seconds, options={"require_requests": True}, track=_track_of(keys, members))


_READERS: t.Mapping[str, t.Callable[..., Step]] = {
    **{kind: _on_members(kind) for kind in ("deploy", "probe", "drain", "admit")},
    "traffic": _traffic,
    "analyse": _analyse,
    "pause": _pause,
}


def _for(value: t.Any) -> float:
    if not isinstance(value, t.Mapping) or "for" not in value:
        raise PlanError(f"it has {quoted(value)}, and needs a time, such as {{for: 5m}}.")
    others = [name for name in value if name != "for"]
    if others:
        raise PlanError(f"it has {quoted(others[0])}; there is only `for`, the time it takes.")
    seconds = duration(value["for"])
    if not seconds:
        raise PlanError("it would take no time at all; leave it out, or write a time, such as {for: 5m}.")
    return seconds


def _selected(value: t.Any, members: t.Sequence[Member]) -> tuple[str, ...]:
    several = isinstance(value, t.Sequence) and not isinstance(value, (str, bytes))
    names = list(value) if several else [value]
    if not names:
        raise PlanError("its list is empty; name a track or hosts.")
    found: list[str] = []
    for name in names:
        keys = _named(name, members)
        twice = [key for key in keys if key in found]
        if twice:
            raise PlanError(f"it names {listed(twice)} twice.")
        found += keys
    return tuple(found)


def _named(name: t.Any, members: t.Sequence[Member]) -> list[str]:
    """The keys of the track, the host or the slot of this name."""
    if not isinstance(name, str):
        raise PlanError(f"it has {quoted(name)}; name a track or a host, or several in a list.")
    track = [member.key for member in members if name and member.track == name]
    host = [member.key for member in members if name in (member.host, member.key)]
    if track and host and track != host:
        raise PlanError(f"{quoted(name)} is a track and also a host; name the hosts of it one by one.")
    if not track and not host:
        raise PlanError(_unknown(name, members))
    return track or host


def _unknown(name: str, members: t.Sequence[Member]) -> str:
    if name in _TRACKS:
        return f"no host is of the track {name}; set rollout_track to {name} on some hosts of the fleet."
    tracks = sorted({member.track for member in members} - {""})
    hosts = list(dict.fromkeys(member.host for member in members))
    known = [f"tracks {', '.join(tracks)}"] if tracks else []
    known += [f"hosts {listed(hosts)}"] if hosts else []
    return f"{quoted(name)} is neither a track nor a host of the play; there are {' and '.join(known) or 'none'}."


def _no_track(name: t.Any, members: t.Sequence[Member]) -> str:
    if any(name in (member.host, member.key) for member in members):
        return f"traffic is shared between tracks, and {name} is a host; name its track."
    return _unknown(name, members) if isinstance(name, str) else f"{quoted(name)} cannot be the name of a track."


def _track_of(keys: t.Collection[str], members: t.Sequence[Member]) -> str:
    """The track that ``keys`` are all of, or "" where they are not exactly one."""
    tracks = {member.track for member in members if member.key in keys}
    whole = {member.key for member in members if member.track in tracks}
    return tracks.pop() if len(tracks) == 1 and whole == set(keys) else ""


def _shares(value: t.Any, members: t.Sequence[Member]) -> dict[str, float]:
    """Percent of every track; a single track that is not named gets the rest."""
    if not isinstance(value, t.Mapping) or not value:
        raise PlanError(f"it has {quoted(value)}, and needs the percent of each track, such as {{green: 100}}.")
    tracks = sorted({member.track for member in members})
    if "" in tracks:
        without = (member.key for member in members if not member.track)
        raise PlanError(f"traffic is shared between tracks, and {listed(without)} has none; set its rollout_track.")
    for name in value:
        if name not in tracks:
            raise PlanError(_no_track(name, members))
    shares = {str(track): _percent(track, percent) for track, percent in value.items()}
    return _completed(shares, [track for track in tracks if track not in shares])


def _completed(shares: dict[str, float], others: t.Sequence[str]) -> dict[str, float]:
    total = sum(shares.values())
    rest = 100 - total
    if abs(rest) < 1e-6:
        return {**shares, **dict.fromkeys(others, 0.0)}
    if rest > 0 and len(others) == 1:
        return {**shares, others[0]: rest}
    if rest > 0 and others:
        raise PlanError(f"it shares out {total:g} percent, and leaves {rest:g} to several tracks; name all but one.")
    raise PlanError(f"its shares are {total:g} percent together, and must be 100.")


def _percent(track: str, value: t.Any) -> float:
    text = str(value).strip().removesuffix("%") if isinstance(value, str) else value
    try:
        percent = -1.0 if isinstance(value, bool) else float(text)
    except (TypeError, ValueError, OverflowError):
        percent = -1.0
    if not 0 <= percent <= 100:
        raise PlanError(f"the share of {track} is {quoted(value)}, and must be from 0 to 100 percent.")
    return percent


def _admitted(step: Step, members: t.Sequence[Member]) -> list[str]:
    """The keys of the members that ``step`` puts into rotation."""
    if step.kind == "admit":
        return list(step.members)
    return [member.key for member in members if step.shares.get(member.track)]


def _removed(step: Step, members: t.Sequence[Member]) -> list[str]:
    """The keys of the members that ``step`` takes out of rotation, if they are in it."""
    if step.kind in ("drain", "deploy"):
        return list(step.members)
    return [member.key for member in members if step.shares.get(member.track) == 0]


def _check_order(steps: t.Sequence[Step], members: t.Sequence[Member], carrying: t.Collection[str] | None) -> None:
    """No member gets traffic before it was seen healthy, and some member always carries it."""
    every = {member.key for member in members}
    rotation = every if carrying is None else every & set(carrying)
    live = {member.track for member in members if member.key in rotation}
    # A share is for a whole track: a live one has it already, also where one of its members is out just now.
    seen = {"admit": set(rotation), "traffic": {member.key for member in members if member.track in live}}
    for number, step in enumerate(steps, 1):
        where = f"Step {number} ({step.words()}) of rollout_steps"
        for keys in seen.values():
            keys -= set(step.members if step.kind == "deploy" else ())
            keys |= set(step.members if step.kind == "probe" else ())
        admitted = _admitted(step, members)
        unseen = [key for key in admitted if key not in seen[step.kind]]
        if unseen:
            raise PlanError(f"{where}: {listed(unseen)} would get traffic without a probe; probe before.")
        left = (rotation - set(_removed(step, members))) | set(admitted)
        if rotation and not left:
            raise PlanError(f"{where} would leave no member in rotation; admit others before, or take out fewer.")
        rotation = left
