# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The journal of rollouts as data: lines to records, and the records of one rollout to what it did. Pure.

A line that was not written to its end, because the host died, says nothing: what it was to announce was not done yet.
"""

from __future__ import annotations

import json
import typing as t

Record = t.Mapping[str, t.Any]
# What every line has besides its payload.
FRAME = ("seq", "rollout", "at", "boot", "event")
EVENTS = ("begin", "intent", "result", "note", "end")


def line(record: Record) -> bytes:
    """One line, its end included. Raises ValueError for what JSON cannot hold."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def whole(data: bytes) -> int:
    """How many bytes hold whole lines; what is behind them is torn."""
    return data.rfind(b"\n") + 1


def parse(data: bytes) -> list[dict[str, t.Any]]:
    """The records of all whole lines that can be read. A crash may leave a line of zeros: it is left out."""
    found = (_record(text) for text in data[: whole(data)].splitlines())
    return [record for record in found if record is not None]


def last_rollouts(data: bytes, most: int) -> bytes:
    """The whole lines from the first one of the last ``most`` rollouts on, as they are."""
    lines = data[: whole(data)].splitlines(keepends=True)
    records = [_record(text) for text in lines]
    rollouts = list(dict.fromkeys(record["rollout"] for record in records if record))
    kept = set(rollouts[-most:])
    first = next((place for place, record in enumerate(records) if record and record["rollout"] in kept), len(lines))
    return b"".join(lines[first:])


def next_number(data: bytes) -> int:
    """The sequence number of the line that comes next: 1 for the first."""
    for text in reversed(data[: whole(data)].splitlines()):
        record = _record(text)
        if record is not None:
            return int(record["seq"]) + 1
    return 1


def _record(text: bytes) -> dict[str, t.Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("event") not in EVENTS or not isinstance(record.get("rollout"), str):
        return None
    seq = record.get("seq")
    return record if isinstance(seq, int) and not isinstance(seq, bool) else None


def fold(records: t.Sequence[Record]) -> dict[str, t.Any] | None:
    """What the last rollout did: {rollout_id, at, begin, events, step, outcome, ended}; None where there was none.

    ``begin`` is the payload of its first line, ``events`` all others in their order: {seq, at, event, **payload}. A rollout
    that was ended and begun again has not ended. One that was refused, as it could not begin everywhere, did nothing.
    """
    refused = {
        record["rollout"] for record in records if record["event"] == "end" and record.get("outcome") == "refused"
    }
    begun = [record["rollout"] for record in records if record["event"] == "begin" and record["rollout"] not in refused]
    if not begun:
        return None
    own = [record for record in records if record["rollout"] == begun[-1]]
    first = next(i for i, record in enumerate(own) if record["event"] == "begin")
    last = own[-1]
    steps = [record["step"] for record in own if isinstance(record.get("step"), int)]
    ended = last["event"] == "end"
    return {
        "rollout_id": begun[-1],
        "at": own[first].get("at"),
        "begin": payload(own[first]),
        "events": [_event(record) for record in own[first + 1 :]],
        "step": steps[-1] if steps else None,
        "outcome": last.get("outcome") if ended else None,
        "ended": ended,
    }


def payload(record: Record) -> dict[str, t.Any]:
    return {key: value for key, value in record.items() if key not in FRAME}


def _event(record: Record) -> dict[str, t.Any]:
    return {"seq": record["seq"], "at": record.get("at"), "event": record["event"], **payload(record)}
