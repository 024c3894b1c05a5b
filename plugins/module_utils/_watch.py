# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Watch a track by what the load balancers count: one call for each poll, plain thresholds, no clock and no I/O.

Counters are compared with those of the poll before, for each load balancer and server. They start again when the
load balancer is reloaded, so what a new process has counted is new, and no count ever falls.
No data is never a pass.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.steady.rollout.plugins.module_utils._share import interval, observe

ERRORS = ("http_5xx", "connect", "response")
COUNTERS = ("requests", *ERRORS)
# Up to so many times the rate of errors of the other servers is no worse than they are.
ALIKE = 1.5
DEFAULTS: dict[str, t.Any] = {
    "max_error_rate": 5.0,
    "min_requests": 50,
    "require_requests": False,
    "wanted_percent": 100.0,
    "limited": True,
    "name": "the track",
    "rest_name": "the rest",
}

# A server of a load balancer, (backend, name); and what its counters grew by, in the order of COUNTERS.
Server = tuple[str, str]
Counts = tuple[int, int, int, int]
NONE: Counts = (0, 0, 0, 0)
Times = dict[str, int]  # a histogram of latencies, as _driver has it


@dataclass(frozen=True)
class Verdict:
    """What one poll says. ``state`` is plain data that the next call is given; ``verdict`` is ``going``, ``pass``, ``fail`` or
    ``inconclusive``; ``line`` says for a person how things are, ``reason`` why it ended (empty while going);
    ``share`` is the observed share since the first poll, as ``_share.Observed`` in plain data. ``grown``: by side, what counters of
    its servers grew by in this poll, as [requests, 5xx, failed connections, broken answers]; ``times``: by side, what its histogram of
    latencies did, None where no load balancer tells them."""

    state: dict[str, t.Any]
    verdict: str
    line: str
    reason: str
    share: dict[str, t.Any]
    grown: t.Mapping[str, t.Sequence[int]]
    times: t.Mapping[str, Times] | None = None

    def as_dict(self) -> dict[str, t.Any]:
        """The same as plain data."""
        return asdict(self)


def step(
    state: t.Mapping[str, t.Any],
    reading: t.Mapping[str, t.Any],
    track: t.Collection[t.Sequence[str]],
    settings: t.Mapping[str, t.Any],
    elapsed: float,
    total_seconds: float,
    probe_failures: t.Sequence[str] = (),
    sides: t.Mapping[str, t.Collection[t.Sequence[str]]] | None = None,
) -> Verdict:
    """Take one poll into account.

    ``reading`` maps load balancers to ``{pid, from_zero, servers: [{backend, name, requests, errors, health, status, state}]}``; one
    that could not be read is None or left out. ``track`` holds the (backend, server) pairs that are watched, all other
    servers are the rest. ``settings`` are DEFAULTS and what differs: ``max_error_rate`` in percent of requests,
    ``min_requests`` that a judgement needs, ``require_requests`` (without them the end is inconclusive), ``wanted_percent``,
    ``limited`` (whether the rate of errors is judged here at all), and the words for the two sides. ``state`` is empty at first, then
    what the last call returned. ``sides``: servers whose growth is told one by one for whoever compares them; there what began to count
    anew since the last poll is left out.
    """
    wanted = {**DEFAULTS, **{key: value for key, value in settings.items() if value is not None}}
    mine = {(str(pair[0]), str(pair[1])) for pair in track}
    poll = _Poll(state, reading, mine, sides or {})
    tally = _Tally(state, poll, int(wanted["min_requests"]))
    share = observe(tally.mine[0], tally.mine[0] + tally.rest[0], float(wanted["wanted_percent"]))
    verdict, reason = _judge(poll, tally, wanted, elapsed >= total_seconds, probe_failures)
    line = (
        f"{min(elapsed, total_seconds):.0f} s of {total_seconds:.0f} s: {wanted['name']} {tally.mine[0]} requests, {_errors(tally.mine)} errors"
        f" ({_rate(tally.mine):.1f} %), {wanted['rest_name']} {tally.rest[0]} requests"
    )
    if share.share is not None:
        line += f"; observed share {share.share:.1f} % ({share.low:.1f}-{share.high:.1f} %)"
    return Verdict({**tally.state(), "lbs": poll.state}, verdict, line, reason, share.as_dict(), poll.sides, poll.times)


class _Poll:
    """What one reading adds to those before it."""

    def __init__(
        self,
        state: t.Mapping[str, t.Any],
        reading: t.Mapping[str, t.Any],
        track: set[Server],
        sides: t.Mapping[str, t.Collection[t.Sequence[str]]],
    ) -> None:
        self._side_of = {(str(pair[0]), str(pair[1])): side for side, pairs in sides.items() for pair in pairs}
        self.sides: dict[str, Counts] = dict.fromkeys(sides, NONE)
        self.times: dict[str, Times] | None = None
        self.mine = NONE
        self.rest = NONE
        self.problems: list[str] = []
        self.read_track = False
        self.state: dict[str, t.Any] = dict(state.get("lbs", {}))
        # In an order of their own: what is said must not depend on which load balancer answered first.
        for name in sorted(reading):
            if reading[name]:
                self._take(name, reading[name], track)

    def _take(self, name: str, told: t.Mapping[str, t.Any], track: set[Server]) -> None:
        before: dict[str, t.Any] = self.state.get(name) or {"pid": None, "servers": {}}
        pid = told.get("pid") or before["pid"]
        restarted = before["pid"] not in (None, pid)
        anew = restarted and not told.get("from_zero", True)
        servers = {(str(server["backend"]), str(server["name"])): server for server in told.get("servers") or ()}
        after: dict[str, t.Any] = {}
        for key in sorted(servers):
            known = before["servers"].get("/".join(key))
            counts = _counters(servers[key])
            grown = NONE if anew else _grown(known["counts"] if known else None, counts, restarted)
            side = self._side_of.get(key)
            if side and known and not restarted and not _fell(known["counts"], counts):
                self.sides[side] = _sum(self.sides[side], grown)
            if key in track:
                self.read_track = True
                self.mine = _sum(self.mine, grown)
                self.problems += _problems(name, key, servers[key], known)
            else:
                self.rest = _sum(self.rest, grown)
            after["/".join(key)] = {"counts": counts, "state": servers[key].get("state")}
        for key in sorted(track - set(servers)):
            if "/".join(key) in before["servers"]:
                self.problems.append(f"{'/'.join(key)} is gone from {name}")
        times = self._take_times(before.get("times"), restarted, servers)
        self.state[name] = {"pid": pid, "servers": after, **({"times": times} if times else {})}

    def _take_times(
        self, before: t.Mapping[str, Times] | None, restarted: bool, servers: t.Mapping[Server, t.Mapping[str, t.Any]]
    ) -> dict[str, Times]:
        """The histograms of each side on one load balancer. All begin anew at once, so that sums are enough to tell what they grew by."""
        told = {key: server["latencies"] for key, server in servers.items() if server.get("latencies") is not None}
        if not told:
            return {}
        now: dict[str, Times] = {side: {} for side in self.sides}
        for key, latencies in told.items():
            if key in self._side_of:
                _add(now[self._side_of[key]], latencies)
        self.times = self.times or {side: {} for side in self.sides}
        if before and not restarted:
            for side, times in now.items():
                more = {bound: count - before[side].get(bound, 0) for bound, count in times.items()}
                if all(count >= 0 for count in more.values()):
                    _add(self.times[side], {bound: count for bound, count in more.items() if count})
        return now


class _Tally:
    """The sums since the first poll, and the newest polls that are enough to judge by."""

    def __init__(self, state: t.Mapping[str, t.Any], poll: _Poll, enough: int) -> None:
        self.mine = _sum(state.get("mine", NONE), poll.mine)
        self.rest = _sum(state.get("rest", NONE), poll.rest)
        self.stable = _sum(state.get("stable", NONE), poll.sides.get("stable", NONE))
        self._polls = [counts for counts in (*map(_counts, state.get("polls", ())), poll.mine) if counts != NONE]
        while len(self._polls) > 1 and _attempts(total(self._polls[1:])) >= enough:
            del self._polls[0]
        self.window = total(self._polls)

    def state(self) -> dict[str, t.Any]:
        polls = [list(counts) for counts in self._polls]
        return {"mine": list(self.mine), "rest": list(self.rest), "stable": list(self.stable), "polls": polls}


def _judge(
    poll: _Poll, tally: _Tally, wanted: t.Mapping[str, t.Any], ended: bool, probe_failures: t.Sequence[str]
) -> tuple[str, str]:
    enough, limit, name = int(wanted["min_requests"]), float(wanted["max_error_rate"]), wanted["name"]
    problems = [*poll.problems, *probe_failures]
    if problems:
        return "fail", "; ".join(problems)
    limited = wanted["limited"] and not _as_bad_elsewhere(tally, enough)
    if limited and _attempts(tally.window) >= max(1, enough) and _rate(tally.window) > limit:
        return "fail", _too_many(tally.window, name, limit)
    if not ended:
        return "going", ""
    if not poll.read_track:
        return "inconclusive", f"no load balancer told how {name} does"
    if _attempts(tally.mine) >= enough:
        return (
            "pass",
            f"{_errors(tally.mine)} of {_attempts(tally.mine)} requests to {name} failed ({_rate(tally.mine):.1f} %)",
        )
    # Too few for a rate, but what there is may be bad beyond chance.
    if limited and 100 * interval(_errors(tally.mine), _attempts(tally.mine))[0] > limit:
        return "fail", _too_many(tally.mine, name, limit)
    seen = f"{name} got {tally.mine[0]} requests, and {enough} are needed to judge it"
    return (
        ("inconclusive", seen)
        if wanted["require_requests"]
        else ("pass", f"{name} stayed healthy; {seen} by its errors")
    )


def _as_bad_elsewhere(tally: _Tally, enough: int) -> bool:
    """Whether servers without the release answer about as badly: then it is not the release, and going back would help nobody."""
    known = _attempts(tally.stable) >= max(1, enough)
    return known and _rate(tally.window) <= ALIKE * _rate(tally.stable)


def _too_many(counts: Counts, name: str, limit: float) -> str:
    kinds = {"http_5xx": "5xx answers", "connect": "failed connections", "response": "broken answers"}
    named = ", ".join(f"{counts[1 + place]} {kinds[kind]}" for place, kind in enumerate(ERRORS) if counts[1 + place])
    return (
        f"{_errors(counts)} of {_attempts(counts)} requests to {name} failed ({_rate(counts):.1f} %, at most {limit:g} %"
        f" may): {named}"
    )


def _problems(lb: str, key: Server, server: t.Mapping[str, t.Any], known: t.Mapping[str, t.Any] | None) -> list[str]:
    """What makes a server of the track bad whatever it counted."""
    name = "/".join(key)
    if known and known["state"] == "ready" and server.get("state") != "ready":
        return [f"somebody took {name} out of rotation on {lb}: it is in {server.get('state')}"]
    if server.get("health") == "down":
        return [f"{lb} sees {name} down ({server.get('status') or 'no status'})"]
    return []


# ---------------------------------------------------------------------------------------------------------------------
# Counters


def counted(told: t.Mapping[str, t.Any], places: t.Collection[t.Sequence[str]]) -> Counts:
    """What servers have counted on a load balancer since their counters began. ``told``, ``places``: as in ``step``."""
    wanted = {(str(pair[0]), str(pair[1])) for pair in places}
    servers = [server for server in told["servers"] if (str(server["backend"]), str(server["name"])) in wanted]
    return total(_counts(_counters(server)) for server in servers)


def _counters(server: t.Mapping[str, t.Any]) -> list[int | None]:
    """The counters of a server in the order of COUNTERS; None where it does not tell, as 5xx in TCP mode.

    What was sent on to another server is none of HAProxy's errors, and what was not answered none of its HTTP requests: a server that
    refuses or breaks all would have few requests, and all of them good. So each counts as a request, and as a failed connection or
    a broken answer. Tries on the same server are left out: then each request that fails counts once, however often it was tried.
    """
    told = {"requests": server.get("requests"), **{kind: (server.get("errors") or {}).get(kind) for kind in ERRORS}}
    if isinstance(told["connect"], int):
        told["connect"] += server.get("redispatches") or 0
    is_http = told["http_5xx"] is not None  # in TCP mode a session is counted whatever becomes of it
    if is_http and isinstance(told["requests"], int):
        told["requests"] += (told["connect"] or 0) + (told["response"] or 0)
    return [value if isinstance(value, int) and value >= 0 else None for value in map(told.get, COUNTERS)]


def _grown(before: t.Sequence[int | None] | None, after: t.Sequence[int | None], restarted: bool) -> Counts:
    """What counters grew by. A counter seen for the first time says nothing yet."""
    if restarted:
        return _counts(after)
    if before is None:
        return NONE
    # A process that has another's pid, or counters that somebody cleared.
    if _fell(before, after):
        return _counts(after)
    return _counts([None if old is None or new is None else new - old for old, new in zip(before, after)])


def _fell(before: t.Sequence[int | None], after: t.Sequence[int | None]) -> bool:
    return any(new is not None and old is not None and new < old for old, new in zip(before, after))


def _counts(values: t.Sequence[int | None]) -> Counts:
    requests, http_5xx, connect, response = (value or 0 for value in values)
    return requests, http_5xx, connect, response


def _sum(one: t.Sequence[int], other: t.Sequence[int]) -> Counts:
    return _counts([mine + yours for mine, yours in zip(one, other)])


def requests_and_errors(counts: t.Sequence[int]) -> tuple[int, int]:
    """Of counts in the order of COUNTERS. Where errors are more than requests, by a skew of the counters, all of them failed."""
    requests, *errors = counts
    return max(requests, sum(errors)), sum(errors)


def _add(times: Times, more: t.Mapping[str, int]) -> None:
    for bound, count in more.items():
        times[bound] = times.get(bound, 0) + count


def total(polls: t.Iterable[t.Sequence[int]]) -> Counts:
    """Counts summed up."""
    return _counts([sum(column) for column in zip(NONE, *polls)])


def _errors(counts: Counts) -> int:
    return requests_and_errors(counts)[1]


def _attempts(counts: Counts) -> int:
    return requests_and_errors(counts)[0]


def _rate(counts: Counts) -> float:
    """Errors in percent."""
    return 100 * _errors(counts) / _attempts(counts) if _attempts(counts) else 0.0
