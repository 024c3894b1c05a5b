# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that change the backend of a lab, on every version of HAProxy under test."""

from __future__ import annotations

import contextlib
import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_backend import Outcome
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import Wanted

from e2e import lab as haproxy_lab
from e2e.lab import Lab

VERSIONS = [
    "system",
    pytest.param("oldest", marks=pytest.mark.containers),
    pytest.param("newest", marks=pytest.mark.containers),
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


@pytest.fixture(params=VERSIONS)
def start(request: pytest.FixtureRequest) -> t.Iterator[t.Callable[..., Lab]]:
    """Start a lab on the HAProxy version at hand, and stop it in the end."""
    command = haproxy_lab.haproxy_command(request.param)
    with contextlib.ExitStack() as stack:

        def start_lab(body: str = SHOP, **options: t.Any) -> Lab:
            return stack.enter_context(Lab(body, command=command, **options))

        yield start_lab


@pytest.fixture
def shop(start: t.Callable[..., Lab]) -> Lab:
    lab = start()
    lab.wait_status("UP", "web1", "web2", "web3")
    return lab


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


@pytest.fixture
def busy(shop: Lab) -> Lab:
    """All traffic goes to web1, and two requests are in flight there."""
    shop.change(Wanted("web2", 0), Wanted("web3", 0))
    shop.hold(2)
    shop.change(Wanted("web2", 10), Wanted("web3", 10))
    return shop
