# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the tests that need a local fleet, a load or a lab. Each test has one of its own."""

from __future__ import annotations

import contextlib
import pathlib
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Wanted

from e2e import lab as haproxy_lab
from e2e.lab import Lab
from e2e.rollouts import COARSE, COLOURS, Rollouts, rest_green
from e2e.shop import SHOP, VERSIONS
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


@pytest.fixture(params=VERSIONS)
def start(request: pytest.FixtureRequest) -> t.Iterator[t.Callable[..., Lab]]:
    """Start a lab on the HAProxy version at hand, and stop it in the end."""
    yield from labs(request.param)


def labs(version: str) -> t.Iterator[t.Callable[..., Lab]]:
    """What starts labs on a version of HAProxy, for a fixture."""
    command = haproxy_lab.haproxy_command(version)
    with contextlib.ExitStack() as stack:

        def start_lab(body: str = SHOP, **options: t.Any) -> Lab:
            return stack.enter_context(Lab(body, command=command, **options))

        yield start_lab


@pytest.fixture
def shop(start: t.Callable[..., Lab]) -> Lab:
    lab = start()
    lab.wait_status("UP", "web1", "web2", "web3")
    return lab


@pytest.fixture
def busy(shop: Lab) -> Lab:
    """All traffic goes to web1, and two requests are in flight there."""
    shop.change(Wanted("web2", 0), Wanted("web3", 0))
    shop.hold(2)
    shop.change(Wanted("web2", 10), Wanted("web3", 10))
    return shop


@pytest.fixture
def start_rollouts(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., Rollouts]]:
    """Start a fleet to roll out on, with options as `Options` has them, and with variables for all or single hosts."""
    with contextlib.ExitStack() as stack:

        def start(
            variables: t.Mapping[str, t.Any] | None = None,
            hosts: t.Mapping[str, t.Mapping[str, t.Any]] | None = None,
            **options: t.Any,
        ) -> Rollouts:
            return stack.enter_context(Rollouts(tmp_path, Options(**options), variables or {}, hosts or {}))

        yield start


@pytest.fixture
def start_blue_green(start_rollouts: t.Callable[..., Rollouts]) -> t.Callable[..., Rollouts]:
    """As `start_rollouts`: web1 and web2 are blue and live, web3 and web4 are green and idle."""
    return lambda **given: rest_green(start_rollouts(**{"apps": 4, "tracks": COLOURS, **given}))


@pytest.fixture
def blue_green(start_blue_green: t.Callable[..., Rollouts]) -> Rollouts:
    """web1 and web2 are blue and live, web3 and web4 are green and idle."""
    return start_blue_green()


@pytest.fixture
def rolling(start_rollouts: t.Callable[..., Rollouts]) -> Rollouts:
    """Four hosts, all live, released to one by one."""
    return start_rollouts(apps=4, variables={"rolling_batches": 1})


@pytest.fixture
def canary(start_rollouts: t.Callable[..., Rollouts]) -> Rollouts:
    """Two hosts, both live, with a tolerance that can be judged in seconds."""
    return start_rollouts(apps=2, variables={"rollout_analysis": COARSE})
