# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import re
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import (
    EXCERPT_LENGTH,
    HIDDEN,
    Answer,
    Excerpts,
    ProbeError,
    look_up,
    mismatch,
    parse_expectation,
    parse_json_path,
    same_json,
)
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def answer(status: int = 200, text: str = "", whole: bool = True, latency_ms: float = 1.0, **headers: str) -> Answer:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answer(status=status, headers=named, text=text, whole=whole, latency_ms=latency_ms)


def found(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.search(text) is not None


def judged(wanted: dict[str, t.Any], given_answer: Answer) -> str | None:
    return mismatch(parse_expectation({"status": ["200"], **wanted}, "expect"), given_answer, Excerpts(), found)


def test_answer_as_expected_has_no_mismatch() -> None:
    assert judged({}, answer()) is None


@pytest.mark.parametrize(
    ("statuses", "status", "fits"),
    [
        (["200"], 200, True),
        (["200"], 204, False),
        (["200-299"], 204, True),
        (["200-299"], 300, False),
        (["204", "300-399"], 399, True),
        (["200 "], 200, True),
    ],
)
def test_status_must_be_in_the_set(statuses: list[str], status: int, fits: bool) -> None:
    assert (judged({"status": statuses}, answer(status=status)) is None) is fits


def test_status_mismatch_names_what_was_wanted() -> None:
    assert judged({"status": ["204", "300-399"]}, answer(status=503)) == "answered 503 instead of 204, 300-399"


def test_body_must_contain_the_text() -> None:
    assert judged({"body": "ready"}, answer(text="it is ready")) is None
    assert judged({"body": "ready"}, answer(text="it is not")) == "answered without 'ready' in its body"


def test_body_that_was_not_read_to_its_end_is_named_so() -> None:
    assert "max_body" in str(judged({"body": "ready"}, answer(text="x", whole=False)))


def test_body_regex_is_found_anywhere() -> None:
    assert judged({"body_regex": "re.dy$"}, answer(text="it is ready")) is None
    assert judged({"body_regex": "^re.dy$"}, answer(text="it is ready")) is not None


def test_header_is_compared_without_regard_to_the_case_of_its_name() -> None:
    assert judged({"headers": {"x-release": "1.4.2"}}, answer(X_Release=" 1.4.2 ")) is None
    assert judged({"headers": {"x-release": "1.4.2"}}, answer(X_Release="1.4.1")) == (
        "answered with header x-release '1.4.1' instead of '1.4.2'"
    )
    assert (
        judged({"headers": {"x-release": "1.4.2"}}, answer()) == "answered with no header x-release instead of '1.4.2'"
    )


def test_header_regex_is_found_anywhere() -> None:
    assert judged({"headers_regex": {"content-type": "json"}}, answer(Content_Type="application/json")) is None
    assert judged({"headers_regex": {"content-type": "json"}}, answer(Content_Type="text/html")) is not None


def test_json_value_is_found_at_its_path() -> None:
    assert judged({"json": {"checks[1].ok": True}}, answer(text='{"checks": [{"ok": false}, {"ok": true}]}')) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": {}}', "answered without a.b in its JSON"),
        ('{"a": []}', "answered without a.b in its JSON"),
        ('{"a": {"b": "1"}}', "answered with a.b = the text '1' in its JSON instead of 1"),
        ('{"a": {"b": true}}', "answered with a.b = true in its JSON instead of 1"),
        ('{"a": {"b": [1]}}', "answered with a.b = another list in its JSON instead of 1"),
        ("{", "answered with a body that is not JSON"),
        ("[" * 100_000, "answered with a body that is not JSON"),
        ('{"a": {"b": ' + "1" * 100_000 + "}}", "answered with a body that is not JSON"),
    ],
)
def test_json_mismatch_is_told(text: str, reason: str) -> None:
    assert judged({"json": {"a.b": 1}}, answer(text=text)) == reason


def test_json_that_was_not_read_to_its_end_is_a_mismatch() -> None:
    assert "longer than max_body" in str(judged({"json": {"a": 1}}, answer(text='{"a": 1}', whole=False)))


def test_latency_may_not_be_higher() -> None:
    assert judged({"max_latency_ms": 100}, answer(latency_ms=100)) is None
    assert judged({"max_latency_ms": 100}, answer(latency_ms=250.4)) == "answered in 250 ms instead of at most 100 ms"


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"status": []}, "expect.status is empty"),
        ({"status": ["2xx"]}, "'2xx'"),
        ({"status": ["299-200"]}, "'299-200'"),
        ({"status": ["600"]}, "'600'"),
        ({"status": ["²00"]}, "from 100 to 599"),
        ({"body_regex": "("}, "expect.body_regex '(' is not a regular expression"),
        ({"headers_regex": {"x": "["}}, "expect.headers_regex.x"),
        ({"max_latency_ms": 0.0}, "expect.max_latency_ms is 0"),
        ({"max_latency_ms": float("nan")}, "expect.max_latency_ms is nan"),
        ({"json": {"a..b": 1}}, "'a..b'"),
    ],
)
def test_bad_expectation_is_refused(wanted: dict[str, t.Any], told: str) -> None:
    with pytest.raises(ProbeError) as refused:
        parse_expectation({"status": ["200"], **wanted}, "expect")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("a", ("a",)),
        ("a.b[0].c", ("a", "b", 0, "c")),
        ("[1][2]", (1, 2)),
        ('["a.b"].c', ("a.b", "c")),
        ('a["\\u0062"]', ("a", "b")),
        ("a.0", ("a", "0")),
        ("größe.x y", ("größe", "x y")),
    ],
)
def test_json_path_is_split(path: str, steps: tuple[t.Any, ...]) -> None:
    assert parse_json_path(path, "json") == steps


@pytest.mark.parametrize(
    "path", ["", ".", ".a", "a.", "a[", "a[-1]", "a[x]", "a]b", "a[0]b", 'a["b]', '["\\x"]', "a.[0]"]
)
def test_bad_json_path_is_refused(path: str) -> None:
    with pytest.raises(ProbeError):
        parse_json_path(path, "json")


def places(document: t.Any, path: str = "") -> t.Iterator[tuple[str, t.Any]]:
    if path:
        yield path, document
    if isinstance(document, dict):
        for name, value in document.items():
            yield from places(value, f"{path}[{json.dumps(name)}]")
    if isinstance(document, list):
        for place, value in enumerate(document):
            yield from places(value, f"{path}[{place}]")


@given(JSON)
def test_every_place_of_a_document_has_a_path(document: t.Any) -> None:
    for path, value in places(document):
        assert look_up(document, parse_json_path(path, "json")) == (True, value)


@given(JSON, st.lists(st.text() | st.integers(0, 9), min_size=1).map(tuple))
def test_look_up_never_fails(document: t.Any, steps: tuple[t.Any, ...]) -> None:
    found, value = look_up(document, steps)
    assert found or value is None


@given(st.text())
def test_json_path_is_read_or_refused(path: str) -> None:
    with contextlib.suppress(ProbeError):
        assert parse_json_path(path, "json")


@given(JSON)
def test_json_equals_itself_after_a_round_trip(value: t.Any) -> None:
    assert same_json(value, json.loads(json.dumps(value)))


@given(JSON, JSON)
def test_json_is_the_same_only_when_its_text_is(one: t.Any, other: t.Any) -> None:
    if json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert same_json(one, other)
    assert same_json(one, other) == same_json(other, one)


@pytest.mark.parametrize(("wanted", "got"), [(1, True), (0, False), (1, "1"), (None, False), ([1], [True]), ({}, [])])
def test_json_of_another_type_is_not_the_same(wanted: t.Any, got: t.Any) -> None:
    assert not same_json(wanted, got)


@given(st.text())
def test_excerpt_is_short_and_printable(text: str) -> None:
    shown = Excerpts().plain(text)
    assert shown.isprintable()
    assert len(shown) <= EXCERPT_LENGTH * len("\\U0010ffff") + len("...")


@given(
    st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=40),
    st.text(max_size=400),
)
def test_excerpt_never_shows_a_secret(secret: str, text: str) -> None:
    shown = Excerpts([f"Bearer {secret}"]).plain(f"{secret}{text}{secret}{text}")
    assert secret not in shown
    assert shown.startswith(HIDDEN)


def test_secret_at_the_end_of_an_excerpt_is_not_cut_in_half() -> None:
    assert "s3cr" not in Excerpts(["s3cret-token"]).plain("x" * (EXCERPT_LENGTH - 5) + "s3cret-token")


@pytest.mark.parametrize("secret", ['pass"word', "back\\slash", "pässwörd", "a/b/c/d"])
def test_secret_is_hidden_in_every_form_that_an_answer_gives_it(secret: str) -> None:
    in_json = json.dumps(secret)[1:-1]
    echoes = [
        secret,
        in_json,
        json.dumps(secret, ensure_ascii=False)[1:-1],
        in_json.replace("/", "\\/"),
        secret.encode("latin-1").decode("utf-8", errors="replace"),
    ]
    shown = [Excerpts([secret]).plain(f"<{echo}>") for echo in echoes]
    assert shown == [f"<{HIDDEN}>"] * len(echoes)


def test_value_too_short_for_a_secret_is_left_alone() -> None:
    assert Excerpts(["1", "*/*"]).plain("1 of 10 */*") == "1 of 10 */*"


@given(st.integers(100, 599), st.text(), st.booleans())
def test_whatever_is_answered_is_judged(status: int, text: str, whole: bool) -> None:
    wanted = {"body": "a", "body_regex": "b", "json": {"c": 1}, "headers": {"d": "e"}}
    reason = judged(wanted, answer(status=status, text=text, whole=whole))
    assert reason is not None
    assert reason.isprintable()
