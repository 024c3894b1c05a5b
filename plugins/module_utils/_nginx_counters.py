# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Counters of NGINX's servers, kept by reading its access log from where the last reading ended.

They begin with what is in the end of the log when it is read for the first time, and never fall. Lines are counted once each: over
a rotation the old file is read to its end by its inode, while workers may still write to it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import typing as t
import urllib.parse
import uuid

from ansible_collections.steady.rollout.plugins.module_utils import _lock
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import Counts, Tally, count, merged

FIRST_BYTES = 4 * 1024 * 1024
# What nobody has read for so long is not worth the time; counters begin anew then.
LONGEST_BYTES = 64 * 1024 * 1024
BLOCK = 1024 * 1024
PATIENCE = 10.0


class NginxLogError(LoadBalancerError):
    """The log cannot be read; the message says why."""


class Counted(t.NamedTuple):
    """``since``: another word for each time that counters began anew."""

    since: str
    tally: Tally

    def of(self, upstream: str) -> dict[str, dict[str, t.Any]]:
        """{server: counts as Counts.as_dict()} of an upstream; also what the log attributes to no upstream."""
        tallies = [self.tally.get(name, {}) for name in (upstream.lower(), "")]
        servers = dict.fromkeys(server for tally in tallies for server in tally)
        return {server: merged(tally[server] for tally in tallies if server in tally).as_dict() for server in servers}


def counted(path: str) -> Counted:
    """All that was counted up to now. Raises NginxLogError."""
    try:
        with _lock.exclusive(f"log!{path}", PATIENCE):
            return _counted(path, os.path.join(_lock.folder(), urllib.parse.quote(path, safe="") + ".counted"))
    except (OSError, LockError) as exc:
        raise NginxLogError(f"the log {path} cannot be counted: {exc}") from exc


def _counted(path: str, kept: str) -> Counted:
    known = _known(kept)
    current = _identity(path)
    if current is None:
        raise NginxLogError(f"the log {path} is not there; nginx makes it when it starts, or logs are reopened")
    files = {**_rotated(path, current, known), current: path}
    ends = {identity: os.stat(name).st_size for identity, name in files.items()}
    offsets = {identity: int(known["files"].get(identity, 0)) for identity in ends} if known else {}
    if known and offsets[current] > ends[current]:
        # It was copied and cut: what the copy has of before was counted.
        copies = [identity for identity in ends if identity not in known["files"]]
        offsets.update(dict.fromkeys(copies, offsets[current]))
        offsets[current] = 0
    offsets = {identity: min(offset, ends[identity]) for identity, offset in offsets.items()}
    if not known or sum(ends[identity] - offsets[identity] for identity in ends) > LONGEST_BYTES:
        known = {"since": uuid.uuid4().hex, "files": {}, "tally": {}}
        offsets = {
            identity: end if files[identity] != path else max(0, end - FIRST_BYTES) for identity, end in ends.items()
        }
    tally = {
        upstream: {server: Counts.from_dict(counts) for server, counts in servers.items()}
        for upstream, servers in known["tally"].items()
    }
    for identity, name in files.items():
        offsets[identity] = _read(name, offsets[identity], tally)
    plain = {name: {server: counts.as_dict() for server, counts in servers.items()} for name, servers in tally.items()}
    replace_file(kept, json.dumps({"since": known["since"], "files": offsets, "tally": plain}), 0o600)
    return Counted(known["since"], tally)


def _rotated(path: str, current: str, known: t.Mapping[str, t.Any] | None) -> dict[str, str]:
    """{identity: name} of files that may hold lines which are not counted: the one before, and those that were read from already."""
    names = [f"{path}.1"] if os.path.exists(f"{path}.1") else []
    found = {identity: name for name in names if (identity := _identity(name)) is not None}
    if known and not known["files"].keys() <= {*found, current}:
        # Rotated to a name of another kind, such as one with a date.
        others = {
            identity: name for name in glob.glob(f"{glob.escape(path)}?*") if (identity := _identity(name)) is not None
        }
        found.update({identity: others[identity] for identity in known["files"] if identity in others})
    return found


def _known(kept: str) -> dict[str, t.Any] | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with open(kept, encoding="utf-8") as stream:
            known: dict[str, t.Any] = json.load(stream)
        for servers in known["tally"].values():
            for counts in servers.values():
                Counts.from_dict(counts)
        if known["since"] and all(int(offset) >= 0 for offset in known["files"].values()):
            return known
    return None


def _identity(path: str) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path)
        return f"{found.st_dev}:{found.st_ino}"
    return None


def _read(path: str, offset: int, tally: Tally) -> int:
    """Count the whole lines from ``offset`` on. Returns where they end."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        rest = b""
        while True:
            block = stream.read(BLOCK)
            if not block:
                return offset
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                # Half a line at the start of what is read first, and lines of another format, say nothing.
                count(line, tally)
                offset += len(line) + 1
