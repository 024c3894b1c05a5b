# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Where every backend stands: from two readings of the load balancers, and their records, to a report, and to its lines. Pure.

Nothing here is refused: what cannot be read or made sense of is a reason in the report. What is wanted of a server follows
from the record of the last rollout; where there is none it is None, and then only what is wrong by itself is told.
"""

from __future__ import annotations

import calendar
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.steady.rollout.plugins.module_utils import _fleet
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad, why
from ansible_collections.steady.rollout.plugins.module_utils._duration import spelled
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    FORWARD,
    UNDO,
    LoadBalancer,
    Run,
    end_state,
    expected_at,
    is_in,
    shifts,
)
from ansible_collections.steady.rollout.plugins.module_utils._fleet import FleetError, carries
from ansible_collections.steady.rollout.plugins.module_utils._plan import Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, listed
from ansible_collections.steady.rollout.plugins.module_utils._recovery import Recovery, back_from
from ansible_collections.steady.rollout.plugins.module_utils._rollout_state import state_of, waits
from ansible_collections.steady.rollout.plugins.module_utils._targets import Targets

HEALTHY, IN_PROGRESS, NEEDS_ATTENTION = "healthy", "in_progress", "needs_attention"
# How many events of the journal are told.
EVENTS = 5
# Where no lease tells whether anybody works on a rollout: how long it may be silent beyond what its step waits.
SILENCE_SECONDS = 1800.0
# A rollout begins and ends on one load balancer after the other: for so long after an event they may differ.
FLUX_SECONDS = 30.0

ROLL_BACK = "run the playbook steady.rollout.rollback"
RESUME = "the same command as before with -e rollout_action=resume"
ADMIT = "let it in with the role steady.rollout.rollout, tasks_from: admit, or release again"
DRAIN = "take it out with the role steady.rollout.rollout, tasks_from: drain, or release again"

Answer = t.Mapping[str, t.Any]
Results = t.Sequence[Answer]
Reason = dict[str, str]  # {what, do}


class UnreadableError(Exception):
    """A record that is not what a rollout writes."""


def report(targets: Targets, before: Results, answers: Results, now: float) -> dict[str, t.Any]:
    """{status, reasons, load_balancers, backends}, as plain data.

    ``answers``: what rollout_info returned for each load balancer, with records; ``before``: the same some seconds earlier,
    for what requests went where, and for load balancers that then were not asked again. ``now``: seconds since the epoch.
    """
    first, second = _by_lb(before), _by_lb(answers)
    told = {lb.name: second.get(lb.name) or first.get(lb.name) for lb in targets.lbs}
    readings = {name: answer for name, answer in told.items() if answer and not bad(answer) and "backends" in answer}
    silent = {name: _silence(answer) for name, answer in told.items() if name not in readings}
    reasons = [
        _reason(
            f"{name} does not answer: {problem}",
            "mend it; until then nothing is known of it (a rollout may leave it out with rollout_absent_lbs)",
        )
        for name, problem in silent.items()
    ]
    backends, in_progress = {}, False
    for backend in targets.backends:
        view = _view(targets, backend, readings, reasons)
        backends[backend] = _backend(view, first, reasons, now)
        in_progress = in_progress or view.in_progress or _in_flux(view, now)
    return {
        "status": NEEDS_ATTENTION if reasons else IN_PROGRESS if in_progress else HEALTHY,
        "reasons": reasons,
        "load_balancers": {
            **{
                lb.name: {"answers": lb.name in readings, "absent": False, "problem": silent.get(lb.name)}
                for lb in targets.lbs
            },
            **{name: {"answers": None, "absent": True, "problem": None} for name in targets.absent},
        },
        "backends": backends,
    }


def _by_lb(results: Results) -> dict[str, Answer]:
    return {str(answer["item"]["lb"]): answer for answer in results if isinstance(answer.get("item"), t.Mapping)}


def _silence(answer: Answer | None) -> str:
    return "it did not answer in time" if answer is None else _plain(why(answer))


def _reason(what: str, do: str) -> Reason:
    return {"what": what, "do": do}


# ---------------------------------------------------------------------------------------------------------------------
# one backend, as all load balancers that answered see it


@dataclass(frozen=True)
class _View:
    """``records``: of each load balancer whose record can be used. ``recovery`` and ``run``: the rollout that holds the backend,
    or the last one; None where none is on record, or it cannot be read."""

    targets: Targets
    backend: str
    readings: t.Mapping[str, Answer]
    records: t.Mapping[str, t.Mapping[str, t.Any]]
    recovery: Recovery | None
    run: Run | None

    @property
    def rollouts(self) -> dict[str, t.Mapping[str, t.Any]]:
        """What each load balancer has recorded of this rollout."""
        if self.recovery is None:
            return {}
        return {
            lb: record["rollout"]
            for lb, record in self.records.items()
            if record.get("rollout") and record["rollout"]["rollout_id"] == self.recovery.rollout_id
        }

    @property
    def leading(self) -> t.Mapping[str, t.Any] | None:
        """The record that knows most."""
        return max(self.rollouts.values(), key=lambda rollout: len(rollout["events"]), default=None)

    @property
    def locks(self) -> dict[str, t.Mapping[str, t.Any]]:
        return {lb: record["lock"] for lb, record in self.records.items() if record.get("lock")}

    @property
    def leases(self) -> dict[str, t.Mapping[str, t.Any]]:
        return {lb: record["lease"] for lb, record in self.records.items() if record.get("lease")}

    @property
    def abandoned(self) -> dict[str, str]:
        """Load balancers whose guard returned the traffic, and what it said."""
        return {lb: _plain(lock["abandoned"]) for lb, lock in self.locks.items() if lock.get("abandoned")}

    @property
    def in_progress(self) -> bool:
        """Whether a rollout is under way that did not end, as far as is known, or waits to be promoted."""
        waiting = self.leading is not None and waits(self.leading)
        return bool(self.recovery and self.recovery.unfinished and (waiting or not self.recovery.outcome))

    def lb(self, name: str) -> LoadBalancer | None:
        """The load balancer as the rollout found it; None where it took no part."""
        return (
            next((lb for lb in self.run.lbs if lb.name == name), None) if self.run and name in self.rollouts else None
        )

    def wanted(self, name: str) -> t.Mapping[str, t.Mapping[str, t.Any]]:
        """{server: {state, weight}} on a load balancer; empty where nobody knows. A weight of None is the agent's."""
        lb = self.lb(name)
        if lb is None or self.run is None or self.recovery is None:
            return {}
        rollout = self.rollouts[name]
        if _left_as_safe(self.records[name], rollout) or (self.recovery.is_held and _goes_back(rollout)):
            safe = self.records[name].get("safe") or {}
            return t.cast("dict[str, dict[str, t.Any]]", safe.get("servers") or {})
        if _goes_back(rollout):
            return self._as_found(lb)
        if not self.recovery.unfinished and self.recovery.outcome in ("promoted", "rolled_back"):
            return end_state(self.run, lb)[self.backend]
        return expected_at(self.run, lb, _step_of(rollout))[self.backend]

    def _as_found(self, lb: LoadBalancer) -> dict[str, dict[str, t.Any]]:
        """What the way back leads to, without what it leaves open: hosts that carried elsewhere come back in all backends, and
        where nothing carried, what carries now is all there is."""
        if self.run is None or self.recovery is None or not self.recovery.carried:
            return {}
        carried = {m.servers.get(self.backend) for m in self.run.plan.members if m.key in self.recovery.carried}
        states = expected_at(self.run, lb, -1)[self.backend]
        return {name: state for name, state in states.items() if is_in(state) or name not in carried}

    def moving(self) -> set[str]:
        """The servers that the step at hand changes: while it does, they may be anything."""
        if not self.in_progress or self.run is None or self.abandoned:
            return set()
        moving: set[str] = set()
        for name, rollout in self.rollouts.items():
            lb, index = self.lb(name), _step_of(rollout)
            if _goes_back(rollout):
                moving.update(member.servers.get(self.backend, "") for member in self.run.plan.members)
            elif lb is not None and 0 <= index < len(self.run.plan.steps):
                told = shifts(self.run, lb, self.run.plan.steps[index]).get(self.backend, ())
                moving.update(one["name"] for one in told)
        return moving


def _view(targets: Targets, backend: str, readings: t.Mapping[str, Answer], reasons: list[Reason]) -> _View:
    records = {}
    for lb, reading in readings.items():
        record = (reading.get("records") or {}).get(backend) or {}
        if record.get("problem"):
            problem = _plain(record["problem"]).rstrip(".")
            reasons.append(
                _reason(
                    f"{lb}: the record of backend {backend} cannot be used: {problem}",
                    "mend this; until then every rollout is refused",
                )
            )
        # Records that can be read, but not written, still tell.
        records[lb] = record
    try:
        recovery = _recovery(backend, records)
    except UnreadableError as exc:
        reasons.append(
            _reason(
                f"backend {backend}: {_plain(exc).rstrip('.')}",
                "look at journal.jsonl in rollout_state_dir, and move it away when nothing in it is needed any more",
            )
        )
        recovery = None
    run = _run(targets, recovery) if recovery else None
    view = _View(targets, backend, readings, records, recovery, run)
    if not _makes_sense(view):
        reasons.append(
            _reason(
                f"backend {backend}: the record of rollout {recovery.rollout_id if recovery else ''} does not fit its plan",
                "look at journal.jsonl in rollout_state_dir, and move it away when nothing in it is needed any more",
            )
        )
        return _View(targets, backend, readings, records, None, None)
    return view


def _recovery(backend: str, records: t.Mapping[str, t.Mapping[str, t.Any]]) -> Recovery | None:
    try:
        return back_from({lb: {"records": {backend: record}} for lb, record in records.items()}, [backend])
    except (PlanError, KeyError, TypeError, AttributeError, ValueError) as exc:
        raise UnreadableError(
            str(exc) if isinstance(exc, PlanError) else f"its record cannot be read: {exc!r}"
        ) from exc


def _run(targets: Targets, recovery: Recovery) -> Run:
    reach = {lb.name: lb for lb in targets.lbs}
    return Run(
        rollout_id=recovery.rollout_id,
        mode=FORWARD,
        action="undo" if recovery.undoing else "deploy",
        plan=recovery.plan,
        lbs=tuple(replace(reach[name], found=found) for name, found in recovery.found.items() if name in reach),
        settings=targets.settings,
        releases=recovery.current,
        previous=recovery.target,
        deploy_key=recovery.deploy_key,
    )


def _makes_sense(view: _View) -> bool:
    """Whether what is wanted can be told at all: a record is data, and may be anything."""
    try:
        for name in view.rollouts:
            for state in view.wanted(name).values():
                is_in(state)
        view.moving()
        for event in (view.leading or {"events": ()})["events"]:
            _words_of(event, view.run)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        return False
    return True


def _step_of(rollout: t.Mapping[str, t.Any]) -> int:
    """The number of the step at hand, from 0; before the first that it takes itself, that of the one before; or -1."""
    step = rollout["step"]
    if isinstance(step, int):
        return step
    return int((rollout["begin"].get("resumed") or {}).get("at", 0)) - 1


def _goes_back(rollout: t.Mapping[str, t.Any]) -> bool:
    """Whether the last act was one of the way back that follows a rescue, or takes back what was left."""
    if rollout["begin"].get("action") == "deploy" and rollout["outcome"] in ("rolled_back", "rollback_failed"):
        return True
    for event in reversed(rollout["events"]):
        if event.get("act") == "restore":
            return True
        if event.get("mode"):
            return bool(event["mode"] == UNDO)
    return rollout["begin"].get("action") == "undo" and "deployed" in rollout["begin"]


def _left_as_safe(record: t.Mapping[str, t.Any], rollout: t.Mapping[str, t.Any]) -> bool:
    """Whether traffic was returned to the safe state, and nothing was done since: held, or left by its controller."""
    if (record.get("lock") or {}).get("abandoned"):
        return True
    return rollout["outcome"] == "paused" and _goes_back(rollout)


# ---------------------------------------------------------------------------------------------------------------------
# the report of one backend


def _backend(view: _View, first: t.Mapping[str, Answer], reasons: list[Reason], now: float) -> dict[str, t.Any]:
    owners = _owners(view, reasons)
    wanted, moving = {lb: view.wanted(lb) for lb in view.readings}, view.moving()
    servers: dict[str, dict[str, t.Any]] = {}
    for lb, reading in view.readings.items():
        for server in reading["backends"][view.backend]["servers"]:
            name = str(server["name"])
            row = servers.setdefault(name, {**_owner(owners, view.backend, name), "lbs": {}})
            row["lbs"][lb] = {
                **_server(server, wanted[lb].get(name)),
                "moving": name in moving,
                "release": _release(view, lb, name),
            }
    for lb, reading in view.readings.items():
        _add_shares(servers, lb, _requests(first.get(lb), reading, view.backend))
    reasons += _rollout_reasons(view, now)
    reasons += [] if _in_flux(view, now) else _lock_reasons(view)
    reasons += _server_reasons(view, servers)
    return {
        "servers": servers,
        "rollout": _rollout(view),
        "events": [_event(event, view.run) for event in (view.leading or {"events": []})["events"][-EVENTS:]],
        "load_balancers": {
            lb: {
                "lock": record.get("lock"),
                "lease": record.get("lease"),
                "guard": record.get("guard"),
                "rollout": (record.get("rollout") or {}).get("rollout_id"),
                "problem": record.get("problem"),
            }
            for lb, record in view.records.items()
        },
    }


def _owners(view: _View, reasons: list[Reason]) -> dict[tuple[str, str], tuple[str, str]]:
    """{(backend, server): (host, track)}"""
    try:
        members = _fleet.make_members(view.targets.own, view.targets.backends)
    except FleetError as exc:
        reason = _reason(f"the variables of the fleet do not fit together: {exc}", "correct them in the inventory")
        if reason not in reasons:
            reasons.append(reason)
        return {}
    return {place: (member.host, member.track) for member in members for place in member.servers.items()}


def _owner(owners: t.Mapping[tuple[str, str], tuple[str, str]], backend: str, name: str) -> dict[str, t.Any]:
    host, track = owners.get((backend, name), (None, None))
    return {"host": host, "track": track or None}


def _server(server: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    return {
        "wanted": {"state": wanted["state"], "weight": wanted["weight"]} if wanted else None,
        **{key: server.get(key) for key in ("state", "weight", "health", "status", "last_check")},
        "in_rotation": carries(server),
        "backup": bool(server.get("backup")),
        "share": None,
        "requests": None,
    }


def _release(view: _View, lb: str, name: str) -> str | None:
    """The release that was last seen to run there; None where nobody recorded one."""
    releases = (view.records[lb].get("releases") or {}).get(name)
    release = releases.get(view.targets.deploy_key) if isinstance(releases, t.Mapping) else None
    return None if release is None else str(release)


def _requests(first: Answer | None, second: Answer, backend: str) -> dict[str, int]:
    """What the counters of each server grew by between two readings; empty where that cannot be known."""
    if first is None or first is second or bad(first) or "backends" not in first:
        return {}
    if first["process"]["pid"] != second["process"]["pid"]:
        return {}
    counts = {one["name"]: one.get("requests") for one in first["backends"][backend]["servers"]}
    grown = {}
    for one in second["backends"][backend]["servers"]:
        old, new = counts.get(one["name"]), one.get("requests")
        if not isinstance(old, int) or not isinstance(new, int):
            continue
        if new < old:
            return {}  # somebody cleared the counters
        grown[str(one["name"])] = new - old
    return grown


def _add_shares(servers: t.Mapping[str, t.Mapping[str, t.Any]], lb: str, grown: t.Mapping[str, int]) -> None:
    total = sum(grown.values())
    for name, count in grown.items():
        servers[name]["lbs"][lb].update(requests=count, share=100.0 * count / total if total else None)


def _rollout(view: _View) -> dict[str, t.Any] | None:
    leading, recovery = view.leading, view.recovery
    if leading is None or recovery is None:
        return None
    begin, steps, index = leading["begin"], recovery.plan.steps, _step_of(leading)
    back = _goes_back(leading)
    whole = 0 <= index < len(steps) and not back
    return {
        "id": recovery.rollout_id,
        "strategy": recovery.plan.strategy,
        "action": "undo" if recovery.undoing else "deploy",
        "release": recovery.plan.release,
        "of": begin.get("of"),
        "outcome": recovery.outcome,
        "unfinished": recovery.unfinished,
        "state": state_of(leading, bool(view.abandoned)),
        "abandoned": bool(view.abandoned),
        "way_back": back,
        "step": index + 1 if index >= 0 else None,
        "steps": None if back else len(steps),
        "step_words": steps[index].words() if whole else None,
        "since": leading["at"],
        "last_event_at": _last_at(leading),
        "who": begin.get("who") or {},
        "forward_only": [_plain(text) for text in recovery.forward_only],
    }


def _event(event: t.Mapping[str, t.Any], run: Run | None) -> dict[str, t.Any]:
    return {"at": event.get("at"), "event": event["event"], "words": _words_of(event, run)}


def _words_of(event: t.Mapping[str, t.Any], run: Run | None) -> str:
    """An event of the journal for a person."""
    if event["event"] == "end":
        return _plain(f"ended as {event.get('outcome')}" + (f": {event['message']}" if event.get("message") else ""))
    trouble = event.get("problem") or event.get("error")
    told = f"failed: {trouble}" if trouble else {"intent": "begins", "result": "done"}.get(event["event"], "")
    return _plain(f"{_act_of(event, run)} {told or event.get('message') or ''}".strip())


def _act_of(event: t.Mapping[str, t.Any], run: Run | None) -> str:
    if event.get("act") == "restore":
        return "return of the traffic"
    step = event.get("step")
    if not isinstance(step, int):
        return str(event.get("kind") or event["event"])
    if event.get("mode") == UNDO:
        return f"way back, step {step + 1} ({_spell(event)})"
    known = run.plan.steps[step].words() if run and 0 <= step < len(run.plan.steps) else _spell(event)
    return f"step {step + 1} ({known})"


def _spell(event: t.Mapping[str, t.Any]) -> str:
    fields = ("kind", "track", "members", "shares", "seconds", "options")
    try:
        return Step.from_dict({name: event[name] for name in fields if name in event}).words()
    except PlanError:
        return str(event.get("kind") or event["event"])


# ---------------------------------------------------------------------------------------------------------------------
# what needs attention: the rollout, its lock and its lease


def _rollout_reasons(view: _View, now: float) -> list[Reason]:
    recovery, leading = view.recovery, view.leading
    if recovery is None or leading is None:
        return []
    name = f"rollout {recovery.rollout_id} of {view.backend}"
    reasons = []
    others = sorted(lb for lb in view.records if lb not in view.rollouts)
    if others and not _in_flux(view, now):
        reasons.append(
            _reason(
                f"the load balancers disagree: {', '.join(others)} has no record of {name}",
                "release again with all load balancers, once none needs to be left out",
            )
        )
    if recovery.outcome == "rollback_failed" and recovery.is_held:
        what = f"{name} failed, and is held where it was{_message(leading)}"
        reasons.append(_reason(what, f"mend this; then, to go on, {RESUME}; to take it back on purpose, {ROLL_BACK}"))
    elif recovery.outcome == "rollback_failed":
        reasons.append(
            _reason(f"{name} could not be taken back wholly{_message(leading)}", f"mend this, then {ROLL_BACK} again")
        )
    elif recovery.outcome == "paused" and not waits(leading):
        reasons.append(
            _reason(
                f"{name} is held in the middle{_message(leading)}", f"to go on, {RESUME}; to take it back, {ROLL_BACK}"
            )
        )
    elif recovery.unfinished:
        reasons += _unfinished_reasons(view, name, leading, now)
    return reasons


def _message(rollout: t.Mapping[str, t.Any]) -> str:
    last = rollout["events"][-1] if rollout["events"] else {}
    return f" ({_plain(last['message']).rstrip('.')})" if last.get("message") else ""


def _unfinished_reasons(view: _View, name: str, leading: t.Mapping[str, t.Any], now: float) -> list[Reason]:
    expired = {lb: -_seconds(lease) for lb, lease in view.leases.items() if _seconds(lease) < 0}
    unguarded = [lb for lb in view.leases if view.records[lb].get("guard") == "missing"]
    if view.abandoned:
        lbs, text = ", ".join(view.abandoned), next(iter(view.abandoned.values())).rstrip(".")
        return [
            _reason(
                f"{name} was abandoned, and {lbs} returned its traffic: {text}", f"{ROLL_BACK}, or go on by {RESUME}"
            )
        ]
    reasons = []
    if unguarded:
        do = "see in the system's log there why it ended; without it traffic does not go back by itself"
        reasons.append(_reason(f"{name} has no guard on {', '.join(unguarded)}", do))
    if expired:
        what = f"its lease expired {spelled(round(max(expired.values())))} ago on {', '.join(expired)}"
        return [
            *reasons,
            _reason(f"{name} is unfinished and nobody works on it: {what}", f"{ROLL_BACK}, or go on by {RESUME}"),
        ]
    if not view.locks:
        return [*reasons, _reason(f"{name} did not end, and nobody holds the backend", ROLL_BACK)]
    if waits(leading):
        return reasons
    quiet = _quiet_for(view, leading, now)
    if not view.leases and quiet is not None and quiet > SILENCE_SECONDS:
        what = f"nothing was heard of it for {spelled(round(quiet))} beyond what its step waits"
        reasons.append(_reason(f"{name} is unfinished: {what}", f"if its controller is gone, {ROLL_BACK}"))
    return reasons


def _seconds(lease: t.Mapping[str, t.Any]) -> float:
    """What is left of a lease; where that is not known it has not expired."""
    left = lease.get("left")
    return float(left) if isinstance(left, (int, float)) else 0.0


def _quiet_for(view: _View, leading: t.Mapping[str, t.Any], now: float) -> float | None:
    """How long ago the last event should have been followed by another."""
    steps, index = view.run.plan.steps if view.run else (), _step_of(leading)
    waits = steps[index].seconds if 0 <= index < len(steps) else None
    age = _age(leading, now)
    return None if age is None else age - (waits or 0.0)


def _age(rollout: t.Mapping[str, t.Any], now: float) -> float | None:
    """Seconds since the last event, by the load balancer's clock; None where its time cannot be read."""
    try:
        return now - calendar.timegm(time.strptime(str(_last_at(rollout)), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return None


def _last_at(rollout: t.Mapping[str, t.Any]) -> t.Any:
    return rollout["events"][-1]["at"] if rollout["events"] else rollout["at"]


def _in_flux(view: _View, now: float) -> bool:
    """Whether a rollout that still holds a load balancer began or ended just now, so that the others are about to follow."""
    ages = [_age(rollout, now) for rollout in view.rollouts.values()]
    return bool(view.locks) and any(age is not None and abs(age) < FLUX_SECONDS for age in ages)


def _lock_reasons(view: _View) -> list[Reason]:
    reasons = []
    recovery = view.recovery
    places: dict[str, list[str]] = {}
    for lb, lock in view.locks.items():
        places.setdefault(str(lock.get("rollout_id")), []).append(lb)
    for rollout_id, lbs in places.items():
        where = f"rollout {_plain(rollout_id)} holds {view.backend} on {', '.join(lbs)}"
        if recovery is None or rollout_id != recovery.rollout_id:
            do = "look at journal.jsonl beside the file lock in rollout_state_dir there; remove lock when nobody works on it"
            reasons.append(_reason(f"{where}, and is not the last one on record", do))
            continue
        ended = [lb for lb in lbs if lb in view.rollouts and view.rollouts[lb]["ended"]]
        if not recovery.unfinished or (ended and recovery.outcome not in ("paused", "rollback_failed")):
            do = f"see that all load balancers answer, then {ROLL_BACK}, and release again"
            reasons.append(_reason(f"{where}, although it ended as {recovery.outcome}", do))
        free = [lb for lb in view.rollouts if lb not in lbs]
        if recovery.unfinished and free:
            reasons.append(_reason(f"the load balancers disagree: {where}, but not on {', '.join(free)}", ROLL_BACK))
    stale = [lb for lb in view.leases if lb not in view.locks]
    if stale:
        do = "see whether the guard there still runs; a lease without a lock belongs to nobody"
        reasons.append(_reason(f"{', '.join(stale)} has a lease of {view.backend}, and no lock", do))
    return reasons


# ---------------------------------------------------------------------------------------------------------------------
# what needs attention: servers


def _server_reasons(view: _View, servers: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[Reason]:
    found: dict[tuple[str, str], dict[str, list[str]]] = {}  # {(what is wrong, what to do): {server: load balancers}}
    for name, row in servers.items():
        for lb, one in row["lbs"].items():
            wrong = None if one["moving"] else _wrong(one)
            if wrong:
                found.setdefault(wrong, {}).setdefault(name, []).append(lb)
    reasons = []
    for (what, do), places in found.items():
        together: dict[str, list[str]] = {}
        for name, lbs in places.items():
            together.setdefault(", ".join(lbs), []).append(name)
        reasons += [
            _reason(f"{listed(names)} of {view.backend} {what} on {lbs}", do) for lbs, names in together.items()
        ]
    told = {name for places in found.values() for name in places}
    reasons += _disagreements(view, {name: row for name, row in servers.items() if name not in told})
    empty = [lb for lb in view.readings if not any(_serves(row["lbs"].get(lb)) for row in servers.values())]
    if empty:
        do = ROLL_BACK if view.recovery and view.recovery.unfinished else "let hosts in, or mend them, now"
        reasons.append(_reason(f"no server of {view.backend} carries traffic on {', '.join(empty)}", do))
    return reasons


def _serves(one: t.Mapping[str, t.Any] | None) -> bool:
    return bool(one and (one["in_rotation"] or one["backup"]) and one["health"] != "down")


def _wrong(one: t.Mapping[str, t.Any]) -> tuple[str, str] | None:
    """What is wrong with a server on one load balancer, and what to do."""
    wanted, carrying = one["wanted"], one["in_rotation"]
    if one["backup"]:
        return None
    if wanted is not None and is_in(wanted) and not carrying:
        return f"should carry traffic and is in {_stand(one)}", ADMIT
    if wanted is not None and not is_in(wanted) and carrying:
        return f"carries traffic, and should be in {_stand(wanted)}", DRAIN
    if carrying and one["health"] == "down":
        seen = ", ".join(_plain(one[name]) for name in ("status", "last_check") if one[name])
        return f"should carry traffic and is down ({seen or 'no status'})", "see why its health check fails"
    if wanted is not None and carrying and wanted["weight"] not in (None, one["weight"]):
        do = "release again, or set it with steady.rollout.haproxy_backend or nginx_upstream: a reload forgot it, or somebody changed it"
        return f"has weight {one['weight']} instead of {wanted['weight']}", do
    return None


def _disagreements(view: _View, servers: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[Reason]:
    reasons = []
    for name, row in servers.items():
        here = {lb: one for lb, one in row["lbs"].items() if not one["moving"]}
        missing = [lb for lb in view.readings if lb not in row["lbs"]]
        if missing:
            what = f"the load balancers disagree: {', '.join(missing)} lacks server {name} of {view.backend}"
            reasons.append(_reason(what, "give all load balancers the same servers"))
        # Where a rollout wants something of each, they are as wanted here, different or not.
        if any(one["wanted"] is None for one in here.values()) and len({_rotation(one) for one in here.values()}) > 1:
            stands = "; ".join(f"{_stand(one)} on {lb}" for lb, one in here.items())
            reasons.append(
                _reason(f"the load balancers disagree on {name} of {view.backend}: {stands}", "release again")
            )
        releases = {lb: str(one["release"]) for lb, one in here.items() if one["release"] is not None}
        if len(set(releases.values())) > 1:
            seen = "; ".join(f"{_plain(release)} by {lb}" for lb, release in releases.items())
            reasons.append(_reason(f"the records disagree on the release of {name}: {seen}", "release again"))
    return reasons


def _rotation(one: t.Mapping[str, t.Any]) -> tuple[bool, t.Any]:
    return one["in_rotation"], one["weight"] if one["in_rotation"] else None


def _stand(one: t.Mapping[str, t.Any]) -> str:
    """State and weight: what is out has a weight that matters to nobody."""
    if one["state"] != "ready":
        return _plain(one["state"])
    return "ready" if one["weight"] is None else f"ready {one['weight']}"


# ---------------------------------------------------------------------------------------------------------------------
# for a person


def lines(told: t.Mapping[str, t.Any]) -> list[str]:
    """The report as text: a table for each backend, the rollout, and the verdict last."""
    text: list[str] = []
    known: list[list[str]] = []
    for backend, one in told["backends"].items():
        text += _table(backend, one)
        about = _about(one)
        if about not in known:  # backends that are moved together have the same rollout
            text += about
            known.append(about)
    absent = [lb for lb, one in told["load_balancers"].items() if one["absent"]]
    if absent:
        text.append(f"left out (rollout_absent_lbs): {', '.join(absent)}")
    text += [f"- {reason['what']}: {reason['do']}" for reason in told["reasons"]]
    return [*text, f"status: {told['status'].replace('_', ' ')}"]


def message(told: t.Mapping[str, t.Any]) -> str:
    """Why it needs attention, in one line."""
    return "needs attention: " + "; ".join(f"{reason['what']} (to do: {reason['do']})" for reason in told["reasons"])


def _table(backend: str, one: t.Mapping[str, t.Any]) -> list[str]:
    lbs = list(one["load_balancers"])
    if not lbs:
        return [f"backend {_plain(backend)}: no load balancer answered"]
    heads = ["server", "track", "wanted", "actual", "health", "share", "release"]
    rows = [heads, *(row for name, server in one["servers"].items() for row in _rows(name, server))]
    used = [column for column in range(len(heads)) if heads[column] != "track" or any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    return [
        f"backend {_plain(backend)} on {', '.join(lbs)}",
        *("  " + "  ".join(row[column].ljust(widths[column]) for column in used).rstrip() for row in rows),
    ]


def _rows(name: str, server: t.Mapping[str, t.Any]) -> list[list[str]]:
    """One line where the load balancers agree, else one for each."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for lb, one in server["lbs"].items():
        alike.setdefault(_cells(one), []).append(lb)
    rows = []
    for (wanted, actual, health, release), lbs in alike.items():
        where = _plain(name) if len(alike) == 1 else f"{_plain(name)} on {', '.join(lbs)}"
        share = _shares([server["lbs"][lb]["share"] for lb in lbs])
        rows.append([where, _plain(server["track"] or ""), wanted, actual, health, share, release])
    return rows


def _cells(one: t.Mapping[str, t.Any]) -> tuple[str, str, str, str]:
    actual = _stand(one) + (" (backup)" if one["backup"] else "") + (" (moving)" if one["moving"] else "")
    wanted = "?" if one["wanted"] is None else _stand(one["wanted"])
    return wanted, actual, _plain(one["health"] or "?"), "?" if one["release"] is None else _plain(one["release"])


def _shares(shares: t.Sequence[float | None]) -> str:
    """``24.8-25.1 %``: the shares of all load balancers that know theirs."""
    known = sorted(share for share in shares if share is not None)
    if not known:
        return "?"
    low, high = f"{known[0]:.1f}", f"{known[-1]:.1f}"
    return f"{low} %" if low == high else f"{low}-{high} %"


def _about(one: t.Mapping[str, t.Any]) -> list[str]:
    """The rollout, the lock, the lease and the last events."""
    return [
        *_about_rollout(one["rollout"]),
        *_about_lock(one["load_balancers"]),
        *(["  last events:"] if one["events"] else []),
        *(f"    {_plain(event['at'])} {event['words']}" for event in one["events"]),
    ]


def _about_rollout(rollout: t.Mapping[str, t.Any] | None) -> list[str]:
    if rollout is None:
        return ["  rollout: none on record"]
    of = f", way back from {_plain(rollout['of'])}" if rollout["of"] else ""
    what = f"{_plain(rollout['id'])}: {_plain(rollout['strategy'])} of release {_plain(rollout['release'])}{of}"
    by = _who(rollout["who"])
    begun = f"begun {_plain(rollout['since'])}{f' by {by}' if by else ''}"
    if rollout["outcome"]:
        stands = _plain(rollout["outcome"])
    elif not rollout["unfinished"]:
        stands = "ended"
    elif rollout["abandoned"]:
        stands = "abandoned, and its traffic was returned"
    elif rollout["way_back"]:
        stands = "in progress, on the way back"
    elif rollout["step"] is None:
        stands = "in progress, before its first step"
    else:
        words = f" ({_plain(rollout['step_words'])})" if rollout["step_words"] else ""
        stands = f"in progress, step {rollout['step']} of {rollout['steps']}{words}"
    forward_only = ", ".join(rollout["forward_only"])
    return [
        f"  rollout {what}: {stands}; {begun}",
        *([f"  cannot be taken back: {forward_only}"] if forward_only else []),
    ]


def _about_lock(lbs: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    locks: dict[str, list[str]] = {}
    for lb, one in lbs.items():
        lock = one["lock"]
        if lock:
            by = _who(lock.get("who") or {})
            since = f" since {_plain(lock.get('since'))}{f' by {by}' if by else ''}"
            locks.setdefault(f"held by {_plain(lock.get('rollout_id'))}{since}", []).append(lb)
        else:
            locks.setdefault("free", []).append(lb)
    leases: dict[str, list[str]] = {}
    for lb, one in lbs.items():
        lease = one["lease"]
        if lease:
            guard = f", guard {_plain(one['guard'])}" if one["guard"] else ""
            leases.setdefault(f"{_left(lease)} of {_plain(lease.get('seconds'))} s left{guard}", []).append(lb)
    return _by_place("lock", locks, len(lbs)) + _by_place("lease", leases, len(lbs))


def _left(lease: t.Mapping[str, t.Any]) -> str:
    left = lease.get("left")
    return f"{left:.0f} s" if isinstance(left, (int, float)) else "?"


def _by_place(what: str, found: t.Mapping[str, t.Sequence[str]], everywhere: int) -> list[str]:
    return [
        f"  {what}: {text}" + ("" if len(lbs) == everywhere else f" on {', '.join(lbs)}") for text, lbs in found.items()
    ]


def _who(who: t.Any) -> str:
    if not isinstance(who, t.Mapping):
        return _plain(who)
    user, host = who.get("user"), who.get("host")
    job = who.get("awx_job_id") or who.get("tower_job_id")
    place = "@".join(_plain(part) for part in (user, host) if part)
    return f"{place} (job {_plain(job)})" if job else place


def _plain(text: t.Any) -> str:
    """What load balancers tell is data: on one line, printable, and not too long."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(text))
    words = " ".join(words.split())
    return words if len(words) <= 300 else f"{words[:297]}..."
