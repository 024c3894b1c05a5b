# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""NGINX's whole configuration as a tree, with what is included in the place of its `include`. Pure."""

from __future__ import annotations

import functools
import typing as t
from dataclasses import dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import Directive, NginxSyntaxError, parse
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import DEEPEST, Files, NginxConfigError


@dataclass(frozen=True)
class Node:
    """A directive. ``words``: those after its name; ``path``, ``data``: the file that it is in."""

    name: str
    words: tuple[str, ...]
    path: str
    start: int
    data: bytes = field(repr=False)
    inside: t.Callable[[], Nodes] = field(repr=False, compare=False)

    @functools.cached_property
    def nodes(self) -> Nodes:
        """What is in its block, read when it is looked at: an upstream may have ten thousand servers. Raises NginxConfigError."""
        return self.inside()

    @property
    def where(self) -> str:
        """`FILE:LINE`."""
        return f"{self.path}:{self.data.count(NEWLINE, 0, self.start) + 1}"


NEWLINE = b"\n"
Nodes = tuple[Node, ...]


def tree(main: str, files: Files) -> Nodes:
    """The directives at the main level. Raises NginxConfigError."""

    def of_file(path: str, depth: int) -> t.Iterator[Node]:
        if depth > DEEPEST:
            raise NginxConfigError(f"{path} is included {depth} levels deep: does a file include itself?")
        yield from of_block(_parsed(path, files), path, depth)

    def of_block(directives: t.Iterable[Directive], path: str, depth: int) -> t.Iterator[Node]:
        data = files.read(path)
        for directive in directives:
            name, *words = (word.value.decode("utf-8", "surrogateescape") for word in directive.words)
            if name == "include" and directive.block is None and len(words) == 1:
                for included in files.included(words[0]):
                    yield from of_file(included, depth + 1)
                continue
            yield Node(name, tuple(words), path, directive.start, data, inside(directive, path, depth))

    def inside(directive: Directive, path: str, depth: int) -> t.Callable[[], Nodes]:
        return lambda: tuple(of_block(directive.block or (), path, depth))

    return tuple(of_file(main, 0))


def named(nodes: t.Iterable[Node], *names: str) -> Nodes:
    """Those of some names, in their order."""
    return tuple(node for node in nodes if node.name in names)


def within(nodes: t.Iterable[Node], name: str) -> Nodes:
    """What is in the blocks of a name."""
    return tuple(inner for node in named(nodes, name) for inner in node.nodes)


def last(nodes: t.Iterable[Node], name: str) -> Node | None:
    """The last one of a name; None where there is none."""
    found = named(nodes, name)
    return found[-1] if found else None


def _parsed(path: str, files: Files) -> tuple[Directive, ...]:
    try:
        return parse(files.read(path))
    except NginxSyntaxError as exc:
        raise NginxConfigError(f"{exc} in {path}:{exc.line}") from exc
