# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether servers accept connections, seen from the load balancer itself: the least that is asked of one that gains traffic.

NGINX checks nothing by itself. Whether a server answers well is for a probe to say.
"""

from __future__ import annotations

import socket
import threading
import time
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import Server

TRY_SECONDS = 2.0
PAUSE_SECONDS = 0.1
AT_ONCE = 50


def unreached(servers: t.Sequence[Server], seconds: float) -> str:
    """Why not all accept a connection after ``seconds``; "" where they do."""
    return "; ".join(await_accepting(servers, seconds).values())


def await_accepting(servers: t.Sequence[Server], seconds: float) -> dict[str, str]:
    """Wait until all accept a connection. Returns {name: why} of those that still do not after ``seconds``."""
    deadline = time.monotonic() + seconds
    left = list(servers)
    while True:
        why = _tried(left)
        left = [server for server in left if server.name in why]
        if not left or time.monotonic() >= deadline:
            return why
        time.sleep(PAUSE_SECONDS)


def _tried(servers: t.Sequence[Server]) -> dict[str, str]:
    why: dict[str, str] = {}
    for first in range(0, len(servers), AT_ONCE):
        threads = [threading.Thread(target=_try, args=(one, why)) for one in servers[first : first + AT_ONCE]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return why


def _try(server: Server, why: dict[str, str]) -> None:
    try:
        if server.port is None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TRY_SECONDS)
                connection.connect(server.address.removeprefix("unix:"))
        else:
            socket.create_connection((server.address.strip("[]"), server.port), TRY_SECONDS).close()
    except OSError as exc:
        why[server.name] = f"no connection to {server.name}: {exc.strerror or exc}"
