# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_role_input import input_problems

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
