# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that need a local fleet or a load. Each test has a fleet of its own."""

from __future__ import annotations

import contextlib
import typing as t

import pytest

from e2e.haproxy_fixtures import busy, shop, start  # noqa: F401 (fixtures of the tests with a lab)
from local_fleet.fleet import Fleet
from local_fleet.layout import Options
from local_fleet.load import Load, Profile
from local_fleet.tally import Terms


@pytest.fixture
def start_fleet() -> t.Iterator[t.Callable[..., Fleet]]:
    """Start fleets with options of one's own; `Options` says which."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(Fleet(Options(**options)))


@pytest.fixture
def fleet(start_fleet: t.Callable[..., Fleet]) -> Fleet:
    """A plain fleet: two load balancers and six app hosts, all UP."""
    return start_fleet()


@pytest.fixture
def start_load(fleet: Fleet) -> t.Iterator[t.Callable[..., Load]]:
    """Start a load on `fleet`, with values of `Profile` and with `terms`. It is stopped at the end, or by the test."""
    with contextlib.ExitStack() as stack:

        def start(terms: Terms | None = None, **values: t.Any) -> Load:
            return stack.enter_context(Load(fleet, Profile(**values), terms))

        yield start


@pytest.fixture
def load(start_load: t.Callable[..., Load]) -> Load:
    """300 requests/s to each load balancer of `fleet`."""
    return start_load()
