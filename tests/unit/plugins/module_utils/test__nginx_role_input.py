# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_role_input import input_problems, lua_problems

SERVER: dict[str, t.Any] = {"name": "192.0.2.21:8080"}
UPSTREAM: dict[str, t.Any] = {"name": "shop", "servers": [SERVER]}
LISTENER: dict[str, t.Any] = {"listen": ["80"], "server_name": ["shop.example"], "upstream": "shop"}


def problems(upstream: t.Any = None, server: t.Any = None, listener: t.Any = None, weight: int = 100) -> list[str]:
    """What is wrong with one upstream of one server and with what listens, with these values changed."""
    changed = {**copy.deepcopy(UPSTREAM), **(upstream or {})}
    changed["servers"] = [{**one, **(server or {})} for one in changed["servers"]]
    return input_problems([changed], [{**LISTENER, **(listener or {})}], weight)


@pytest.mark.parametrize(
    "server",
    [
        {},
        {"name": "web1"},
        {"name": "[2001:db8::1]:80"},
        {"name": "unix:/run/shop.sock"},
        {"weight": 100000, "options": "route=a slow_start=30s", "fail_timeout": "5s"},
        {"weight": None, "backup": None, "options": None, "fail_timeout": None},
    ],
)
def test_good_input_has_no_problems(server: dict[str, t.Any]) -> None:
    assert problems(server=server) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"upstream": {"name": "sh op"}}, "'sh op' does not work in an address"),
        ({"upstream": {"name": "shop:80"}}, "'shop:80'"),
        ({"upstream": {"name": ""}}, "''"),
        ({"upstream": {"servers": []}}, "has no servers"),
        (
            {"upstream": {"servers": [SERVER, {"name": "192.0.2.21:8080"}]}},
            "192.0.2.21:8080 of upstream shop is there 2 times",
        ),
        (
            {"upstream": {"servers": [{"name": "Web1"}, {"name": "web1:80"}]}},
            "web1:80 of upstream shop is there 2 times",
        ),
        ({"upstream": {"options": ["a;\nb;"]}}, "line break"),
        ({"upstream": {"keepalive": -1}}, "keepalive -1"),
        ({"server": {"name": "192.0.2.21;"}}, "must be one word"),
        ({"server": {"name": "$host"}}, "must be one word"),
        ({"server": {"weight": 0}}, "must be between 1 and 100000, not 0"),
        ({"server": {"weight": 100001}}, "must be between 1 and 100000, not 100001"),
        ({"weight": 0}, "nginx_weight must be between"),
        ({"server": {"backup": True}}, "only backup servers"),
        ({"server": {"fail_timeout": "5 s"}}, "fail_timeout '5 s'"),
        ({"server": {"options": "down"}}, "must not have down"),
        ({"server": {"options": "route=a weight=5"}}, "must not have weight=5"),
        ({"server": {"options": "max_fails=1"}}, "must not have max_fails=1"),
        ({"server": {"options": "route=a; server 192.0.2.9"}}, "words of one line"),
        ({"listener": {"listen": []}}, "listens on nothing"),
        ({"listener": {"listen": ["80; return 200"]}}, "'80; return 200'"),
        ({"listener": {"server_name": ["a\nb"]}}, "words of one line"),
        ({"listener": {"upstream": "none"}}, "'none' of the server that listens on 80 is not in nginx_upstreams"),
        ({"listener": {"options": ["a;\rb;"]}}, "line break"),
    ],
)
def test_each_value_that_cannot_work_is_a_problem(change: dict[str, t.Any], word: str) -> None:
    found = problems(**change)
    assert any(word in problem for problem in found), found


def test_names_of_upstreams_are_the_same_in_small_letters_and_large_ones() -> None:
    (problem,) = input_problems([UPSTREAM, {**UPSTREAM, "name": "Shop"}], [LISTENER], 100)
    assert "shop is there 2 times" in problem


def under_lua(upstream: t.Any = None, server: t.Any = None, listener: t.Any = None, weight: int = 100) -> list[str]:
    """What of these is wrong only where Lua chooses the servers."""
    changed = {**copy.deepcopy(UPSTREAM), **(upstream or {})}
    changed["servers"] = [{**one, **(server or {})} for one in changed["servers"]]
    assert input_problems([changed], [{**LISTENER, **(listener or {})}], weight) == []
    return lua_problems([changed], [{**LISTENER, **(listener or {})}], weight)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"server": {"name": "192.0.2.21"}},
        {"server": {"name": "[2001:db8::1]"}},
        {"server": {"name": "unix:/run/shop.sock", "weight": 7}},
        {"server": {"backup": False, "max_fails": None, "options": ""}},
        {"upstream": {"options": ["keepalive_timeout 30s;"]}},
        {"listener": {"options": ['log_by_lua_block { require("steady_rollout").log() more() }']}},
    ],
)
def test_lua_takes_addresses_and_weights(change: dict[str, t.Any]) -> None:
    assert under_lua(**change) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"server": {"name": "web1:8080"}}, "server web1:8080 of upstream shop must be an IP address"),
        ({"server": {"name": "192.0.2.21:99999"}}, "must be an IP address"),
        ({"server": {"name": "[fe80::1%eth0]:80"}}, "must be an IP address"),
        ({"server": {"name": "2001:db8::1"}}, "must be an IP address"),
        ({"server": {"name": "unix:shop.sock"}}, "must be an IP address or unix:/PATH"),
        (
            {"upstream": {"servers": [SERVER, {"name": "192.0.2.22", "backup": True}]}},
            "server 192.0.2.22 of upstream shop must have no backup",
        ),
        ({"server": {"max_fails": 0}}, "must have no max_fails"),
        ({"server": {"fail_timeout": "5s"}}, "must have no fail_timeout"),
        ({"server": {"max_conns": 9}}, "must have no max_conns"),
        ({"server": {"options": "route=a"}}, "must have no options"),
        ({"upstream": {"name": ".shop"}, "listener": {"upstream": ".shop"}}, "must not begin with a dot"),
        ({"upstream": {"options": ["hash $request_uri consistent;"]}}, "must not have hash"),
        ({"upstream": {"servers": [{"name": f"10.0.0.1:{n + 1}"} for n in range(1001)]}, "weight": 100000}, "add up"),
        ({"listener": {"options": ["log_by_lua_file mine.lua;"]}}, "hides the one that counts requests in flight"),
    ],
)
def test_each_value_that_lua_does_not_take_is_a_problem(change: dict[str, t.Any], word: str) -> None:
    found = under_lua(**change)
    assert any(word in problem for problem in found), found
