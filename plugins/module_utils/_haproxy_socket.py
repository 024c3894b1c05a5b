# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""One connection to HAProxy's Runtime API, in prompt mode, so that every reply is known to belong to its command.

Without prompt mode HAProxy 3.0 runs only the first line of a write and drops the rest without a word, and replies to
``;`` chains cannot be told apart. This file knows nothing of weights or servers; it must never guess at a reply.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import stat
import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError

PROMPT = b"\n> "
MASTER_PROMPT = b"master> "
# HAProxy's own rule for proxy and server names (invalid_char() in its source accepts these and no others).
NAME = re.compile(r"[A-Za-z0-9_.:-]+\Z")

Address = t.Union[str, tuple[str, int]]


class HaproxyError(LoadBalancerError):
    """What was asked, what HAProxy answered, what to do next."""


class ConnectionLost(HaproxyError):
    """HAProxy closed the connection: it was stopped, restarted or reloaded, or the connection idled too long."""


def checked_name(kind: str, name: str) -> str:
    """Return ``name``, or refuse it if it could end a command or start another one (blanks, ``;``, newlines...)."""
    if not NAME.match(name):
        raise HaproxyError(
            f"{kind} name {name!r} is not valid: HAProxy's names hold only letters, digits and the characters . _ : -"
        )
    return name


def parse_address(text: str, allow_remote: bool = False) -> Address:
    """Turn ``/path``, ``host:port`` or ``[ipv6]:port`` into what the socket module wants.

    Raises HaproxyError for anything else, and for a host that is not loopback unless ``allow_remote``: the Runtime
    API has no authentication, so whoever reaches it owns the load balancer.
    """
    if text.startswith("/"):
        return text
    host, colon, port_text = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        not colon
        or not host
        or not (port_text.isascii() and port_text.isdigit())
        or not 0 < int(port_text) < 65536
        or ("[" not in text and ":" in host)
    ):
        raise HaproxyError(
            f"socket {text!r} is neither an absolute path nor host:port (an IPv6 host goes in brackets: [::1]:9999)"
        )
    if not allow_remote and not _is_loopback(host, int(port_text)):
        raise HaproxyError(
            f"socket {text!r} is not on a loopback address. The Runtime API has no authentication: bind it to a unix "
            "socket or to 127.0.0.1, or set allow_remote_socket: true if the network is truly closed."
        )
    return host, int(port_text)


def lock_name(address: Address, backend: str) -> str:
    """What calls that change the same backend over the same socket lock, each against the others."""
    return f"{address}!{backend}"


def _is_loopback(host: str, port: int) -> bool:
    import ipaddress  # only here: most sockets are paths, and a module call imports everything anew

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise HaproxyError(f"socket host {host!r} cannot be resolved: {getattr(exc, 'strerror', None) or exc}") from exc
    return all(ipaddress.ip_address(str(info[4][0]).partition("%")[0]).is_loopback for info in found)


class AdminSocket:
    """A connection in prompt mode. ``timeout`` (seconds) bounds the connect and every silence of HAProxy.

    Use as a context manager: HAProxy serves only `stats maxconn` (10 unless configured) connections at once.
    """

    def __init__(self, address: Address, timeout: float = 10.0) -> None:
        self.name = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
        self._timeout = timeout
        self._unread = b""
        self._out_of_step = False
        self._socket = self._connect(address)
        try:
            self._socket.setblocking(False)
            # Alone and answered first: HAProxy 3.0 drops what follows a line that came before prompt mode.
            self.run(["prompt"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> AdminSocket:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def run(self, commands: t.Sequence[str]) -> list[str]:
        """Send all ``commands`` without waiting in between; return their replies, in order, without surrounding newlines.

        Reads while it writes: HAProxy stops reading when nobody takes its answers, and both would wait for ever.
        """
        if self._out_of_step:
            raise ConnectionLost(f"the connection to {self.name} is out of step after an earlier failure")
        for command in commands:
            if "\n" in command or ";" in command or "<<" in command:
                raise HaproxyError(f"refused to send {command!r}: it would be read as more than one command")
        unsent = memoryview("".join(command + "\n" for command in commands).encode())
        replies: list[str] = []
        # Until all is answered. Whoever catches an error in between must not take a late reply for one to his next command.
        self._out_of_step = True
        while len(replies) < len(commands):
            ready = self._wait(bool(unsent), commands[len(replies)])
            if ready & select.POLLOUT and unsent:
                unsent = unsent[self._send(unsent) :]
            if ready & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._receive(commands[len(replies)])
                self._take_replies(replies)
        if len(replies) != len(commands) or self._unread:
            raise HaproxyError(
                f"{self.name} gave {len(replies)} replies to {len(commands)} commands, the last one {replies[-1][-80:]!r}: "
                "no reply can be trusted to belong to its command"
            )
        self._out_of_step = False
        return replies

    def _connect(self, address: Address) -> socket.socket:
        family = (
            socket.AF_UNIX if isinstance(address, str) else (socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        )
        try:
            if isinstance(address, str):
                conn = socket.socket(family, socket.SOCK_STREAM)
                conn.settimeout(self._timeout)
                try:
                    conn.connect(address)
                except BaseException:
                    conn.close()
                    raise
                return conn
            return socket.create_connection(address, timeout=self._timeout)
        except OSError as exc:
            raise HaproxyError(
                f"cannot connect to HAProxy's socket {self.name}: {_why_no_connection(address, exc)}"
            ) from exc

    def _wait(self, writing: bool, command: str) -> int:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if writing else 0))
        deadline = time.monotonic() + self._timeout
        events = poller.poll(self._timeout * 1000)
        while not events and time.monotonic() < deadline:
            events = poller.poll(max(1.0, (deadline - time.monotonic()) * 1000))
        if not events:
            raise HaproxyError(self._silence(command))
        return events[0][1]

    def _silence(self, command: str) -> str:
        if self._unread.endswith(MASTER_PROMPT):
            return f"{self.name} is HAProxy's master CLI (-S), not a worker's stats socket: give the path of a `stats socket ... level admin` line."
        return (
            f"{self.name} accepted the connection but did not answer {command!r} within {self._timeout:g} s. Either HAProxy hangs, or all "
            "connections that `stats maxconn` allows (10 unless configured) are in use: close those that idle, or raise it."
        )

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            raise self._lost("a command") from exc

    def _receive(self, command: str) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            raise self._lost(repr(command)) from exc
        if not data:
            raise self._lost(repr(command))
        self._unread += data
        if self._unread.endswith(MASTER_PROMPT):
            raise HaproxyError(self._silence(command))

    def _lost(self, command: str) -> ConnectionLost:
        return ConnectionLost(
            f"{self.name} closed the connection instead of answering {command}: HAProxy was stopped, restarted or reloaded."
        )

    def _take_replies(self, replies: list[str]) -> None:
        if not self._unread.endswith(PROMPT):
            return  # the last reply ends with one, so nothing is missed, and long replies are not searched over and over
        *complete, self._unread = self._unread.split(PROMPT)
        replies.extend(reply.decode("utf-8", "replace").strip("\n") for reply in complete)


def _why_no_connection(address: Address, exc: OSError) -> str:
    reason = exc.strerror or str(exc)
    if isinstance(exc, socket.timeout) or exc.errno == errno.EAGAIN:
        return "nobody accepted the connection in time. HAProxy hangs, or its backlog of connections is full (`stats maxconn`)."
    if exc.errno in (errno.EACCES, errno.EPERM):
        return f"{reason}. Run the task with become: true, or as a user whom the `stats socket` line's mode, user or group admits."
    if exc.errno == errno.ENOENT:
        return f"{reason}. Is HAProxy running, and does its configuration have `stats socket {address} mode 600 level admin`?"
    if exc.errno == errno.ECONNREFUSED and isinstance(address, str) and not _is_socket(address):
        return "the path is not a socket. Give the path of HAProxy's `stats socket` line."
    if exc.errno == errno.ECONNREFUSED:
        return f"{reason}. HAProxy is not running, or does not listen there any more."
    return reason


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
