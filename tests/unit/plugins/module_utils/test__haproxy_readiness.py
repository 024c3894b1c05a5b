# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_readiness import readiness, seconds

SOCKET = "/run/haproxy/admin.sock"
READY = """
global
    stats socket /run/haproxy/admin.sock mode 600 level admin expose-fd listeners
    stats timeout 2m
    server-state-file /var/lib/haproxy/server-state
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    load-server-state-from-file global
    default-server inter 2s fall 3
frontend web
    bind :80
    default_backend shop
backend shop
    balance roundrobin
    server web1 192.0.2.21:8080 check
    server web2 192.0.2.22:8080 check weight 10
"""


def messages(old: str = "", new: str = "") -> list[str]:
    """What is said of the ready configuration with one text replaced."""
    assert old in READY
    found: list[str] = readiness([READY.replace(old, new)], SOCKET)["messages"]
    return found


def test_nothing_is_lacking_in_a_ready_configuration() -> None:
    assert readiness([READY], SOCKET) == {"findings": [], "messages": [], "backends": ["shop"]}


def test_files_are_read_as_one_configuration() -> None:
    head, tail = READY.split("frontend")
    assert readiness([head, "frontend" + tail], SOCKET)["findings"] == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    stats socket", "    # stats socket", "required: There is no admin socket"),
        ("level admin", "level operator", "required: The socket /run/haproxy/admin.sock is not of level admin"),
        ("level admin", "", "required: The socket /run/haproxy/admin.sock is not of level admin"),
        ("mode 600", "mode 666", "required: Every user of the host may write to the admin socket"),
        ("socket /run/haproxy/admin.sock", "socket 192.0.2.1:9999", "required: The admin socket 192.0.2.1:9999 is open to the network"),
        ("socket /run/haproxy/admin.sock", "socket :9999", "required: The admin socket :9999 is open to the network"),
        ("socket /run/haproxy/admin.sock", "socket /tmp/x", "required: The admin socket is at /tmp/x, not at /run/haproxy/admin.sock"),
        ("    server-state-file", "    #", "required: There is no server-state file"),
        ("    load-server-state-from-file", "    #", "required: A reload does not restore the servers of shop"),
        ("8080 check\n", "8080\n", "required: HAProxy does not check web1"),
        ("8080 check\n", "8080\n    default-server check\n", "required: HAProxy does not check web1"),
        ("8080 check\n", "8080 cookie check\n", "required: HAProxy does not check web1"),
        ("inter 2s fall 3", "inter 5s fall 5", "advised: It takes 25 seconds of failing requests until web1, web2 count as down"),
        ("roundrobin", "source", "advised: With balance source HAProxy takes only 0 and 100 percent"),
        ("roundrobin", "static-rr", "advised: With balance static-rr HAProxy takes only 0 and 100 percent"),
        ("roundrobin", "leastconn", "advised: With balance leastconn a weight is not a share"),
        ("    stats timeout 2m", "", "advised: The admin socket closes a connection after 10s"),
        ("    timeout client 30s", "", "advised: There is no timeout client for web"),
        ("    timeout server 30s", "", "advised: There is no timeout server for shop"),
    ],
)  # fmt: skip
def test_a_lack_is_told(old: str, new: str, message: str) -> None:
    told = messages(old, new)
    assert len(told) == 1
    assert told[0].startswith(message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("roundrobin", "uri\n    hash-type consistent"),
        ("roundrobin", "random(2)"),
        ("8080 check\n", "8080 track other/web1\n"),
        ("inter 2s fall 3\n", "inter 2s fall 3 check\n"),
        ("mode 600", "mode 660"),
        ("    balance", "    default-server check\n    server web3 192.0.2.23:8080\n    balance"),
        ("socket /run/haproxy/admin.sock", 'socket "${SOCK}"'),
        ("socket /run/haproxy/admin.sock", "socket unix@/run/haproxy/admin.sock"),
        ("    load-server-state-from-file global", "    load-server-state-from-file local"),
    ],
)
def test_what_works_is_not_blamed(old: str, new: str) -> None:
    assert messages(old, new) == []


def test_the_line_that_is_missing_belongs_above_the_servers() -> None:
    assert messages("8080 check\n", "8080\n")[0].endswith(
        "In backend shop: default-server check inter 2s fall 3 rise 2, above its servers"
    )


def test_a_server_that_runs_unchecked_is_a_lack_whatever_the_text_says() -> None:
    running = {"shop": [{"name": "web1", "health": "unchecked"}, {"name": "web2", "health": "up"}]}
    told = readiness([READY], SOCKET, running)["messages"]
    assert len(told) == 1
    assert told[0].startswith("required: HAProxy does not check web1,")


def test_a_server_line_decides_over_the_defaults() -> None:
    text = READY.replace("inter 2s fall 3", "inter 2s fall 3 check").replace("8080 check\n", "8080 no-check\n")
    assert "HAProxy does not check web1," in readiness([text], SOCKET)["messages"][0]


def test_many_names_are_shortened() -> None:
    servers = "".join(f"    server s{i} 192.0.2.1:{i}\n" for i in range(1, 8))
    told = readiness([READY + servers], SOCKET)["messages"]
    assert "s1, s2, s3 and 4 more" in told[0]


@pytest.mark.parametrize(("text", "value"), [("2s", 2), ("200ms", 0.2), ("5000", 5), ("1m", 60), ("x", float("inf"))])
def test_times_are_read_as_haproxy_does(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)
