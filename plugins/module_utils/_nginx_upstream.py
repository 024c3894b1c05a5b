# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The upstreams of NGINX's configuration, through all its includes, and the edits that change one server. Pure.

An edit is the bytes of one word, or of a word more or less; whatever else is in the file stays as it is.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import DOWN, DRAIN, READY, canonical
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import (
    Directive,
    NginxSyntaxError,
    Splice,
    parse,
    replaced,
)

HTTP, STREAM = "http", "stream"
ALGORITHMS = ("hash", "ip_hash", "least_conn", "least_time", "random")
# Includes within includes; nginx itself has no limit, and a file that includes itself never ends.
DEEPEST = 50
_WEIGHT = re.compile(rb"weight=([0-9]+)\Z")
_BLANK = b" \t"


class NginxConfigError(LoadBalancerError):
    """The configuration cannot be read, or does not hold what is asked for; the message says where."""


class Files(t.Protocol):
    """What the walk through includes reads."""

    def read(self, path: str) -> bytes:
        """Raises NginxConfigError."""

    def included(self, pattern: str) -> t.Sequence[str]:
        """The paths of what an ``include`` names, in nginx's order, from its folder of configuration on. Raises NginxConfigError."""


@dataclass(frozen=True)
class Server:
    """A ``server`` line of an upstream, and where it is.

    ``address``: as it is written; ``weight``: 1 where there is none; ``backup``: takes over when no other one is left;
    ``max_connections``: None where there is no limit.
    """

    path: str
    directive: Directive
    address: str
    weight: int
    state: str
    backup: bool
    max_connections: int | None
    key: str  # the address in one form for all ways to write it


@dataclass(frozen=True)
class Upstream:
    """An ``upstream`` of ``http`` or ``stream``. ``directives``: the names of all that is in it besides servers, such as `zone`."""

    kind: str
    name: str
    path: str
    servers: tuple[Server, ...]
    directives: tuple[str, ...]


def upstreams(main: str, files: Files) -> tuple[Upstream, ...]:
    """All upstreams of a configuration in nginx's order. Raises NginxConfigError."""
    found: list[Upstream] = []
    for path, directive, context in _walk(main, files, (), 0):
        if directive.name == b"upstream" and context in ((HTTP,), (STREAM,)) and directive.block is not None:
            if len(directive.words) != 2:
                raise NginxConfigError(f"an upstream in {path} has {len(directive.words) - 1} names, and must have one")
            inner = list(_within(path, directive.block, files, (*context, "upstream"), 0))
            servers = tuple(_server(place, one) for place, one, _context in inner if one.name == b"server")
            others = tuple(_text(one.name) for _place, one, _context in inner if one.name != b"server")
            found.append(Upstream(context[0], _text(directive.words[1].value), path, servers, others))
    return tuple(found)


def find(known: t.Sequence[Upstream], name: str) -> Upstream:
    """The upstream of a name, `http/NAME` or `stream/NAME`. Raises NginxConfigError where there is none, or both blocks have one."""
    named = [one for one in known if name in (one.name, f"{one.kind}/{one.name}")]
    if len(named) == 1:
        short = named[0].name
        if name != short and sum(one.name == short for one in known) == 1:
            # Locks and records go by the name: an upstream must not have two.
            raise NginxConfigError(f"upstream {name} is called {short}, as no other block has one of that name")
        return named[0]
    if named:
        places = " and ".join(f"{one.kind} ({one.path})" for one in named)
        ways = " or ".join(f"{kind}/{name}" for kind in dict.fromkeys(one.kind for one in named))
        raise NginxConfigError(
            f"upstream {name} is there {len(named)} times, in {places}; say which one is meant: {ways}"
        )
    others = ", ".join(sorted({one.name for one in known})) or "none at all"
    raise NginxConfigError(f"there is no upstream {name}; the configuration has {others}")


def algorithm_of(upstream: Upstream) -> str:
    """How it balances the load, by the name of the directive. Of several the last one counts."""
    return next((name for name in reversed(upstream.directives) if name in ALGORITHMS), "roundrobin")


def edits(data: bytes, server: Server, weight: int | None = None, state: str | None = None) -> list[Splice]:
    """What to replace in ``data``, the file of ``server``, so that it has a weight and a state; nothing where it has.

    Raises ValueError for a weight below 1, which nginx does not take: what is to get nothing is ``down``.
    """
    if weight is not None and weight < 1:
        raise ValueError(f"nginx takes no weight of {weight}")
    words = server.directive.words[2:]
    splices: list[Splice] = []
    more = b""
    if weight is not None and weight != server.weight:
        written = [word for word in words if _WEIGHT.match(word.value)]
        if written:
            # Of several the last one counts.
            splices.append(_renumbered(data, written[-1].start, written[-1].end, weight))
        else:
            more += b" weight=%d" % weight
    if state is not None and state != server.state:
        flags = [word for word in words if word.value in (b"down", b"drain")]
        splices += [(_after_blank(data, word.start), word.end, b"") for word in flags]
        more += b"" if state == READY else b" " + state.encode()
    if more:
        end = server.directive.words[-1].end
        splices.append((end, end, more))
    return splices


def reads_as(data: bytes, server: Server, splices: t.Sequence[Splice]) -> tuple[int, str]:
    """The weight and the state that its line has once it is edited."""
    start, end = server.directive.start, server.directive.end
    (directive,) = parse(replaced(data[start:end], [(low - start, high - start, new) for low, high, new in splices]))
    after = _server(server.path, directive)
    return after.weight, after.state


def written(data: bytes, server: Server) -> bytes:
    """A server's line as it is in ``data``, for ``rewrite``."""
    return data[server.directive.start : server.directive.end]


def rewrite(server: Server, line: bytes) -> Splice:
    """Puts back a line as it was ``written`` before, byte by byte."""
    return server.directive.start, server.directive.end, line


def _renumbered(data: bytes, start: int, end: int, weight: int) -> Splice:
    """The digits of a weight; the whole word where they are not written as they are read."""
    found = re.search(rb"weight=([0-9]+)", data[start:end])
    if found is None:
        return start, end, b"weight=%d" % weight
    return start + found.start(1), start + found.end(1), b"%d" % weight


def _after_blank(data: bytes, start: int) -> int:
    """Where the blanks before a word begin. The end of a line stays: what is before it may be a comment."""
    while data[start - 1 : start] and data[start - 1 : start] in _BLANK:
        start -= 1
    return start


def _server(path: str, directive: Directive) -> Server:
    if len(directive.words) < 2:
        raise NginxConfigError(f"a server of an upstream in {path} has no address")
    address = _text(directive.words[1].value)
    weight, state, backup, limit = 1, READY, False, 0
    # Plain steps: there may be ten thousand of them.
    for word in directive.words[2:]:
        value = word.value
        if value.startswith(b"weight=") and value[7:].isdigit():
            weight = int(value[7:])
        elif value == b"down" or (value == b"drain" and state == READY):
            state = DOWN if value == b"down" else DRAIN
        elif value.startswith(b"max_conns=") and value[10:].isdigit():
            limit = int(value[10:])
        elif value == b"backup":
            backup = True
    return Server(path, directive, address, weight, state, backup, limit or None, canonical(address))


Step = tuple[str, Directive, tuple[str, ...]]


def _walk(path: str, files: Files, context: tuple[str, ...], depth: int) -> t.Iterator[Step]:
    if depth > DEEPEST:
        raise NginxConfigError(f"{path} is included {depth} levels deep: does a file include itself?")
    try:
        directives = parse(files.read(path))
    except NginxSyntaxError as exc:
        raise NginxConfigError(f"{exc} in {path}:{exc.line}") from exc
    yield from _within(path, directives, files, context, depth)


def _within(
    path: str, directives: t.Iterable[Directive], files: Files, context: tuple[str, ...], depth: int
) -> t.Iterator[Step]:
    """(path, directive, names of the blocks around it) of each directive where upstreams and their servers can be, includes followed."""
    for directive in directives:
        if directive.name == b"include" and directive.block is None and len(directive.words) == 2:
            for included in files.included(_text(directive.words[1].value)):
                yield from _walk(included, files, context, depth + 1)
            continue
        yield path, directive, context
        if directive.block and not context and _text(directive.name) in (HTTP, STREAM):
            yield from _within(path, directive.block, files, (_text(directive.name),), depth)


def _text(value: bytes) -> str:
    """What is no UTF-8 survives, too, as it does in names of files."""
    return value.decode("utf-8", "surrogateescape")
