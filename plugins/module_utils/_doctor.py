# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What is wrong with the load balancers of a fleet, their records, and the rollouts they tell of: from readings to findings. Pure.

What cannot be known is never taken for good. A repair is offered only where nobody can still be at work: a lock whose rollout has
ended, and servers that the records of all load balancers want in rotation, and that are seen healthy.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.steady.rollout.plugins.module_utils import _forward_only, _haproxy_doctor, _nginx_doctor
from ansible_collections.steady.rollout.plugins.module_utils._duration import spelled
from ansible_collections.steady.rollout.plugins.module_utils._finding import (
    ERROR,
    NOTE,
    SEVERITIES,
    WARNING,
    Answer,
    Finding,
    Needs,
    Seen,
    are,
    some,
)
from ansible_collections.steady.rollout.plugins.module_utils._fleet import carries
from ansible_collections.steady.rollout.plugins.module_utils._rollout_state import waits
from ansible_collections.steady.rollout.plugins.module_utils._state import folder_name

# After these a rollout needs its lock no more. After rollback_failed and paused it keeps it.
FINISHED = ("promoted", "rolled_back")
# With these a load balancer does not tell what else is wrong there.
UNSEEN = ("silent-load-balancer", "configuration-unread", "record-unusable")
ROLLBACK = "Take it back: ansible-playbook -i INVENTORY steady.rollout.rollback -e rollout_hosts=FLEET"

Findings = t.Iterator[Finding]


@dataclass(frozen=True)
class Fleet:
    """All that was read. ``silent_hosts``: hosts that did not answer, each with why; ``absent``: load balancers left out by the user."""

    lbs: tuple[Seen, ...]
    backends: tuple[str, ...]
    needs: Needs
    silent_hosts: t.Mapping[str, str]
    absent: tuple[str, ...] = ()

    @property
    def read(self) -> list[Seen]:
        return [lb for lb in self.lbs if lb.reading is not None]


def judge(fleet: Fleet) -> list[Finding]:
    """Everything, the worst first."""
    findings = [*_silent(fleet)]
    for backend in fleet.backends:
        findings += _records(fleet, backend)
        findings += _disagreements(fleet, backend)
        findings += _rotation(fleet, backend)
        findings += _releases(fleet, backend)
    let_in = {(one.lb, one.backend): one.servers for one in findings if one.repair and one.servers}
    for lb in fleet.read:
        if lb.provider != "haproxy":
            findings += _nginx_doctor.judge(lb)
            continue
        findings += _haproxy_doctor.judge(lb, fleet.needs)
        for backend in fleet.backends:
            claimed = _claimed(fleet, backend)
            findings += _haproxy_doctor.lagging(lb, backend, claimed, let_in.get((lb.name, backend), ()))
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def with_repaired(
    before: t.Sequence[Finding], now: t.Sequence[Finding], failures: t.Mapping[tuple[str, str], str]
) -> list[Finding]:
    """What is left after the repairs, and what they mended. ``failures``: {(lb, backend): why a repair failed there}."""
    unseen = {one.lb for one in now if one.code in UNSEEN}
    gone = [one for one in before if one.repair and not any(one.is_same(other) for other in now)]
    # Of what cannot be seen any more nobody knows whether it was mended.
    mended = [replace(one, repaired=one.lb not in unseen) for one in gone]
    return [*mended, *(_with_failure(one, failures) for one in now)]


def _with_failure(finding: Finding, failures: t.Mapping[tuple[str, str], str]) -> Finding:
    why = failures.get((str(finding.lb), str(finding.backend)))
    if not finding.repair or why is None:
        return finding
    return replace(finding, problem=f"{finding.problem}; the repair failed: {why.rstrip('.')}")


def is_well(findings: t.Sequence[Finding]) -> bool:
    return all(finding.repaired or finding.severity == NOTE for finding in findings)


# ---------------------------------------------------------------------------------------------------------------------
# who answered


def _silent(fleet: Fleet) -> Findings:
    for lb in fleet.lbs:
        if lb.reading is None:
            problem = (
                f"it does not tell how it stands, and a rollout does not start without it: {lb.problem.rstrip('.')}"
            )
            remedy = "Mend it, or leave it out with rollout_absent_lbs while it is down"
            yield Finding("silent-load-balancer", ERROR, problem, remedy, lb.name)
    for name in fleet.absent:
        problem = f"load balancer {name} was not looked at, as rollout_absent_lbs names it"
        yield Finding("absent-load-balancer", NOTE, problem, "Take it out of there once it is back", name)
    if fleet.silent_hosts:
        hosts = list(fleet.silent_hosts)
        problem = (
            f"{some(hosts)} {are(hosts, 'does', 'do')} not answer, and a rollout needs the whole fleet: "
            f"{fleet.silent_hosts[hosts[0]].rstrip('.')}"
        )
        yield Finding("silent-host", ERROR, problem, "Mend the connection, or take the host out of the inventory")


# ---------------------------------------------------------------------------------------------------------------------
# locks, leases, guards


def _ended(fleet: Fleet, rollout_id: str) -> tuple[Seen, str, str] | None:
    """Where, in which backend and as what a rollout came to its end; one end counts for all load balancers."""
    for lb in fleet.read:
        for backend in fleet.backends:
            last = lb.record(backend).get("rollout") or {}
            if last.get("rollout_id") == rollout_id and last.get("ended") and last.get("outcome") in FINISHED:
                return lb, backend, last["outcome"]
    return None


def _standing(fleet: Fleet, record: Answer) -> str:
    """free | stale (its rollout has ended) | unknown (no rollout is recorded for the lock) | live (by its lease) | open"""
    lock, last = record.get("lock"), record.get("rollout") or {}
    if not lock:
        return "free"
    own = last.get("rollout_id") == lock["rollout_id"]
    # A rollout that goes on after its end was ended everywhere, and begins on one load balancer after the other.
    if _left(record.get("lease") or {}) > 0 and own and not last.get("ended") and not lock.get("abandoned"):
        return "live"
    if _ended(fleet, lock["rollout_id"]):
        return "stale"
    return "open" if own else "unknown"


def _claimed(fleet: Fleet, backend: str) -> bool:
    return any(_standing(fleet, lb.record(backend)) not in ("free", "stale") for lb in fleet.read)


def _is_live(fleet: Fleet, backend: str) -> bool:
    return any(_standing(fleet, lb.record(backend)) == "live" for lb in fleet.read)


def _records(fleet: Fleet, backend: str) -> Findings:
    for lb in fleet.read:
        record = lb.record(backend)
        if record.get("problem"):
            problem = f"its record cannot be used, so that a rollout is refused: {str(record['problem']).rstrip('.')}"
            remedy = f"Mend {lb.state_dir}/{folder_name(backend)} as that says"
            yield Finding("record-unusable", ERROR, problem, remedy, lb.name, backend)
        yield from _lock(fleet, lb, backend, record)
        yield from _guard(fleet, lb, backend, record)


def _lock(fleet: Fleet, lb: Seen, backend: str, record: Answer) -> Findings:
    standing = _standing(fleet, record)
    if standing == "free":
        yield from _without_lock(fleet, lb, backend, record)
        return
    lock, last = record["lock"], record.get("rollout") or {}
    rollout = f"rollout {lock['rollout_id']} ({_who(lock)})"
    at = lb.name, backend
    closed = _ended(fleet, lock["rollout_id"])
    if standing == "stale" and closed:
        yield _stale(fleet, lb, backend, closed)
    elif standing == "unknown":
        problem = f"{rollout} holds the lock and is in no record, so that every other rollout is refused for ever"
        path = f"{lb.state_dir}/{folder_name(backend)}/lock"
        yield Finding("lock-without-record", ERROR, problem, f"Once no run is under way: rm {path}", *at)
    elif standing == "live":
        left = spelled(_left(record["lease"]))
        problem = (
            f"{rollout} is under way, its lease lasts {left} more, so that what is found here may change at any moment"
        )
        yield Finding("in-progress", NOTE, problem, "Wait for its end", *at)
    elif lock.get("abandoned"):
        problem = f"{rollout} was abandoned and waits for a decision: {str(lock['abandoned']).rstrip('.')}"
        yield Finding("abandoned", ERROR, problem, _way_on(last), *at)
    elif last and waits(last):
        problem = f"{rollout} waits to be promoted, and every other rollout is refused as long"
        words = [
            f"Run the playbook steady.rollout.promote, or: {_lowered(ROLLBACK)}",
            _forward_only.gone_back(_gone(last)),
        ]
        yield Finding("paused", NOTE, problem, ". ".join(word for word in words if word), *at)
    elif last.get("ended"):
        problem = f"{rollout} ended as {last.get('outcome')} and keeps the lock, so that every other rollout is refused"
        severity = WARNING if last.get("outcome") == "paused" else ERROR
        yield Finding("ended-unsettled", severity, problem, _way_on(last), *at)
    else:
        lease = record.get("lease")
        since = f"; its lease: {_lease_words(lease)}" if lease else ""
        problem = f"{rollout} did not end{_last_sign(last)}{since}, and every other rollout is refused as long"
        severity = ERROR if lease else WARNING
        yield Finding("unfinished", severity, problem, f"If no run of it is under way: {_lowered(_way_on(last))}", *at)


def _gone(last: Answer) -> tuple[str, ...]:
    """What a rollout did that cannot be taken back."""
    return _forward_only.of_records([last]) if last else ()


def _way_on(last: Answer) -> str:
    """What to do with a rollout that came to no end; taken back without a word it would run a release on what that does not know."""
    gone = _gone(last)
    if not gone:
        return ROLLBACK
    words = _forward_only.held(gone)[1]
    return words[0].upper() + words[1:]


def _without_lock(fleet: Fleet, lb: Seen, backend: str, record: Answer) -> Findings:
    last = record.get("rollout") or {}
    if not last or last.get("ended"):
        return
    ended = _ended(fleet, last["rollout_id"])
    if ended:
        problem = (
            f"the record of rollout {last['rollout_id']} was not closed here; it ended as {ended[2]} on {ended[0].name}"
        )
        yield Finding(
            "record-open", NOTE, problem, "Nothing to do: the next rollout begins a new one", lb.name, backend
        )
    else:
        problem = f"rollout {last['rollout_id']} did not end{_last_sign(last)}, and holds no lock, so that its traffic may be half-shifted"
        yield Finding("unfinished", WARNING, problem, _way_on(last), lb.name, backend)


def _stale(fleet: Fleet, lb: Seen, backend: str, closed: tuple[Seen, str, str]) -> Finding:
    """``closed``: where the rollout came to its end, as `_ended` tells it."""
    record = lb.record(backend)
    lock, last = record["lock"], record.get("rollout") or {}
    where, where_backend, outcome = closed
    own = last.get("rollout_id") == lock["rollout_id"] and last.get("ended")
    repair: dict[str, t.Any] | None = {
        "kind": "release",
        "rollout_id": lock["rollout_id"],
        "outcome": outcome,
        "safe": {},
    }
    if not own:
        # What was safe while it ran is not what is safe now; that is known where it ended, if both are as they were left.
        safe = where.record(backend).get("safe") or {}
        agree = not _differing(fleet, backend) and where_backend == backend
        if not agree or safe.get("rollout_id") != lock["rollout_id"]:
            repair = None
        else:
            repair = {**(repair or {}), "safe": {backend: safe["servers"]}}
    there = "" if own else f" on {where.name}"
    return Finding(
        "stale-lock",
        ERROR,
        f"rollout {lock['rollout_id']} ({_who(lock)}) ended as {outcome}{there} and still holds the lock, so that every other rollout is refused",
        f"Free it: steady.rollout.rollout_act with act: end and rollout_id: {lock['rollout_id']}"
        if repair
        else ROLLBACK,
        lb.name,
        backend,
        repair=repair,
    )


def _guard(fleet: Fleet, lb: Seen, backend: str, record: Answer) -> Findings:
    """``guard``: running, missing, or null where there is no telling."""
    lease, guard = record.get("lease"), record.get("guard")
    if lease and guard == "missing":
        problem = (
            f"rollout {lease.get('rollout_id')} has a lease and no guard runs that would return the traffic when it expires "
            f"({_lease_words(lease)})"
        )
        yield Finding("guard-missing", ERROR, problem, ROLLBACK, lb.name, backend)
    elif guard == "running" and _standing(fleet, record) in ("free", "stale"):
        problem = "a guard runs though no rollout is under way, and could return traffic to a state that is past"
        yield Finding(
            "guard-orphaned",
            WARNING,
            problem,
            "Stop it: systemctl list-units 'steady-rollout*' shows it",
            lb.name,
            backend,
        )
    if lease and not record.get("lock"):
        problem = f"rollout {lease.get('rollout_id')} left a lease behind and holds no lock ({_lease_words(lease)})"
        yield Finding("lease-orphaned", WARNING, problem, ROLLBACK, lb.name, backend)


def _left(lease: Answer) -> float:
    """Seconds; a lease that does not tell is over."""
    return float(lease.get("left") or 0)


def _lease_words(lease: Answer) -> str:
    left = _left(lease)
    return f"{spelled(left)} left" if left > 0 else f"expired {spelled(-left)} ago" if left else "expired"


def _who(lock: Answer) -> str:
    who = ", ".join(f"{key} {value}" for key, value in (lock.get("who") or {}).items() if value not in (None, ""))
    return f"{who}, since {lock['since']}" if who else f"since {lock['since']}"


def _last_sign(last: Answer) -> str:
    events = last.get("events") or ()
    at = events[-1].get("at") if events else last.get("at")
    step = "" if last.get("step") is None else f"step {last['step'] + 1}, "
    return f" ({step}last record at {at})"


# ---------------------------------------------------------------------------------------------------------------------
# weights and states


def _differing(fleet: Fleet, backend: str) -> dict[str, str]:
    """The servers that the load balancers have otherwise than each other, with how."""
    known = {lb.name: lb.servers(backend) for lb in fleet.read}
    names = list(dict.fromkeys(name for servers in known.values() for name in servers))
    found = {}
    for name in names:
        told = {lb: _standing_of(servers.get(name)) for lb, servers in known.items()}
        weights = [servers[name] for servers in known.values() if name in servers]
        # Where each has the weight of its own configuration, or of its agent, that was meant so.
        as_meant = all(one["weight"] == one["initial_weight"] or one["agent"] for one in weights)
        if len({state if as_meant else (state, weight) for state, weight in told.values()}) > 1:
            found[name] = ", ".join(f"{lb} has it {_state_words(*state)}" for lb, state in told.items())
    return found


def _standing_of(server: Answer | None) -> tuple[str, int | None]:
    return (server["own_state"], server["weight"]) if server else ("not at all", None)


def _state_words(state: str, weight: int | None) -> str:
    return state if weight is None else f"{'ready' if state == 'ready' else f'in {state}'} with weight {weight}"


def _disagreements(fleet: Fleet, backend: str) -> Findings:
    found = _differing(fleet, backend)
    if not found:
        return
    names = list(found)
    claimed, live = _claimed(fleet, backend), _is_live(fleet, backend)
    problem = (
        f"the load balancers disagree on {some(names)}, so that the traffic depends on which one a client meets: {names[0]}: "
        f"{found[names[0]]}"
    )
    severity = NOTE if live else WARNING if claimed else ERROR
    remedy = (
        "Wait for the rollout that is under way"
        if live
        else ROLLBACK
        if claimed
        else _set_line(fleet, backend, names[0])
    )
    yield Finding("half-shifted", severity, problem, remedy, None, backend, tuple(names))


def _set_line(fleet: Fleet, backend: str, name: str) -> str:
    return f"Set it alike on all: {fleet.read[0].told(backend, name, 'ready')}, or drain, and its weight"


def _rotation(fleet: Fleet, backend: str) -> Findings:
    """Servers that are not where the record wants them, while no rollout moves them."""
    if _claimed(fleet, backend):
        return
    for lb in fleet.read:
        safe = lb.record(backend).get("safe")
        out = [name for name, server in lb.servers(backend).items() if not carries(server)]
        if out and not safe:
            problem = f"{some(out)} {are(out)} out of rotation, and no record says whether that is meant"
            remedy = f"If not: {lb.told(backend, out[0], 'ready')}"
            yield Finding("out-unrecorded", NOTE, problem, remedy, lb.name, backend, tuple(out))
        elif safe:
            yield from _against_record(fleet, lb, backend, safe, out)


def _against_record(fleet: Fleet, lb: Seen, backend: str, safe: Answer, out: t.Sequence[str]) -> Findings:
    servers = lb.servers(backend)
    unclaimed = [name for name in out if _wanted(safe, name)]
    ready = [name for name in unclaimed if _may_return(fleet, lb, backend, name)]
    for names, may in ((ready, True), ([name for name in unclaimed if name not in ready], False)):
        if not names:
            continue
        first = servers[names[0]]
        problem = (
            f"{some(names)} {are(names)} out of rotation ({_state_words(first['own_state'], first['weight'])}, {first['status'] or first['health']}), "
            f"though no rollout holds the backend and the record of {safe['rollout_id']} has {are(names, 'it', 'them')} carry"
        )
        remedy = f"Let in: {lb.told(backend, names[0], 'ready')}" if may else _why_not(fleet, lb, backend, names[0])
        change = {
            "kind": "change",
            "servers": [
                {"name": name, "weight": safe["servers"][name].get("weight"), "state": "ready"} for name in names
            ],
        }
        yield Finding(
            "out-unclaimed", WARNING, problem, remedy, lb.name, backend, tuple(names), repair=change if may else None
        )
    extra = [
        name
        for name, server in servers.items()
        if carries(server) and name in safe["servers"] and not _wanted(safe, name)
    ]
    if extra:
        problem = (
            f"{some(extra)} {are(extra, 'carries', 'carry')} traffic, though the record of {safe['rollout_id']} has "
            f"{are(extra, 'it', 'them')} out of rotation"
        )
        remedy = f"If that is not meant: {lb.told(backend, extra[0], 'drain')}"
        yield Finding("in-against-record", WARNING, problem, remedy, lb.name, backend, tuple(extra))


def _wanted(safe: Answer, name: str) -> bool:
    """Whether a record has the server carry traffic."""
    target = safe["servers"].get(name) or {}
    return bool(target.get("state") == "ready" and target.get("weight") != 0)


def _may_return(fleet: Fleet, lb: Seen, backend: str, name: str) -> bool:
    """In maint HAProxy does not look, and somebody may be at work there: only what is seen healthy comes back."""
    server = lb.servers(backend)[name]
    meant = _wanted_everywhere(fleet, backend, name) and not _is_locked(fleet, backend)
    return meant and server["state"] != "maint" and bool(server["settled"])


def _wanted_everywhere(fleet: Fleet, backend: str, name: str) -> bool:
    """By the record of every load balancer; one that is silent or absent may say otherwise."""
    told = [lb.record(backend).get("safe") for lb in fleet.lbs]
    return not fleet.absent and all(safe is not None and _wanted(safe, name) for safe in told)


def _is_locked(fleet: Fleet, backend: str) -> bool:
    """Also by a rollout that has ended elsewhere: then this record may be older than its end."""
    return any(lb.record(backend).get("lock") for lb in fleet.read)


def _why_not(fleet: Fleet, lb: Seen, backend: str, name: str) -> str:
    server = lb.servers(backend)[name]
    if server["state"] == "maint":
        line = lb.told(backend, name, "drain")
        return f"Not touched, as HAProxy does not check it in maint; if nobody works there: {line}, then look again"
    if server["state"] == "down":
        return f"Not touched, as nobody checks it; if it answers, and nobody works there: {lb.told(backend, name, 'ready')}"
    if _is_locked(fleet, backend):
        return "Not touched while a lock is left behind; free that first, then look again"
    if not _wanted_everywhere(fleet, backend, name):
        return "Not touched, as not every load balancer has a record that says so; let it in with tasks_from: admit"
    return "Not touched, as its checks do not pass; see why it is not UP"


# ---------------------------------------------------------------------------------------------------------------------
# releases


def _releases(fleet: Fleet, backend: str) -> Findings:
    """Records that differ: a rollout takes such a release as unknown, and cannot undo."""
    known = {lb.name: lb.record(backend).get("releases") or {} for lb in fleet.read}
    names = list(dict.fromkeys(name for releases in known.values() for name in releases))
    groups: dict[tuple[str, tuple[tuple[str, str | None], ...]], list[str]] = {}
    for name in names:
        keys = dict.fromkeys(key for releases in known.values() for key in releases.get(name) or {})
        for key in keys:
            told = tuple((lb, (releases.get(name) or {}).get(key)) for lb, releases in known.items())
            if len({release for _lb, release in told}) > 1:
                groups.setdefault((key, told), []).append(name)
    for (key, told), servers in groups.items():
        each = ", ".join(f"{lb} {release or 'nothing'}" for lb, release in told)
        problem = f"the records differ on what {key} put on {some(servers)} ({each}), so that a rollout could not undo {are(servers, 'it', 'them')}"
        remedy = "Release it once more with -e rollout_force=true, or name what runs with rollout_previous"
        severity = NOTE if _is_live(fleet, backend) else WARNING
        yield Finding("releases-differ", severity, problem, remedy, None, backend, tuple(servers))


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
