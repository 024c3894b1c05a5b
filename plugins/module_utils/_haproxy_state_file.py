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
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import Backend, Server, parse_servers_state
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_config import Restoration, parse, restoration
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError


@dataclass(frozen=True)
class Survival:
    """What becomes of the runtime state at a reload, once the file at ``path`` is current.

    ``survives``: True, False, or None where it cannot be known from here; ``reason`` says why it is not True.
    ``whole``: the file holds every backend, not only this one.
    """

    survives: bool | None
    path: str | None
    reason: str = ""
    whole: bool = True


def survival(found: Restoration | None, asked: str, pid: int) -> Survival:
    """Weigh what HAProxy is configured to load against ``asked``: `auto`, a path, or empty for no file at all."""
    whole = found.whole if found else True
    unread = f"the configuration of HAProxy's process {pid} cannot be read from here"
    if not asked:
        return Survival(False, None, "state_file is empty, so the runtime state is not saved", whole)
    if asked == "auto":
        if found is None:
            return Survival(None, None, f"{unread}; give state_file", whole)
        return Survival(found.path is not None, found.path, found.reason, whole)
    if found is None:
        return Survival(None, asked, f"{unread}, so nothing shows that it loads {asked}", whole)
    if found.path != asked:
        return Survival(False, asked, f"HAProxy loads {found.path or 'no state file'} at a reload, not {asked}", whole)
    return Survival(True, asked, "", whole)


def find_restoration(pid: int, backend: str) -> Restoration | None:
    """Read the configuration of the running process ``pid``; None where process or files cannot be read from here."""
    try:
        arguments = _proc(pid, "cmdline").split("\0")
        if "haproxy" not in os.path.basename(arguments[0]):
            return None
        directory = _directory(pid, arguments)
        texts = [text for path in _config_paths(arguments) for text in _read(os.path.join(directory, path))]
    except (OSError, ValueError, IndexError):
        return None
    return restoration(parse(texts), backend, directory) if texts else None


def _proc(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read()


def _directory(pid: int, arguments: t.Sequence[str]) -> str:
    if "-C" in arguments[:-1]:
        return arguments[arguments.index("-C") + 1]
    # A worker may sit in its chroot; its master, if it has one, is where HAProxy was started.
    parent = int(_proc(pid, "stat").rpartition(")")[2].split()[1])
    try:
        is_master = "haproxy" in _proc(parent, "comm")
    except OSError:
        is_master = False
    return os.readlink(f"/proc/{parent if is_master else pid}/cwd")


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


def _read(path: str) -> list[str]:
    files = [path]
    if os.path.isdir(path):
        files = sorted(
            os.path.join(path, name) for name in os.listdir(path) if name.endswith(".cfg") and not name.startswith(".")
        )
    texts = []
    for name in files:
        with open(name, encoding="utf-8", errors="surrogateescape") as stream:
            texts.append(stream.read())
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
    if entry is None:
        return now.weight == now.initial_weight and now.state == "ready"
    weight = entry.weight if entry.initial_weight == now.initial_weight else now.initial_weight
    return (weight, entry.state) == (now.weight, now.state)


def write(path: str, reply: str) -> None:
    """Save a reply to `show servers state`. Raises HaproxyError."""
    try:
        replace_file(path, reply + "\n")
    except OSError as exc:
        raise HaproxyError(f"cannot write the server-state file {path}: {exc.strerror}") from exc
