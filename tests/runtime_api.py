# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HAProxy's Runtime API as tests ask it on a host of their own, without a module of ours in between."""

from __future__ import annotations

SOCKET = "/run/haproxy/admin.sock"

_ASK = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1]); \
s.sendall(sys.argv[2].encode()+b'\\n'); print(''.join(iter(lambda: s.recv(65536).decode(), '')))"


def ask_command(command: str, socket: str = SOCKET) -> list[str]:
    """What to run on the host to have HAProxy's answer on standard output."""
    return ["python3", "-c", _ASK, socket, command]


def parse_servers(state: str) -> dict[str, tuple[int, int, int]]:
    """(weight, admin mask, port) of each server, from the answer to `show servers state BACKEND`."""
    rows = [line.split() for line in state.splitlines()[2:]]
    return {row[3]: (int(row[7]), int(row[6]), int(row[18])) for row in rows if row}
