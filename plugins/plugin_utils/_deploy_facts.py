# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This plugin util is private to the collection; it may change at any time.
"""What the user's role left behind on hosts for the executor, as facts."""

from __future__ import annotations

import typing as t


def forward_only_facts(task_vars: t.Mapping[str, t.Any], hosts: t.Iterable[str]) -> dict[str, dict[str, t.Any]]:
    """{host: {marker, text}}: which deploy it was told last, and what that did that cannot be taken back."""
    hostvars = task_vars["hostvars"]
    return {
        host: {
            "marker": dict(hostvars[host].get("__rollout_deploying") or {}),
            "text": hostvars[host].get("rollout_deploy_forward_only"),
        }
        for host in hosts
    }
