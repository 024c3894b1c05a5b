# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that the role nginx writes, as text."""

from __future__ import annotations

import pathlib
import re
import typing as t

import jinja2
import pytest
import yaml
from ansible_collections.steady.rollout.plugins.action.rollout_targets import LUA_SOCKET
from ansible_collections.steady.rollout.plugins.module_utils._nginx_kept import kept
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import HTTP_FORMAT
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_config import Setting, lua_servers, told
from ansible_collections.steady.rollout.plugins.module_utils._nginx_readiness import KEEPS_IDLE, readiness, zone_line
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import READY

from nginx_files import Tree

ROLE = pathlib.Path(__file__).resolve().parents[3] / "roles" / "nginx"
LUA = (ROLE / "files" / "steady_rollout.lua").read_text(encoding="utf-8")
SERVER_BYTES = int(re.findall(r"SERVER_BYTES = ([0-9]+)", LUA)[0])
OLD, NEW = "1.22.1", "1.28.0"


def numbers(version: str) -> tuple[int, int, int]:
    first, second, third = map(int, version.split("."))
    return first, second, third


def written(
    upstream: dict[str, t.Any], server: dict[str, t.Any] | None = None, version: str = NEW, lua: bool = False
) -> str:
    """The file for one upstream and one server."""
    values = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    values |= yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    values["nginx_upstreams"] = [{"name": "shop", "servers": [{"name": "192.0.2.21:8080"}], **upstream}]
    values["nginx_servers"] = [{"listen": ["80"], "upstream": "shop", **(server or {})}]
    values["nginx_lua"] = lua
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    environment.tests["version"] = lambda one, other, _operator: numbers(one) >= numbers(other)
    environment.filters["steady.rollout.nginx_lua_servers"] = lua_servers
    text = (ROLE / "templates" / "steady-rollout.conf.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(__nginx_number=version, **values)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_nothing_is_lacking_in_what_the_role_writes(version: str) -> None:
    main = b"pid /run/nginx.pid;\nhttp {\naccess_log /var/log/nginx/access.log;\ninclude own;\n}"
    files = Tree({"nginx.conf": main, "own": written({}, version=version).encode()})
    found = readiness("nginx.conf", files, numbers(version), "/usr/share/nginx")
    assert found["logs"] == {"shop": "/var/log/nginx/steady-rollout.log"}
    assert [finding["code"] for finding in found["findings"]] == (["keepalive"] if version == OLD else [])


def test_only_a_version_that_knows_it_is_told_to_keep_idle_connections() -> None:
    since = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))["__nginx_keeps_idle_since"]
    assert numbers(since) == KEEPS_IDLE
    assert "\nkeepalive_min_timeout 10s;\n" in written({}, version=since)
    assert "keepalive_min_timeout" not in written({}, version="1.27.3")


def test_the_format_of_the_log_is_the_one_that_is_counted() -> None:
    assert f"log_format steady_rollout '{HTTP_FORMAT}';" in written({})


@pytest.mark.parametrize("count", [1, 49, 50, 120])
def test_the_zone_has_room_for_its_servers(count: int) -> None:
    assert f"    {zone_line('shop', count)}\n" in written(
        {"servers": [{"name": f"192.0.2.{one}"} for one in range(count)]}
    )


def test_a_value_of_none_is_written_as_one_that_is_not_given() -> None:
    nothing = dict.fromkeys(("weight", "max_fails", "fail_timeout", "max_conns", "backup", "options"))
    upstream = {"servers": [{"name": "192.0.2.21:8080", **nothing}], "keepalive": None, "options": None}
    assert written(upstream, {"server_name": None, "options": None}) == written({})


def test_a_server_line_has_what_is_given_for_it() -> None:
    server = {
        "name": "[2001:db8::1]:80",
        "weight": 7,
        "max_fails": 0,
        "fail_timeout": "5s",
        "max_conns": 9,
        "backup": True,
        "options": "route=a",
    }
    line = "    server [2001:db8::1]:80 weight=7 max_fails=0 fail_timeout=5s max_conns=9 backup route=a;\n"
    assert line in written({"servers": [server]})


def test_keepalive_stands_after_the_method_and_may_be_none_at_all() -> None:
    lines = [line.strip() for line in written({"options": ["hash $request_uri consistent;"]}).splitlines()]
    assert lines.index("hash $request_uri consistent;") < lines.index("keepalive 32;")
    assert "keepalive 0" not in written({"keepalive": 0})


def test_what_rollouts_do_to_a_line_survives_the_next_run() -> None:
    text = written({"servers": [{"name": "192.0.2.21:8080"}, {"name": "192.0.2.22:8080", "max_fails": 3}]})
    moved = text.replace("22:8080 weight=100 max_fails=3;", "22:8080 weight=7 max_fails=3 down;")
    assert moved != text
    assert kept("own", text.encode(), moved.encode(), {}).text.decode() == moved


@pytest.mark.parametrize("version", [OLD, NEW])
def test_nothing_is_lacking_in_what_the_role_writes_for_lua(version: str) -> None:
    main = b"pid /run/nginx.pid;\nhttp {\naccess_log /var/log/nginx/access.log;\ninclude own;\n}"
    files = Tree({"nginx.conf": main, "own": written({}, version=version, lua=True).encode()})
    found = readiness("nginx.conf", files, numbers(version), "/usr/share/nginx")
    assert found["logs"] == {"shop": "/var/log/nginx/steady-rollout.log"}
    assert found["findings"] == []


def test_what_lua_is_told_of_servers_can_be_read_back() -> None:
    servers = [{"name": "192.0.2.21", "weight": 7}, {"name": "[2001:db8::1]:81"}, {"name": "unix:/run/b.sock"}]
    assert told("own", written({"servers": servers}, lua=True).encode()) == {
        "shop": {
            "192.0.2.21:80": Setting(7, READY),
            "[2001:db8::1]:81": Setting(100, READY),
            "unix:/run/b.sock": Setting(100, READY),
        }
    }


def test_nginx_chooses_no_server_by_itself_under_lua() -> None:
    lines = [line.strip() for line in written({}, lua=True).splitlines()]
    assert [line for line in lines if line.startswith("server 1") or line.startswith("zone")] == []
    assert lines.index("server 0.0.0.1;") < lines.index("keepalive 32;")
    assert lines.index('balancer_by_lua_block { require("steady_rollout").balance("shop") }') < lines.index(
        "keepalive 32;"
    )


@pytest.mark.parametrize(("count", "size"), [(1, 4), (1999, 4), (2000, 8), (4001, 12)])
def test_the_dictionary_has_room_for_its_servers(count: int, size: int) -> None:
    servers = [{"name": f"10.0.{one // 250}.{one % 250}"} for one in range(count)]
    assert size * 1024 * 1024 >= count * SERVER_BYTES
    assert f"lua_shared_dict steady_rollout {size}m;" in written({"servers": servers}, lua=True)


def test_rollouts_find_the_api_where_the_role_has_it_listen() -> None:
    values = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    assert values["__nginx_lua_socket"] == LUA_SOCKET[1]
