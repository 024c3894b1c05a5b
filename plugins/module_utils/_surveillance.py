# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""One poll of a step that watches: what the load balancers told, what probes said, and whether both are as they should.

Pure: the time is given. The counters are judged by _watch; here is what a rollout adds: weights and states must still be what
was told, a load balancer that does not answer is a failure after some polls, and the share is judged after a shift. What a restart made
a load balancer forget it is told again, once in a step.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _analysis, _fleet, _watch
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad, proved, reasons, why
from ansible_collections.steady.rollout.plugins.module_utils._executor import Settings
from ansible_collections.steady.rollout.plugins.module_utils._share import observe

Results = t.Sequence[t.Mapping[str, t.Any]]
# Polls in a row that a load balancer may leave unanswered, as while it is restarted.
UNANSWERED = 3


def poll(
    settings: Settings,
    told: t.Mapping[str, t.Any],
    readings: Results,
    previous: t.Mapping[str, t.Any],
    now: float,
    metrics: tuple[str, str] = ("pass", ""),
) -> dict[str, t.Any]:
    """{key, verdict, reason, line, done, next, ...}: data that the next poll is given. Once done it stays as it is.

    ``metrics``: the verdict of those that something else measures, and why.
    ``reassert``: acts that tell load balancers once more what they forgot; the next poll, which is due at once, sees whether they
    did.
    """
    key = told["key"]
    known = previous if previous.get("key") == key else {}
    if known.get("done"):
        return {**known, "again": True}
    watch = told["watch"]
    started = float(known.get("started") or now)
    elapsed = now - started
    answers = {str(answer["item"]["lb"]): answer for answer in readings if isinstance(answer.get("item"), t.Mapping)}
    good = {lb: answer for lb, answer in answers.items() if not bad(answer)}
    silent, unanswered = _unanswered(watch, answers, known.get("unanswered") or {}, elapsed >= watch["longest"])
    pids = {lb: answer["process"]["pid"] for lb, answer in good.items()}
    before: dict[str, t.Any] = previous.get("pids") or {}
    restarted = [lb for lb, pid in pids.items() if before.get(lb) not in (None, pid)]
    reassert = _reassert(watch, good, restarted, known.get("told_again") or ())
    again = [one["lb"] for one in reassert]
    judged = {lb: answer for lb, answer in good.items() if lb not in again}
    judge = watch["judge"]
    readings_of = {lb: _reading(answer) for lb, answer in good.items()}
    seen = {lb: readings_of[lb] for lb in judged}
    verdict = _watch.step(
        known.get("state") or {},
        seen,
        [tuple(place) for place in watch["track"]],
        {
            "max_error_rate": settings.max_error_rate,
            "min_requests": settings.min_requests,
            "require_requests": watch["require_requests"],
            "wanted_percent": watch["wanted_percent"],
            "limited": watch["limited"],
            "name": watch["name"],
            "rest_name": watch["rest_name"],
        },
        elapsed,
        watch["seconds"],
        [*silent, *_probe_failures(judged), *_strayed(watch["expected"], judged)],
        judge["sides"] if judge else None,
    )
    decided, reason, line = verdict.verdict, verdict.reason, verdict.line
    if watch["of_share"] and decided != "fail":
        decided, reason, line = _judge_share(verdict, watch, settings, elapsed)
    past: dict[str, t.Any] = known.get("past") or {"lbs": {}, "dealt": 0}
    analysed = (previous.get("analysis") or {}) if previous.get("rollout_id") == told["rollout_id"] else {}
    if judge:
        servers = _busy(seen, (known.get("state") or {}).get("lbs") or {})
        counted = _counted_before(judge["past"], readings_of, past["lbs"])
        polls = int(-(-watch["seconds"] // watch["interval"]))
        before_it = _analysis.past_of(_watch.total(counted.values()), polls, past["dealt"])
        analysis = _analysis.analyse(
            judge, analysed or judge["state"], verdict.grown, servers, before_it, verdict.times
        )
        analysed, past = analysis.state, {"lbs": counted, "dealt": analysis.past.dealt}
        decided, reason, line = _compared(watch, analysis, verdict, metrics, elapsed)
    if any(unanswered.values()) and decided != "fail" and elapsed < watch["longest"]:
        decided, reason = "going", ""  # what is silent may still answer
    if reassert and decided != "fail":
        decided, reason = "going", ""
        line += f"; {', '.join(again)} was reloaded or restarted, and forgot its weights: it is told again"
    return {
        "key": key,
        "again": False,
        "started": started,
        "verdict": decided,
        "reason": reason,
        "line": line,
        "done": decided != "going",
        "reassert": reassert if decided == "going" else [],
        "told_again": sorted({*(known.get("told_again") or ()), *again}),
        "pids": {**before, **pids},
        "next": now if reassert else started + watch["interval"] * (int(elapsed / watch["interval"] + 0.5) + 1),
        "state": verdict.state,
        "unanswered": unanswered,
        "analysis": analysed,
        "past": past,
        "rollout_id": told["rollout_id"],
    }


def _counted_before(
    places: t.Collection[t.Sequence[str]],
    readings: t.Mapping[str, t.Mapping[str, t.Any]],
    known: t.Mapping[str, t.Sequence[int]],
) -> dict[str, list[int]]:
    """What the servers that carried before had counted on each load balancer when this step read it first."""
    now = {lb: list(_watch.counted(reading, places)) for lb, reading in readings.items()}
    return {**now, **{lb: list(counts) for lb, counts in known.items()}}


def _busy(
    seen: t.Mapping[str, t.Mapping[str, t.Any]], before: t.Mapping[str, t.Mapping[str, t.Any]]
) -> dict[str, list[dict[str, t.Any]]]:
    """Servers that got requests since the poll before: the mean times of others are of some other time."""
    found: dict[str, list[dict[str, t.Any]]] = {}
    for lb, reading in seen.items():
        known = (before.get(lb) or {}).get("servers") or {}
        for server in reading["servers"]:
            place = (server["backend"], server["name"])
            then = known.get("/".join(place))
            if then and _watch.counted({"servers": [server]}, [place])[0] > (then["counts"][0] or 0):
                found.setdefault(lb, []).append(server)
    return found


def _compared(
    watch: t.Mapping[str, t.Any],
    analysis: _analysis.Analysis,
    verdict: _watch.Verdict,
    metrics: tuple[str, str],
    elapsed: float,
) -> tuple[str, str, str]:
    """What the watch, the judge and metrics say together. A fail of any is one; anything else waits until the time is up."""
    line = _analysis.line(watch, analysis, verdict.state["mine"], verdict.state["rest"], elapsed)
    if verdict.verdict == "fail":
        return "fail", verdict.reason, line
    if analysis.verdict == "fail":
        return "fail", analysis.reason, line
    if metrics[0] == "fail":
        return "fail", metrics[1], line
    if verdict.verdict == "going":
        return "going", "", line
    requests = int(verdict.state["mine"][0])
    watched = (verdict.verdict, verdict.reason)
    decided, reason = _analysis.at_end(watch["judge"], analysis, watched, requests, elapsed, watch["longest"])
    asked = watch["judge"]["asks"] or not watch["judge"]["judged"]
    if decided == "pass" and asked and metrics[0] == "inconclusive":
        return ("going", "", line) if elapsed < watch["longest"] else (*metrics, line)
    return decided, reason, line


def _unanswered(
    watch: t.Mapping[str, t.Any], answers: t.Mapping[str, t.Mapping[str, t.Any]], known: t.Mapping[str, int], last: bool
) -> tuple[list[str], dict[str, int]]:
    """Load balancers that have been silent for too long, in words; and how long each has been, in polls."""
    counts = {
        lb: 0 if lb in answers and not bad(answers[lb]) else int(known.get(lb, 0)) + 1 for lb in watch["expected"]
    }
    words = [
        f"{lb} did not answer {'a poll' if count == 1 else f'{count} polls in a row'}: {why(answers.get(lb))}"
        for lb, count in counts.items()
        if count >= UNANSWERED or (count and last)
    ]
    return words, counts


def _reading(answer: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    servers = [
        {"backend": backend, **server}
        for backend, told in answer["backends"].items()
        for server in told["servers"]
        if not server["backup"]
    ]
    # Counters of a log live on when the process does not, and begin anew for reasons of their own, with what the log has then.
    process = answer["process"]
    if "counters" in process:
        return {"pid": process["counters"], "from_zero": False, "servers": servers}
    return {"pid": process["pid"], "servers": servers}


def _probe_failures(answers: t.Mapping[str, t.Mapping[str, t.Any]]) -> list[str]:
    found = {lb: proved(answer) for lb, answer in answers.items()}
    return [f"from {lb}, {reason}" for lb, answer in found.items() if bad(answer) for reason in reasons(answer)]


def _reassert(
    watch: t.Mapping[str, t.Any],
    answers: t.Mapping[str, t.Mapping[str, t.Any]],
    restarted: t.Collection[str],
    told_again: t.Collection[str],
) -> list[dict[str, t.Any]]:
    """The acts that tell load balancers what they forgot when another process took over: for each what differs there."""
    acts = []
    for lb in restarted:
        forgotten: dict[str, list[dict[str, t.Any]]] = {}
        for backend, told in answers[lb]["backends"].items():
            for server in told["servers"]:
                wanted = watch["expected"][lb].get(backend, {}).get(server["name"])
                if wanted is not None and _differs(server, wanted):
                    values = {name: wanted[name] for name in ("state", "weight") if wanted[name] is not None}
                    forgotten.setdefault(backend, []).append({"name": server["name"], **values})
        if forgotten and lb not in told_again and lb in watch["reassert"]:
            acts.append({**watch["reassert"][lb], "servers": forgotten})
    return acts


def _strayed(
    expected: t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Mapping[str, t.Any]]]],
    answers: t.Mapping[str, t.Mapping[str, t.Any]],
) -> list[str]:
    """Servers that are not what they were told to be: a reload forgot it, or somebody changed it."""
    words = []
    for lb, answer in answers.items():
        for backend, told in answer["backends"].items():
            for server in told["servers"]:
                wanted = expected[lb].get(backend, {}).get(server["name"])
                if wanted is not None and _differs(server, wanted):
                    words.append(
                        f"{lb} has {backend}/{server['name']} {server['own_state']} with weight {server['weight']} instead of "
                        f"{wanted['state']}{'' if wanted['weight'] is None else ' with weight ' + str(wanted['weight'])}: "
                        "it was reloaded without its state, or somebody else changed it"
                    )
    return words[:3]


def _differs(server: t.Mapping[str, t.Any], wanted: t.Mapping[str, t.Any]) -> bool:
    if not _fleet.is_in_state(server["own_state"], wanted["state"]):
        return True
    return wanted["state"] == "ready" and wanted["weight"] is not None and server["weight"] != wanted["weight"]


def _judge_share(
    verdict: _watch.Verdict, watch: t.Mapping[str, t.Any], settings: Settings, elapsed: float
) -> tuple[str, str, str]:
    """Whether traffic went where the weights say: told as soon as it is certain, and at the end when there were too few."""
    mine, rest = int(verdict.state["mine"][0]), int(verdict.state["rest"][0])
    seen = observe(mine, mine + rest, float(watch["wanted_percent"]), settings.share_tolerance)
    line = f"{watch['name']} gets {seen.words}"
    if seen.verdict == "ok":
        return "pass", seen.words, line
    if elapsed < watch["seconds"]:
        return "going", "", line
    if seen.verdict == "few":
        return "pass", seen.words, f"{line}; too few requests to tell"
    return (
        "fail",
        f"{line}: cookies or stick tables may bind clients to the old side; see rollout_share_tolerance",
        line,
    )
