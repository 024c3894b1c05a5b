# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The way back from a rollout, out of what the load balancers have recorded of it. Pure.

The rescue of a running rollout and the `rollback` playbook both come here, so that there is one way back. The record says
what was there; which hosts still have to go back is judged on what the load balancers say now, so that it can be asked for
twice.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils import _fleet, _forward_only
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    FORWARD,
    UNDO,
    Found,
    LoadBalancer,
    Run,
    Settings,
)
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member, Plan, Step
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError
from ansible_collections.steady.rollout.plugins.module_utils._rolling import undo_steps

Answers = t.Mapping[str, t.Mapping[str, t.Any]]  # {lb: what rollout_info returned}


@dataclass(frozen=True)
class Recovery:
    """What is known of the rollout to take back.

    ``target``: the release each member had, or is on its way back to; ``current``: what the rollout put there.
    ``deployed``: groups of members that it touched, oldest first. ``unfinished``: it holds its lock, or never ended.
    ``done``: why there is nothing to take back, or "".
    """

    rollout_id: str
    plan: Plan
    undoing: bool  # whether it was a way back itself
    outcome: str | None
    unfinished: bool
    locked: bool
    carried: tuple[str, ...]
    target: t.Mapping[str, str | None]
    current: t.Mapping[str, str | None]
    deploy_key: str
    deployed: tuple[tuple[str, ...], ...]
    found: t.Mapping[str, Found]  # per load balancer that has the record
    after: tuple[str, ...] = ()  # the rollouts that it took over itself, on some load balancer maybe not to the end
    forward_only: tuple[str, ...] = ()  # what was done on the way that cannot be taken back
    undone: bool = False  # whether the way back of the hosts was begun: not where only traffic was returned

    @property
    def ended(self) -> bool:
        return not self.unfinished

    @property
    def any_found(self) -> Found:
        """For a load balancer that was absent: what another one was."""
        return next(iter(self.found.values()), {})

    @property
    def done(self) -> str:
        if self.ended and self.outcome == "rolled_back":
            return f"rollout {self.rollout_id} was rolled back already"
        return ""

    @property
    def moves_traffic(self) -> bool:
        """Whether only traffic goes back: after a swap that ended, and where such a way back did not come to its end."""
        if self.undoing:
            return any(step.kind == "traffic" for step in self.plan.steps)
        return self.ended and self._is_swap()

    @property
    def goes_forward(self) -> bool:
        """Whether the way back is a rollout with a rescue of its own: what carries now is good, or all there is."""
        return self.ended or self.moves_traffic

    @property
    def holders(self) -> tuple[str, ...]:
        """Whose locks may be taken to take it back: a controller that died while it took over left both kinds."""
        return (self.rollout_id, *self.after)

    @property
    def words(self) -> str:
        state = f"ended as {self.outcome}" if self.outcome else "did not end"
        words = f"rollout {self.rollout_id} of release {self.plan.release} {state}; it is taken back"
        return "; ".join(part for part in (words, _forward_only.gone_back(self.forward_only)) if part)

    @property
    def is_held(self) -> bool:
        """Whether it did what cannot be taken back, and its hosts are as its last step left them: it can go on, whatever failed."""
        return bool(self.forward_only) and not self.undoing and not self.undone

    def run(
        self,
        rollout_id: str,
        lbs: t.Sequence[LoadBalancer],
        settings: Settings,
        now: Answers,
        addresses: t.Mapping[str, t.Sequence[t.Any]],
    ) -> Run:
        """The steps that are left of the way back. ``now``: what the load balancers told; those that did not are left out."""
        if self.moves_traffic:
            steps = self.plan.steps if self.undoing else self._swap()
        else:
            steps = (*undo_steps(self.left(now), self.carried), *self._join(now), *self._leave(now))
        release = self.plan.release if self.undoing else self._release()
        return Run(
            rollout_id=rollout_id,
            mode=FORWARD if self.goes_forward else UNDO,
            action="undo",
            plan=Plan(self.plan.strategy, release, self.plan.backends, self.plan.members, steps),
            lbs=tuple(lbs),
            settings=settings,
            releases=self.target,
            previous=self.current,
            deploy_key=self.deploy_key,
            out=() if self.goes_forward else tuple(self._out(now)),
            addresses=addresses,
            forward_only=self.forward_only,
        )

    def left(self, now: Answers) -> list[tuple[str, ...]]:
        """The groups of ``deployed`` without those members that are back: on their old release, and in rotation."""
        members = {member.key: member for member in self.plan.members}
        seen = _fleet.releases(
            self.plan.members, {lb: answer["records"] for lb, answer in now.items()}, self.deploy_key
        )
        back = {
            key
            for key, member in members.items()
            if self.target.get(key) is not None and seen[key] == self.target[key] and _fleet.everywhere_in(member, now)
        }
        kept = back.union(self.unknown(now))
        return [tuple(key for key in group if key not in kept) for group in self.deployed]

    def unknown(self, now: Answers) -> list[str]:
        """What carries traffic with the new release, and has nothing to go back to: taking it out would only cost capacity."""
        touched = self._touched & set(self.carried)
        return [
            member.key
            for member in self.plan.members
            if member.key in touched and self.target.get(member.key) is None and _fleet.everywhere_in(member, now)
        ]

    def _join(self, now: Answers) -> tuple[Step, ...]:
        """What carried, kept its release, and was let in on some load balancers before the rollout died: in on all of them."""
        keys = tuple(
            member.key
            for member in self.plan.members
            if member.key in (self._let_in & set(self.carried)) - self._touched
            and _fleet.differs(member, now)
            and not self._differed(member)
        )
        return (Step("admit", keys),) if keys else ()

    def _differed(self, member: Member) -> bool:
        """Whether the load balancers treated the member differently before: that is for whoever had them do so."""
        return any(
            len({_fleet.carries(found[backend][name]) for found in self.found.values()}) > 1
            for backend, name in member.servers.items()
        )

    @property
    def _touched(self) -> set[str]:
        return {key for group in self.deployed for key in group}

    @property
    def _let_in(self) -> set[str]:
        return {key for step in self.plan.steps if step.kind == "admit" for key in step.members}

    def _leave(self, now: Answers) -> tuple[Step, ...]:
        """What was not in rotation, was let in or got the release, and takes traffic: out again, as soon as the others are back."""
        gone = (self._touched | self._let_in) - set(self.carried)
        keys = tuple(key for key in _fleet.in_rotation(self.plan.members, now) if key in gone)
        return (Step("drain", keys),) if keys and self.carried else ()

    def _out(self, now: Answers) -> list[str]:
        touched = self._touched & set(self.carried)
        return [
            member.key
            for member in self.plan.members
            if member.key in touched and not _fleet.everywhere_in(member, now)
        ]

    def _is_swap(self) -> bool:
        """Whether what carried is still there as it was, so that only traffic goes back."""
        return bool(self.carried) and not self._touched & set(self.carried)

    def _swap(self) -> tuple[Step, ...]:
        old = [member for member in self.plan.members if member.key in self.carried]
        tracks = list(dict.fromkeys(member.track for member in old))
        if len(tracks) != 1 or not tracks[0]:
            raise PlanError(
                f"rollout {self.rollout_id} is no swap of two tracks; give the way back with rollout_steps."
            )
        others = {member.track: 0.0 for member in self.plan.members if member.track != tracks[0]}
        keys = tuple(member.key for member in old)
        return Step("probe", keys, track=tracks[0]), Step("traffic", shares={tracks[0]: 100.0, **others})

    def _release(self) -> str:
        targets = {self.target.get(key) for key in self.carried} - {None}
        return str(targets.pop()) if len(targets) == 1 else "as before"


def back_from(answers: Answers, backends: t.Sequence[str]) -> Recovery | None:
    """The rollout to take back: the one that holds a lock, or else the last one. None where nothing is recorded.

    Raises PlanError where a record cannot be read as what a rollout writes.
    """
    known = [(lb, record) for lb, answer in answers.items() for record in _records(answer, backends)]
    if not known:
        return None
    holders = {rollout_id for answer in answers.values() for rollout_id in _holders(answer)}
    wanted = _last_word([record for _lb, record in known], holders)
    own = [(lb, record) for lb, record in known if record["rollout_id"] == wanted]
    after = _after(own[0][1])
    begun = {lb for lb, _record in own}
    # Where it did not begin before its controller died, what it took over is the last word.
    earlier = [(lb, record) for lb, record in known if record["rollout_id"] in after and lb not in begun]
    return _recovery(wanted, own, earlier, bool(holders & {wanted, *after}))


def _last_word(known: t.Sequence[t.Mapping[str, t.Any]], holders: t.Collection[str]) -> str:
    """The rollout that holds, or that took one that holds over; without any the newest."""
    held = {record["rollout_id"] for record in known} & set(holders)
    chain = [record for record in known if held & {record["rollout_id"], *_after(record)}]
    superseded = {rollout_id for record in chain for rollout_id in _after(record)}
    newest = max(known, key=lambda record: str(record["at"]))
    return str(next((one for one in chain if one["rollout_id"] not in superseded), newest)["rollout_id"])


def _after(record: t.Mapping[str, t.Any]) -> tuple[str, ...]:
    """The rollouts that it took over."""
    after = record["begin"].get("after")
    return tuple(str(name) for name in after) if isinstance(after, (list, tuple)) else ()


def _records(answer: t.Mapping[str, t.Any], backends: t.Sequence[str]) -> list[t.Mapping[str, t.Any]]:
    """The last rollout of each backend. They may be different ones, and each tells only what was done in its backend."""
    records = (answer["records"].get(backend) or {} for backend in backends)
    return [record["rollout"] for record in records if record.get("rollout")]


def _holders(answer: t.Mapping[str, t.Any]) -> list[str]:
    return [record["lock"]["rollout_id"] for record in answer["records"].values() if record.get("lock")]


Recorded = t.Sequence[tuple[str, t.Mapping[str, t.Any]]]


def _recovery(rollout_id: str, own: Recorded, earlier: Recorded, locked: bool) -> Recovery:
    begins = {lb: record["begin"] for lb, record in (*own, *earlier)}
    begin = own[0][1]["begin"]
    records = [record for _lb, record in own]
    try:
        plan = Plan.from_dict(begin["plan"])
        undoing = begin["action"] == "undo"
        deployed = _deployed(plan, begin, [record for _lb, record in (*own, *earlier)], undoing)
        outcomes = [record["outcome"] for record in records if record["outcome"]]
        promoted = "promoted" in outcomes
        return Recovery(
            rollout_id=rollout_id,
            plan=plan,
            undoing=undoing,
            outcome="promoted" if promoted else next(iter(outcomes), None),
            # A promotion whose record was not closed everywhere is one all the same.
            unfinished=not promoted and (locked or not all(record["ended"] for record in records)),
            locked=locked,
            carried=tuple(str(key) for key in begin["carried"]),
            target=_texts(begin["releases"] if undoing else begin["previous"]),
            current=_texts(begin["previous"] if undoing else begin["releases"]),
            deploy_key=str(begin["deploy_key"]),
            deployed=deployed,
            found={lb: _found(each["found"]) for lb, each in begins.items()},
            after=_after(own[0][1]),
            forward_only=_forward_only.of_records([record for _lb, record in (*own, *earlier)]),
            undone=any(event.get("mode") == UNDO for record in records for event in record["events"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise PlanError(f"The record of rollout {rollout_id} cannot be read: {type(exc).__name__} {exc}.") from exc


def _deployed(
    plan: Plan, begin: t.Mapping[str, t.Any], records: t.Sequence[t.Mapping[str, t.Any]], undoing: bool
) -> tuple[tuple[str, ...], ...]:
    """The groups that were deployed: every deploy step that any load balancer has the intent of, or a rollout before it had.

    A way back is always gone to its end, so all that it was for is left to do, until it is seen to be done.
    """
    if undoing:
        earlier = [tuple(str(key) for key in group) for group in begin.get("deployed") or ()]
        for record in records:  # what was begun after the way back was planned, and before it took over
            for group in (record["begin"].get("took_over") or {}).get("deployed") or ():
                known = {key for each in earlier for key in each}
                more = tuple(str(key) for key in group if str(key) not in known)
                earlier += [more] if more else []
        # They were undone from the last to the first; they still are.
        return tuple(earlier or [step.members for step in reversed(plan.steps) if step.kind == "deploy"])
    begun = {
        event["step"]
        for record in records
        for event in record["events"]
        if event.get("kind") == "deploy" and isinstance(event.get("step"), int) and event.get("mode") != UNDO
    }
    begun |= set(range(max(int((record["begin"].get("resumed") or {}).get("at", 0)) for record in records)))
    taken = [
        tuple(group) for record in records for group in (record["begin"].get("took_over") or {}).get("deployed") or ()
    ]
    return tuple(
        step.members
        for number, step in enumerate(plan.steps)
        if step.kind == "deploy" and (number in begun or step.members in taken)
    )


def _texts(values: t.Mapping[str, t.Any]) -> dict[str, str | None]:
    return {str(key): None if value is None else str(value) for key, value in values.items()}


def _found(values: t.Mapping[str, t.Any]) -> Found:
    return {
        str(backend): {
            str(name): {
                "weight": int(server["weight"]),
                "state": str(server["state"]),
                "base": int(server["base"]),
                "agent": bool(server["agent"]),
                "address": None if server["address"] is None else str(server["address"]),
                "port": None if server["port"] is None else int(server["port"]),
            }
            for name, server in servers.items()
        }
        for backend, servers in values.items()
    }
