# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""NGINX's configuration as directives that know where they are in the file, byte by byte. Pure.

It is read as nginx reads it, from bytes, as a file may be in any encoding. Nothing is ever written back from what was read: an edit
replaces the bytes of one place, so that all others stay as they are.
"""

from __future__ import annotations

import functools
import re
import typing as t
from dataclasses import dataclass

# What lies between tokens: white space, and comments, which begin only where a token could.
_BETWEEN = re.compile(rb"(?:[ \t\r\n]+|#[^\n]*)*")
# An unquoted word ends at white space, ; or {, but for the { of ${name}. A } or # or quote in its middle is a part of it.
_WORD = re.compile(rb"(?:\\.|\$\{*|[^ \t\r\n;{\\$]+)+", re.DOTALL)
_QUOTED = {b'"': re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL), b"'": re.compile(rb"'(?:[^'\\]|\\.)*'", re.DOTALL)}
# A whole directive without quotes, escapes, comments or a block, as nearly all are: read in one go, as there may be ten thousand.
_SIMPLE = re.compile(rb"[ \t\r\n]*([^ \t\r\n;{}\"'\\$#]+(?:[ \t\r\n]+[^ \t\r\n;{}\"'\\$#]+)*)[ \t\r\n]*;")
_PLAIN = re.compile(rb"[^ \t\r\n]+")
_ESCAPED = re.compile(rb"\\([\"'\\trn])")
_UNESCAPED = {b"t": b"\t", b"r": b"\r", b"n": b"\n"}
# What a quoted word may be followed by.
_AFTER_QUOTED = b" \t\r\n;{)"
# A block of Lua ends at its own last brace: those in strings and comments are none.
_LUA_BLOCK = b"_by_lua_block"
_LUA = re.compile(
    rb"--\[(?P<c>=*)\[.*?\](?P=c)\]|--[^\n]*|\[(?P<s>=*)\[.*?\](?P=s)\]"
    rb'|"(?:[^"\\\n]|\\.)*"|' + rb"'(?:[^'\\\n]|\\.)*'|(?P<brace>[{}])",
    re.DOTALL,
)


# (start, end, new bytes)
Splice = tuple[int, int, bytes]


class NginxSyntaxError(ValueError):
    """The file cannot be read as nginx's configuration. ``line``: counted from 1."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


class Word(t.NamedTuple):
    """``value``: without quotes and escapes; ``start`` and ``end``: where it is, quotes included."""

    value: bytes
    start: int
    end: int


@dataclass(frozen=True)
class Directive:
    """A directive and its words. ``end``: after its ``;``, or after the ``}`` of its ``block``, which is None where there is none.

    What is within a block of Lua is not read: there ``block`` is empty.
    """

    words: tuple[Word, ...]
    end: int
    block: tuple[Directive, ...] | None = None

    @property
    def name(self) -> bytes:
        return self.words[0].value

    @property
    def start(self) -> int:
        return self.words[0].start


@functools.lru_cache(maxsize=64)
def parse(data: bytes) -> tuple[Directive, ...]:
    """The directives of a file. Raises NginxSyntaxError where nginx would not read it either. Kept, as a file is read for several ends."""
    found: list[Directive] = []
    outer: list[
        tuple[tuple[Word, ...], list[Directive]]
    ] = []  # of the blocks around: their words, and what came before them
    words: list[Word] = []
    position = 0
    while True:
        simple = _SIMPLE.match(data, position) if not words else None
        if simple:
            start, end = simple.span(1)
            plain = tuple([Word(one[0], one.start(), one.end()) for one in _PLAIN.finditer(data, start, end)])
            position = simple.end()
            found.append(Directive(plain, position))
            continue
        position = _end_of(_BETWEEN, data, position)
        sign = data[position : position + 1]
        if not sign:
            break
        if sign == b";":
            _need(words, data, position, ";")
            position += 1
            found.append(Directive(tuple(words), position))
            words = []
        elif sign == b"{":
            _need(words, data, position, "{")
            if words[0].value.endswith(_LUA_BLOCK):
                position = _end_of_lua(data, position)
                found.append(Directive(tuple(words), position, ()))
            else:
                outer.append((tuple(words), found))
                found = []
                position += 1
            words = []
        elif sign == b"}":
            if words or not outer:
                raise NginxSyntaxError('unexpected "}"', _line(data, position))
            position += 1
            block = tuple(found)
            of_block, found = outer.pop()
            found.append(Directive(of_block, position, block))
        else:
            words.append(_word(data, position))
            position = words[-1].end
    if words or outer:
        wanted = '";" or "}"' if words else '"}"'
        raise NginxSyntaxError(f"unexpected end of file, expecting {wanted}", _line(data, position))
    return tuple(found)


def replaced(data: bytes, splices: t.Iterable[Splice]) -> bytes:
    """``data`` with each (start, end, new bytes) put in its place. Two of them must not overlap."""
    parts: list[bytes] = []
    position = 0
    for start, end, new in sorted(splices):
        if not position <= start <= end <= len(data):
            raise ValueError(f"the place {start}-{end} overlaps another one, or is not in the file")
        parts += [data[position:start], new]
        position = end
    return b"".join([*parts, data[position:]])


def _word(data: bytes, position: int) -> Word:
    quote = data[position : position + 1]
    pattern = _QUOTED.get(quote, _WORD)
    found = pattern.match(data, position)
    if not found:
        raise NginxSyntaxError("unexpected end of file in a word that began here", _line(data, position))
    end = found.end()
    if pattern is _WORD:
        return Word(_unescaped(found[0]), position, end)
    after = data[end : end + 1]
    if after and after not in _AFTER_QUOTED:
        raise NginxSyntaxError(f'unexpected "{after.decode("latin-1")}"', _line(data, end))
    return Word(_unescaped(found[0][1:-1]), position, end)


def _unescaped(raw: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: _UNESCAPED.get(found[1], found[1]), raw) if b"\\" in raw else raw


def _end_of_lua(data: bytes, position: int) -> int:
    depth = 0
    for found in _LUA.finditer(data, position):
        if found["brace"]:
            depth += 1 if found["brace"] == b"{" else -1
            if not depth:
                return found.end()
    raise NginxSyntaxError("unexpected end of file in a block of Lua that began here", _line(data, position))


def _end_of(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    found = pattern.match(data, position)
    return found.end() if found else position


def _need(words: t.Sequence[Word], data: bytes, position: int, sign: str) -> None:
    if not words:
        raise NginxSyntaxError(f'unexpected "{sign}"', _line(data, position))


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
