# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a probe expects of an HTTP answer, and whether an answer is that. Pure: no socket, no clock.

An answer is untrusted data: it is compared, never evaluated, and whatever of it is shown to a person goes through an
`Excerpts`, which hides secrets, escapes control characters and shortens.
"""

from __future__ import annotations

import json
import math
import re
import typing as t
from dataclasses import dataclass

EXCERPT_LENGTH = 200  # characters
HIDDEN = "********"
# A header value shorter than this is no secret, and would be found by accident everywhere.
SHORTEST_SECRET = 4
# A longer integer takes time that grows with the square of its length before Python 3.11.
MAX_INTEGER_DIGITS = 1000

StatusRange = tuple[int, int]
JsonPath = tuple[t.Union[str, int], ...]
# Whether a regular expression is found in a text.
Search = t.Callable[["re.Pattern[str]", str], bool]


class ProbeError(Exception):
    """What was asked of the probe cannot be done; nothing was sent."""


@dataclass(frozen=True)
class Answer:
    """One complete HTTP answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    text: str
    whole: bool  # False when the body was longer than what was read of it
    latency_ms: float  # from before the connection to the last byte read


@dataclass(frozen=True)
class Expectation:
    """What an answer must be. An empty part expects nothing; latencies are milliseconds."""

    statuses: tuple[StatusRange, ...]
    headers: tuple[tuple[str, str], ...] = ()
    headers_regex: tuple[tuple[str, re.Pattern[str]], ...] = ()
    body: str | None = None
    body_regex: re.Pattern[str] | None = None
    json: tuple[tuple[str, JsonPath, t.Any], ...] = ()
    max_latency_ms: float | None = None

    @property
    def reads_body(self) -> bool:
        return self.body is not None or self.body_regex is not None or bool(self.json)


class Excerpts:
    """Makes text of an answer fit to be shown: without secrets, on one line, and short."""

    def __init__(self, secrets: t.Iterable[str] = ()) -> None:
        # The parts too: of `Bearer abc` an echo may hold only `abc`. Longest first, or a part would break up its whole.
        parts = {part for secret in secrets for part in (secret, *secret.split()) if len(part) >= SHORTEST_SECRET}
        self._secrets = sorted({form for part in parts for form in _echoes(part)}, key=len, reverse=True)

    def plain(self, text: str) -> str:
        """The text without secrets and control characters, not more than EXCERPT_LENGTH characters of it."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        shown = "".join(map(_printable, text[:EXCERPT_LENGTH]))
        return shown + "..." if len(text) > EXCERPT_LENGTH else shown

    def quoted(self, text: str) -> str:
        return f"'{self.plain(text)}'"


def _echoes(secret: str) -> tuple[str, ...]:
    """The forms in which an answer repeats a header's value: as it is, in JSON, and as the Latin-1 that was sent, which
    is read as UTF-8."""
    escaped = [json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)]
    solidus = [text.replace("/", "\\/") for text in escaped]  # as PHP writes it
    raw = secret.encode("latin-1", errors="replace").decode("utf-8", errors="replace")
    return secret, *escaped, *solidus, raw


def _printable(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def parse_expectation(wanted: t.Mapping[str, t.Any], where: str) -> Expectation:
    """Read the `expect` option; `where` names it in a `ProbeError`."""
    return Expectation(
        statuses=_parse_statuses(wanted.get("status") or [], where),
        headers=tuple((str(name), str(value)) for name, value in (wanted.get("headers") or {}).items()),
        headers_regex=tuple(
            (str(name), _compile(value, f"{where}.headers_regex.{name}"))
            for name, value in (wanted.get("headers_regex") or {}).items()
        ),
        body=wanted.get("body"),
        body_regex=_parse_regex(wanted.get("body_regex"), f"{where}.body_regex"),
        json=tuple(
            (str(path), parse_json_path(str(path), f"{where}.json"), value)
            for path, value in (wanted.get("json") or {}).items()
        ),
        max_latency_ms=_parse_latency(wanted.get("max_latency_ms"), f"{where}.max_latency_ms"),
    )


def _parse_statuses(wanted: t.Sequence[t.Any], where: str) -> tuple[StatusRange, ...]:
    if not wanted:
        raise ProbeError(
            f"{where}.status is empty: no answer could ever be right. Give codes or ranges such as 200-299."
        )
    return tuple(_parse_status(str(item).strip(), f"{where}.status") for item in wanted)


def _parse_status(item: str, where: str) -> StatusRange:
    found = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", item, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise ProbeError(f"{where} has {item!r}: give codes from 100 to 599, or ranges such as 200-299.")
    return first, last


def _parse_regex(pattern: t.Any, where: str) -> re.Pattern[str] | None:
    return None if pattern is None else _compile(pattern, where)


def _compile(pattern: t.Any, where: str) -> re.Pattern[str]:
    try:
        return re.compile(str(pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise ProbeError(f"{where} {str(pattern)!r} is not a regular expression: {error}.") from error


def _parse_latency(wanted: float | None, where: str) -> float | None:
    if wanted is not None and not (math.isfinite(wanted) and wanted > 0):
        raise ProbeError(f"{where} is {wanted:g}: give a number of milliseconds above 0.")
    return wanted


def parse_json_path(path: str, where: str) -> JsonPath:
    """Split ``a.b[0].c`` or ``["a.b"].c`` into its steps: names of members as text, places in lists as numbers."""
    steps: list[str | int] = []
    rest = path
    while rest:
        found = _JSON_STEP_FIRST.match(rest) if not steps else _JSON_STEP.match(rest)
        if not found:
            break
        steps.append(_json_step(found))
        rest = rest[found.end() :]
    if rest or not steps:
        raise ProbeError(
            f'{where} has the path {path!r}: write it like a.b[0].c, and a name with dots or brackets like ["a.b"].'
        )
    return tuple(steps)


_JSON_BRACKET = r'\[(?P<place>[0-9]{1,9})\]|\[(?P<quoted>"(?:[^"\\\x00-\x1f]|\\.)*")\]'
_JSON_NAME = r"(?P<name>[^.\[\]\"]+)"
_JSON_STEP_FIRST = re.compile(f"{_JSON_BRACKET}|{_JSON_NAME}")
_JSON_STEP = re.compile(rf"{_JSON_BRACKET}|\.{_JSON_NAME}")


def _json_step(found: re.Match[str]) -> str | int:
    if found["place"] is not None:
        return int(found["place"])
    if found["quoted"] is not None:
        try:
            return str(json.loads(found["quoted"]))
        except ValueError as error:
            raise ProbeError(f"{found['quoted']} in a JSON path is not a JSON string: {error}.") from error
    return str(found["name"])


def mismatch(expected: Expectation, answer: Answer, excerpts: Excerpts, search: Search) -> str | None:
    """What is wrong with the answer, as the end of a sentence about the target, or None when it is as expected."""
    return (
        _status_mismatch(expected, answer)
        or _header_mismatch(expected, answer, excerpts, search)
        or _body_mismatch(expected, answer, search)
        or _json_mismatch(expected, answer, excerpts)
        or _latency_mismatch(expected, answer)
    )


def _status_mismatch(expected: Expectation, answer: Answer) -> str | None:
    if any(first <= answer.status <= last for first, last in expected.statuses):
        return None
    wanted = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in expected.statuses)
    return f"answered {answer.status} instead of {wanted}"


def _header_mismatch(expected: Expectation, answer: Answer, excerpts: Excerpts, search: Search) -> str | None:
    for name, value in expected.headers:
        got = _header_values(answer, name)
        if value not in got:
            return f"answered with {_got_header(name, got, excerpts)} instead of {value!r}"
    for name, pattern in expected.headers_regex:
        got = _header_values(answer, name)
        if not any(search(pattern, each) for each in got):
            return f"answered with {_got_header(name, got, excerpts)}, which {pattern.pattern!r} does not match"
    return None


def _header_values(answer: Answer, name: str) -> list[str]:
    return [value.strip() for header, value in answer.headers if header.lower() == name.lower()]


def _got_header(name: str, got: t.Sequence[str], excerpts: Excerpts) -> str:
    return f"header {name} {excerpts.quoted(', '.join(got))}" if got else f"no header {name}"


def _body_mismatch(expected: Expectation, answer: Answer, search: Search) -> str | None:
    if expected.body is not None and expected.body not in answer.text:
        return f"answered without {expected.body!r} in {_body_read(answer)}"
    if expected.body_regex is not None and not search(expected.body_regex, answer.text):
        return f"answered with a body that {expected.body_regex.pattern!r} does not match in {_body_read(answer)}"
    return None


def _body_read(answer: Answer) -> str:
    return "its body" if answer.whole else "the part of its body that was read (see max_body)"


def _json_mismatch(expected: Expectation, answer: Answer, excerpts: Excerpts) -> str | None:
    if not expected.json:
        return None
    if not answer.whole:
        return "answered with a body longer than max_body, so that it could not be read as JSON"
    try:
        document = json.loads(answer.text, parse_int=_parse_integer)
    except (ValueError, RecursionError):
        return "answered with a body that is not JSON"
    for path, steps, value in expected.json:
        found, got = look_up(document, steps)
        if not found:
            return f"answered without {path} in its JSON"
        if not same_json(value, got):
            return f"answered with {path} = {_describe(got, excerpts)} in its JSON instead of {_describe(value, Excerpts())}"
    return None


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise ValueError("integer too long")
    return int(digits)


def look_up(document: t.Any, steps: JsonPath) -> tuple[bool, t.Any]:
    """Whether the path leads to something in the document, and to what."""
    for step in steps:
        if isinstance(step, str):
            known = isinstance(document, dict) and step in document
        else:
            known = isinstance(document, list) and step < len(document)
        if not known:
            return False, None
        document = document[step]
    return True, document


def same_json(wanted: t.Any, got: t.Any) -> bool:
    """Equality of JSON values: 1 equals 1.0, but never true or "1" (in Python, True == 1)."""
    if isinstance(wanted, bool) or isinstance(got, bool):
        return wanted is got
    if isinstance(wanted, dict) and isinstance(got, dict):
        return wanted.keys() == got.keys() and all(same_json(value, got[key]) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(same_json, wanted, got))
    return bool(wanted == got)


def _describe(value: t.Any, excerpts: Excerpts) -> str:
    """A JSON value with its type, so that 1 and "1" can be told apart."""
    if isinstance(value, str):
        return f"the text {excerpts.quoted(value)}"
    if isinstance(value, (dict, list)):
        return "another object" if isinstance(value, dict) else "another list"
    return excerpts.plain(json.dumps(value, default=str))


def _latency_mismatch(expected: Expectation, answer: Answer) -> str | None:
    if expected.max_latency_ms is None or answer.latency_ms <= expected.max_latency_ms:
        return None
    return f"answered in {answer.latency_ms:.0f} ms instead of at most {expected.max_latency_ms:g} ms"
