# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import fnmatch
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import canonical
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import replaced
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import (
    DOWN,
    DRAIN,
    READY,
    NginxConfigError,
    Server,
    edits,
    find,
    upstreams,
)
from hypothesis import given
from hypothesis import strategies as st


class Tree:
    """Files in memory: {path: bytes}."""

    def __init__(self, files: t.Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def read(self, path: str) -> bytes:
        return self.files[path]

    def included(self, pattern: str) -> list[str]:
        return sorted(path for path in self.files if fnmatch.fnmatchcase(path, pattern))

    def servers(self, name: str = "app") -> dict[str, Server]:
        return {server.key: server for server in find(upstreams("nginx.conf", self), name).servers}

    def change(self, key: str, weight: int | None = None, state: str | None = None) -> bytes:
        """Edit a server, and return the new text of its file."""
        server = self.servers()[key]
        data = self.files[server.path]
        self.files[server.path] = replaced(data, edits(data, server, weight, state))
        return self.files[server.path]


def tree(lines: str, **files: bytes) -> Tree:
    """An upstream `app` in `http` with these lines."""
    text = f"events {{ }}\nhttp {{\nupstream app {{\n{lines}\n}}\n}}\n"
    return Tree({"nginx.conf": text.encode(), **files})


def line(before: str, **wanted: t.Any) -> str:
    """The lines of servers after an edit."""
    head, tail = tree("@@").files["nginx.conf"].split(b"@@")
    edited = tree(before).change("a:80", **wanted)
    assert edited.startswith(head)
    assert edited.endswith(tail)
    return edited[len(head) : -len(tail)].decode()


# --- Reading


def test_servers_are_read_with_weight_and_state() -> None:
    lines = 'zone app 64k; server 10.0.0.1 weight=3; server "10.0.0.2:81" down; server unix:/run/a.sock backup weight=1 weight=2;'
    found = find(upstreams("nginx.conf", tree(lines)), "app")
    assert [(one.key, one.weight, one.state, one.backup) for one in found.servers] == [
        ("10.0.0.1:80", 3, READY, False),
        ("10.0.0.2:81", 1, DOWN, False),
        ("unix:/run/a.sock", 2, READY, True),
    ]
    assert (found.kind, found.path, found.directives) == ("http", "nginx.conf", ("zone",))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1", "10.0.0.1:80"),
        ("10.0.0.1:8080", "10.0.0.1:8080"),
        ("[::1]", "[::1]:80"),
        ("[::1]:8080", "[::1]:8080"),
        ("Web1.Example:80", "web1.example:80"),
        ("unix:/Run/a.sock", "unix:/Run/a.sock"),
    ],
)
def test_an_address_has_one_form(address: str, expected: str) -> None:
    assert canonical(address) == expected


def test_includes_are_followed_where_they_stand_in_the_order_of_nginx() -> None:
    files = {
        "nginx.conf": b"include global; http { include conf.d/*.conf; upstream last { include servers; server z; } }",
        "global": b"events { }",
        "conf.d/b.conf": b"upstream b { server b; }",
        "conf.d/a.conf": b"upstream a { server a; } server { location / { proxy_pass http://a; } }",
        "servers": b"server x; server y;",
    }
    found = upstreams("nginx.conf", Tree(files))
    assert [(one.name, one.path, [(s.address, s.path) for s in one.servers]) for one in found] == [
        ("a", "conf.d/a.conf", [("a", "conf.d/a.conf")]),
        ("b", "conf.d/b.conf", [("b", "conf.d/b.conf")]),
        ("last", "nginx.conf", [("x", "servers"), ("y", "servers"), ("z", "nginx.conf")]),
    ]


def test_an_upstream_of_http_and_one_of_stream_may_share_a_name() -> None:
    text = b"stream { upstream app { server s; } } http { upstream app { server h; } server { listen 80; } }"
    known = upstreams("nginx.conf", Tree({"nginx.conf": text}))
    assert find(known, "stream/app").servers[0].address == "s"
    with pytest.raises(NginxConfigError, match=r"app is there 2 times, in stream \(nginx.conf\) and http"):
        find(known, "app")


def test_an_upstream_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(NginxConfigError, match="there is no upstream shop; the configuration has app"):
        find(upstreams("nginx.conf", tree("server a;")), "shop")


def test_a_file_that_cannot_be_read_as_nginx_does_is_told_with_its_line() -> None:
    with pytest.raises(NginxConfigError, match=r'unexpected "}" in servers:2'):
        upstreams("nginx.conf", tree("include servers;", servers=b"server a;\n}"))


def test_a_file_that_includes_itself_is_told() -> None:
    with pytest.raises(NginxConfigError, match="levels deep"):
        upstreams("nginx.conf", Tree({"nginx.conf": b"include nginx.conf;"}))


@pytest.mark.parametrize("text", ["#server a;", "# upstream app { server a; }"])
def test_what_is_commented_out_is_not_there(text: str) -> None:
    assert tree(text).servers() == {}


# --- Editing


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        ("server a;", {"weight": 5}, "server a weight=5;"),
        ("server a ;", {"weight": 5}, "server a weight=5 ;"),
        ("server a weight=5;", {"weight": 50}, "server a weight=50;"),
        ('server a "weight=5" max_fails=2;', {"weight": 6}, 'server a "weight=6" max_fails=2;'),
        ("server a weight=5 weight=7;", {"weight": 6}, "server a weight=5 weight=6;"),
        ("server a weight=5;", {"weight": 5}, "server a weight=5;"),
        ("server a;", {"weight": 1}, "server a;"),
        ("server a weight=5;", {"state": DOWN}, "server a weight=5 down;"),
        ("server a down weight=5;", {"state": READY}, "server a weight=5;"),
        ("server a down;", {"state": DRAIN}, "server a drain;"),
        ("server a\n  # why\n  down\n;", {"state": READY}, "server a\n  # why\n\n;"),
        (
            "server\n  a\n  max_fails=1 # x\n  ;",
            {"weight": 2, "state": DOWN},
            "server\n  a\n  max_fails=1 weight=2 down # x\n  ;",
        ),
        ("server b; server a; server c;", {"state": DOWN}, "server b; server a down; server c;"),
        ("server a;\r\n# server a;", {"weight": 2}, "server a weight=2;\r\n# server a;"),
    ],
)
def test_an_edit_changes_the_one_parameter(before: str, wanted: dict[str, t.Any], after: str) -> None:
    assert line(before, **wanted) == after


def test_a_weight_of_zero_is_refused_as_nginx_has_none() -> None:
    files = tree("server a;")
    with pytest.raises(ValueError, match="no weight of 0"):
        files.change("a:80", weight=0)


BLANKS = st.sampled_from([" ", "\t", "\n", "\r\n  ", "  # a ; comment { \n "])
OTHERS = st.lists(
    st.sampled_from(["max_fails=3", "fail_timeout=5s", '"max_conns=7"', "resolve", "slow_start=1m"]), max_size=3
)


@st.composite
def lines_of_servers(draw: st.DrawFn) -> tuple[str, int]:
    """Lines of several servers in odd forms, and how many there are."""
    count = draw(st.integers(1, 4))
    text = ""
    for number in range(count):
        words = [f"s{number}", *draw(OTHERS)]
        if draw(st.booleans()):
            words.insert(draw(st.integers(1, len(words))), f"weight={draw(st.integers(1, 999))}")
        if draw(st.booleans()):
            words.insert(draw(st.integers(1, len(words))), draw(st.sampled_from(["down", "drain"])))
        text += (
            "server" + "".join(draw(BLANKS) + word for word in words) + draw(st.sampled_from(["", *[" ", "\n"]])) + ";"
        )
        text += draw(BLANKS)
    return text, count


@given(lines_of_servers(), st.data())
def test_an_edit_leaves_every_byte_outside_its_server_and_every_other_word_of_it(
    lines: tuple[str, int], data: st.DataObject
) -> None:
    text, count = lines
    files = tree(text)
    before = files.files["nginx.conf"]
    key = f"s{data.draw(st.integers(0, count - 1))}:80"
    weight = data.draw(st.none() | st.integers(1, 999))
    state = data.draw(st.none() | st.sampled_from([READY, DOWN, DRAIN]))
    old = files.servers()[key]
    after = files.change(key, weight, state)
    new = files.servers()[key]
    assert (new.weight, new.state) == (weight or old.weight, state or old.state)
    assert after[: new.directive.start] == before[: old.directive.start]
    assert after[new.directive.end :] == before[old.directive.end :]
    kept = [[word.value for word in one.directive.words if not _is_targeted(word.value)] for one in (old, new)]
    assert kept[0] == kept[1]


def _is_targeted(word: bytes) -> bool:
    return word in (b"down", b"drain") or word.startswith(b"weight=")


@given(lines_of_servers())
def test_what_was_added_can_be_taken_away_again(lines: tuple[str, int]) -> None:
    files = tree(lines[0])
    before = files.files["nginx.conf"]
    ready = [key for key, server in files.servers().items() if server.state == READY]
    for state in (DOWN, READY):
        for key in ready:
            files.change(key, state=state)
    assert files.files["nginx.conf"] == before
