# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""From what the tasks of a step returned to what went wrong, in words. Pure.

A result that is missing is a failure: a task that never ran proves nothing.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._plan import Member

Results = t.Sequence[t.Mapping[str, t.Any]]


def lb_problems(told: t.Mapping[str, t.Any], acts: Results) -> tuple[list[str], list[str]]:
    """What went wrong on load balancers, and on which."""
    failed: list[str] = []
    unanswered: dict[str, list[str]] = {}
    answers = {answer["item"]["lb"]: proved(answer) for answer in acts if isinstance(answer.get("item"), t.Mapping)}
    for asked in told["lbs"]:
        answer = answers.get(asked["lb"])
        if answer is None or bad(answer):
            failed.append(asked["lb"])
            for told_why in reasons(answer):
                unanswered.setdefault(told_why, []).append(asked["lb"])
    return [f"{', '.join(lbs)}: {told_why}" for told_why, lbs in unanswered.items()], failed


def proved(answer: t.Mapping[str, t.Any]) -> t.Mapping[str, t.Any]:
    """What rollout_act returned; as a failure where it was asked for a proof that servers are good, and has none."""
    asked = any(answer["item"].get(option) for option in ("probe", "settle"))
    proof = answer.get("proof") or {"ok": not asked, "msg": "its call returned without the probe that was asked for"}
    if bad(answer) or proof.get("ok"):
        return answer
    return {**answer, "failed": True, "msg": proof.get("msg"), "targets": proof.get("targets") or ()}


def bad(answer: t.Mapping[str, t.Any]) -> bool:
    return bool(answer.get("failed") or answer.get("unreachable") or answer.get("skipped"))


def why(answer: t.Mapping[str, t.Any] | None) -> str:
    if answer is None or answer.get("skipped"):
        return "was not asked"
    text = _short(answer.get("msg"))
    if answer.get("unreachable"):
        return f"unreachable ({text})"
    return text or "failed without a word"


def lost_members(members: t.Sequence[Member], acts: Results, failed_hosts: t.Collection[str]) -> list[str]:
    """Which of the members of a step that went wrong did; all of them where that cannot be told apart."""
    servers = {
        str(target.get("name"))
        for answer in acts
        for target in (answer.get("proof") or {}).get("targets") or ()
        if target.get("health") != "up"
    }
    lost = [m.key for m in members if m.host in failed_hosts or servers.intersection(m.servers.values())]
    return lost or [member.key for member in members]


def reasons(answer: t.Mapping[str, t.Any] | None) -> list[str]:
    """Why, in words that are the same for the same failure seen from several load balancers."""
    failures: dict[str, list[str]] = {}
    for target in (answer or {}).get("targets") or ():
        reason = str((target.get("last_failure") or {}).get("reason") or "did not answer in time")
        if target.get("health") != "up":
            failures.setdefault(reason, []).append(str(target.get("name")))
    if not failures:
        return [why(answer)]
    return [f"the probe of {', '.join(names)} failed: {_short(reason)}" for reason, names in failures.items()]


def watch_problems(
    told: t.Mapping[str, t.Any], watch: t.Mapping[str, t.Any], inconclusive: str, canary: bool = False
) -> list[str]:
    verdict = watch.get("verdict") if watch.get("key") == told["key"] else None
    if verdict == "pass" or (verdict == "inconclusive" and inconclusive in ("continue", "hold")):
        return []
    if verdict is None or verdict == "going":
        return ["the watch did not come to an end"]
    advice = "; raise its time, lower rollout_analysis.min_requests, or set rollout_analysis.inconclusive: continue"
    if canary:
        advice = "; raise canary_step_max or rollout_analysis.tolerance, or set canary_inconclusive: hold"
    return [watch["reason"] + (advice if verdict == "inconclusive" else "")]


def pause_of(told: t.Mapping[str, t.Any], watch: t.Mapping[str, t.Any], inconclusive: str) -> str:
    """Why a step that went well ends in a pause, or ""."""
    if told["kind"] == "pause" and not told["watch"]:
        return f"{told['words']}: it waits here until it is promoted"
    if not told["watch"] or watch.get("key") != told["key"] or watch.get("verdict") != "inconclusive":
        return ""
    return f"{told['words']}: {watch['reason']}" if inconclusive == "hold" else ""


def host_problems(
    told: t.Mapping[str, t.Any], rollout_id: str, markers: t.Mapping[str, t.Mapping[str, t.Any]]
) -> dict[str, str]:
    """Hosts that did not come to the end of the user's role, and how. ``markers``: {host: {rollout, mode, step, ok, reason}}."""
    problems: dict[str, str] = {}
    for host in told["hosts"]:
        marker = markers.get(host) or {}
        # As text: ansible-core before 2.19 makes text of a number in a template.
        now = (marker.get("rollout"), marker.get("mode"), str(marker.get("step")))
        if now != (rollout_id, told["mode"], str(told["index"])):
            problems[host] = f"{host}: did not come to the end of the deploy: unreachable, or dropped by Ansible"
        elif not marker.get("ok"):
            problems[host] = f"{host}: the deploy failed: {_short(marker.get('reason')) or 'without a word'}"
    return problems


def of_this(concluded: t.Mapping[str, t.Any], rollout_id: str, mode: str) -> t.Mapping[str, t.Any]:
    """What the step before was concluded with, unless that was a step of another rollout, or of another way."""
    return concluded if (concluded.get("rollout_id"), concluded.get("mode")) == (rollout_id, mode) else {}


def well_so_far(previous: t.Mapping[str, t.Any], index: int, first: int) -> bool:
    """Whether the step before step ``index`` is known to have gone well, and the rollout does not wait there: a deploy that failed
    stops no host by itself, and nor does a pause."""
    went_well = bool(previous.get("ok")) and not previous.get("paused")
    return index == first or (went_well and int(previous["index"]) == index - 1)


def left_out(told: t.Mapping[str, t.Any], rollout_id: str, previous: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The conclusion of a step that was left out: nothing went well, and what the step before it said still holds."""
    return {
        "ok": False,
        "rollout_id": rollout_id,
        "mode": told["mode"],
        "index": told["index"],
        "problem": previous.get("problem", ""),
        "problems": list(previous.get("problems", ())),
        "lost": list(previous.get("lost", ())),
        "forward_only": list(previous.get("forward_only", ())),
        "failed_lbs": list(previous.get("failed_lbs", ())),
        "paused": "",
        "hosts": [],
        "progress_at": progress(told, previous),
        # Nothing was told, so nothing was written down either.
        "results": list(previous.get("results", ())),
        "releases": dict(previous.get("releases", {})),
    }


def progress(told: t.Mapping[str, t.Any], previous: t.Mapping[str, t.Any]) -> float:
    """When hosts last came into rotation, or else when the steps began."""
    if previous.get("progress_at"):
        return float(previous["progress_at"])
    return float(told["at"])


def overdue(since: float, now: float, deadline: float) -> list[str]:
    if not deadline or now - since <= deadline:
        return []
    return [
        f"no batch came into rotation for {now - since:.0f} s, more than rolling_progress_deadline ({deadline:g} s)"
    ]


def _short(text: t.Any) -> str:
    words = " ".join(str(text or "").split())
    return words if len(words) <= 600 else f"{words[:597]}..."
