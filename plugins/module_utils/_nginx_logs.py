# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The counters of upstreams, from the logs that the configuration sends their requests to."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._nginx_counters import Counted, NginxLogError, counted
from ansible_collections.steady.rollout.plugins.module_utils._nginx_logging import log_of
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import Files, Upstream


class Logs:
    """Reads each log once, however many upstreams are in it. ``prefix``: what relative paths are relative to."""

    def __init__(self, config: str, files: Files, prefix: str) -> None:
        self._config = config
        self._files = files
        self._prefix = prefix
        self._counted: dict[str, Counted] = {}

    @property
    def since(self) -> str:
        """Another word each time that the counters of a log began anew."""
        return " ".join(sorted(one.since for one in self._counted.values()))

    def of(self, upstream: Upstream) -> tuple[dict[str, dict[str, t.Any]] | None, str]:
        """{server: counts as _nginx_log.Counts}, or None and why there are none. Raises NginxConfigError."""
        logged = log_of(self._config, self._files, upstream, self._prefix)
        if logged.path is None:
            return None, logged.problem
        try:
            if logged.path not in self._counted:
                self._counted[logged.path] = counted(logged.path)
        except NginxLogError as exc:
            return None, str(exc)
        return self._counted[logged.path].of(upstream.name), ""
