# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import re

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_kept import NginxKeepError, kept
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_config import Setting
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import DOWN, DRAIN, READY
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import replaced
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import (
    NginxConfigError,
    Server,
    edits,
    upstreams,
)
from hypothesis import given
from hypothesis import strategies as st

from nginx_files import Tree

PATH = "/etc/nginx/conf.d/shop.conf"


def keep(new: str, old: str) -> str:
    return kept(PATH, new.encode(), old.encode(), {}).text.decode()


def written(names: list[str], upstream: str = "shop") -> str:
    """The text of somebody who knows of no rollout."""
    lines = "\n".join(f"    server {name}:80 weight=100 max_fails=1;" for name in names)
    return f"upstream {upstream} {{\n{lines}\n    keepalive 32;\n}}\n"


@pytest.mark.parametrize(
    ("old", "line"),
    [
        ("server a weight=7;", "server a:80 weight=7 max_fails=1;"),
        ("server A:80 down weight=7;", "server a:80 weight=7 max_fails=1 down;"),
        ("server a:80 drain;", "server a:80 weight=1 max_fails=1 drain;"),
        ("server a:81 weight=7 down;", "server a:80 weight=100 max_fails=1;"),
    ],
)
def test_a_server_keeps_its_weight_and_state_and_nothing_else(old: str, line: str) -> None:
    assert line in keep(written(["a", "b"]), f"upstream shop {{ {old} server b:80; }}")


def test_a_server_of_another_upstream_is_another_one() -> None:
    assert keep(written(["a"]), written(["a"], "other").replace("100", "7")) == written(["a"])


def test_servers_that_are_gone_or_new_are_as_the_new_text_says() -> None:
    assert keep(written(["b", "c"]), written(["a", "b"])) == written(["b", "c"])


def test_an_upstream_is_not_left_with_servers_that_take_nothing() -> None:
    old = "upstream shop { server a:80; server b:80 down; server c:80 backup; }"
    with pytest.raises(NginxKeepError, match="upstream shop would have no server left to take traffic"):
        keep("upstream shop { server b:80; server c:80 backup; }", old)


def test_an_upstream_that_had_no_server_that_takes_traffic_may_stay_so() -> None:
    old = written(["a"]).replace("max_fails=1", "max_fails=1 down")
    assert keep(written(["a"]), old) == old


def test_what_cannot_be_read_is_told_with_the_file() -> None:
    with pytest.raises(NginxConfigError, match=f"in {re.escape(PATH)}:1"):
        keep("upstream a {", written(["a"]))


def under_lua(names: list[str]) -> str:
    """The same by Lua, as the role writes it."""
    lines = "\n".join(f'{{name = "{name}:80", address = "{name}", port = 80, weight = 100}},' for name in names)
    load = f'init_by_lua_block {{ require("steady_rollout").load{{ upstreams = {{\n["shop"] = {{\n{lines}\n}},\n}}}} }}'
    return f"{load}\nupstream shop {{ server 0.0.0.1; balancer_by_lua_block {{ }} }}\n"


def test_lua_finds_weights_and_states_that_were_on_the_lines() -> None:
    old = "upstream shop { server a:80 weight=7; server b:80 down weight=3; server gone:80 backup; }"
    found = kept(PATH, under_lua(["a", "b", "new"]).encode(), old.encode(), {})
    assert found.text.decode() == under_lua(["a", "b", "new"])
    assert found.states == {
        "shop": {"a:80": Setting(7, READY), "b:80": Setting(3, DOWN), "gone:80": Setting(1, READY)},
    }


def test_lines_get_weights_and_states_that_lua_kept_and_else_those_of_its_configuration() -> None:
    states = {"shop": {"a:80": Setting(7, READY), "b:80": Setting(3, DRAIN), "gone:80": Setting(5, DOWN)}}
    found = kept(PATH, written(["a", "b", "c", "new"]).encode(), under_lua(["a", "b", "c"]).encode(), states)
    assert [line.strip() for line in found.text.decode().splitlines() if "server " in line] == [
        "server a:80 weight=7 max_fails=1;",
        "server b:80 weight=3 max_fails=1 down;",
        "server c:80 weight=100 max_fails=1;",
        "server new:80 weight=100 max_fails=1;",
    ]
    assert found.states == {}


def test_lua_goes_on_with_what_it_has() -> None:
    states = {"shop": {"a:80": Setting(7, DOWN)}}
    found = kept(PATH, under_lua(["a", "b", "c"]).encode(), under_lua(["a", "b"]).encode(), states)
    assert (found.text.decode(), found.states) == (under_lua(["a", "b", "c"]), {})


@pytest.mark.parametrize("new", [under_lua(["a"]), written(["a"])])
def test_an_upstream_under_lua_is_not_left_with_servers_that_take_nothing(new: str) -> None:
    states = {"shop": {"a:80": Setting(7, DOWN)}}
    with pytest.raises(NginxKeepError, match="upstream shop would have no server left to take traffic"):
        kept(PATH, new.encode(), under_lua(["a", "b"]).encode(), states)


NAMES = st.lists(st.sampled_from("abcdef"), min_size=1, unique=True)


def changed_by_rollouts(text: str, draws: dict[str, tuple[int, str]]) -> str:
    """The text after rollouts gave its servers these weights and states."""
    data = text.encode()
    for name, (weight, state) in draws.items():
        for server in read(data.decode()).values():
            if server.address == f"{name}:80":
                data = replaced(data, edits(data, server, weight, state))
    return data.decode()


def read(text: str) -> dict[str, Server]:
    (upstream,) = upstreams("main", Tree({"main": b"http { include own; }", "own": text.encode()}))
    return {server.address: server for server in upstream.servers}


@given(
    NAMES,
    NAMES,
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 999), st.sampled_from([READY, DOWN]))),
)
def test_a_second_run_leaves_what_rollouts_did_byte_by_byte(
    before: list[str], after: list[str], draws: dict[str, tuple[int, str]]
) -> None:
    old = changed_by_rollouts(written([*before, "always"]), draws)
    assert keep(written([*before, "always"]), old) == old
    new = keep(written([*after, "always"]), old)
    assert keep(written([*after, "always"]), new) == new
    for address, server in read(new).items():
        was = read(old).get(address)
        assert (server.weight, server.state) == ((was.weight, was.state) if was else (100, READY))
