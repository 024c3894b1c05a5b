# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a new text of a file of NGINX keeps of the one that is there: the weights and states of its servers. Pure.

They are changed at run time, by rollouts, and are nobody else's to set once a server is there.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import READY
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import replaced
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import Upstream, edits, upstreams


class NginxKeepError(LoadBalancerError):
    """The new text must not replace the old one; the message says why."""


def kept(path: str, new: bytes, old: bytes) -> bytes:
    """``new``, with the weights and states that ``old`` gives to servers of the same upstream and address.

    Both are the text of the file ``path``, which is included in `http`. Raises NginxKeepError where an upstream would have no server
    left that takes traffic and had one, and NginxConfigError where a text cannot be read.
    """
    before = {(upstream.name, server.key): server for upstream in _upstreams(path, old) for server in upstream.servers}
    splices = []
    for upstream in _upstreams(path, new):
        for server in upstream.servers:
            known = before.get((upstream.name, server.key))
            if known:
                splices += edits(new, server, known.weight or None, known.state)
    merged = replaced(new, splices)
    _refuse_outage(_upstreams(path, old), _upstreams(path, merged))
    return merged


def _refuse_outage(before: t.Sequence[Upstream], after: t.Sequence[Upstream]) -> None:
    used = {upstream.name for upstream in before if _is_used(upstream)}
    for upstream in after:
        if upstream.name in used and not _is_used(upstream):
            raise NginxKeepError(
                f"upstream {upstream.name} would have no server left to take traffic: all that would stay are out of rotation, as they "
                "are now. Let one of them in first."
            )


def _is_used(upstream: Upstream) -> bool:
    return any(server.state == READY and not server.backup for server in upstream.servers)


def _upstreams(path: str, text: bytes) -> tuple[Upstream, ...]:
    return upstreams("", _InHttp(path, text))


class _InHttp:
    """A file by itself as a configuration. What it includes is not its own."""

    def __init__(self, path: str, text: bytes) -> None:
        self._path = path
        self._text = text

    def read(self, path: str) -> bytes:
        return self._text if path == self._path else b"http { include own; }"

    def included(self, pattern: str) -> list[str]:
        return [self._path] if pattern == "own" else []
