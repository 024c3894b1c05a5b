# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a new text of a file of NGINX keeps of the one that is there: the weights and states of its servers. Pure.

They are changed at run time, by rollouts, and are nobody else's to set once a server is there. They stand on the lines of servers, or,
where Lua chooses the servers, beside the configuration; where a new text changes that, they move.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_config import (
    Setting,
    Settings,
    for_a_line,
    told,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_readiness import is_lua
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import READY
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import replaced
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import Upstream, edits, upstreams

States = t.Mapping[str, Settings]  # by upstream


class NginxKeepError(LoadBalancerError):
    """The new text must not replace the old one; the message says why."""


class Kept(t.NamedTuple):
    """``text``: of the file; ``states``: what Lua is to find of the upstreams that it takes over."""

    text: bytes
    states: States


def kept(path: str, new: bytes, old: bytes, states: States) -> Kept:
    """``new``, with the weights and states that ``old`` gives to servers of the same upstream and address.

    Both are the text of the file ``path``, which is included in `http`. ``states``: what Lua has kept of upstreams, as far as it has.
    Where an upstream is under Lua in both texts, Lua goes on with it. Raises NginxKeepError where an upstream would have no server
    left that takes traffic and had one, and NginxConfigError where a text cannot be read.
    """
    before = _settings(path, old, states)
    was_lua = told(path, old)
    splices = []
    for upstream in _lines(path, new):
        for server in upstream.servers:
            known = before.get(upstream.name, {}).get(server.key)
            if known:
                line = for_a_line(known) if upstream.name in was_lua else known
                splices += edits(new, server, line.weight or None, line.state)
    merged = replaced(new, splices)
    taken_over = {
        name: {key: one._replace(backup=False) for key, one in before[name].items()}
        for name in told(path, new)
        if name in before and name not in was_lua
    }
    _refuse_outage(before, _settings(path, merged, {**states, **taken_over}))
    return Kept(merged, taken_over)


def _settings(path: str, text: bytes, states: States) -> dict[str, Settings]:
    """By upstream and server, what is in force where NGINX reads ``text`` and Lua reads ``states``."""
    lines = {
        upstream.name: {one.key: Setting(one.weight, one.state, one.backup) for one in upstream.servers}
        for upstream in _lines(path, text)
    }
    lua = {
        upstream: {name: states.get(upstream, {}).get(name, setting) for name, setting in servers.items()}
        for upstream, servers in told(path, text).items()
    }
    return {**lines, **lua}


def _refuse_outage(before: States, after: States) -> None:
    used = {name for name, servers in before.items() if _is_used(servers)}
    for name, servers in after.items():
        if name in used and not _is_used(servers):
            raise NginxKeepError(
                f"upstream {name} would have no server left to take traffic: all that would stay are out of rotation, as they "
                "are now. Let one of them in first."
            )


def _is_used(servers: Settings) -> bool:
    return any(one.state == READY and not one.backup for one in servers.values())


def _lines(path: str, text: bytes) -> tuple[Upstream, ...]:
    """The upstreams whose servers NGINX chooses by their lines."""
    return tuple(one for one in upstreams("", _InHttp(path, text)) if not is_lua(one))


class _InHttp:
    """A file by itself as a configuration. What it includes is not its own."""

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._text = text

    def read(self, path: str) -> bytes:
        return self._text if path == self._path else b"http { include own; }"

    def included(self, pattern: str) -> list[str]:
        return [self._path] if pattern == "own" else []
