# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_settings import settings

GLOBAL = """\
global
    # a comment counts as a line

    stats socket unix@/run/admin.sock level admin mode 660
    stats maxconn 5
    hard-stop-after 2m
"""
PROXIES = """\
defaults base
    timeout server 30s
defaults tcp from base
    timeout client 10s
    timeout server 3000
frontend web from base
    use_backend shop if TRUE
    timeout client 1h
backend shop
    hash-type consistent
    default-server inter 1s fall 4
    server web1 192.0.2.1:80 check
    default-server check inter 2s fastinter 500ms downinter 10s rise 3
    server-template app 3 192.0.2.9:80
    server plain 192.0.2.3:80 no-check
    server follower 192.0.2.4:80 track shop/web1
listen direct
    bind :81
    server one 192.0.2.5:80 check inter ${EVERY}
"""
SERVERS = {"shop": ["web1", "app2", "plain", "follower", "added"], "direct": ["one"], "nowhere": []}


@pytest.fixture(scope="module")
def told() -> dict[str, t.Any]:
    return settings([("/etc/a.cfg", GLOBAL), ("/etc/b.cfg", PROXIES)], SERVERS)


def test_a_setting_is_told_with_its_file_and_line(told: dict[str, t.Any]) -> None:
    assert told["hard_stop_after"] == {"known": True, "value": 120.0, "where": "/etc/a.cfg:6"}
    assert told["stats_maxconn"] == {"known": True, "value": 5, "where": "/etc/a.cfg:5"}


def test_where_nothing_is_set_haproxys_default_has_no_place(told: dict[str, t.Any]) -> None:
    assert told["stats_timeout"] == {"known": True, "value": 10.0, "where": None}
    assert told["backends"]["shop"]["balance"] == {"known": True, "value": "roundrobin", "where": None}


def test_sockets_are_told_by_their_path(told: dict[str, t.Any]) -> None:
    assert told["sockets"] == [
        {"address": "/run/admin.sock", "level": "admin", "mode": "660", "network": False, "where": "/etc/a.cfg:4"}
    ]


def test_timeouts_come_from_the_defaults_that_a_proxy_inherits(told: dict[str, t.Any]) -> None:
    # Without `from` these are the defaults that were read last.
    assert told["backends"]["shop"]["timeout_server"] == {"known": True, "value": 3.0, "where": "/etc/b.cfg:5"}
    assert told["backends"]["shop"]["timeout_tunnel"] == {"known": True, "value": None, "where": None}


def test_frontends_that_name_the_backend_are_its_clients(told: dict[str, t.Any]) -> None:
    clients = {name: backend["clients"] for name, backend in told["backends"].items() if backend}
    assert [(each["proxy"], each["timeout"]["value"]) for each in clients["shop"]] == [("web", 3600.0)]
    assert [(each["proxy"], each["timeout"]["value"]) for each in clients["direct"]] == [("direct", 10.0)]


@pytest.mark.parametrize(
    ("name", "checked", "fall", "rise"),
    [
        pytest.param("web1", True, 4.0, 2.0, id="default-server holds for the lines below it"),
        pytest.param("app2", True, 3.5, 11.0, id="a template's server; HAProxy hurries after a first difference"),
        pytest.param("plain", False, None, None, id="not checked"),
        pytest.param("follower", True, None, None, id="checked by another's checks"),
    ],
)
def test_how_long_checks_take(told: dict[str, t.Any], name: str, checked: bool, fall: t.Any, rise: t.Any) -> None:
    server = told["backends"]["shop"]["servers"][name]
    assert (server["checked"], server["fall_seconds"], server["rise_seconds"]) == (checked, fall, rise)


def test_a_server_that_no_line_declares_is_unknown(told: dict[str, t.Any]) -> None:
    assert told["backends"]["shop"]["servers"]["added"] is None


def test_a_backend_that_is_not_in_the_files_is_unknown(told: dict[str, t.Any]) -> None:
    assert told["backends"]["nowhere"] is None


def test_a_variable_is_unknown_and_no_number(told: dict[str, t.Any]) -> None:
    assert told["backends"]["direct"]["servers"]["one"]["fall_seconds"] is None


def test_under_conditions_nothing_is_known() -> None:
    told = settings([("a.cfg", GLOBAL + ".if defined(X)\n    stats maxconn 1\n.endif\n"), ("b.cfg", PROXIES)], SERVERS)
    assert told["hard_stop_after"] == {"known": False, "value": None, "where": "a.cfg:6"}
    assert told["stats_timeout"] == {"known": False, "value": None, "where": None}
    assert told["backends"]["shop"]["servers"]["web1"]["checked"] is None
