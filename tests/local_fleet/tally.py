# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of requests: which were lost, which were harmed, and the figures of a load. Pure: no I/O.

A request is *lost* when it got no answer, a broken connection, an error made by the load balancer, or an answer that is
cut short or another request's; *harmed* when a bad release itself answered it badly, or killed it by a crash. A WebSocket
is counted apart, by the same words; one that was open and ended before its time is *cut*, too, whoever was at fault.
"""

from __future__ import annotations

import collections
import dataclasses
import typing as t

from local_fleet.incidents import Incidents

OK, LOST, HARMED = "ok", "lost", "harmed"
LIMIT_MS = 5000.0  # an answer that takes longer is a bad one
EXAMPLES = 20
STARVED_MS = 100.0


class Record(t.NamedTuple):
    """One request, as its client saw it. Times are Unix times in seconds, durations milliseconds."""

    due: float
    late_ms: float  # from when it was due to when it was sent: the fault of the generator, not of the LB
    ms: float  # from then, connecting included, to the end of the answer or of the hope for it
    asked_ms: float  # what /slow was asked to take
    lb: str
    method: str
    reused: bool  # sent on a connection that had served before
    request_id: str
    status: int = 0  # 0: no head of an answer came
    release: str | None = None  # X-Release, which only the app sets
    host: str | None = None  # X-Host, likewise
    server: str | None = None  # X-Server, which the LB sets on every answer
    broken: str = ""  # why there is no complete answer to this request
    wrong: str = ""  # what is wrong with the body of an answer to this request


class SocketRecord(t.NamedTuple):
    """One WebSocket, as its client saw it. Times are Unix times in seconds."""

    begun: float
    ended: float
    lb: str
    request_id: str  # of its handshake
    messages: int  # that came back
    status: int = 0  # of the handshake: 101 when it was open, 0 when no answer came
    release: str | None = None
    host: str | None = None
    server: str | None = None
    broken: str = ""  # why it ended before its time, or never was
    wrong: str = ""  # what came back that should not

    @property
    def is_cut(self) -> bool:
        """Whether it was open, and ended in another way than planned."""
        return self.status == 101 and bool(self.broken)


class Outcome(t.NamedTuple):
    """What a request counts as, who harmed it, and why."""

    kind: str
    release: str | None
    host: str | None
    cause: str


@dataclasses.dataclass(frozen=True)
class Terms:
    """What a good answer is: from one of `releases` (empty: any) and within `limit_ms` besides what was asked."""

    releases: t.Collection[str] = ()
    limit_ms: float = LIMIT_MS


def classify(record: Record, incidents: Incidents, terms: Terms) -> Outcome:
    """What one request counts as."""
    if record.broken or record.release is None:
        return _without_an_answer(record, incidents)
    cause = _fault(record, terms)
    return Outcome(HARMED if cause else OK, record.release, record.host, cause)


def classify_socket(record: SocketRecord, incidents: Incidents, terms: Terms) -> Outcome:
    """What one WebSocket counts as: what a request does that saw what its end saw."""
    opened = record.status == 101
    begun = record.ended if opened else record.begun
    request = Record(
        due=begun,
        late_ms=0.0,
        ms=(record.ended - begun) * 1000,
        asked_ms=0.0,
        lb=record.lb,
        method="GET",
        reused=False,
        request_id=record.request_id,
        status=200 if opened else record.status,
        release=record.release,
        host=record.host,
        server=record.server,
        broken=record.broken,
        wrong=record.wrong,
    )
    return classify(request, incidents, terms)


def _without_an_answer(record: Record, incidents: Incidents) -> Outcome:
    """A broken answer, or one that the load balancer made: harmed if a crash did it, else lost."""
    cause = record.broken or f"{record.lb} itself answered {record.status}"
    if record.request_id in incidents.killed:
        killer = incidents.killed[record.request_id]
        return Outcome(HARMED, killer.release, killer.host, f"{cause}: killed by the crash of {killer.host}")
    host = record.host or record.server
    sent = record.due + record.late_ms / 1000
    crash = incidents.crash_of(host, sent, sent + record.ms / 1000)
    # An LB answers 4xx to what it dislikes in the request: no crash does that.
    if crash and (record.broken or record.status >= 500):
        return Outcome(HARMED, crash.release, crash.host, f"{cause}: {crash.host} had crashed")
    return Outcome(LOST, record.release, host, cause)


def _fault(record: Record, terms: Terms) -> str:
    """What is bad about an answer of the app; empty when it is good."""
    if terms.releases and record.release not in terms.releases:
        return f"release {record.release} answered, which is not expected"
    if record.status != 200:
        return f"answered {record.status}"
    if record.wrong:
        return record.wrong
    if record.ms - record.asked_ms > terms.limit_ms:
        return f"took more than {terms.limit_ms:g} ms"
    return ""


@dataclasses.dataclass
class Count:
    """How many requests were sent, and what became of them."""

    sent: int = 0
    ok: int = 0
    lost: int = 0
    harmed: int = 0

    def add(self, kind: str) -> None:
        self.sent += 1
        setattr(self, kind, getattr(self, kind) + 1)


@dataclasses.dataclass
class Sockets(Count):
    """How many WebSockets were begun, and what became of them; `cut` are those of the lost and the harmed that were open."""

    cut: int = 0
    messages: int = 0  # that came back


@dataclasses.dataclass(frozen=True)
class Spread:
    """Percentiles in milliseconds; 0 when there is nothing."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclasses.dataclass
class Summary:
    """The figures of a load. Keys of `per_second` count from the first request; None is an unknown release or server."""

    total: Count
    per_second: dict[int, Count]
    per_release: dict[str | None, Count]
    per_lb: dict[str, Count]
    per_server: dict[str | None, Count]
    statuses: dict[int, int]
    latency: Spread  # of complete answers, less what /slow was asked to take
    lateness: Spread
    seconds: float  # from the first request to the last
    examples: list[dict[str, t.Any]]  # of lost and harmed requests and WebSockets: the first ones of each
    sockets: Sockets = dataclasses.field(default_factory=Sockets)

    @property
    def sent(self) -> int:
        return self.total.sent

    @property
    def ok(self) -> int:
        return self.total.ok

    @property
    def lost(self) -> int:
        return self.total.lost

    @property
    def harmed(self) -> int:
        return self.total.harmed

    @property
    def rate(self) -> float:
        """Requests per second."""
        return (self.sent - 1) / self.seconds if self.seconds > 0 else 0.0

    @property
    def starved(self) -> bool:
        """Whether the generator got too little CPU for its figures to speak about the load balancers."""
        return self.lateness.p99 > STARVED_MS

    def line(self) -> str:
        """The line that a person and the demo read."""
        line = f"requests: {self.sent} sent, {self.lost} lost, {self.harmed} harmed"
        if not self.sockets.sent:
            return line
        told = self.sockets
        return f"{line}; websockets: {told.sent} opened, {told.cut} cut, {told.lost} lost, {told.harmed} harmed"

    def as_dict(self) -> dict[str, t.Any]:
        return {**dataclasses.asdict(self), "rate": self.rate, "starved": self.starved}


def summarise(
    records: t.Sequence[Record], incidents: Incidents, terms: Terms, sockets: t.Sequence[SocketRecord] = ()
) -> Summary:
    """The figures of all requests and WebSockets."""
    first = min((record.due for record in records), default=0.0)
    last = max((record.due for record in records), default=0.0)
    counts: list[dict[t.Any, Count]] = [collections.defaultdict(Count) for _table in range(4)]
    total, statuses = Count(), collections.Counter[int]()
    bad: dict[str, list[dict[str, t.Any]]] = {LOST: [], HARMED: []}
    for record in sorted(records, key=lambda record: record.due):
        outcome = classify(record, incidents, terms)
        total.add(outcome.kind)
        statuses[record.status] += 1
        keys = (int(record.due - first), outcome.release, record.lb, outcome.host)
        for table, key in zip(counts, keys):
            table[key].add(outcome.kind)
        if outcome.kind != OK and len(bad[outcome.kind]) < EXAMPLES:
            bad[outcome.kind].append(_example(record, outcome))
    told = Sockets()
    for socket in sorted(sockets, key=lambda socket: socket.begun):
        outcome = classify_socket(socket, incidents, terms)
        told.add(outcome.kind)
        told.cut += socket.is_cut
        told.messages += socket.messages
        if outcome.kind != OK and len(bad[outcome.kind]) < EXAMPLES:
            bad[outcome.kind].append(_example(socket, outcome))
    return Summary(
        total=total,
        per_second=dict(counts[0]),
        per_release=dict(counts[1]),
        per_lb=dict(counts[2]),
        per_server=dict(counts[3]),
        statuses=dict(statuses),
        latency=spread([record.ms - record.asked_ms for record in records if not record.broken]),
        lateness=spread([record.late_ms for record in records]),
        seconds=last - first,
        examples=[*bad[LOST], *bad[HARMED]],
        sockets=told,
    )


def _example(record: Record | SocketRecord, outcome: Outcome) -> dict[str, t.Any]:
    return {**record._asdict(), **outcome._asdict()}


def spread(values: t.Sequence[float]) -> Spread:
    """Percentiles by nearest rank."""
    if not values:
        return Spread()
    ordered = sorted(values)
    ranks = [ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 95, 99)]
    return Spread(ranks[0], ranks[1], ranks[2], ordered[-1])
