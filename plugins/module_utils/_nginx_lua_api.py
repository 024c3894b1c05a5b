# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What steady_rollout.lua inside NGINX is asked over its unix socket: HTTP, over a connection that stays open until `close`.

This file knows nothing of what weights should be. Whoever reaches the socket may change them: it is in a directory of root's.
"""

from __future__ import annotations

import errno
import http.client
import json
import socket
import typing as t
import urllib.parse

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError

FORMAT = 1
CONFLICT = 409


class NginxLuaError(LoadBalancerError):
    """What was asked, what the API answered, what to do next."""


class Conflict(NginxLuaError):
    """Somebody else, or a reload, changed the upstream since it was read; nothing was changed by this request."""


class Lost(NginxLuaError):
    """The connection ended without an answer: whether a change was made only another reading can tell."""


class Api:
    """``timeout``: seconds, for the connect and for every silence. A request that failed closes the connection, the next one opens it anew."""

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._path = path
        self._timeout = timeout
        self._connection = _Connection(path, timeout)

    def close(self) -> None:
        self._connection.close()

    def read(self) -> dict[str, t.Any]:
        """{process: {nginx, worker, master}, upstreams: {name: {version, servers}}}"""
        return self._ask("GET", "/")

    def kept(self) -> dict[str, str]:
        """{upstream: why a restart would not bring weights and states back}, "" where it does."""
        return dict(self._ask("GET", "/kept")["kept"])

    def put(self, upstream: str, version: int, servers: t.Sequence[t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
        """Set `[{name, weight, state}]` in one step, if ``version`` is still in force. Returns {version, servers} as read back."""
        path = f"/upstreams/{urllib.parse.quote(upstream, safe='')}"
        answered = self._ask("PUT", path, {"version": version, "servers": list(servers)})
        found: dict[str, t.Any] = answered["upstreams"][upstream]
        return found

    def _ask(self, method: str, path: str, body: t.Mapping[str, t.Any] | None = None) -> dict[str, t.Any]:
        asked = f"{method} {path} at {self._path}"
        answered = False
        try:
            self._connect()
            self._connection.request(method, path, None if body is None else json.dumps(body))
            answer = self._connection.getresponse()
            data = answer.read()
            answered = True
        except socket.timeout as exc:
            raise Lost(
                f"{asked} was not answered in {self._timeout:g} s; see whether the workers of nginx hang, or raise timeout"
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise Lost(
                f"{asked} was not answered, the connection was closed ({type(exc).__name__}): nginx was stopped, restarted or "
                "reloaded; run it again"
            ) from exc
        finally:
            if not answered:
                self._connection.close()
        return _judged(asked, answer.status, data)

    def _connect(self) -> None:
        if self._connection.sock is not None:
            return
        try:
            self._connection.connect()
        except OSError as exc:
            raise NginxLuaError(f"cannot connect to the API of nginx at {self._path}: {_why_not(exc)}") from exc


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _judged(asked: str, status: int, data: bytes) -> dict[str, t.Any]:
    try:
        answer = json.loads(data)
        known = isinstance(answer, dict) and ("error" in answer or "format" in answer)
    except ValueError:
        known = False
    if not known:
        raise NginxLuaError(
            f"{asked} was answered {status} with {data[:80]!r}, which is not what steady_rollout.lua says: have a server of nginx listen "
            "there whose location calls its api(), and see nginx's error log"
        )
    if status == CONFLICT:
        raise Conflict(f"{asked} was answered {status}: {answer['error']}")
    if "error" in answer:
        raise NginxLuaError(f"{asked} was answered {status}: {answer['error']}")
    if answer["format"] != FORMAT:
        raise NginxLuaError(
            f"{asked} was answered in format {answer['format']}, and only {FORMAT} is known here: install steady_rollout.lua of this "
            "version of the collection, and restart nginx"
        )
    return t.cast("dict[str, t.Any]", answer)


def _why_not(exc: OSError) -> str:
    reason = exc.strerror or str(exc)
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"{reason}. Run the task with become: true; only root may"
    if exc.errno == errno.ENOENT:
        return f"{reason}. Is nginx running, and does a server of it listen on unix:PATH there? The role steady.rollout.nginx sets it up"
    if exc.errno == errno.ECONNREFUSED:
        return f"{reason}. nginx is not running, or does not listen there any more"
    return reason
