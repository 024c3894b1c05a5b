# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Reads a running HAProxy, and speaks to one backend of it. What is to be changed, and in what order, is decided elsewhere."""

from __future__ import annotations

import contextlib
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    HASH_ALGORITHMS,
    STATIC_ALGORITHMS,
    Backend,
    Process,
    parse_process,
    parse_servers_state,
    refreshed,
    with_stat,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import (
    Address,
    AdminSocket,
    ConnectionLost,
    HaproxyError,
    checked_name,
)

# How often a reload in the middle of a call is answered by doing it again on the new process.
RELOADS_FOLLOWED = 3
Read = t.TypeVar("Read")
# What a worker that was replaced answers to every change.
REPLACED = "Proxy is disabled."


class Reloaded(HaproxyError):
    """The process that we talk to no longer takes new traffic: what it is told counts for nothing."""


class Runtime:
    """Reads and changes of one backend over one connection."""

    def __init__(self, connection: AdminSocket, backend: str) -> None:
        self.connection = connection
        self.backend = checked_name("backend", backend)

    def require_admin(self) -> None:
        (level,) = self.connection.run(["show cli level"])
        if level.strip() != "admin":
            raise HaproxyError(
                f"{self.connection.name} is a socket of level {level.strip()!r}, which may not change servers. "
                "Use a `stats socket ... level admin` line. Nothing was changed."
            )

    def read(self) -> tuple[Process, Backend]:
        """Everything HAProxy knows of the backend."""
        _process, backend = self.glance()
        # By number, as a frontend may bear the same name. A worker that was replaced lists no servers here.
        stat, info = self.connection.run([f"show stat {backend.id} 6 -1", "show info"])
        process = parse_process(info)
        refuse_replaced(process)
        return process, with_stat(backend, stat)

    def glance(self) -> tuple[Process, Backend]:
        """Weights, states and check results only: several times faster than ``read``."""
        # The process comes last: only then is it known to have been in charge when it told the rest.
        servers, info = self.connection.run([f"show servers state {self.backend}", "show info"])
        if "Can't find backend" in servers:
            raise HaproxyError(f"HAProxy on {self.connection.name} has no backend {self.backend}. Nothing was changed.")
        if "Permission denied" in servers:
            raise HaproxyError(
                f"{self.connection.name} may not read servers: {servers.strip()}. Use a `stats socket` line of level operator or admin."
            )
        process = parse_process(info)
        refuse_replaced(process)
        return process, parse_servers_state(self.backend, servers)

    def refuse_replaced(self) -> None:
        """Raise Reloaded where a worker answers that was replaced: while a reload goes on it may still accept."""
        (info,) = self.connection.run(["show info"])
        refuse_replaced(parse_process(info))

    def current(self) -> Backend:
        return self.read()[1]

    def current_glance(self, known: Backend) -> Backend:
        return refreshed(known, self.glance()[1])

    def change(self, commands: t.Sequence[str]) -> None:
        """Run commands whose success is silence; raise HaproxyError with what HAProxy said otherwise."""
        refused = [
            (command, reply.strip()) for command, reply in zip(commands, self.connection.run(commands)) if reply.strip()
        ]
        if not refused:
            return
        if any(REPLACED in reply for command, reply in refused):
            raise Reloaded("HAProxy was reloaded during the call")
        more = f" (and {len(refused) - 1} more commands)" if len(refused) > 1 else ""
        raise HaproxyError(f"HAProxy refused `{refused[0][0]}`{more}: {refused[0][1]}")

    def takes_only_configured_weights(self, backend: Backend) -> bool | None:
        """Whether the algorithm is static. For hash algorithms HAProxy is asked to add a server without an address.

        That can never succeed; but a static backend is refused for being one first. HAProxy before 2.4 does not know
        the command, and None is returned: there the change itself is refused, and undone.
        """
        if backend.algorithm in STATIC_ALGORITHMS:
            return True
        if backend.algorithm is not None and backend.algorithm not in HASH_ALGORITHMS:
            return False
        (reply,) = self.connection.run([f"add server {backend.name}/{backend.servers[0].name}"])
        return None if "Unknown command" in reply else "dynamic load balancing" in reply

    def busy_connections(self, names: t.Collection[str]) -> dict[str, int]:
        """Connections in use per server. A worker that was replaced still tells this, when it tells no sessions."""
        (reply,) = self.connection.run([f"show servers conn {self.backend}"])
        lines = [line.split() for line in reply.splitlines() if line]
        if not lines or "used_cur" not in lines[0]:
            return {}
        column = lines[0].index("used_cur") - 1  # the header starts with a lone `#`
        rows = {line[0].partition("/")[2]: int(line[column]) for line in lines[1:]}
        return {name: rows[name] for name in names if rows.get(name)}


def refuse_replaced(process: Process) -> None:
    if process.stopping:
        raise Reloaded(f"HAProxy was reloaded: process {process.pid} serves only its last connections")


def read_backend(address: Address, backend: str, timeout: float) -> tuple[Process, Backend]:
    """One reading, for haproxy_backend_info and everybody else who only looks."""

    def read(connection: AdminSocket) -> tuple[Process, Backend]:
        return Runtime(connection, backend).read()

    return _followed(address, timeout, read)


def read_backends(address: Address, names: t.Sequence[str], timeout: float) -> tuple[Process, str, dict[str, Backend]]:
    """One reading of several backends over one connection; the socket's level comes with it."""

    def read(connection: AdminSocket) -> tuple[Process, str, dict[str, Backend]]:
        (level,) = connection.run(["show cli level"])
        readings = {name: Runtime(connection, name).read() for name in names}
        process = list(readings.values())[-1][0]
        return process, level.strip(), {name: backend for name, (_process, backend) in readings.items()}

    return _followed(address, timeout, read)


def _followed(address: Address, timeout: float, read: t.Callable[[AdminSocket], Read]) -> Read:
    """What ``read`` reads from one process, asked again over a new connection when a reload came in between."""
    for _reload in range(RELOADS_FOLLOWED):
        with contextlib.suppress(Reloaded, ConnectionLost):
            return _once(address, timeout, read)
    return _once(address, timeout, read)


def _once(address: Address, timeout: float, read: t.Callable[[AdminSocket], Read]) -> Read:
    with AdminSocket(address, timeout) as connection:
        return read(connection)
