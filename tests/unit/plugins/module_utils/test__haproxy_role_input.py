# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import copy
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_role_input import input_problems

FRONTEND: dict[str, t.Any] = {"name": "web", "bind": [":80"], "default_backend": "shop"}
SERVER: dict[str, t.Any] = {"name": "web1", "address": "192.0.2.21", "port": 8080}
BACKEND: dict[str, t.Any] = {"name": "shop", "check": {"path": "/health"}, "servers": [SERVER]}


def problems(frontend: t.Any = None, backend: t.Any = None, server: t.Any = None) -> list[str]:
    """What is wrong with one frontend and one backend of one server, with these values changed."""
    backend = {**copy.deepcopy(BACKEND), **(backend or {})}
    backend["servers"] = [{**one, **(server or {})} for one in backend["servers"]]
    return input_problems([{**FRONTEND, **(frontend or {})}], [backend])


def test_good_input_has_no_problems() -> None:
    assert problems(server={"weight": 256, "backup": True, "options": "maxconn 100"}) == []


@pytest.mark.parametrize("name", ["web 1", "", "a;b", "web1\n", "läb", "a/b", "a#b"])
def test_names_that_haproxy_refuses_are_problems(name: str) -> None:
    assert problems(frontend={"name": name})
    assert problems(server={"name": name})
    assert problems(frontend={"default_backend": name}, backend={"name": name})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"server": {"port": 0}}, "port"),
        ({"server": {"port": 65536}}, "port"),
        ({"server": {"weight": 257}}, "weight"),
        ({"server": {"weight": -1}}, "weight"),
        ({"server": {"address": "192.0.2.1 disabled"}}, "address"),
        ({"server": {"address": "[::1]"}}, "address"),
        ({"server": {"address": "192.0.2.1:80"}}, "address"),
        ({"server": {"address": "192.0.2"}}, "address"),
        ({"server": {"address": "web1.example:80"}}, "address"),
        ({"server": {"options": "check\nserver evil 192.0.2.9:1"}}, "line break"),
        ({"backend": {"options": ["a\nb"]}}, "line break"),
        ({"frontend": {"bind": [":80\n"]}}, "line break"),
        ({"backend": {"check": {"path": "/a b"}}}, "path"),
        ({"backend": {"check": {"rise": 0}}}, "rise"),
        ({"backend": {"servers": [SERVER, SERVER]}}, "2 times"),
        ({"frontend": {"default_backend": "other"}}, "'other'"),
    ],
)
def test_a_value_that_cannot_work_is_named(change: dict[str, t.Any], word: str) -> None:
    found = problems(**change)
    assert len(found) == 1
    assert word in found[0]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "::1", "web1", "web-1.example.", "1.web.example"])
def test_addresses_and_host_names_are_good(address: str) -> None:
    assert problems(server={"address": address}) == []


def test_a_value_of_none_counts_as_not_given() -> None:
    check = dict.fromkeys(("path", "host", "status", "inter", "rise", "fall"))
    assert (
        problems(
            frontend={"options": None, "default_backend": None, "mode": None},
            backend={"options": None, "balance": None, "mode": None, "check": check},
            server={"weight": None, "options": None, "backup": None},
        )
        == []
    )
    assert problems(backend={"check": None}) == []


def test_two_backends_of_one_name_are_a_problem() -> None:
    assert input_problems([], [BACKEND, BACKEND]) == ["The backend shop is there 2 times: names must be unique."]
