# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Metrics that something else measures: what is asked, what one measurement is worth, and what many come to. Pure.

A measurement is successful, failed, inconclusive or an error; its conditions decide, and a failure condition beats a success condition. A metric
fails when more measurements failed than `failure_limit`, or more errors came in a row than `consecutive_error_limit`. It passes only
when at least one was successful, and no more were inconclusive than `inconclusive_limit`: no data is never a pass.
"""

from __future__ import annotations

import math
import operator
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils._duration import duration
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, listed, quoted

SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR = "successful", "failed", "inconclusive", "error"
PROVIDERS = ("prometheus", "http")
NO_DATA = ("inconclusive", "fail", "error", "ignore")
# An error is asked about again after so many seconds, where the interval is not shorter.
RETRY_SECONDS = 10.0

_OPERATORS: t.Mapping[str, t.Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_CONDITION = re.compile(r"\s*(<=|>=|<|>)\s*([-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)\s*\Z")
_OPTIONS = (
    "name",
    "provider",
    "url",
    "query",
    "canary",
    "stable",
    "path",
    "canary_path",
    "stable_path",
    "headers",
    "username",
    "password",
    "validate_certs",
    "ca_path",
    "client_cert",
    "client_key",
    "timeout",
    "interval",
    "success",
    "failure",
    "ratio",
    "delta",
    "failure_limit",
    "inconclusive_limit",
    "consecutive_error_limit",
    "no_data",
)


class Condition(t.NamedTuple):
    """``< 0.05``, as a person writes it."""

    sign: str
    limit: float

    def holds(self, value: float) -> bool:
        return _OPERATORS[self.sign](value, self.limit)

    def words(self) -> str:
        return f"{self.sign} {self.limit:g}"


@dataclass(frozen=True)
class Metric:
    """One metric. ``asks``: what is asked for, by side: {"value": query} or {"canary": query, "stable": query}.

    A query is PromQL, in which $canary and $stable stand for a regular expression of the servers' names, or the path of a value in
    JSON. ``interval`` and ``timeout`` in seconds. ``ratio`` and ``delta``: what the canary's value may be beside the stable one.
    """

    name: str
    provider: str
    url: str
    asks: t.Mapping[str, str]
    success: Condition | None
    failure: Condition | None
    ratio: float
    delta: float
    interval: float
    timeout: float
    failure_limit: int
    inconclusive_limit: int
    consecutive_error_limit: int
    no_data: str
    http: t.Mapping[str, t.Any] = field(default_factory=dict, repr=False)  # headers, credentials, certificates

    @property
    def compares(self) -> bool:
        return "canary" in self.asks


class Answer(t.NamedTuple):
    """What one question brought: ``values`` by side, None where there was no data; or ``error``, why nothing could be read."""

    values: t.Mapping[str, float | None] = {}
    error: str = ""


class Record(t.NamedTuple):
    """The measurements so far. ``errors``: in a row; ``due``: when the next one is to be taken; ``last``: the newest, in words."""

    successful: int = 0
    failed: int = 0
    inconclusive: int = 0
    errors: int = 0
    due: float = 0.0
    last: str = ""


def read_metrics(raw: t.Any) -> tuple[Metric, ...]:
    """From `rollout_analysis.metrics`. Raises PlanError."""
    if raw is None:
        return ()
    if isinstance(raw, (str, bytes)) or not isinstance(raw, t.Sequence):
        raise PlanError(f"rollout_analysis.metrics is {quoted(raw)}, and must be a list.")
    metrics = tuple(_read(number, entry) for number, entry in enumerate(raw, 1))
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(
            f"rollout_analysis.metrics has {listed(twice)} more than once; give each metric a name of its own."
        )
    return metrics


def measured(metric: Metric, record: Record, answer: Answer, now: float) -> Record:
    """The record with one more measurement."""
    outcome, words = judge(metric, answer)
    wait = min(metric.interval, RETRY_SECONDS) if outcome == ERROR else metric.interval
    known = record._replace(due=now + wait, last=words, errors=record.errors + 1 if outcome == ERROR else 0)
    if outcome == SUCCESSFUL:
        return known._replace(successful=record.successful + 1)
    if outcome == FAILED:
        return known._replace(failed=record.failed + 1)
    if outcome == INCONCLUSIVE:
        return known._replace(inconclusive=record.inconclusive + 1)
    return known


def judge(metric: Metric, answer: Answer) -> tuple[str, str]:
    """(outcome, words) of one measurement; the outcome is "" where it is to be ignored."""
    if answer.error:
        return ERROR, answer.error
    values = {side: answer.values.get(side) for side in metric.asks}
    known = {side: value for side, value in values.items() if value is not None and not math.isnan(value)}
    if len(known) < len(values):
        policy = {"inconclusive": INCONCLUSIVE, "fail": FAILED, "error": ERROR, "ignore": ""}[metric.no_data]
        return policy, f"no data of {', '.join(sorted(set(values) - set(known)))}"
    if metric.compares:
        allowed = metric.ratio * known["stable"] + metric.delta
        words = (
            f"{known['canary']:g} of the canary, {known['stable']:g} of the stable servers, at most {allowed:g} may be"
        )
        return (SUCCESSFUL if known["canary"] <= allowed else FAILED), words
    value = known["value"]
    return _by_conditions(metric, value), f"{value:g}{_wanted(metric)}"


def verdict(metric: Metric, record: Record) -> tuple[str, str]:
    """(`fail`, `pass` or `inconclusive`, why)."""
    what = f"metric {metric.name}"
    if record.failed > metric.failure_limit:
        many = f"failed {_times(record.failed)}, and {metric.failure_limit} may"
        return "fail", f"{what} {many}: {record.last}"
    if record.errors > metric.consecutive_error_limit:
        return "fail", f"{what} could not be read {_times(record.errors)} in a row: {record.last}"
    if record.inconclusive > metric.inconclusive_limit:
        return "inconclusive", f"{what} was inconclusive {_times(record.inconclusive)}: {record.last}"
    if not record.successful:
        return "inconclusive", f"{what} was never measured{': ' + record.last if record.last else ''}"
    return "pass", f"{what} is as wanted: {record.last}"


def together(metrics: t.Sequence[Metric], records: t.Mapping[str, Record]) -> tuple[str, str]:
    """The worst verdict of all metrics, with its reason; a pass where there are none."""
    found = [verdict(metric, records.get(metric.name, Record())) for metric in metrics]
    for worst in ("fail", "inconclusive"):
        reasons = [reason for one, reason in found if one == worst]
        if reasons:
            return worst, "; ".join(reasons)
    return "pass", "; ".join(reason for _one, reason in found)


def _by_conditions(metric: Metric, value: float) -> str:
    if metric.failure and metric.failure.holds(value):
        return FAILED
    if metric.success:
        if metric.success.holds(value):
            return SUCCESSFUL
        return INCONCLUSIVE if metric.failure else FAILED
    return SUCCESSFUL


def _wanted(metric: Metric) -> str:
    told = [
        f"{condition.words()} is {what}"
        for condition, what in ((metric.success, "good"), (metric.failure, "bad"))
        if condition
    ]
    return f" where {', '.join(told)}" if told else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


# ---------------------------------------------------------------------------------------------------------------------
# reading what a person wrote


def _read(number: int, entry: t.Any) -> Metric:
    if not isinstance(entry, t.Mapping):
        raise PlanError(f"Metric {number} of rollout_analysis.metrics is {quoted(entry)}, and must be a map.")
    name = str(entry.get("name") or "").strip()
    where = f"Metric {number}{f' ({name})' if name else ''} of rollout_analysis.metrics"
    strange = [option for option in entry if option not in _OPTIONS]
    if strange:
        raise PlanError(
            f"{where} has {listed(map(str, strange))}, which it does not know; it knows {', '.join(_OPTIONS)}."
        )
    provider = entry.get("provider", "prometheus")
    if provider not in PROVIDERS:
        raise PlanError(f"{where} has provider {quoted(provider)}; it can be {' or '.join(PROVIDERS)}.")
    url = entry.get("url")
    if not name or not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise PlanError(f"{where} needs a name and a url that begins with http:// or https://.")
    asks = _asks(where, provider, entry)
    success, failure = (_condition(where, option, entry.get(option)) for option in ("success", "failure"))
    if "canary" not in asks and not success and not failure:
        raise PlanError(
            f'{where} has neither success nor failure, so that nothing could be judged by it; write one such as "< 0.05".'
        )
    if "canary" in asks and (success or failure):
        raise PlanError(
            f"{where} compares the canary with the stable servers; success and failure are for a single query."
        )
    no_data = entry.get("no_data", "inconclusive")
    if no_data not in NO_DATA:
        raise PlanError(f"{where} has no_data {quoted(no_data)}; it can be {', '.join(NO_DATA)}.")
    return Metric(
        name,
        provider,
        url,
        asks,
        success,
        failure,
        _number(where, "ratio", entry.get("ratio", 1.5)),
        _number(where, "delta", entry.get("delta", 0)),
        max(1.0, duration(entry.get("interval", 30))),
        max(0.1, duration(entry.get("timeout", 5))),
        _count(where, "failure_limit", entry.get("failure_limit", 0)),
        _count(where, "inconclusive_limit", entry.get("inconclusive_limit", 0)),
        _count(where, "consecutive_error_limit", entry.get("consecutive_error_limit", 4)),
        no_data,
        {option: entry[option] for option in _HTTP if option in entry},
    )


_HTTP = ("headers", "username", "password", "validate_certs", "ca_path", "client_cert", "client_key")


def _asks(where: str, provider: str, entry: t.Mapping[str, t.Any]) -> dict[str, str]:
    one, both = (
        ("query", ("canary", "stable")) if provider == "prometheus" else ("path", ("canary_path", "stable_path"))
    )
    given = {option: entry[option] for option in (one, *both) if entry.get(option)}
    if set(given) == {one}:
        return {"value": str(given[one])}
    if set(given) == set(both):
        return {"canary": str(given[both[0]]), "stable": str(given[both[1]])}
    raise PlanError(f"{where} needs either {one}, or both {both[0]} and {both[1]}.")


def _condition(where: str, option: str, value: t.Any) -> Condition | None:
    if value is None or value == "":
        return None
    found = _CONDITION.match(value) if isinstance(value, str) else None
    if not found:
        raise PlanError(f'{where} has {option} {quoted(value)}; write a sign and a number, such as "< 0.05".')
    return Condition(found[1], float(found[2]))


def _number(where: str, option: str, value: t.Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise PlanError(f"{where} has {option} {quoted(value)}, and it must be a number from 0.")
    return number


def _count(where: str, option: str, value: t.Any) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise PlanError(f"{where} has {option} {quoted(value)}, and it must be a whole number from 0.")
    return int(text)
