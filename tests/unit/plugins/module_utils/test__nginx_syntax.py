# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import (
    Directive,
    NginxSyntaxError,
    parse,
    replaced,
)
from hypothesis import given
from hypothesis import strategies as st


def outline(directives: t.Iterable[Directive]) -> list[t.Any]:
    """Directives as their words; those with a block as a pair of words and block."""
    told: list[t.Any] = []
    for directive in directives:
        words = [word.value for word in directive.words]
        told.append(words if directive.block is None else (words, outline(directive.block)))
    return told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", []),
        (b"# only a comment", []),
        (b"a;b  c ;", [[b"a"], [b"b", b"c"]]),
        (b"a\r\n\tb\r\n;\r\n", [[b"a", b"b"]]),
        (b"a{b;}c;", [([b"a"], [[b"b"]]), [b"c"]]),
        (b"a { # }\n}", [([b"a"], [])]),
        # A # within a word is no comment, nor is a } its end, nor a quote its begin.
        (b"a b#c d}e f\"g h'i;", [[b"a", b"b#c", b"d}e", b'f"g', b"h'i"]]),
        (b"a \"b;{}#'c\" 'd\"e';", [[b"a", b"b;{}#'c", b'd"e']]),
        (rb'a "b\"c\\d" e\ f \.php$ \t;', [[b"a", b'b"c\\d', b"e\\ f", b"\\.php$", b"\t"]]),
        (b"a ${b}c;", [[b"a", b"${b}c"]]),
        # nginx ends a word at the white space behind ${...}.
        (b"a /x/${uri} /y/${uri}.html;", [[b"a", b"/x/${uri}", b"/y/${uri}.html"]]),
        (b"if ($a = 'b') { c; }", [([b"if", b"($a", b"=", b"b", b")"], [[b"c"]])]),
        (b"a \xff\xfe;", [[b"a", b"\xff\xfe"]]),
        ("грузовик 'ёж';".encode(), [["грузовик".encode(), "ёж".encode()]]),
        (b"server unix:/run/a.sock; server [::1]:80;", [[b"server", b"unix:/run/a.sock"], [b"server", b"[::1]:80"]]),
    ],
)
def test_words_are_read_as_nginx_reads_them(text: bytes, expected: list[t.Any]) -> None:
    assert outline(parse(text)) == expected


@pytest.mark.parametrize(
    "lua",
    [
        b"",
        b" local a = {b = {}} ",
        b" -- } \n",
        b" --[[ } ]] --[==[ }} ]] ]==] ",
        b' a = "}" b = \'}\' c = "\\"}" ',
        b" a = [[ } ]] b = [=[ }]] ]=] ",
        b" if x then return '{' end ",
    ],
)
def test_a_block_of_lua_ends_at_its_own_brace(lua: bytes) -> None:
    text = b"a; content_by_lua_block {" + lua + b"} b;"
    assert outline(parse(text)) == [[b"a"], ([b"content_by_lua_block"], []), [b"b"]]


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        (b"a;\n;", 'unexpected ";"', 2),
        (b"\n{", 'unexpected "{"', 2),
        (b"a;\n}", 'unexpected "}"', 2),
        (b"a {\nb }\n}", 'unexpected "}"', 2),
        (b"a", 'unexpected end of file, expecting ";" or "}"', 1),
        (b"a {\n b;\n", 'unexpected end of file, expecting "}"', 3),
        (b'a "b', "unexpected end of file in a word that began here", 1),
        (b'a "b"c;', 'unexpected "c"', 1),
        (b"a;\nx_by_lua_block { {", "unexpected end of file in a block of Lua that began here", 2),
    ],
)
def test_what_nginx_does_not_read_is_told_with_its_line(text: bytes, reason: str, line: int) -> None:
    with pytest.raises(NginxSyntaxError) as told:
        parse(text)
    assert (str(told.value), told.value.line) == (reason, line)


def test_each_directive_knows_where_it_is() -> None:
    text = b" a  'b' ; c { d ; } "
    first, second = parse(text)
    assert text[first.start : first.end] == b"a  'b' ;"
    assert text[first.words[1].start : first.words[1].end] == b"'b'"
    assert text[second.start : second.end] == b"c { d ; }"
    assert second.block is not None
    assert text[second.block[0].start : second.block[0].end] == b"d ;"


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        directives = parse(data)
    except NginxSyntaxError:
        return
    position = 0
    for directive in directives:
        assert position <= directive.start < directive.end <= len(data)
        position = directive.end


@given(st.text("ab;{}\"'#$\\ \n", max_size=40))
def test_what_is_read_is_all_there_is(text: str) -> None:
    """Between words, signs and comments there is nothing but white space."""
    data = text.encode()
    try:
        directives = parse(data)
    except NginxSyntaxError:
        return
    assert re.fullmatch(rb"(?:[ \n;{}]|#[^\n]*)*", replaced(data, [(*place, b" ") for place in words_of(directives)]))


def words_of(directives: t.Iterable[Directive]) -> list[tuple[int, int]]:
    places: list[tuple[int, int]] = []
    for directive in directives:
        places += [(word.start, word.end) for word in directive.words]
        places += words_of(directive.block or ())
    return places


def test_places_are_replaced_and_nothing_else() -> None:
    assert replaced(b"0123456789", [(8, 8, b"x"), (2, 4, b""), (5, 6, b"yz")]) == b"014yz67x89"


def test_places_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="overlaps"):
        replaced(b"0123", [(0, 2, b""), (1, 3, b"")])
