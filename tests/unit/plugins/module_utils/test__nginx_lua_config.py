# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_config import (
    NginxLuaStateError,
    Setting,
    lua_servers,
    once,
    state_of,
    state_text,
    told,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import DOWN, READY
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import NginxConfigError

LOADED = b"""init_by_lua_block {
    require("steady_rollout").load{
        upstreams = {
            ["shop"] = {
                {name = "192.0.2.21:8080", address = "192.0.2.21", port = 8080, weight = 7},
                {name = "unix:/run/b.sock", address = "unix:/run/b.sock", weight = 100},
            },
            ["blog"] = {
            },
        },
    }
}
"""


@pytest.mark.parametrize(
    ("name", "told_as"),
    [
        ("192.0.2.21:8080", ("192.0.2.21:8080", "192.0.2.21", 8080)),
        ("192.0.2.21", ("192.0.2.21:80", "192.0.2.21", 80)),
        ("[2001:DB8::1]:81", ("[2001:db8::1]:81", "[2001:db8::1]", 81)),
        ("[2001:db8::1]", ("[2001:db8::1]:80", "[2001:db8::1]", 80)),
        ("unix:/run/Shop.sock", ("unix:/run/Shop.sock", "unix:/run/Shop.sock", None)),
    ],
)
def test_a_server_is_told_by_the_name_that_it_has_without_lua(name: str, told_as: tuple[str, str, int | None]) -> None:
    (found,) = lua_servers([{"name": name, "weight": None}], 50)
    assert (found["name"], found["address"], found["port"], found["weight"]) == (*told_as, 50)


def test_what_lua_was_told_is_read_back() -> None:
    shop = {"192.0.2.21:8080": Setting(7, READY), "unix:/run/b.sock": Setting(100, READY)}
    assert told("own", b"# ours\n" + LOADED) == {"shop": shop, "blog": {}}


def test_what_looks_like_it_elsewhere_is_nothing_that_lua_was_told() -> None:
    assert told("own", LOADED.replace(b"init_by", b"init_worker_by")) == {}


def test_what_is_no_configuration_is_told_with_the_file() -> None:
    with pytest.raises(NginxConfigError, match="in own:1"):
        told("own", b"upstream a {")


def test_what_may_be_there_once_is_found_in_whatever_way_it_is_written() -> None:
    assert once("own", LOADED + b"lua_package_path x; log_by_lua_file y; lua_shared_dict a 1m;") == {
        "init_by_lua",
        "lua_package_path",
        "log_by_lua",
    }


def test_a_state_is_read_as_it_was_written() -> None:
    state = {"a:80": Setting(7, DOWN), "unix:/run/b.sock": Setting(100, READY)}
    assert state_of("a.json", state_text(state)) == state


def test_a_weight_that_lua_would_refuse_is_brought_to_the_next_that_it_takes() -> None:
    text = state_text({"a:80": Setting(0, DOWN), "b:80": Setting(2_000_000, READY)})
    assert state_of("a.json", text) == {"a:80": Setting(1, DOWN), "b:80": Setting(100_000, READY)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format":1}',
        '{"format":2,"servers":[]}',
        '{"format":1,"servers":[{"name":"a","weight":1,"state":"odd"}]}',
        '{"format":1,"servers":[{"name":"a","weight":null,"state":"down"}]}',
    ],
)
def test_half_a_state_is_none(text: str) -> None:
    with pytest.raises(NginxLuaStateError, match=r"a\.json holds "):
        state_of("a.json", text)
