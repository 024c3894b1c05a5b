# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""A whole file of NGINX's configuration, put in its place only if NGINX takes it, and proved to serve where NGINX runs."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import tempfile
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _nginx_pending as pending
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._files import put, replace_file, written_beside
from ansible_collections.steady.rollout.plugins.module_utils._lock import LockError, exclusive
from ansible_collections.steady.rollout.plugins.module_utils._nginx_change import (
    Nginx,
    NginxChangeError,
    change,
    lock_of,
    test,
    test_with,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
from ansible_collections.steady.rollout.plugins.module_utils._nginx_kept import kept
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError, Process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_tree import tree, within

# How long another change may take: it may wait for drains.
LOCK_SECONDS = 120.0


class File(t.NamedTuple):
    """A file that is to be. ``links``: those that must not be there any more, such as one to another default server."""

    path: str
    text: bytes
    links: t.Sequence[str] = ()


class Placed(t.NamedTuple):
    """``before`` is None where there was no file. ``links``: {link: what it named} of those that were removed.

    ``reloads``: whether a running NGINX was made to read it; ``tested``: False only where nothing could test what was not to be
    written.
    """

    before: bytes | None
    after: bytes
    links: t.Mapping[str, str]
    reloads: bool
    tested: bool = True

    @property
    def changed(self) -> bool:
        return self.before != self.after or bool(self.links) or self.reloads


def foreseen(nginx: Nginx, file: File, master: Process | None) -> Placed:
    """What ``place`` would do. Nothing is changed. Raises as it does."""
    before, after = _merged(nginx, file)
    links = _targets(file.links)
    if before == after and not links:
        return Placed(before, after, links, reloads=_is_unread(nginx, master))
    refused = _tested_aside(nginx, file._replace(text=after, links=list(links)))
    if refused:
        raise NginxChangeError(f"nginx does not take the change: {refused}. Nothing was changed.")
    return Placed(before, after, links, reloads=master is not None, tested=refused is not None)


def place(nginx: Nginx, file: File, master: Process | None) -> Placed:
    """Put a file in its place. The weights and states of servers that it has already stay what they are.

    ``master``: that of the running NGINX; None where none runs. Raises LoadBalancerError and OSError, and then all is as it was before,
    also what serves.
    """
    try:
        # The lock of whoever changes weights and states.
        with exclusive(lock_of(nginx.config), LOCK_SECONDS):
            return _placed(nginx, file, master)
    except LockError as exc:
        raise NginxChangeError(f"{file.path} cannot be written now: {exc}. Nothing was changed.") from exc


def _placed(nginx: Nginx, file: File, master: Process | None) -> Placed:
    before, after = _merged(nginx, file)
    links = _targets(file.links)
    unread = _is_unread(nginx, master)
    if before == after and not links and not unread:
        return Placed(before, after, links, reloads=False)
    with contextlib.ExitStack() as undo:
        if links and master:
            undo.callback(_reload_if_possible, nginx, master)
        for link, target in links.items():
            os.unlink(link)
            undo.callback(os.symlink, target, link)
        if before is None:
            replace_file(file.path, "")
            undo.callback(os.unlink, file.path)
        if master:
            change(nginx, {file.path: before or b""}, {file.path: after})
        else:
            _put_tested(nginx, file.path, before or b"", after)
        undo.pop_all()
    return Placed(before, after, links, reloads=master is not None)


def _is_unread(nginx: Nginx, master: Process | None) -> bool:
    """Whether a running NGINX has not read what another run wrote, which ended in between."""
    return master is not None and not pending.is_loaded(nginx.config, master)


def _merged(nginx: Nginx, file: File) -> tuple[bytes | None, bytes]:
    """(what is there, what is to be there)"""
    seen = _Including(nginx.config, file.path)
    within(tree(nginx.config, seen), "http")
    if not seen.included_it:
        raise NginxChangeError(
            f"{nginx.config} does not include {file.path}, so it would change nothing; add to http in {nginx.config}: "
            f"include {os.path.dirname(file.path)}/*.conf;"
        )
    if not os.path.exists(file.path):
        return None, file.text
    before = seen.read(file.path)
    return before, kept(file.path, file.text, before)


def _put_tested(nginx: Nginx, path: str, before: bytes, after: bytes) -> None:
    with written_beside(path, after) as new, written_beside(path, before) as old:
        put(new, path)
        refused = test(nginx)
        if refused:
            put(old, path)
            raise NginxChangeError(f"nginx does not take the change: {refused}. The configuration is as it was before.")


def _reload_if_possible(nginx: Nginx, master: Process) -> None:
    with contextlib.suppress(NginxProcessError):
        process.reload(master, nginx.reload_seconds)


def _tested_aside(nginx: Nginx, file: File) -> str | None:
    """What nginx says of the change, made to copies of its folders that only nginx sees; None where that cannot be had."""
    with tempfile.TemporaryDirectory() as aside:
        copies: dict[str, str] = {}
        for path in (file.path, *file.links):
            folder = os.path.dirname(path)
            if folder not in copies:
                copies[folder] = os.path.join(aside, str(len(copies)))
                shutil.copytree(folder, copies[folder], symlinks=True)
        for link in file.links:
            os.unlink(os.path.join(copies[os.path.dirname(link)], os.path.basename(link)))
        with open(os.path.join(copies[os.path.dirname(file.path)], os.path.basename(file.path)), "wb") as stream:
            stream.write(file.text)
        return test_with(nginx, copies)


def _targets(links: t.Sequence[str]) -> dict[str, str]:
    """{link: what it names} of the links that are there."""
    return {link: os.readlink(link) for link in links if os.path.islink(link)}


class _Including(DiskFiles):
    """The configuration with an empty file where there is none yet. ``included_it``: whether something includes the file."""

    def __init__(self, main: str, path: str) -> None:
        super().__init__(main)
        self._path = path
        self._is_new = not os.path.exists(path)
        self.included_it = False

    def read(self, path: str) -> bytes:
        if os.path.realpath(path) == os.path.realpath(self._path):
            self.included_it = True
            return b"" if self._is_new else super().read(path)
        return super().read(path)

    def included(self, pattern: str) -> list[str]:
        folder, name = os.path.split(os.path.join(self._folder, pattern))
        ours, own = os.path.split(self._path)
        if not self._is_new or os.path.realpath(folder) != os.path.realpath(ours) or not fnmatch.fnmatchcase(own, name):
            return super().included(pattern)
        return [self._path] if own == name else sorted([*super().included(pattern), self._path], key=os.fsencode)
