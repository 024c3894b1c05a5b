# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""A change of NGINX's configuration as a transaction: tested before it replaces anything, proved to serve, or taken back.

Whatever kills it, each file holds either its old bytes or its new ones. Both are valid, also beside each other, as only weights and
states of servers differ.
"""

from __future__ import annotations

import contextlib
import os
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils import _nginx_pending as pending
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._files import put, written_beside
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError, Process
from ansible_collections.steady.rollout.plugins.module_utils._program import run

# Binds each candidate over its file where nobody else sees it, then tests.
_BOUND_TEST = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 125; shift 2; done; shift; exec "$@"'
# What says that there can be no such private view here: not root, or a container.
_NO_VIEW = ("unshare:", "mount:", "sh:")

Contents = t.Mapping[str, bytes]  # by real path


class NginxChangeError(LoadBalancerError):
    """The configuration is as it was before; the message says why."""


@dataclass(frozen=True)
class Nginx:
    """One NGINX of this host. ``command``: starts it up to the arguments; ``reload_seconds``: in which a reload must have worked."""

    config: str
    pid_file: str
    command: t.Sequence[str] = ("nginx",)
    reload_seconds: float = 30.0


def lock_of(config: str) -> str:
    """The name of the lock (see _lock) that keeps changes of a configuration one after the other."""
    return f"nginx!{os.path.realpath(config)}"


def change(nginx: Nginx, old: Contents, new: Contents) -> list[Process]:
    """Give files new contents, and have them served, also where they are the same. Returns the new workers.

    ``old``: what was read, which must still be there. Raises NginxChangeError, and then the old contents are there, and serve; and
    NginxProcessError where nginx does not run, and nothing was touched.
    """
    master = process.master_of(nginx.pid_file)
    changed = {path: data for path, data in new.items() if data != old[path]}
    with contextlib.ExitStack() as stack:
        try:
            candidates = {path: stack.enter_context(written_beside(path, data)) for path, data in changed.items()}
            # Beforehand, as a disk may be full when they are needed.
            originals = {path: stack.enter_context(written_beside(path, old[path])) for path in changed}
        except OSError as exc:
            raise NginxChangeError(
                f"the change cannot be written beside its file: {exc}. Nothing was changed."
            ) from exc
        seen = test_with(nginx, candidates)
        if seen != "":
            _refuse_broken(nginx)
        if seen:
            raise NginxChangeError(f"nginx does not take the change: {seen}. Nothing was changed.")
        for path in changed:
            _expect(path, old[path])
        try:
            pending.note(nginx.config, master, process.workers_of(master))
            for path, candidate in candidates.items():
                put(candidate, path)
            refused = test(nginx) if seen is None else ""
            if refused:
                raise NginxChangeError(f"nginx does not take the change: {refused}")
            workers = process.reload(master, nginx.reload_seconds)
        except (NginxChangeError, NginxProcessError, LockError, OSError) as exc:
            _take_back(nginx, master, originals)
            raise NginxChangeError(f"{exc}. The configuration is as it was before.") from exc
        pending.forget(nginx.config)
        return workers


def _refuse_broken(nginx: Nginx) -> None:
    """What nginx does not take may be somebody else's: then there is nothing to try."""
    refused = test(nginx)
    if refused:
        raise NginxChangeError(
            f"nginx does not take its configuration as it is: {refused}. Nothing was changed; mend it first."
        )


def test(nginx: Nginx) -> str:
    """What `nginx -t` says of the configuration on disk; "" where it takes it."""
    return _said(_ran([*nginx.command, "-t", "-q", "-c", nginx.config]))


def test_with(nginx: Nginx, others: t.Mapping[str, str]) -> str | None:
    """As ``test``, with {file or folder: another one} in their places, which nobody else sees; None where that cannot be had."""
    bound = [name for path, other in others.items() for name in (other, path)]
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _BOUND_TEST, "sh"]
    done = _ran([*private, *bound, "--", *nginx.command, "-t", "-q", "-c", nginx.config])
    if done is None or (done[0] and done[2].startswith(_NO_VIEW)):
        return None
    return _said(done)


def _ran(command: list[str]) -> tuple[int, str, str] | None:
    """None where the program is not there."""
    with contextlib.suppress(FileNotFoundError):
        return run(command)
    return None


def _said(done: tuple[int, str, str] | None) -> str:
    if done is None:
        return "there is no program nginx"
    code, _output, errors = done
    if code == 0:
        return ""
    lines = [line.removeprefix("nginx: ") for line in errors.splitlines() if "[warn]" not in line]
    return "; ".join(line for line in lines if line and not line.endswith("test failed")) or f"exit code {code}"


def _expect(path: str, data: bytes) -> None:
    try:
        with open(path, "rb") as stream:
            same = stream.read() == data
    except OSError:
        same = False
    if not same:
        raise NginxChangeError(f"{path} was changed by somebody else meanwhile; nothing was changed, run it again")


def _take_back(nginx: Nginx, master: Process, originals: t.Mapping[str, str]) -> None:
    """``originals``: {path: a copy of what was there}. Raises NginxChangeError where they cannot be put back."""
    try:
        for path, copy in originals.items():
            put(copy, path)
    except OSError as exc:
        raise NginxChangeError(
            f"the configuration could NOT be put back as it was: {exc}. Put back {', '.join(originals)} by hand, and reload nginx."
        ) from exc
    # What the failed reload left half done is over with this one. Where it is not proved, the note stays: nobody knows what was read.
    with contextlib.suppress(NginxProcessError):
        process.reload(master, nginx.reload_seconds)
        pending.forget(nginx.config)
