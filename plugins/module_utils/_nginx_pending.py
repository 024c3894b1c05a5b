# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""A note that NGINX's files were changed, and that it may not have read them yet: for whoever comes after a crash in between.

It is kept where a reboot forgets it, as NGINX reads its files then anyway.
"""

from __future__ import annotations

import contextlib
import json
import os
import typing as t
import urllib.parse

from ansible_collections.steady.rollout.plugins.module_utils import _lock
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import Process


def note(config: str, master: Process, workers: t.Sequence[Process]) -> None:
    """Before the first file is replaced. Raises OSError and LockError."""
    told = {"master": _plain(master), "workers": [_plain(one) for one in workers]}
    replace_file(_path(config, _lock.folder()), json.dumps(told) + "\n", 0o600)


def forget(config: str) -> None:
    """Once the files are what serves."""
    with contextlib.suppress(OSError, _lock.LockError):
        os.unlink(_path(config, _lock.known_folder()))


def is_loaded(config: str, master: Process) -> bool:
    """Whether the files are what the workers read, as far as changes of ours go: none that served at the time takes requests now."""
    try:
        with open(_path(config, _lock.known_folder()), encoding="utf-8") as stream:
            noted = json.load(stream)
        workers = [tuple(one) for one in noted["workers"]]
        if tuple(noted["master"]) != tuple(_plain(master)):
            return True
    except FileNotFoundError:
        return True
    except (OSError, _lock.LockError, ValueError, KeyError, TypeError):
        return False  # half a note is one
    return not any(tuple(_plain(one)) in workers for one in process.workers_of(master) if not one.leaves)


def _plain(one: Process) -> list[int]:
    return [one.pid, one.started]


def _path(config: str, folder: str) -> str:
    return os.path.join(folder, urllib.parse.quote(f"nginx!{os.path.realpath(config)}", safe="") + ".pending")
