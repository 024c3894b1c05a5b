# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What NGINX's access log tells of each server: requests, errors, and how long each answer took. Pure.

NGINX without Plus counts nothing for a server. A log in a format of ours tells of each try of each request where it went and what
became of it; a request that was tried again somewhere else has lists, one element for each try.
"""

from __future__ import annotations

import json
import math
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils._driver import BUCKET, FINEST_MS

FORMAT_NAME = "steady_rollout"
# Lists of what happened at each try are quoted: they may be "-", or "0.001, 0.002". `up`: where it went, `ph`: the upstream's name.
HTTP_FORMAT = (
    '{"t":$msec,"ph":"$proxy_host","up":"$upstream_addr","us":"$upstream_status","uc":"$upstream_connect_time",'
    '"uh":"$upstream_header_time","ur":"$upstream_response_time","st":$status}'
)
STREAM_FORMAT = '{"t":$msec,"up":"$upstream_addr","uc":"$upstream_connect_time","st":$status}'
CLIENT_LEFT = 499


@dataclass
class Counts:
    """Of one server, since its counters began. ``times``: {upper bound in ms: answers}, each answer in one bucket."""

    requests: int = 0
    http_5xx: int = 0
    http_4xx: int = 0
    connect: int = 0
    response: int = 0
    times: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, t.Any]:
        return {**{name: getattr(self, name) for name in NUMBERS}, "times": dict(self.times)}

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Counts:
        return cls(**{name: int(data[name]) for name in NUMBERS}, times=dict(data["times"]))


NUMBERS = ("requests", "http_5xx", "http_4xx", "connect", "response")
# {name of the upstream, or "" where the log does not tell: {address of the server: its counts}}
Tally = dict[str, dict[str, Counts]]


def count(line: bytes, tally: Tally) -> bool:
    """Add what a line tells; False for one that is in no format of ours."""
    try:
        entry = json.loads(line.decode("utf-8", "replace"))
        tried = _elements(entry["up"])
        connects = _elements(entry["uc"])
        is_http = "us" in entry
        statuses, headers, answered = (_elements(entry[key]) for key in ("us", "uh", "ur")) if is_http else ([], [], [])
        final = int(entry["st"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    named = str(entry.get("ph") or "-").lower()
    servers = tally.setdefault("" if named == "-" else named, {})
    for place, address in enumerate(tried):
        if not _is_server(address):
            continue  # the name of the upstream itself: it had no server left to try
        counts = servers.setdefault(address, Counts())
        counts.requests += 1
        # Whoever waited has left: what the server would have said is not known.
        left = final == CLIENT_LEFT and place == len(tried) - 1
        if _at(connects, place) == "-":
            counts.connect += not left
        elif is_http and _at(headers, place) == "-":
            counts.response += not left
        elif is_http:
            status = _at(statuses, place)
            counts.http_5xx += status.startswith("5")
            counts.http_4xx += status.startswith("4")
            _time(counts, _at(answered, place))
    return True


def merged(several: t.Iterable[Counts]) -> Counts:
    """The sum of counts."""
    total = Counts()
    for one in several:
        for name in NUMBERS:
            setattr(total, name, getattr(total, name) + getattr(one, name))
        for bucket, answers in one.times.items():
            total.times[bucket] = total.times.get(bucket, 0) + answers
    return total


def bucket_of(milliseconds: float) -> str:
    """The upper bound of the bucket of a time, in ms: whole ones as nginx tells them, and above FINEST_MS each 5 % after the other."""
    if milliseconds <= FINEST_MS:
        return str(math.ceil(milliseconds - 1e-6))
    steps = math.ceil(math.log(milliseconds / FINEST_MS) / math.log(BUCKET) - 1e-9)
    return f"{FINEST_MS * BUCKET**steps:.2f}"


def _time(counts: Counts, seconds: str) -> None:
    try:
        bucket = bucket_of(1000 * float(seconds))
    except ValueError:
        return
    counts.times[bucket] = counts.times.get(bucket, 0) + 1


def _elements(listed: str) -> list[str]:
    """The tries of a request in their order; those before and after an internal redirect are parted by a colon."""
    return [one for part in listed.split(" : ") for one in part.split(", ") if one] if listed not in ("", "-") else []


def _at(elements: t.Sequence[str], place: int) -> str:
    return elements[place] if place < len(elements) else "-"


def _is_server(address: str) -> bool:
    return address.startswith("unix:") or address.rpartition(":")[2].isdigit()
