# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether a runtime change outlives a reload, and the file that makes it so.

HAProxy never writes this file by itself, and forgets every runtime change at a reload that does not find it.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    CONFIGURED_MAINT,
    Backend,
    Server,
    parse_servers_state,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_config import Restoration, parse, restoration
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError


class Survival(t.NamedTuple):
    """What becomes of the runtime state at a reload, once the file at ``path`` is current.

    ``survives``: True, False, or None where it cannot be known from here; ``reason`` says why it is not True.
    ``whole``: the file holds every backend, not only this one.
    """

    survives: bool | None
    path: str | None
    reason: str = ""
    whole: bool = True


def survival(found: Restoration | None, asked: str, pid: int, names: t.Collection[str]) -> Survival:
    """Weigh what HAProxy is configured to load against ``asked``: `auto`, a path, or empty for no file at all.

    ``names``: the servers whose state is to survive; HAProxy forgets those that were added at run time.
    """
    if not asked:
        return Survival(False, None, "state_file is empty, so the runtime state is not saved")
    path = None if asked == "auto" else asked
    if found is None:
        unread = f"the configuration of HAProxy's process {pid} cannot be read from here"
        return Survival(
            None, path, f"{unread}, so nothing shows that it loads {path}" if path else f"{unread}; give state_file"
        )
    path = path or found.path
    if not found.known:
        return Survival(None, path, found.reason, found.whole)
    if found.path is None:
        return Survival(False, path, found.reason, found.whole)
    if path is not None and os.path.realpath(path) != os.path.realpath(found.path):
        return Survival(False, path, f"HAProxy loads {found.path} at a reload, not {path}", found.whole)
    undeclared = sorted(name for name in names if not found.declares(name))
    if undeclared:
        reason = f"{', '.join(undeclared)} was added at run time: HAProxy forgets such a server at a reload"
        return Survival(False, path, reason, found.whole)
    return Survival(True, path, "", found.whole)


class Configuration(t.NamedTuple):
    """The configuration files of a process in HAProxy's order, as (path, text). ``directory``: see `restoration`."""

    files: tuple[tuple[str, str], ...]
    directory: str | None

    @property
    def texts(self) -> list[str]:
        return [text for _path, text in self.files]


def find_configuration(pid: int) -> Configuration | None:
    """Read the configuration of the running process ``pid``; None where process or files cannot be read from here."""
    try:
        arguments = _proc(pid, "cmdline").split("\0")
        if "haproxy" not in os.path.basename(arguments[0]):
            return None
        directory = _directory(pid, arguments)
        files = [file for path in _config_paths(arguments) for file in _read(os.path.join(directory or "", path))]
    except (OSError, ValueError, IndexError):
        return None
    return Configuration(tuple(files), directory) if files else None


def find_restoration(pid: int, backend: str) -> Restoration | None:
    """Where the state of ``backend`` comes from; None where the configuration of ``pid`` cannot be read from here."""
    found = find_configuration(pid)
    return restoration(parse(found.texts), backend, found.directory) if found else None


def judged(pid: int, backend: str, asked: str, names: t.Collection[str]) -> Survival:
    """`survival` for a call that writes nothing, so that whether it could is judged, too."""
    weighed = survival(find_restoration(pid, backend), asked, pid, names)
    problem = unwritable(weighed.path)
    return Survival(False, weighed.path, problem) if problem else weighed


def _proc(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()


def _directory(pid: int, arguments: t.Sequence[str]) -> str | None:
    """Where HAProxy was started, for relative paths; None where only its chroot is left to see."""
    if "-C" in arguments[:-1]:
        return arguments[arguments.index("-C") + 1]
    parent = int(_proc(pid, "stat").rpartition(")")[2].split()[1])
    try:
        is_master = "haproxy" in _proc(parent, "comm")
    except OSError:
        is_master = False
    if is_master:
        return os.readlink(f"/proc/{parent}/cwd")
    return os.readlink(f"/proc/{pid}/cwd") if os.readlink(f"/proc/{pid}/root") == "/" else None


def _config_paths(arguments: t.Sequence[str]) -> list[str]:
    """The values of -f, and everything after -- (haproxy takes more files there); -f may be repeated."""
    paths: list[str] = []
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "-f":
            paths.append(next(rest, ""))
        elif argument == "--":
            paths.extend(path for path in rest if path)
    return [path for path in paths if path]


def _read(path: str) -> list[tuple[str, str]]:
    files = [path]
    if os.path.isdir(path):
        files = sorted(
            os.path.join(path, name) for name in os.listdir(path) if name.endswith(".cfg") and not name.startswith(".")
        )
    texts = []
    for name in files:
        with open(name, encoding="utf-8", errors="surrogateescape") as stream:
            texts.append((name, stream.read()))
    return texts


def lagging(path: str | None, backend: Backend, names: t.Collection[str]) -> list[str]:
    """The servers among ``names`` that a reload would bring back otherwise than they are now.

    HAProxy ignores an entry's weight where the configured weight has changed since, and uses the configuration for a
    server without an entry. Without a file to be kept nothing lags.
    """
    if path is None:
        return []
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            entries = _entries(backend.name, stream.read())
    except (OSError, HaproxyError, ValueError):
        entries = {}
    return [
        server.name
        for server in backend.servers
        if server.name in names and not _restored(server, entries.get(server.name))
    ]


def _entries(backend: str, text: str) -> dict[str, Server]:
    lines = text.splitlines()
    own = [line for line in lines[2:] if line.split(" ")[1:2] == [backend]]
    return parse_servers_state(backend, "\n".join(lines[:2] + own)).by_name()


def _restored(now: Server, entry: Server | None) -> bool:
    if now.agent == "enabled":
        # Its weight is what the agent says, then as now.
        now = now._replace(weight=now.initial_weight)
        entry = entry and entry._replace(weight=entry.initial_weight)
    if entry is None:
        # `disabled` in the configuration: without an entry it comes back in maint.
        configured = "maint" if now.admin & CONFIGURED_MAINT else "ready"
        return now.weight == now.initial_weight and now.own_state == configured
    weight = entry.weight if entry.initial_weight == now.initial_weight else now.initial_weight
    return (weight, entry.own_state) == (now.weight, now.own_state)


def write(path: str, reply: str) -> None:
    """Save a reply to `show servers state`. Raises OSError."""
    replace_file(path, reply + "\n")


def unwritable(path: str | None) -> str:
    """Why the file could not be written, for check mode; empty where it could."""
    folder = os.path.dirname(path or "")
    if path is None or (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        return ""
    return f"cannot write the server-state file {path}: {folder} is not a folder that can be written"
