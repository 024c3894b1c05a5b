# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The points at which a controller is killed, out of a rollout that ran to its end. Pure.

Two points that leave the same behind are one point: after a line of one load balancer is before the first line of the next
one, where nothing else happens in between.
"""

from __future__ import annotations

import dataclasses
import typing as t

Record = t.Mapping[str, t.Any]
BEFORE, AFTER = "before", "after"


class Use(t.NamedTuple):
    """A call to a host by the reference rollout. ``lines``: how many each journal had just before it, by load balancer."""

    host: str
    act: str
    lines: t.Mapping[str, int]


class Call(t.NamedTuple):
    """A use that wrote into a journal. ``apart``: whether others lie between it and the call before."""

    use: Use
    records: t.Sequence[Record]
    apart: bool


@dataclasses.dataclass(frozen=True)
class Point:
    """A moment: before ``use``, or, with ``line``, after that line (1 is the first) came into the journal of its load balancer."""

    name: str
    use: Use
    line: int | None

    def as_dict(self) -> dict[str, t.Any]:
        return {"name": self.name, "use": self.use._asdict(), "line": self.line}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Point:
        return cls(data["name"], Use(**data["use"]), data["line"])


def kind(record: Record) -> str:
    """What a record is about, in two words at most: `intent deploy`, `end paused`, `begin again` of a rollout that goes on."""
    about = (
        record.get("kind") or record.get("act") or record.get("outcome") or ("again" if record.get("resumed") else "")
    )
    return f"{record['event']} {about}".strip()


def calls(uses: t.Sequence[Use], journals: t.Mapping[str, t.Sequence[Record]]) -> list[Call]:
    """Which use wrote what. ``journals``: as they were in the end."""
    found: list[Call] = []
    last = -1
    for number, use in enumerate(uses):
        if use.host not in journals:
            continue
        begin = use.lines[use.host]
        later = (after.lines[use.host] for after in uses[number + 1 :])
        records = journals[use.host][begin : next(later, len(journals[use.host]))]
        if records:
            found.append(Call(use, records, apart=number != last + 1))
            last = number
    return found


def points(made: t.Sequence[Call], every: bool) -> list[Point]:
    """Before and after the first line of each kind, or every line. What an act writes after its first line it writes however
    its controller is: there the first one stands for all, unless ``every``."""
    moments: dict[tuple[str, int, int], list[str]] = {}
    seen: set[str] = set()
    for number, call in enumerate(made):
        for place, record in enumerate(call.records):
            if every or kind(record) not in seen:
                seen.add(kind(record))
                what = f"{kind(record)} on {call.use.host}"
                moments.setdefault(_before(made, number, place, every), []).append(f"before {what}")
                moments.setdefault(_after(number, place, every), []).append(f"after {what}")
    return [_point(made, moment, names) for moment, names in sorted(moments.items(), key=lambda item: item[0][1:])]


def _before(made: t.Sequence[Call], number: int, place: int, every: bool) -> tuple[str, int, int]:
    if place > 0:
        return _after(number, place - 1, every)
    if number == 0 or made[number].apart:
        return BEFORE, number, -1
    return _after(number - 1, len(made[number - 1].records) - 1, every)


def _after(number: int, place: int, every: bool) -> tuple[str, int, int]:
    return AFTER, number, place if every else 0


def _point(made: t.Sequence[Call], moment: tuple[str, int, int], names: t.Sequence[str]) -> Point:
    side, number, place = moment
    use = made[number].use
    line = use.lines[use.host] + place + 1 if side == AFTER else None
    return Point(" = ".join(dict.fromkeys(names)), use, line)
