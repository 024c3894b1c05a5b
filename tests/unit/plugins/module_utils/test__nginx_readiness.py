# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import HTTP_FORMAT, STREAM_FORMAT
from ansible_collections.steady.rollout.plugins.module_utils._nginx_readiness import readiness, seconds, zone_line
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import NginxConfigError

from nginx_files import Tree

OLD, NEW = (1, 22, 1), (1, 28, 0)
READY = f"""
pid /run/nginx.pid;
events {{ }}
http {{
    log_format steady_rollout '{HTTP_FORMAT}';
    access_log /var/log/nginx/steady-rollout.log steady_rollout;
    keepalive_min_timeout 10s;
    upstream shop {{
        zone shop 64k;
        server 192.0.2.21:8080;
        server 192.0.2.22:8080 weight=10;
    }}
    server {{
        location / {{ proxy_pass http://shop; }}
    }}
}}
"""
STREAM = f"""
stream {{
    log_format steady_rollout '{STREAM_FORMAT}';
    access_log /l/stream steady_rollout;
    upstream db {{ zone db 64k; server 192.0.2.31:5432; }}
    server {{ listen 5432; proxy_pass db; }}
}}
"""


def judged(text: str = READY, version: tuple[int, int, int] = NEW, **more: t.Any) -> dict[str, t.Any]:
    return readiness("nginx.conf", Tree({"nginx.conf": text.encode()}), version, "/usr/share/nginx", **more)


def messages(old: str = "", new: str = "") -> list[str]:
    """What is said of the ready configuration with one text replaced."""
    assert old in READY
    found: list[str] = judged(READY.replace(old, new))["messages"]
    return found


def test_nothing_is_lacking_in_a_ready_configuration() -> None:
    servers = ["192.0.2.21:8080", "192.0.2.22:8080"]
    shop = {
        "name": "shop",
        "kind": "http",
        "path": "nginx.conf",
        "algorithm": "roundrobin",
        "zone": True,
        "servers": servers,
    }
    logs = {"shop": "/var/log/nginx/steady-rollout.log"}
    assert judged() == {"findings": [], "messages": [], "upstreams": [shop], "logs": logs}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    access_log", "    #", "required: What nginx.conf:14 passes to shop is not logged in the format steady_rollout"),
        ("    log_format", "    #", "required: There is no log in the format steady_rollout"),
        ("        location", "        access_log off;\n        location", "required: What nginx.conf:15 passes to shop is not logged at all"),
        ("rollout;\n", "rollout buffer=8k;\n", "advised: With buffer=8k requests are counted late"),
        ("21:8080;", "22:8080;", "required: Upstream shop has more than one server line of 192.0.2.22:8080"),
        ("        zone shop 64k;", "", "advised: Upstream shop has no zone"),
        ("        zone", "        least_conn; zone", "advised: With least_conn a weight is not a share"),
        ("        zone", "        random two least_conn; zone", "advised: With random a weight is not a share"),
        ("        zone", "        least_time header; zone", "advised: With least_time a weight is not a share"),
        ("192.0.2.21:8080", "web1.example:8080", "advised: nginx resolves web1.example:8080 at each reload"),
        ("192.0.2.21:8080", "web1", "advised: nginx resolves web1 at each reload"),
        ("pid", "worker_shutdown_timeout 5s; pid", "advised: At each reload, requests that take longer than 5s are cut. In nginx.conf:2:"),
        ("    keepalive_min_timeout 10s;", "", "advised: Each reload closes idle connections of clients"),
        ("    keepalive_min_timeout 10s;", "    keepalive_min_timeout 0;", "advised: Each reload closes idle connections of clients"),
        ("    server {", "    server { keepalive_min_timeout 0;", "advised: Each reload closes idle connections of clients"),
    ],
)  # fmt: skip
def test_a_lack_is_told(old: str, new: str, message: str) -> None:
    told = messages(old, new)
    assert len(told) == 1
    assert told[0].startswith(message)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        zone", "        ip_hash; zone"),
        ("        zone", "        hash $request_uri consistent; zone"),
        ("192.0.2.21:8080", "[2001:db8::1]:8080"),
        ("192.0.2.21:8080", "unix:/run/app.sock"),
        ("192.0.2.21:8080", "web1.example:8080 resolve"),
        ("pid", "worker_shutdown_timeout 1m; pid"),
        ("    keepalive_min_timeout 10s;\n", "    server { keepalive_min_timeout 1s; }\n    keepalive_min_timeout 2s;"),
    ],
)
def test_what_works_is_not_blamed(old: str, new: str) -> None:
    assert messages(old, new) == []


def test_each_finding_has_the_place_and_the_line_that_mends_it() -> None:
    assert messages("        zone shop 64k;", "")[0].endswith("In upstream shop (nginx.conf): zone shop 64k;")
    assert messages("    access_log", "    #")[0].endswith(
        "access_log /var/log/nginx/steady-rollout.log steady_rollout;"
    )
    assert messages("    keepalive_min_timeout 10s;", "")[0].endswith(
        "In http (nginx.conf:4): keepalive_min_timeout 10s;"
    )


def test_what_an_old_nginx_does_to_idle_connections_is_told_without_a_line_to_add() -> None:
    found = judged(READY.replace("    keepalive_min_timeout 10s;", ""), OLD)
    (finding,) = found["findings"]
    assert finding["code"] == "keepalive"
    assert (finding["required"], finding["where"], finding["line"]) == (False, "", "")
    assert found["messages"][0].startswith("advised: nginx 1.22.1 closes idle connections of clients at each reload")
    assert found["messages"][0].endswith("nginx 1.27.4 and later can be told not to.")


def test_an_nginx_that_is_not_found_running_is_a_lack() -> None:
    (message,) = judged(silence="nginx does not run: /run/nginx.pid cannot be read")["messages"]
    assert message.startswith(
        "required: nginx does not run: /run/nginx.pid cannot be read, so nothing can reload it. In nginx.conf:2: start nginx"
    )


def test_a_log_that_all_upstreams_lack_is_told_once() -> None:
    text = READY.replace("    log_format", "    upstream b { zone b 64k; server 192.0.2.1; }\n    #")
    assert len(judged(text)["messages"]) == 1


def test_upstreams_of_a_stream_are_judged_without_what_is_http_s() -> None:
    found = judged(f"events {{ }} {STREAM}", OLD)
    assert found["findings"] == []
    assert found["logs"] == {"db": "/l/stream"}


def test_only_the_upstreams_that_are_asked_for_are_judged() -> None:
    text = READY + STREAM.replace("zone db 64k;", "")
    assert judged(text, names=["shop"])["findings"] == []
    assert [one["name"] for one in judged(text, names=["db"])["upstreams"]] == ["db"]
    assert len(judged(text)["messages"]) == 1


def test_an_upstream_that_is_not_there_is_told() -> None:
    with pytest.raises(NginxConfigError, match="there is no upstream none; the configuration has shop"):
        judged(names=["shop", "none"])


def test_many_names_are_shortened() -> None:
    servers = "".join(f"server web{number};" for number in range(1, 8))
    assert "web1, web2, web3 and 4 more" in messages("server 192.0.2.21:8080;", servers)[0]


@pytest.mark.parametrize(("servers", "size"), [(1, "64k"), (49, "64k"), (50, "128k"), (1000, "1344k")])
def test_a_zone_has_room_for_its_servers(servers: int, size: str) -> None:
    assert zone_line("shop", servers) == f"zone shop {size};"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30s", 30),
        ("60", 60),
        ("1m", 60),
        ("1m30s", 90),
        ("1m 30s", 90),
        ("500ms", 0.5),
        ("1M", 2592000),
        ("x", float("inf")),
    ],
)
def test_times_are_read_as_nginx_does(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)
