# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options in module_utils/_haproxy_module.py."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  socket:
    description:
      - HAProxy's Runtime API, a C(stats socket) of its configuration, as an absolute path, C(host:port) or C([ipv6]:port).
      - It must be a worker's socket, not the master CLI.
    type: str
    default: /run/haproxy/admin.sock
  allow_remote_socket:
    description:
      - Accept a O(socket) on an address that is not loopback. The Runtime API has no authentication, so whoever reaches such a
        socket owns the load balancer.
    type: bool
    default: false
  timeout:
    description:
      - Seconds that HAProxy may keep silent before the call fails.
    type: float
    default: 10.0
requirements:
  - HAProxy 2.2 or newer
  - Python 3.9 or newer on the host with the socket
notes:
  - One connection is used per call, as HAProxy admits only C(stats maxconn) of them, 10 unless configured.
"""
