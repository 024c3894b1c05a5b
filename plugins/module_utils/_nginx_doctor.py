# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What hurts rollouts in one NGINX, as nginx_config_info found it. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._finding import ERROR, WARNING, Finding, Seen


def judge(lb: Seen) -> list[Finding]:
    """For a load balancer whose reading is there."""
    return [*_unloaded(lb), *_configuration(lb)]


def _unloaded(lb: Seen) -> t.Iterator[Finding]:
    process = (lb.reading or {}).get("process") or {}
    if process.get("loaded") is False:
        yield Finding(
            "not-loaded",
            ERROR,
            "the files of its configuration were changed by a call that was killed, and nginx has not read them since",
            "The next change, or the guard, has them read; or tell nginx to reload",
            lb.name,
        )


def _configuration(lb: Seen) -> t.Iterator[Finding]:
    if lb.configuration is None:
        problem = f"how it is configured could not be read: {lb.configuration_problem}"
        yield Finding("configuration-unread", WARNING, problem, "See why, and look again", lb.name)
        return
    for found in lb.configuration["findings"]:
        severity = ERROR if found["required"] else WARNING
        yield Finding(
            f"nginx-{found['code']}", severity, found["problem"], found["line"], lb.name, where=found["where"]
        )
