# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What `server` lines were before they were changed, so that what goes back to what it was is what it was, byte by byte.

Without it a line that had no weight would come back with one. It is only for looks: where a reboot forgets it, the line means the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
import urllib.parse

from ansible_collections.steady.rollout.plugins.module_utils import _lock
from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file

# (original line, the line that was made of it), by file and server.
Notes = dict[str, tuple[bytes, bytes]]


def known(config: str) -> Notes:
    """The notes of a configuration; none where there are none, or they cannot be read."""
    with contextlib.suppress(OSError, _lock.LockError, ValueError, TypeError, AttributeError):
        with open(_path(config, _lock.known_folder()), encoding="utf-8") as stream:
            found = json.load(stream)
        return {key: (_bytes(original), _bytes(made)) for key, (original, made) in found.items()}
    return {}


def keep(config: str, notes: Notes) -> None:
    """As far as that can be done: nothing depends on it."""
    told = {key: [line.decode("latin-1") for line in pair] for key, pair in notes.items() if pair[0] != pair[1]}
    with contextlib.suppress(OSError, _lock.LockError):
        replace_file(_path(config, _lock.folder()), json.dumps(told) + "\n", 0o600)


def key_of(path: str, server: str) -> str:
    return f"{path}!{server}"


def _bytes(text: t.Any) -> bytes:
    return str(text).encode("latin-1")


def _path(config: str, folder: str) -> str:
    return os.path.join(folder, urllib.parse.quote(f"nginx!{os.path.realpath(config)}", safe="") + ".lines")
