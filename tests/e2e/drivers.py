# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each driver in front of three app servers, in one shape, for tests of what they all must do."""

from __future__ import annotations

import collections
import contextlib
import http.client
import threading
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import Driver
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_driver import HaproxyDriver
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import parse_address

from e2e.lab import Client, Lab
from e2e.nginx_lab import NginxLab
from e2e.nginx_lua_lab import NginxLuaLab
from local_fleet.polling import poll

HAPROXY = """
backend shop
    balance roundrobin
    option httpchk GET /health
    default-server check inter 100ms rise 2 fall 2 weight 10
    server web1 {host}:8081
    server web2 {host}:8082
    server web3 {host}:8083
"""


class Site(t.Protocol):
    """A load balancer with a backend `shop` of three servers of weight 10, each an App that answers with its port."""

    host: str
    out: str  # what a server out of rotation is told to be, and is

    @property
    def apps(self) -> t.Sequence[AnyApp]: ...

    def name(self, place: int) -> str: ...

    def driver(self, **options: t.Any) -> Driver: ...


class AnyApp(t.Protocol):
    """As lab.App."""

    held: threading.Semaphore
    holding: int
    answered: int

    def shutdown(self) -> None: ...

    def server_close(self) -> None: ...


class HaproxySite:
    out = "maint"

    def __init__(self, lab: Lab) -> None:
        self._lab, self.host, self.apps = lab, lab.host, lab.apps
        lab.wait_status("UP", "web1", "web2", "web3")

    def name(self, place: int) -> str:
        return f"web{place + 1}"

    def driver(self, **options: t.Any) -> Driver:
        return HaproxyDriver(
            parse_address(self._lab.socket, False), **{"health_timeout": 5.0, "drain_timeout": 10.0, **options}
        )


class NginxSite:
    out = "down"

    def __init__(self, lab: NginxLab) -> None:
        self._lab, self.host, self.apps = lab, lab.host, lab.apps

    def name(self, place: int) -> str:
        return self._lab.server(place)

    def driver(self, **options: t.Any) -> Driver:
        return self._lab.driver(**options)


class NginxLuaSite:
    out = "down"

    def __init__(self, lab: NginxLuaLab) -> None:
        self._lab, self.host, self.apps = lab, lab.host, list(lab.apps.values())

    def name(self, place: int) -> str:
        return self._lab.names[place]

    def driver(self, **options: t.Any) -> Driver:
        return self._lab.driver(**options)


@contextlib.contextmanager
def haproxy() -> t.Iterator[Site]:
    with Lab(HAPROXY) as lab:
        yield HaproxySite(lab)


@contextlib.contextmanager
def nginx() -> t.Iterator[Site]:
    with NginxLab() as lab:
        yield NginxSite(lab)


@contextlib.contextmanager
def nginx_lua() -> t.Iterator[Site]:
    with NginxLuaLab(10, 10, 10) as lab:
        yield NginxLuaSite(lab)


DRIVERS: dict[str, t.Callable[[], contextlib.AbstractContextManager[Site]]] = {
    "haproxy": haproxy,
    "nginx": nginx,
    "nginx_lua": nginx_lua,
}


def answers(site: Site, count: int, path: str = "/") -> collections.Counter[int]:
    """So many requests, each on a connection of its own, by the place of the server that answered; -1 for errors."""
    before = [app.answered for app in site.apps]
    failed = 0
    for _number in range(count):
        connection = http.client.HTTPConnection(site.host, 8000, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            failed += connection.getresponse().status >= 500
    found = collections.Counter({place: app.answered - before[place] for place, app in enumerate(site.apps)})
    if failed:
        found[-1] = failed
    return +found


def hold(site: Site, app: AnyApp) -> Client:
    """A request that stays in flight until ``app.held`` is released. The others are out of rotation, so that it goes there."""
    before = app.holding
    client = Client(site.host, {})
    poll(lambda: app.holding > before, "a request in flight")
    return client
