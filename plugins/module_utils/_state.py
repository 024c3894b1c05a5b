# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Where the records of rollouts are kept on a load balancer, and what is raised when they cannot be used."""

from __future__ import annotations

import urllib.parse

DEFAULT_STATE_DIR = "/var/lib/steady-rollout"
# The file in a backend's folder that is there while a rollout holds the backend.
LOCK = "lock"


class StateError(Exception):
    """The records cannot be read, written or trusted, or are in somebody else's hands: one or two sentences for a person."""


def folder_name(backend: str) -> str:
    """The name of a backend's folder: one that is no other backend's, hidden, or the way up."""
    name = urllib.parse.quote(backend, safe="")
    return "%2E" + name[1:] if name.startswith(".") else name
