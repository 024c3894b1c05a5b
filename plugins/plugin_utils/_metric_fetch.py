# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This plugin util is private to the collection; it may change at any time.
"""Asks for the values of metrics, over HTTP, from the controller. What cannot be read is told, and never what is secret in it."""

from __future__ import annotations

import re
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.steady.rollout.plugins.module_utils._metric import Answer, Metric

# So many characters of what a server says when it refuses a query.
_MOST = 200
# An answer is a few hundred bytes; whatever sends more is not what was asked for.
_LARGEST = 1_000_000
Servers = t.Mapping[str, t.Collection[str]]  # {"canary": names, "stable": names}


class MetricError(Exception):
    """A value could not be read; the text says why, without credentials."""


def ask(metrics: t.Sequence[Metric], servers: Servers) -> dict[str, Answer]:
    """The answer for each metric, by name. All are asked at once, and each may take its own time at most."""
    if not metrics:
        return {}
    with ThreadPoolExecutor(max_workers=min(16, len(metrics))) as pool:
        answers = pool.map(lambda metric: _answer(metric, servers), metrics)
        return {metric.name: answer for metric, answer in zip(metrics, answers)}


def missing() -> str:
    """Why metrics cannot be read at all on this controller, or ""."""
    try:
        import requests  # type: ignore[import-untyped]  # noqa: F401
    except ImportError:
        return "metrics are read with the Python library requests, which this controller lacks; install it beside ansible-core"
    return ""


def _answer(metric: Metric, servers: Servers) -> Answer:
    values = {}
    try:
        if metric.provider == "http":
            told = _get(metric, metric.url, {})
            return Answer({side: _at(told, path) for side, path in metric.asks.items()})
        for side, query in metric.asks.items():
            values[side] = _instant(metric, _with_servers(query, servers))
    except MetricError as exc:
        return Answer(error=str(exc))
    return Answer(values)


def _with_servers(query: str, servers: Servers) -> str:
    """$canary and $stable become regular expressions of the names, as strings of PromQL hold them."""
    for side, names in servers.items():
        expression = "|".join(re.escape(name) for name in sorted(names)) or "none"
        query = query.replace(f"${side}", expression.replace("\\", "\\\\"))
    return query


def _instant(metric: Metric, query: str) -> float | None:
    """The value of a query now (Prometheus' HTTP API, instant queries); None where it has none."""
    told = _get(metric, metric.url.rstrip("/") + "/api/v1/query", {"query": query})
    if not isinstance(told, dict) or told.get("status") != "success" or not isinstance(told.get("data"), dict):
        raise MetricError(f"{_shown(metric)} does not answer as Prometheus does")
    kind, result = told["data"].get("resultType"), told["data"].get("result")
    if kind == "scalar":
        return _value(result)
    if kind != "vector" or not isinstance(result, list):
        raise MetricError(f"the query is of type {kind}, and must be an instant vector or a scalar")
    if not result:
        return None
    if len(result) > 1:
        raise MetricError(f"the query has {len(result)} values, and must have one; aggregate them, as by sum()")
    return _value(result[0].get("value") if isinstance(result[0], dict) else None)


def _value(sample: t.Any) -> float:
    try:
        return float(sample[1])
    except (TypeError, ValueError, IndexError, KeyError) as exc:
        raise MetricError("the query has a value that is no number") from exc


def _at(told: t.Any, path: str) -> float | None:
    """The number at a path such as `data.errors.0.rate`; None where it is null, or not there."""
    for part in path.split("."):
        if isinstance(told, dict):
            told = told.get(part)
        elif isinstance(told, list) and part.isdigit() and int(part) < len(told):
            told = told[int(part)]
        else:
            return None
    if told is None:
        return None
    try:
        return float("nan" if isinstance(told, bool) else told)
    except (TypeError, ValueError) as exc:
        raise MetricError(f"what is at {path} is no number") from exc


def _get(metric: Metric, url: str, parameters: t.Mapping[str, str]) -> t.Any:
    # Only where there are metrics: not every controller has it.
    import requests

    http = metric.http
    certificate = (http["client_cert"], http.get("client_key")) if http.get("client_cert") else None
    try:
        with requests.Session() as session:
            # Neither .netrc nor proxies of the environment: what is asked is what the user wrote.
            session.trust_env = False
            answer = session.get(
                url,
                params=parameters,
                headers={str(name): str(value) for name, value in (http.get("headers") or {}).items()},
                auth=(str(http["username"]), str(http.get("password") or "")) if http.get("username") else None,
                verify=http.get("ca_path") or bool(http.get("validate_certs", True)),
                cert=certificate if certificate and certificate[1] else certificate and certificate[0],
                timeout=metric.timeout,
                stream=True,
            )
            body = answer.raw.read(_LARGEST, decode_content=True)
    except (requests.RequestException, OSError, ValueError) as exc:
        raise MetricError(f"{_shown(metric)} did not answer: {_why(exc)}") from exc
    except Exception as exc:  # urllib3 has errors of its own while the body is read
        raise MetricError(f"{_shown(metric)} broke off: {type(exc).__name__}") from exc
    return _parsed(metric, answer.status_code, body)


def _parsed(metric: Metric, status: int, body: bytes) -> t.Any:
    import json

    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if status >= 400:
        # Prometheus says there what is wrong with a query.
        why = told.get("error") if isinstance(told, dict) else None
        raise MetricError(f"{_shown(metric)} answered {status}{f': {why!s:.{_MOST}}' if why else ''}")
    if told is None:
        raise MetricError(f"{_shown(metric)} answered {status}, and no JSON")
    return told


def _shown(metric: Metric) -> str:
    """The host and path of the URL: what is before an @, and behind a ?, may be secret."""
    scheme, _sign, rest = metric.url.partition("://")
    return f"{scheme}://{rest.split('?')[0].rpartition('@')[2]}"


def _why(exc: Exception) -> str:
    """The kind of failure; the text of requests holds the whole URL."""
    import requests

    if isinstance(exc, requests.exceptions.SSLError):
        return "its certificate cannot be verified"
    if isinstance(exc, requests.Timeout):
        return "no answer in time"
    if isinstance(exc, requests.ConnectionError):
        return "no connection"
    return type(exc).__name__
