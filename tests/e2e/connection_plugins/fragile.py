# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A local connection that asks a gate (e2e.rollouts.Gate) before each use whether its host can be reached just now."""

from __future__ import annotations

import re
import socket
import typing as t

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection.local import Connection as LocalConnection

DOCUMENTATION = """
name: fragile
short_description: Reach a host on this machine if a test lets it be reached
description: Used by the end-to-end tests of rollouts.
options:
  gate:
    description: The unix socket of the gate.
    required: true
    vars:
      - name: fragile_gate
  host:
    description: The inventory's name of the host.
    required: true
    vars:
      - name: fragile_host
extends_documentation_fragment:
  - connection_pipelining
"""


# The arguments of a module are part of what is piped to its host, as JSON.
ACT = re.compile(rb'"act": "([a-z]+)"')


class Connection(LocalConnection):  # type: ignore[misc, unused-ignore]
    """As `local`; an unreachable host fails at once, a silent one never answers."""

    transport = "fragile"

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        found = ACT.search(in_data or b"")
        self._pass(found[1].decode() if found else "")
        result: tuple[int, bytes, bytes] = super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return result

    def put_file(self, in_path: str, out_path: str) -> None:
        self._pass()
        super().put_file(in_path, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        self._pass()
        super().fetch_file(in_path, out_path)

    def _pass(self, act: str = "") -> None:
        host: t.Any = self.get_option("host")
        with socket.socket(socket.AF_UNIX) as gate:
            gate.connect(self.get_option("gate"))
            gate.sendall(f"{host}\t{act}\n".encode())
            if gate.recv(16) != b"open":
                raise AnsibleConnectionFailure(f"{host} cannot be reached: no route to host")
