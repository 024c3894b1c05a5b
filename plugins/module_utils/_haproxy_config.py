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
    for line in (line for text in texts for line in text.splitlines()):
        words = _words(line)
        if not words:
            continue
        if words[0] not in SECTIONS:
            if sections:
                sections[-1].lines.append(words)
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


@dataclass(frozen=True)
class Restoration:
    """Which file HAProxy reads a backend's server states from when it starts; ``path`` is None where it reads none."""

    path: str | None
    whole: bool  # the file holds all backends (global), or this one only (local)
    reason: str  # why not, and the lines to add


def restoration(sections: t.Sequence[Section], backend: str, directory: str) -> Restoration:
    """Where the state of ``backend`` comes from after a reload. ``directory``: HAProxy's own, for relative paths."""
    top = Section("global", "")
    for section in sections:
        if section.kind == "global":
            top.lines.extend(section.lines)
    proxies = [section for section in sections if section.kind in ("backend", "listen") and section.name == backend]
    if not proxies:
        return Restoration(None, False, f"backend {backend} is not in the configuration files of the running process")
    scope = (proxies[-1].words("load-server-state-from-file") or ["none"])[0]
    base = (top.words("server-state-base") or [""])[0]
    if scope == "global":
        name = (top.words("server-state-file") or [""])[0]
        if not name:
            return Restoration(None, True, "the global section has no `server-state-file PATH`")
        return _restoration(os.path.join(directory, base, name), True)
    if scope == "local":
        given = (proxies[-1].words("server-state-file-name") or ["use-backend-name"])[0]
        return _restoration(os.path.join(directory, base, backend if given == "use-backend-name" else given), False)
    return Restoration(
        None,
        True,
        f"backend {backend} has no `load-server-state-from-file global` (and global no `server-state-file PATH`)",
    )


def _restoration(path: str, whole: bool) -> Restoration:
    if "$" in path:
        return Restoration(None, whole, f"the state file's path {path} holds a variable; give it as state_file")
    return Restoration(path, whole, "")
