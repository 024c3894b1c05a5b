# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests that change the backend of a lab share: its configuration, the versions, and a call that is under way."""

from __future__ import annotations

import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_backend import Outcome

# Every day on the two ends of what is supported.
VERSIONS = [
    pytest.param("system", marks=pytest.mark.long),
    pytest.param("oldest", marks=pytest.mark.containers),
    pytest.param("newest", marks=pytest.mark.containers),
]
# What does not depend on a version is shown every day on the one at hand, which needs no container.
ON_SYSTEM = [
    pytest.param("system"),
    pytest.param("oldest", marks=[pytest.mark.containers, pytest.mark.long]),
    pytest.param("newest", marks=[pytest.mark.containers, pytest.mark.long]),
]
SHOP = """
backend shop
    balance roundrobin
    option httpchk GET /health
    default-server check inter 100ms rise 2 fall 3 weight 10
    server web1 {host}:8081
    server web2 {host}:8082
    server web3 {host}:8083
"""


class Running(threading.Thread):
    """A call in a thread of its own, for tests that act in the middle of it."""

    def __init__(self, call: t.Callable[[], Outcome]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self._outcome: Outcome | None = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._outcome = self._call()
        except Exception as exc:
            self._error = exc

    def outcome(self) -> Outcome:
        self.join(40)
        if self._error:
            raise self._error
        assert self._outcome, "the call did not end in 40 s"
        return self._outcome
