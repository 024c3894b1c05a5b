# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Which connections workers of NGINX still have to servers: NGINX does not tell, the kernel does."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import Process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import Server

ESTABLISHED = "01"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")


def sessions(workers: t.Sequence[Process], servers: t.Sequence[Server]) -> dict[str, int]:
    """{server: connections} of TCP, where there are any. Of servers that are names or unix sockets nothing is known."""
    wanted = {place: server.name for server in servers for place in _places(server)}
    found: dict[str, int] = {}
    for worker in workers:
        mine = _sockets(worker.pid)
        for inode, place in _connections(worker.pid):
            if inode in mine and place in wanted:
                found[wanted[place]] = found.get(wanted[place], 0) + 1
    return found


def _places(server: Server) -> t.Iterator[tuple[str, int]]:
    if server.port is not None:
        with contextlib.suppress(ValueError):
            yield ipaddress.ip_address(server.address.strip("[]")).compressed, server.port


def _sockets(pid: int) -> set[str]:
    inodes = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found = _SOCKET.match(os.readlink(f"/proc/{pid}/fd/{name}"))
                if found:
                    inodes.add(found[1])
    return inodes


def _connections(pid: int) -> t.Iterator[tuple[str, tuple[str, int]]]:
    """(inode, (address, port) of the other end) of each established connection that the process's network has."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as stream:
            for line in stream.readlines()[1:]:
                fields = line.split()
                if len(fields) > 9 and fields[3] == ESTABLISHED:
                    address, _colon, port = fields[2].partition(":")
                    yield fields[9], (_address(address), int(port, 16))


def _address(text: str) -> str:
    """The kernel writes words of 32 bits in the order of this machine's bytes."""
    words = [int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).compressed
