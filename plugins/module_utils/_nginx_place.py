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
    Contents,
    Nginx,
    NginxChangeError,
    change,
    lock_of,
    test,
    test_with,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
from ansible_collections.steady.rollout.plugins.module_utils._nginx_kept import kept
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_config import (
    Setting,
    once,
    once_of,
    state_of,
    state_text,
    told,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError, Process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_tree import Nodes, tree, within

# How long another change may take: it may wait for drains.
LOCK_SECONDS = 120.0


class Lua(t.NamedTuple):
    """Where steady_rollout.lua keeps weights and states, and where its API listens."""

    state: str
    socket: str


class File(t.NamedTuple):
    """A file that is to be. ``links``: those that must not be there any more, such as one to another default server.

    ``others``: {path: content} of what it has NGINX read, such as Lua; their folders must be there. ``lua``: None where it has none.
    """

    path: str
    text: bytes
    links: t.Sequence[str] = ()
    others: t.Mapping[str, bytes] = {}
    lua: Lua | None = None


class Replaced(t.NamedTuple):
    """``before``: None where there was no file."""

    before: bytes | None
    after: bytes


class Placed(t.NamedTuple):
    """``files``: {path: Replaced}, the others first. ``links``: {link: what it named} of those that were removed.

    ``reloads``: whether a running NGINX was made to read it; ``tested``: False only where nothing could test what was not to be
    written.
    """

    files: t.Mapping[str, Replaced]
    links: t.Mapping[str, str]
    reloads: bool
    tested: bool = True

    @property
    def changed(self) -> bool:
        return bool(changes(self.files)) or bool(self.links) or self.reloads


class _Aim(t.NamedTuple):
    """``states``: {path: text} of weights and states that Lua is to find when NGINX reads ``files``."""

    files: dict[str, Replaced]
    states: dict[str, str]


def changes(files: t.Mapping[str, Replaced]) -> dict[str, Replaced]:
    """Those that are not yet what they are to be."""
    return {path: one for path, one in files.items() if one.before != one.after}


def foreseen(nginx: Nginx, file: File, master: Process | None) -> Placed:
    """What ``place`` would do. Nothing is changed. Raises as it does."""
    aim = _aim(nginx, file, _before(nginx, file))
    links = _targets(file.links)
    if not changes(aim.files) and not links:
        return Placed(aim.files, links, reloads=_is_unread(nginx, master))
    refused = _tested_aside(nginx, {path: one.after for path, one in aim.files.items()}, list(links))
    if refused:
        raise NginxChangeError(f"nginx does not take the change: {refused}. Nothing was changed.")
    return Placed(aim.files, links, reloads=master is not None, tested=refused is not None)


def place(nginx: Nginx, file: File, master: Process | None) -> Placed:
    """Put a file in its place. The weights and states of servers that it has already stay what they are.

    ``master``: that of the running NGINX; None where none runs. Raises LoadBalancerError and OSError, and then all is as it was before,
    also what serves.
    """
    try:
        with contextlib.ExitStack() as locks:
            # The lock of whoever changes weights and states in files.
            locks.enter_context(exclusive(lock_of(nginx.config), LOCK_SECONDS))
            before = _before(nginx, file)
            # And those of whoever changes them by the API, where that is to be over.
            for upstream in _left_by_lua(file, before):
                locks.enter_context(exclusive(f"{file.lua.socket if file.lua else ''}!{upstream}", LOCK_SECONDS))
            return _placed(nginx, file, before, master)
    except LockError as exc:
        raise NginxChangeError(f"{file.path} cannot be written now: {exc}. Nothing was changed.") from exc


def _placed(nginx: Nginx, file: File, before: bytes | None, master: Process | None) -> Placed:
    aim = _aim(nginx, file, before)
    links = _targets(file.links)
    unread = _is_unread(nginx, master)
    if not changes(aim.files) and not links and not unread:
        return Placed(aim.files, links, reloads=False)
    old = {path: one.before or b"" for path, one in aim.files.items()}
    new = {path: one.after for path, one in aim.files.items()}
    with contextlib.ExitStack() as undo:
        if links and master:
            undo.callback(_reload_if_possible, nginx, master)
        for link, target in links.items():
            os.unlink(link)
            undo.callback(os.symlink, target, link)
        for path, text in aim.states.items():
            undo.callback(_put_back, path, _content(path))
            replace_file(path, text)
        for path, one in aim.files.items():
            if one.before is None:
                replace_file(path, "")
                undo.callback(os.unlink, path)
        if master:
            change(nginx, old, new)
        else:
            _put_tested(nginx, old, new)
        undo.pop_all()
    return Placed(aim.files, links, reloads=master is not None)


def _is_unread(nginx: Nginx, master: Process | None) -> bool:
    """Whether a running NGINX has not read what another run wrote, which ended in between."""
    return master is not None and not pending.is_loaded(nginx.config, master)


def _before(nginx: Nginx, file: File) -> bytes | None:
    """What is there."""
    seen = _Including(nginx.config, file.path)
    http = within(tree(nginx.config, seen), "http")
    if not seen.included_it:
        raise NginxChangeError(
            f"{nginx.config} does not include {file.path}, so it would change nothing; add to http in {nginx.config}: "
            f"include {os.path.dirname(file.path)}/*.conf;"
        )
    _refuse_twice(http, file)
    return seen.read(file.path) if os.path.exists(file.path) else None


def _refuse_twice(http: Nodes, file: File) -> None:
    """What NGINX says of a directive that may be there once is true, and tells nobody what to do."""
    ours = once(file.path, file.text)
    for node in http:
        if once_of(node.name) in ours and os.path.realpath(node.path) != os.path.realpath(file.path):
            raise NginxChangeError(
                f"{node.where} has {node.name}, and so would {file.path}; NGINX takes one in http. Nothing was changed. Remove it there; "
                "Lua of your own is found in /usr/share/lua/5.1, too."
            )


def _aim(nginx: Nginx, file: File, before: bytes | None) -> _Aim:
    others = {path: Replaced(_content(path), content) for path, content in file.others.items()}
    if before is None:
        return _Aim({**others, file.path: Replaced(None, file.text)}, {})
    merged = kept(file.path, file.text, before, _states(file, before))
    states = {_state_path(file, name): state_text(settings) for name, settings in merged.states.items()}
    return _Aim({**others, file.path: Replaced(before, merged.text)}, states)


def _states(file: File, before: bytes) -> dict[str, dict[str, Setting]]:
    """What Lua has kept, by upstream. What is not on disk is as the configuration has it."""
    found = {}
    for name in told(file.path, before):
        path = _state_path(file, name)
        data = _content(path)
        if data is not None:
            found[name] = state_of(path, data.decode("utf-8", "replace"))
    return found


def _left_by_lua(file: File, before: bytes | None) -> list[str]:
    after = told(file.path, file.text)
    return sorted(name for name in told(file.path, before or b"") if name not in after)


def _state_path(file: File, upstream: str) -> str:
    if file.lua is None:
        raise NginxChangeError(
            f"upstream {upstream} is under Lua, and it was not told where Lua keeps its state: give lua_state."
        )
    return os.path.join(file.lua.state, f"{upstream}.json")


def _content(path: str) -> bytes | None:
    """None where there is no file. It may be in a folder of the workers' user, who must not have root wait for a pipe, or follow a link."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(handle, "rb") as stream:
        return stream.read()


def _put_back(path: str, data: bytes | None) -> None:
    if data is not None:
        with written_beside(path, data) as copy:
            put(copy, path)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _put_tested(nginx: Nginx, old: Contents, new: Contents) -> None:
    with contextlib.ExitStack() as stack:
        candidates = {path: stack.enter_context(written_beside(path, data)) for path, data in new.items()}
        copies = {path: stack.enter_context(written_beside(path, data)) for path, data in old.items()}
        for path, candidate in candidates.items():
            put(candidate, path)
        refused = test(nginx)
        if refused:
            for path, copy in copies.items():
                put(copy, path)
            raise NginxChangeError(f"nginx does not take the change: {refused}. The configuration is as it was before.")


def _reload_if_possible(nginx: Nginx, master: Process) -> None:
    with contextlib.suppress(NginxProcessError):
        process.reload(master, nginx.reload_seconds)


def _tested_aside(nginx: Nginx, contents: Contents, links: t.Sequence[str]) -> str | None:
    """What nginx says of the change, made to copies of its folders that only nginx sees; None where that cannot be had."""
    with tempfile.TemporaryDirectory() as aside:
        copies: dict[str, str] = {}
        for path in (*contents, *links):
            folder = os.path.dirname(path)
            if folder not in copies:
                copies[folder] = os.path.join(aside, str(len(copies)))
                shutil.copytree(folder, copies[folder], symlinks=True)
        for link in links:
            os.unlink(os.path.join(copies[os.path.dirname(link)], os.path.basename(link)))
        for path, content in contents.items():
            with open(os.path.join(copies[os.path.dirname(path)], os.path.basename(path)), "wb") as stream:
                stream.write(content)
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
