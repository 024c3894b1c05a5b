# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal tells what rollouts did, whatever a crash left at its end."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _journal as journal
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.text(max_size=6).filter(lambda key: key not in journal.FRAME)
PAYLOADS = st.dictionaries(KEYS, JSON, max_size=3)


@st.composite
def journals(draw: st.DrawFn) -> list[dict[str, t.Any]]:
    """Records as they are written: rollouts one after another, or taken over, each beginning with `begin`."""
    records: list[dict[str, t.Any]] = []
    for name in draw(st.lists(st.sampled_from(["r1", "r2", "r3"]), max_size=4)):
        events = ["begin", *draw(st.lists(st.sampled_from(journal.EVENTS[1:]), max_size=5))]
        for event in events:
            frame = {"seq": len(records) + 1, "rollout": name, "at": "2026-11-25T00:00:00Z", "boot": ["b", 1.5]}
            records.append({**draw(PAYLOADS), **frame, "event": event})
    return records


def written(records: t.Iterable[dict[str, t.Any]]) -> bytes:
    return b"".join(journal.line(record) for record in records)


def record(event: str, rollout: str = "r1", seq: int = 1, **payload: t.Any) -> dict[str, t.Any]:
    return {**payload, "seq": seq, "rollout": rollout, "at": "t", "boot": ["b", 1.0], "event": event}


@given(journals(), st.integers(1, 4))
def test_old_rollouts_are_forgotten_and_the_last_ones_kept_whole(records: list[dict[str, t.Any]], most: int) -> None:
    kept = journal.parse(journal.last_rollouts(written(records), most))
    assert records[len(records) - len(kept) :] == kept
    last = list(dict.fromkeys(record["rollout"] for record in records))[-most:]
    assert [one for one in records if one["rollout"] in last] == [one for one in kept if one["rollout"] in last]
    assert journal.next_number(written(kept)) == journal.next_number(written(records))
    if len({record["rollout"] for record in records}) <= most:
        assert kept == records


@given(journals())
def test_what_was_written_is_read(records: list[dict[str, t.Any]]) -> None:
    assert journal.parse(written(records)) == records


@given(journals(), st.data())
def test_a_torn_last_line_is_as_if_it_had_not_been_written(
    records: list[dict[str, t.Any]], data: st.DataObject
) -> None:
    text = written(records)
    cut = data.draw(st.integers(0, len(text)))
    lines = text[:cut].count(b"\n")
    assert journal.parse(text[:cut]) == records[:lines]
    assert journal.next_number(text[:cut]) == lines + 1
    assert text[: journal.whole(text[:cut])] == written(records[:lines])


@given(journals(), st.binary())
def test_whatever_a_crash_left_behind_hides_no_earlier_record(records: list[dict[str, t.Any]], garbage: bytes) -> None:
    assert journal.parse(written(records) + garbage)[: len(records)] == records


@given(st.binary())
def test_no_bytes_can_break_the_reading(data: bytes) -> None:
    journal.fold(journal.parse(data))
    assert journal.next_number(data) is not None


@given(journals())
def test_the_last_rollout_is_told_whole(records: list[dict[str, t.Any]]) -> None:
    found = journal.fold(records)
    if not records:
        assert found is None
        return
    assert found is not None
    own = [one for one in records if one["rollout"] == records[-1]["rollout"]]
    assert found["rollout_id"] == records[-1]["rollout"]
    assert found["begin"] == journal.payload(own[0])
    assert [event["seq"] for event in found["events"]] == [one["seq"] for one in own[1:]]
    assert found["ended"] == (own[-1]["event"] == "end")


@given(journals())
def test_no_payload_hides_the_number_or_the_kind_of_an_event(records: list[dict[str, t.Any]]) -> None:
    found = journal.fold(records)
    known = {one["seq"]: one["event"] for one in records}
    assert all(known[event["seq"]] == event["event"] for event in (found or {"events": []})["events"])


def test_lines_of_no_record_are_left_out() -> None:
    strange = b'\0\0\0\n[]\n{"event": "begin"}\n{"event": "else", "rollout": "r", "seq": 1}\n'
    assert journal.parse(strange + journal.line(record("begin"))) == [record("begin")]


def test_the_step_is_the_last_one_told() -> None:
    records = [record("begin"), record("intent", step=1), record("result", step=1), record("note")]
    assert (journal.fold(records) or {})["step"] == 1


def test_an_ended_rollout_tells_its_outcome() -> None:
    found = journal.fold([record("begin"), record("end", outcome="promoted")]) or {}
    assert (found["ended"], found["outcome"]) == (True, "promoted")


def test_a_rollout_begun_again_has_not_ended() -> None:
    records = [record("begin", plan=1), record("end", outcome="paused"), record("begin", plan=2)]
    found = journal.fold(records) or {}
    assert (found["ended"], found["outcome"], found["begin"]) == (False, None, {"plan": 1})


def test_an_intent_without_a_result_is_seen() -> None:
    found = journal.fold([record("begin"), record("intent", step=4)]) or {}
    assert [event["event"] for event in found["events"]] == ["intent"]


def test_records_of_before_the_first_begin_are_nobodys() -> None:
    assert journal.fold([record("note")]) is None
