# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""HAProxy's configuration as sections of keyword lines, just far enough to know what a reload will restore."""

from __future__ import annotations

import os
import re
import shlex
import typing as t
from dataclasses import dataclass, field

# `global` and the kinds of proxies; other sections (resolvers, peers, ...) are kept under their own keyword.
PROXIES = ("defaults", "frontend", "backend", "listen")
SECTIONS = (
    *PROXIES,
    "global",
    "resolvers",
    "peers",
    "mailers",
    "userlist",
    "cache",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "log-profile",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
)


@dataclass
class Section:
    kind: str
    name: str
    lines: list[list[str]] = field(default_factory=list)  # each line as its words
    defaults: Section | None = None
    numbers: list[int] = field(default_factory=list)  # of `lines`, counted from 0 through all files

    def words(self, *keyword: str) -> list[str] | None:
        """The words after the last line that starts with ``keyword``, here or in the defaults; None where there is none."""
        for line in reversed(self.lines):
            if tuple(line[: len(keyword)]) == keyword:
                return line[len(keyword) :]
        return self.defaults.words(*keyword) if self.defaults else None


_SPECIAL = re.compile(r"""["'\\#]""")


def parse(texts: t.Sequence[str]) -> list[Section]:
    """Split the configuration files, in HAProxy's order, into sections; proxies know the defaults they inherit."""
    sections: list[Section] = []
    defaults: dict[str, Section] = {}
    last_defaults: Section | None = None
    for number, line in enumerate(line for text in texts for line in text.splitlines()):
        words = _words(line)
        if not words:
            continue
        if words[0] not in SECTIONS:
            if sections:
                sections[-1].lines.append(words)
                sections[-1].numbers.append(number)
            continue
        section = Section(words[0], words[1] if len(words) > 1 else "")
        if section.kind in PROXIES:
            # `from NAME` (2.4) wins over the defaults section that was read last; defaults inherit only by `from`.
            named = defaults.get(words[words.index("from") + 1]) if "from" in words[:-1] else None
            section.defaults = named or (None if section.kind == "defaults" else last_defaults)
        if section.kind == "defaults":
            last_defaults = defaults[section.name] = section
        sections.append(section)
    return sections


def _words(line: str) -> list[str]:
    if not _SPECIAL.search(line):
        return line.split()  # most lines, and some twenty times faster
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    try:
        return list(lexer)
    except ValueError:
        # A quote that is not closed: HAProxy refuses it too; here the rest of the file still counts.
        return line.split("#")[0].split()


class Restoration(t.NamedTuple):
    """Which file HAProxy reads a backend's server states from when it starts.

    ``path`` is None where it reads none, and ``known`` False where that cannot be told from the text. ``whole``: the file holds
    all backends (global), or this one only (local). ``servers``: names of the servers that are declared, and prefixes of
    the server templates.
    """

    path: str | None
    whole: bool
    reason: str  # why not, and the lines to add
    known: bool = True
    servers: tuple[frozenset[str], tuple[str, ...]] = (frozenset(), ())

    def declares(self, name: str) -> bool:
        names, templates = self.servers
        return name in names or any(name.startswith(prefix) and name[len(prefix) :].isdigit() for prefix in templates)


def restoration(sections: t.Sequence[Section], backend: str, directory: str | None) -> Restoration:
    """Where the state of ``backend`` comes from after a reload. ``directory``: HAProxy's own, None where it is not known."""
    if any(line[0] in CONDITIONS for section in sections for line in section.lines):
        return _unknown("the configuration holds .if lines, and which of them apply is not known here")
    top = Section("global", "")
    for section in sections:
        if section.kind == "global":
            top.lines.extend(section.lines)
    proxies = [section for section in sections if section.kind in ("backend", "listen") and section.name == backend]
    if not proxies:
        if any("$" in section.name for section in sections):
            return _unknown(
                f"backend {backend} is not in the configuration by this name, but some names hold variables"
            )
        return Restoration(None, False, f"backend {backend} is not in the configuration files of the running process")
    scope = (proxies[-1].words("load-server-state-from-file") or ["none"])[0]
    base = (top.words("server-state-base") or [""])[0]
    servers = _declared(proxies[-1])
    if any("$" in name for name in (*servers[0], *servers[1])):
        return _unknown(f"some servers of backend {backend} have variables in their names")
    if scope == "global":
        name = (top.words("server-state-file") or [""])[0]
        if not name:
            return Restoration(None, True, "the global section has no `server-state-file PATH`")
        return _restoration(directory, os.path.join(base, name), True, servers)
    if scope == "local":
        given = (proxies[-1].words("server-state-file-name") or ["use-backend-name"])[0]
        return _restoration(
            directory, os.path.join(base, backend if given == "use-backend-name" else given), False, servers
        )
    return Restoration(
        None,
        True,
        f"backend {backend} has no `load-server-state-from-file global` (and global no `server-state-file PATH`)",
    )


# Lines that make others count or not.
CONDITIONS = frozenset({".if", ".elif", ".else", ".endif"})


def _unknown(reason: str, whole: bool = True) -> Restoration:
    return Restoration(None, whole, reason, known=False)


def _restoration(
    directory: str | None, path: str, whole: bool, servers: tuple[frozenset[str], tuple[str, ...]]
) -> Restoration:
    if "$" in path:
        return _unknown(f"the state file's path {path} holds a variable", whole)
    if not path.startswith("/") and directory is None:
        return _unknown(f"the state file's path {path} is relative to a folder that cannot be seen from here", whole)
    return Restoration(os.path.join(directory or "/", path), whole, "", servers=servers)


def _declared(proxy: Section) -> tuple[frozenset[str], tuple[str, ...]]:
    """Names of its servers, and the prefixes of its server templates."""
    lines = [line for line in proxy.lines if len(line) > 1]
    names = frozenset(line[1] for line in lines if line[0] == "server")
    return names, tuple(line[1] for line in lines if line[0] == "server-template")
