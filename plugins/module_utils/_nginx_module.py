# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The options that every NGINX module has; documented in the nginx_config fragment."""

from __future__ import annotations

import typing as t

CONFIG_OPTIONS: dict[str, dict[str, t.Any]] = {
    "config": {"type": "path", "default": "/etc/nginx/nginx.conf"},
    "timeout": {"type": "float", "default": 30.0},
}
