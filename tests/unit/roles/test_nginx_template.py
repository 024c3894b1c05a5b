# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that the role nginx writes, as text."""

from __future__ import annotations

import pathlib
import typing as t

import jinja2
import pytest
import yaml
from ansible_collections.steady.rollout.plugins.module_utils._nginx_kept import kept
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import HTTP_FORMAT
from ansible_collections.steady.rollout.plugins.module_utils._nginx_readiness import KEEPS_IDLE, readiness, zone_line

from nginx_files import Tree

ROLE = pathlib.Path(__file__).resolve().parents[3] / "roles" / "nginx"
OLD, NEW = "1.22.1", "1.28.0"


def numbers(version: str) -> tuple[int, int, int]:
    first, second, third = map(int, version.split("."))
    return first, second, third


def written(upstream: dict[str, t.Any], server: dict[str, t.Any] | None = None, version: str = NEW) -> str:
    """The file for one upstream and one server."""
    values = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    values |= yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    values["nginx_upstreams"] = [{"name": "shop", "servers": [{"name": "192.0.2.21:8080"}], **upstream}]
    values["nginx_servers"] = [{"listen": ["80"], "upstream": "shop", **(server or {})}]
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    environment.tests["version"] = lambda one, other, _operator: numbers(one) >= numbers(other)
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
    assert kept("own", text.encode(), moved.encode()).decode() == moved
