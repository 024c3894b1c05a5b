# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration that the role haproxy writes, as text."""

from __future__ import annotations

import pathlib
import typing as t

import jinja2
import pytest
import yaml

ROLE = pathlib.Path(__file__).resolve().parents[3] / "roles" / "haproxy"


def written(backend: dict[str, t.Any], frontend: dict[str, t.Any] | None = None) -> str:
    """The configuration for one backend and one frontend."""
    values = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    values["haproxy_frontends"] = [{"name": "web", "bind": [":80"], **(frontend or {})}]
    values["haproxy_backends"] = [
        {"name": "shop", "servers": [{"name": "web1", "address": "::1", "port": 80}], **backend}
    ]
    text = (ROLE / "templates" / "haproxy.cfg.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False).from_string(
        text
    )
    return template.render(__haproxy_marker="ours", **values)


def test_a_value_of_none_is_written_as_one_that_is_not_given() -> None:
    nothing = dict.fromkeys(("path", "host", "status", "inter", "rise", "fall"))
    server = {"name": "web1", "address": "::1", "port": 80, "weight": None, "backup": None, "options": None}
    backend = {"mode": None, "balance": None, "options": None, "check": nothing, "servers": [server]}
    frontend = {"mode": None, "options": None, "default_backend": None}
    assert written(backend, frontend) == written({})
    assert written({"check": None}) == written({})
    assert written({"check": {"path": "/", "host": None, "status": None}}) == written({"check": {"path": "/"}})


@pytest.mark.parametrize("weight", [0, 7])
def test_a_weight_is_written_also_if_it_is_zero(weight: int) -> None:
    text = written({"servers": [{"name": "web1", "address": "::1", "port": 80, "weight": weight}]})
    assert f"server web1 [::1]:80 weight {weight}\n" in text


def test_a_host_name_is_resolved_before_the_saved_address_is_used() -> None:
    lines = [line.strip() for line in written({}).splitlines()]
    assert lines.index("default-server init-addr libc,last,none") < lines.index("server web1 [::1]:80 weight 100")
