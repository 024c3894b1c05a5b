# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The points at which the fault tests kill a controller."""

from __future__ import annotations

from faults.points import Point, Use, calls, kind, points

BEGIN, INTENT = {"event": "begin"}, {"event": "intent", "kind": "deploy", "act": "shift"}
RESULT, END = {**INTENT, "event": "result"}, {"event": "end"}
JOURNAL = [BEGIN, INTENT, RESULT, END]


def use(host: str, act: str, lb1: int, lb2: int) -> Use:
    return Use(host, act, {"lb1": lb1, "lb2": lb2})


USES = [
    use("lb1", "", 0, 0),
    use("lb1", "begin", 0, 0),
    use("lb2", "begin", 1, 0),
    use("lb1", "shift", 1, 1),
    use("lb2", "shift", 3, 1),
    use("web1", "", 3, 3),
    use("lb1", "end", 3, 3),
    use("lb2", "end", 4, 3),
]
MADE = calls(USES, {"lb1": JOURNAL, "lb2": JOURNAL})


def named(found: list[Point]) -> list[tuple[str, str, int | None]]:
    return [(point.name, point.use.act, point.line) for point in found]


def test_each_line_belongs_to_the_call_that_wrote_it() -> None:
    assert [(call.use.host, call.use.act, len(call.records)) for call in MADE] == [
        ("lb1", "begin", 1),
        ("lb2", "begin", 1),
        ("lb1", "shift", 2),
        ("lb2", "shift", 2),
        ("lb1", "end", 1),
        ("lb2", "end", 1),
    ]


def test_a_call_is_apart_when_a_host_was_used_since_the_call_before() -> None:
    assert [call.apart for call in MADE] == [True, False, False, False, True, False]


def test_each_kind_has_a_point_before_and_after_its_first_line() -> None:
    assert named(points(MADE, every=False)) == [
        ("before begin on lb1", "begin", None),
        ("after begin on lb1", "begin", 1),
        ("before intent deploy on lb1", "begin", 1),
        ("after intent deploy on lb1 = before result deploy on lb1 = after result deploy on lb1", "shift", 2),
        ("before end on lb1", "end", None),
        ("after end on lb1", "end", 4),
    ]


def test_moments_that_leave_the_same_behind_are_one_point() -> None:
    names = [point.name for point in points(MADE, every=True)]
    assert names[1] == "after begin on lb1 = before begin on lb2"
    assert len(names) == len(set(names)) == 2 + 2 * len(JOURNAL)


def test_what_ends_in_another_way_or_begins_again_is_of_a_kind_of_its_own() -> None:
    told = [
        kind({**END, "outcome": "paused"}),
        kind({**END, "outcome": "promoted"}),
        kind({**BEGIN, "resumed": {"at": 3}}),
    ]
    assert told == ["end paused", "end promoted", "begin again"]


def test_a_point_survives_json() -> None:
    for point in points(MADE, every=True):
        assert Point.from_dict(point.as_dict()) == point


def test_a_run_that_wrote_nothing_has_no_points() -> None:
    assert points(calls(USES, {"lb1": [], "lb2": []}), every=True) == []
