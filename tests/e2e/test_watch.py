# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a broken server does to requests, as a real HAProxy counts it and a watch reads it: each request once."""

from __future__ import annotations

import signal
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _watch
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_driver import HaproxyDriver

from local_fleet.fleet import Fleet
from local_fleet.layout import LOAD_BALANCERS, TEMPLATE
from local_fleet.load import Load, Profile
from local_fleet.polling import poll

# Nobody takes the broken server out.
NO_CHECKS = TEMPLATE.replace("inter 200ms rise 2 fall 3", "inter 200ms rise 2 fall 250")
ENOUGH = 30
RATE = 40.0  # requests/s to each load balancer


def counted(fleet: Fleet, server: str) -> tuple[int, int]:
    """(requests, errors) of a server on all load balancers."""
    told = []
    for name in LOAD_BALANCERS:
        driver = HaproxyDriver(fleet.socket(name), timeout=5.0, health_timeout=5.0, check_mode=False)
        servers = driver.read(["shop"]).backends["shop"]["servers"]
        told.append(_watch.counted({"servers": [{"backend": "shop", **one} for one in servers]}, [("shop", server)]))
    requests, *errors = _watch.total(told)
    return requests, sum(errors)


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        pytest.param(signal.SIGKILL, ["option redispatch 1"], id="refuses, and others take over at once"),
        pytest.param(signal.SIGKILL, ["option redispatch"], id="refuses, and others take over in the end"),
        pytest.param(signal.SIGKILL, ["no option redispatch"], id="refuses, and is tried again only itself"),
        pytest.param(signal.SIGSTOP, ["timeout server 300ms"], id="never answers"),
    ],
)
def test_each_request_to_a_broken_server_is_one_request_and_one_error(
    start_fleet: t.Callable[..., Fleet], number: signal.Signals, lines: list[str]
) -> None:
    fleet = start_fleet(apps=2, template=NO_CHECKS, extra_defaults=lines)
    with Load(fleet, Profile(rate=RATE)) as load:
        poll(lambda: counted(fleet, "web1")[0] > ENOUGH, "it serves", 20)
        fleet.signal("web1", number)
        before, since = counted(fleet, "web1"), len(load.records())
        poll(lambda: counted(fleet, "web1")[1] > ENOUGH, "it has failed", 30)
        load.stop()
        sent = len(load.records()) - since

    def all_counted() -> tuple[int, int] | None:
        # What waits to be tried again is counted when that is over.
        requests, errors = (now - then for now, then in zip(counted(fleet, "web1"), before))
        return (requests, errors) if errors >= 0.35 * sent else None

    requests, errors = t.cast("tuple[int, int]", poll(all_counted, "all requests are counted", 10))
    # Half of them came to it, and a few were in flight when it broke.
    assert requests - errors < 0.1 * sent
    assert errors < 0.65 * sent + RATE
