# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether servers of NGINX answer a probe, for modules whose user says how to ask. The guard, which has no Ansible, does not."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import Server
from ansible_collections.steady.rollout.plugins.module_utils._proof import probed


def unproved(probe: t.Mapping[str, t.Any], servers: t.Sequence[Server], seconds: float) -> str:
    """Why not all answer as ``probe`` asks, the options of http_probe, after ``seconds``; "" where they do."""
    targets = [{"name": server.name, **_place(server)} for server in servers]
    return probed({"deadline": seconds, **probe, "targets": targets})[0]


def _place(server: Server) -> dict[str, t.Any]:
    if server.port is None:
        return {"unix_socket": server.address.removeprefix("unix:")}
    return {"address": server.address.strip("[]"), "port": server.port}
