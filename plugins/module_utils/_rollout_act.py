# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The acts of a rollout on one load balancer: each checks who holds the backends, writes down what it is about to do, does it,
and writes down what became of it. A crash leaves an intent without a result, and nothing worse.
"""

from __future__ import annotations

import contextlib
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils import _fence as fence
from ansible_collections.steady.rollout.plugins.module_utils._driver import (
    Changed,
    Driver,
    LoadBalancerError,
    Reading,
    Servers,
)
from ansible_collections.steady.rollout.plugins.module_utils._fence import Records
from ansible_collections.steady.rollout.plugins.module_utils._held import Holder, held_by, point, unpoint
from ansible_collections.steady.rollout.plugins.module_utils._lease import Lease, granted
from ansible_collections.steady.rollout.plugins.module_utils._lease import problem as lease_problem
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError, exclusive
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError
from ansible_collections.steady.rollout.plugins.module_utils._state_dir import unusable

ACTS = ("begin", "note", "look", "shift", "restore", "end")
# What a look tells of each server: a poll is asked for often, of many servers.
LOOKED_AT = (
    "name",
    "backup",
    "state",
    "own_state",
    "weight",
    "health",
    "status",
    "last_check",
    "requests",
    "errors",
    "latencies",
    "times",
    "sessions",
)
NOTED = ("intent", "result", "note")
ROLLOUT_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,100}\Z")

Payload = t.Mapping[str, t.Any]


@dataclass(frozen=True)
class Act:
    """One call. The options of rollout_act of the same names; ``patience``: seconds to wait for other calls to end."""

    act: str
    rollout_id: str
    backends: tuple[str, ...]
    state_dir: str
    patience: float
    record: Payload = field(default_factory=dict)
    results: t.Sequence[Payload] = ()  # of earlier acts, to be written down first
    event: str = "note"
    take_over: t.Sequence[str] = ()
    who: Payload = field(default_factory=dict)
    safe: t.Mapping[str, Payload] = field(default_factory=dict)
    releases: t.Mapping[str, fence.Releases] = field(default_factory=dict)
    servers: t.Mapping[str, t.Sequence[Payload]] = field(default_factory=dict)
    capacity: Payload = field(default_factory=dict)
    outcome: str | None = None
    keep_lock: bool = False
    check_mode: bool = False
    lease: float | None = None  # seconds from now on; None grants none
    reach: Payload = field(default_factory=dict)  # how the guard reaches the load balancer
    reason: str = ""  # why a rollout that is at work is taken over
    planned_on: t.Mapping[str, Payload] = field(
        default_factory=dict
    )  # by backend, the last rollout that was read: {rollout_id, ended}
    abandoned: bool = False  # the guard's own act


@dataclass
class Done:
    """``before``, ``after``, ``out``: by backend. ``lines``: what --diff shows besides servers, as (before, after)."""

    changed: bool = False
    backends: dict[str, Changed] = field(default_factory=dict)
    lines: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reading: Reading | None = None


class Watchdog(t.Protocol):
    """What watches the leases of this load balancer."""

    def ensure(self) -> None:
        """Have it run. Raises StateError when it does not."""

    def dismiss(self) -> None:
        """A lease has ended; it may not be needed any more."""


def perform(act: Act, driver: Driver, watchdog: Watchdog | None = None) -> Done:
    """Raises StateError, and what the driver raises; the text says what was changed before it failed."""
    _check(act, driver)
    if act.check_mode:
        return _foresee(act, driver)
    if act.act == "begin":
        return _begin(act, driver, watchdog)
    if act.act == "end" and _has_ended(act):
        return Done()
    abandoned = act.abandoned or _only_tells(act)
    with fence.fenced(act.state_dir, act.backends, act.rollout_id, act.patience, abandoned) as held:
        done = Done()
        try:
            _keep(act, held, done)
            _grant(act, held, watchdog)
            for records in held:
                for earlier in act.results:
                    records.write("result", act.rollout_id, earlier)
                # /run, where pointers are, does not outlive a reboot.
                point(driver.lock_name(records.backend), act.state_dir, records.backend)
        except StateError as exc:
            if act.act != "restore":
                raise
            done.warnings.append(f"{exc}; the traffic is returned all the same")
        _DO[act.act](act, driver, held, done)
        if act.act != "end":
            _prolong(act, held, done)
    if act.act == "end" and watchdog and not act.lease:
        watchdog.dismiss()
    return done


def _only_tells(act: Act) -> bool:
    """Whether it announces nothing and changes nothing. Whoever may act no more may still say what was done, for whoever comes next."""
    keeps = act.lease is not None or act.safe or act.releases or act.results
    return act.act == "note" and act.event == "note" and not keeps


def _check(act: Act, driver: Driver) -> None:
    if not ROLLOUT_ID.match(act.rollout_id):
        raise StateError(f"rollout_id {act.rollout_id!r} must be 1 to 100 letters, digits and characters of _ . : @ -")
    if not act.backends:
        raise StateError("backends is empty; name the backends of the rollout")
    for backend in act.backends:
        driver.lock_name(backend)
    for option in ("safe", "releases", "servers"):
        strange = [backend for backend in getattr(act, option) if backend not in act.backends]
        if strange:
            raise StateError(f"{option} names backend {', '.join(strange)}, which is not among backends")
    for safe in act.safe.values():
        driver.check_safe(safe)
    if act.lease is not None and lease_problem(act.lease):
        raise StateError(lease_problem(act.lease))
    if act.act == "shift" and not act.servers:
        raise StateError("servers is empty; shift needs the servers to change, by backend")
    for backend, servers in act.servers.items():
        driver.check(backend, servers)


def _keep(act: Act, held: t.Sequence[Records], done: Done) -> None:
    """What must be on disk before anything else happens."""
    for records in held:
        if records.backend in act.safe:
            done.changed |= records.keep_safe(act.rollout_id, act.safe[records.backend])
        if records.backend in act.releases:
            done.changed |= records.keep_releases(act.releases[records.backend])


def _grant(act: Act, held: t.Sequence[Records], watchdog: Watchdog | None) -> None:
    """From here on the guard returns the traffic, unless the next act comes in time."""
    if act.lease is None:
        return
    boot, now = fence.boot_time()
    for records in held:
        records.grant(granted(act.rollout_id, boot, now, act.lease, act.reach))
    if watchdog:
        watchdog.ensure()


def _prolong(act: Act, held: t.Sequence[Records], done: Done) -> None:
    """The lease counts from the end of an act: one that waits long is not to use it up."""
    try:
        _grant(act, held, None)
    except StateError as exc:
        done.warnings.append(str(exc))


# begin


def _begin(act: Act, driver: Driver, watchdog: Watchdog | None) -> Done:
    done = Done()
    with (
        fence.fenced_for_beginning(act.state_dir, act.backends, act.patience) as found,
        contextlib.ExitStack() as stack,
    ):
        for records in found:
            # Calls without a fence that are under way end first; those that come later find the lock.
            _exclude(stack, driver, records.backend, act.patience)
        previous = {records.backend: _admitted(act, driver, records) for records in found}
        leases = {records.backend: records.lease() for records in found}
        safes = {records.backend: records.safe() for records in found}
        for records in found:
            _refuse_outdated(act, records)
            _refuse_theft(act, records, previous[records.backend], leases[records.backend])
        _keep(act, found, done)
        taken: list[Records] = []
        try:
            for records in found:
                taken.append(records)
                watched = {"lease": leases[records.backend], "safe": safes[records.backend]}
                _take(act, driver, records, previous[records.backend], watched, done)
            _grant(act, found, watchdog)
        except StateError:
            for records in taken:
                _give_back(act, driver, records, previous[records.backend], leases[records.backend])
            raise
        if act.lease is None:
            for records in found:
                records.drop_lease()
    return done


def _exclude(stack: contextlib.ExitStack, driver: Driver, backend: str, patience: float) -> None:
    try:
        stack.enter_context(exclusive(driver.lock_name(backend), patience))
    except LockError as exc:
        raise StateError(f"cannot lock backend {backend}: {exc}. Nothing was changed.") from exc


def _admitted(act: Act, driver: Driver, records: Records) -> Holder | None:
    """Who holds the backend now. Raises StateError unless that is nobody, this rollout, or the one that is taken over."""
    holder = records.holder()
    for found in (holder, held_by(driver.lock_name(records.backend), records.backend)):
        if found and found.rollout_id not in (act.rollout_id, *act.take_over):
            raise _refused(found, records.backend)
    return holder


def _refuse_theft(act: Act, records: Records, holder: Holder | None, lease: Lease | None) -> None:
    """A rollout whose lease has not expired is at work: whoever takes it over says why, and that is on record."""
    if holder is None or lease is None or holder.rollout_id == act.rollout_id or holder.abandoned or act.reason:
        return
    left = lease.left(*fence.boot_time())
    if left > 0 and lease.rollout_id == holder.rollout_id:
        raise StateError(
            f"{holder.words()} holds backend {records.backend}, and seems to be at work: the lease of its last act runs for another "
            f"{left:.0f} s. Wait for that, or give the reason to take it over all the same. Nothing was changed."
        )


class Outdated(StateError):
    """What was planned was planned on what is not true any more."""


def _refuse_outdated(act: Act, records: Records) -> None:
    """Between reading and beginning another rollout may have come and gone, or the one to be taken over have ended."""
    if records.backend not in act.planned_on:
        return
    planned, last = act.planned_on[records.backend] or {}, records.rollout() or {}
    known = [(one.get("rollout_id"), bool(one.get("ended"))) for one in (planned, last)]
    moved = "events" in planned and planned["events"] != len(last.get("events") or ())
    if (known[0] != known[1] or moved) and last.get("rollout_id") != act.rollout_id:
        what = f"ended as {last['outcome']}" if last["ended"] else "went on" if known[0] == known[1] else "began"
        raise Outdated(
            f"rollout {last['rollout_id']} {what} on backend {records.backend} after this was planned; run it again. "
            "Nothing was changed."
        )


def _refused(holder: Holder, backend: str) -> StateError:
    return StateError(
        f"{holder.words()} holds backend {backend} on this load balancer. Wait for its end, or take it over. Nothing was changed."
    )


def _take(
    act: Act, driver: Driver, records: Records, previous: Holder | None, watched: t.Mapping[str, t.Any], done: Done
) -> None:
    """``watched``: the lease and the safe state of the one that is taken over."""
    if previous and previous.rollout_id == act.rollout_id and not act.take_over:
        point(driver.lock_name(records.backend), act.state_dir, records.backend)
        return
    holder = Holder(act.rollout_id, fence.now(), act.who)
    record = {**act.record, "who": dict(act.who)}
    if previous:
        lease = watched["lease"]
        record["took_over"] = {
            **previous.as_dict(),
            "reason": act.reason,
            "deployed": _deploys(records, previous.rollout_id),
            "lease": lease.as_dict() if lease else None,
            "safe": watched["safe"],
        }
    records.forget_old_rollouts()
    records.write("begin", act.rollout_id, record)
    point(driver.lock_name(records.backend), act.state_dir, records.backend)
    records.take(holder, driver.lock_name(records.backend))
    done.changed = True
    done.lines.append(_lock_lines(records.backend, previous, holder))


def _deploys(records: Records, rollout_id: str) -> list[t.Any]:
    """The members of each deploy that a rollout announced: more, maybe, than whoever takes it over has read before."""
    last = records.rollout()
    if last is None or last["rollout_id"] != rollout_id:
        return []
    earlier = (last["begin"].get("took_over") or {}).get("deployed") or []
    events = last["events"]
    forward = [one for one in events if one["event"] == "intent" and one.get("mode") != "undo"]
    own = [one["members"] for one in forward if one.get("kind") == "deploy" and one.get("members")]
    return [*earlier, *(group for group in own if group not in earlier)]


def _give_back(act: Act, driver: Driver, records: Records, previous: Holder | None, lease: Lease | None) -> None:
    """As it was before; on a disk that is full as far as it goes, and a lock without its rollout can be taken over."""
    with contextlib.suppress(StateError):
        if lease:
            records.grant(lease)
        else:
            records.drop_lease()
        if previous:
            records.take(previous, driver.lock_name(records.backend))
        else:
            records.release()
            unpoint(driver.lock_name(records.backend))
        records.write("end", act.rollout_id, {"outcome": "refused"})


def _lock_lines(backend: str, before: Holder | None, after: Holder | None) -> tuple[str, str]:
    def text(holder: Holder | None) -> str:
        return f"{backend}: held by {holder.rollout_id if holder else 'nobody'}\n"

    return text(before), text(after)


# The others, all behind the fence


def _note(act: Act, driver: Driver, held: t.Sequence[Records], done: Done) -> None:
    for records in held:
        records.write(act.event, act.rollout_id, act.record)


def _look(act: Act, driver: Driver, held: t.Sequence[Records], done: Done) -> None:
    done.reading = driver.read(act.backends)


def _shift(act: Act, driver: Driver, held: t.Sequence[Records], done: Done) -> None:
    concerned = [records for records in held if records.backend in act.servers]
    _refuse_overload(act, driver)
    for records in concerned:
        records.write("intent", act.rollout_id, {**act.record, "act": "shift", "servers": act.servers[records.backend]})
    for records in concerned:
        try:
            done.backends[records.backend] = driver.change(records.backend, act.servers[records.backend])
        except LoadBalancerError as exc:
            failed = concerned[len(done.backends) :]
            _write_results(act, concerned, {one.backend: str(exc) for one in failed})
            raise LoadBalancerError(_with_changed(str(exc), done)) from exc
    done.changed |= any(changed.changed for changed in done.backends.values())
    _write_results(act, concerned, {})


def _refuse_overload(act: Act, driver: Driver) -> None:
    """Judged on what is true now: since the plan was made servers may have gone down, or traffic have grown."""
    if not act.capacity:
        return
    # Only here, as it is compiled anew at every call.
    from ansible_collections.steady.rollout.plugins.module_utils._capacity import changing

    reading = driver.read(list(act.servers))
    for backend, told in act.servers.items():
        base: Payload = act.capacity["base"].get(backend, {})
        changes = {
            one["name"]: {name: one[name] for name in ("weight", "state") if one.get(name) is not None} for one in told
        }
        servers = {
            one["name"]: {**one, "base": base.get(one["name"])}
            for one in reading.backends[backend]["servers"]
            if one["name"] in base or one["name"] in changes
        }
        problem = changing(servers, changes, act.capacity["min_percent"], act.capacity["headroom_percent"])
        if problem:
            raise LoadBalancerError(f"Backend {backend}: {problem} Nothing was changed.")


def _restore(act: Act, driver: Driver, held: t.Sequence[Records], done: Done) -> None:
    """Every backend, whatever becomes of the others, and of the record: nothing is worth more than the traffic."""
    for records in held:
        try:
            records.write("intent", act.rollout_id, {**act.record, "act": "restore"})
        except StateError as exc:
            done.warnings.append(f"{exc}; the traffic is returned all the same")
    errors: dict[str, str] = {}
    for records in held:
        try:
            done.backends[records.backend] = driver.restore(records.backend, _safe(records))
        except (LoadBalancerError, StateError) as exc:
            errors[records.backend] = str(exc)
    done.changed |= any(changed.changed for changed in done.backends.values())
    out = {backend: changed.out for backend, changed in done.backends.items() if changed.out}
    try:
        _write_results(act, held, errors, out)
    except StateError as exc:
        done.warnings.append(str(exc))
    if errors:
        problems = "; ".join(f"backend {backend}: {text.rstrip('.')}" for backend, text in errors.items())
        raise LoadBalancerError(_with_changed(f"not restored: {problems}.", done))


def _safe(records: Records) -> Payload:
    safe = records.safe()
    if safe is None:
        raise StateError(f"no safe state was recorded for backend {records.backend}, so there is nothing to go back to")
    servers: Payload = safe["servers"]
    return servers


def _write_results(
    act: Act, held: t.Sequence[Records], errors: t.Mapping[str, str], out: t.Mapping[str, t.Any] | None = None
) -> None:
    for records in held:
        error = errors.get(records.backend)
        result: dict[str, t.Any] = {**act.record, "act": act.act, "ok": error is None, "error": error}
        if act.act == "restore":
            result["out"] = (out or {}).get(records.backend, {})
        try:
            records.write("result", act.rollout_id, result)
        except StateError as exc:
            what = error or f"backend {records.backend} was changed as asked"
            raise StateError(f"{what}; and this could not be written down: {exc}") from exc


def _with_changed(text: str, done: Done) -> str:
    changed = [backend for backend, one in done.backends.items() if one.changed]
    return f"{text} Backend {', '.join(changed)} was changed before that, and stays so." if changed else text


def _end(act: Act, driver: Driver, held: t.Sequence[Records], done: Done) -> None:
    for records in held:
        holder = records.holder()
        took = ((records.rollout() or {}).get("begin") or {}).get("took_over") if act.outcome == "refused" else None
        records.write("end", act.rollout_id, {**act.record, "outcome": act.outcome})
        if took:
            previous = _hand_back(records, took, driver.lock_name(records.backend))
            done.lines.append(_lock_lines(records.backend, holder, previous))
            continue
        if not (act.keep_lock and act.lease):
            records.drop_lease()
        if not act.keep_lock:
            records.release()
            unpoint(driver.lock_name(records.backend))
            done.lines.append(_lock_lines(records.backend, holder, None))
    done.changed = done.changed or not act.keep_lock


def _hand_back(records: Records, took: Payload, name: str) -> Holder:
    """A take-over that did not come about leaves the lock, its lease and what is safe as they were."""
    previous = Holder(str(took["rollout_id"]), str(took["since"]), dict(took["who"]), str(took.get("abandoned") or ""))
    if took.get("safe"):
        records.keep_safe(str(took["safe"]["rollout_id"]), took["safe"]["servers"])
    records.take(previous, name)
    if took.get("lease"):
        records.grant(Lease.from_dict(took["lease"]))
    else:
        records.drop_lease()
    return previous


def _has_ended(act: Act) -> bool:
    """Whether an earlier call has ended this rollout already, on every backend."""
    return all(_ended_here(act, backend) for backend in act.backends)


def _ended_here(act: Act, backend: str) -> bool:
    with fence.looked_at(act.state_dir, backend) as records:
        if records is None or records.holder():
            return False
        last = records.rollout()
    return last is not None and last["rollout_id"] == act.rollout_id and bool(last["ended"])


_DO: dict[str, t.Callable[[Act, Driver, t.Sequence[Records], Done], None]] = {
    "note": _note,
    "look": _look,
    "shift": _shift,
    "restore": _restore,
    "end": _end,
}


# Check mode: no rollout has begun, as begin has changed nothing


def _foresee(act: Act, driver: Driver) -> Done:
    done = Done()
    if act.act == "begin":
        for backend in act.backends:
            _foresee_begin(act, driver, backend, done)
        return done
    fence.foresee(act.state_dir, act.backends, act.rollout_id)
    for backend in act.backends:
        if act.act == "shift" and backend in act.servers:
            done.backends[backend] = driver.change(backend, act.servers[backend])
        elif act.act == "restore":
            safe = act.safe.get(backend) or _recorded_safe(act, backend)
            if safe is not None:
                done.backends[backend] = driver.restore(backend, safe)
    done.changed = any(changed.changed for changed in done.backends.values())
    return done


def _foresee_begin(act: Act, driver: Driver, backend: str, done: Done) -> None:
    problem = unusable(act.state_dir, backend)
    if problem:
        raise StateError(f"{problem}. Nothing was changed.")
    with fence.looked_at(act.state_dir, backend) as records:
        previous = _admitted(act, driver, records) if records else None
    elsewhere = held_by(driver.lock_name(backend), backend)
    if elsewhere and elsewhere.rollout_id not in (act.rollout_id, *act.take_over):
        raise _refused(elsewhere, backend)
    if not (previous and previous.rollout_id == act.rollout_id and not act.take_over):
        done.changed = True
        done.lines.append(_lock_lines(backend, previous, Holder(act.rollout_id, "", {})))


def _recorded_safe(act: Act, backend: str) -> Payload | None:
    with fence.looked_at(act.state_dir, backend) as records:
        return _safe(records) if records and records.safe() else None


# What the module returns


def result(done: Done) -> dict[str, t.Any]:
    several = done.backends.items()
    before = "".join(line for line, _after in done.lines)
    after = "".join(line for _before, line in done.lines)
    processes = [changed.process for changed in done.backends.values()]
    doubtful = [changed for changed in done.backends.values() if changed.survives_reload is not True]
    lost = [changed for changed in doubtful if changed.survives_reload is False]
    looked = done.reading.backends if done.reading else {}
    if done.reading:
        processes = [done.reading.process]
    return {
        "changed": done.changed,
        "backends": {
            backend: {"servers": [{name: server.get(name) for name in LOOKED_AT} for server in found["servers"]]}
            for backend, found in looked.items()
        },
        "before": {backend: changed.before for backend, changed in several},
        "after": {backend: changed.after for backend, changed in several},
        "diff": {
            "before": before + "".join(_lines(backend, changed.before) for backend, changed in several),
            "after": after + "".join(_lines(backend, changed.after) for backend, changed in several),
        },
        "cut_sessions": sum(changed.cut for changed in done.backends.values()),
        "out": {backend: changed.out for backend, changed in several if changed.out},
        "process": processes[-1] if processes else None,
        "survives_reload": False if lost else None if doubtful or not done.backends else True,
        "survives_reload_reason": (lost or doubtful)[0].survives_reload_reason if doubtful else "",
    }


def _lines(backend: str, servers: Servers) -> str:
    return "".join(f"{backend}/{one['name']}: weight {one['weight']}, {one['state']}\n" for one in servers)
