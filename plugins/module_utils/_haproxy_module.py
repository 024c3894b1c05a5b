# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The options that every HAProxy module has; documented in the haproxy_socket fragment."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError

SOCKET_OPTIONS: dict[str, dict[str, t.Any]] = {
    "socket": {"type": "str", "default": "/run/haproxy/admin.sock"},
    "allow_remote_socket": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 10.0},
}


def checked_state_file(path: str) -> str:
    if path not in ("", "auto") and not path.startswith("/"):
        raise HaproxyError(f"state_file must be auto, an absolute path or empty, not {path!r}")
    return path
