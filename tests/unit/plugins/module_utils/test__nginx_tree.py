# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_tree import Node, last, named, tree, within
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import NginxConfigError

from nginx_files import Tree


def shape(nodes: tuple[Node, ...]) -> list[object]:
    """Names and what is in their blocks."""
    return [[node.name, *shape(node.nodes)] if node.nodes else node.name for node in nodes]


def test_what_is_included_stands_in_the_place_of_its_include_at_any_depth() -> None:
    files = {
        "nginx.conf": b"include main.d/*; http { include sites/*; a; }",
        "main.d/1": b"user root;",
        "main.d/2": b"pid x;",
        "sites/s": b"server { include proxy; location / { include proxy; } }",
        "proxy": b"x; y;",
    }
    found = tree("nginx.conf", Tree(files))
    assert shape(found) == ["user", "pid", ["http", ["server", "x", "y", ["location", "x", "y"]], "a"]]


def test_what_is_in_a_block_is_read_when_it_is_looked_at() -> None:
    files = Tree({"nginx.conf": b"http { include p; }", "p": b"x;"})
    (node,) = tree("nginx.conf", files)
    assert "p" not in files.read_paths
    assert shape(node.nodes) == ["x"]


def test_a_directive_tells_its_file_and_line() -> None:
    found = tree("nginx.conf", Tree({"nginx.conf": b"http {\n  include p;\n}", "p": b"# why\n\nlog_format  a 'b';"}))
    (node,) = within(found, "http")
    assert (node.name, node.words, node.where) == ("log_format", ("a", "b"), "p:3")


def test_directives_are_found_by_their_names() -> None:
    found = tree("nginx.conf", Tree({"nginx.conf": b"a 1; b 2; a 3;"}))
    assert [node.words for node in named(found, "a")] == [("1",), ("3",)]
    assert last(found, "a") == named(found, "a")[-1]
    assert last(found, "c") is None


def test_a_file_that_includes_itself_is_told() -> None:
    with pytest.raises(NginxConfigError, match="levels deep"):
        shape(tree("nginx.conf", Tree({"nginx.conf": b"http { include nginx.conf; }"})))


def test_what_cannot_be_read_is_told_with_its_line() -> None:
    with pytest.raises(NginxConfigError, match=r'unexpected "}" in p:2'):
        shape(tree("nginx.conf", Tree({"nginx.conf": b"http { include p; }", "p": b"a;\n}"})))
