# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layout of a fleet: addresses, HAProxy's configuration, the inventory."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from local_fleet.layout import Layout, Options, parse_version


def layout(**options: t.Any) -> Layout:
    return Layout(42, "/tmp/fleet", Options(**options))


def test_hosts_have_the_addresses_of_their_fleet() -> None:
    plain = layout()
    assert [plain.endpoint(host) for host in ("lb1", "lb2", "web1", "web6")] == [
        "127.42.0.11:8000",
        "127.42.0.12:8000",
        "127.42.0.21:8080",
        "127.42.0.26:8080",
    ]


def test_a_server_has_its_weight_and_options() -> None:
    lines = layout(apps=2, weights={"web2": 30}, server_options="maxconn 7").server_lines()
    assert lines == [
        "    server web1 127.42.0.21:8080 weight 10 maxconn 7",
        "    server web2 127.42.0.22:8080 weight 30 maxconn 7",
    ]


@pytest.mark.parametrize("section", ["global", "defaults", "frontend", "backend"])
def test_an_extra_line_is_in_its_section(section: str) -> None:
    text = layout(**{f"extra_{section}": ["an extra line"]}).haproxy_config("lb1", (2, 6))
    before = text.partition("    an extra line\n")[0]
    heads = [line.split()[0] for line in before.splitlines() if not line.startswith(" ")]
    assert heads[-1] == section


@pytest.mark.parametrize(("version", "known"), [((2, 2), False), ((2, 4), True), ((3, 2), True)])
def test_an_option_is_used_where_haproxy_knows_it(version: tuple[int, int], known: bool) -> None:
    assert ("idle-close-on-response" in layout().haproxy_config("lb1", version)) == known


def test_nothing_in_a_configuration_is_left_to_fill_in() -> None:
    text = layout().haproxy_config("lb2", (2, 6))
    assert "$" not in text
    assert "stats socket /tmp/fleet/lb2/admin.sock " in text


def test_a_template_may_replace_the_configuration() -> None:
    text = layout(template="bind $address:$port\n$servers\n", apps=1).haproxy_config("lb1", (2, 6))
    assert text == "bind 127.42.0.11:8000\n    server web1 127.42.0.21:8080 weight 10\n"


def test_load_balancers_share_no_file() -> None:
    hosts = layout().inventory()["all"]["children"]["lb"]["hosts"]
    values = [value for variables in hosts.values() for value in variables.values() if value != "haproxy"]
    assert len(set(values)) == len(values) == 4


def test_the_inventory_is_ready_for_a_rollout() -> None:
    inventory = layout(apps=2, release="1.4.2", tracks={"web1": "blue"}).inventory()["all"]
    assert pathlib.Path(inventory["vars"]["rollout_deploy"]["tasks"]).is_file()
    assert (pathlib.Path(inventory["vars"]["fleet_program"]) / "local_fleet" / "__main__.py").is_file()
    assert inventory["vars"]["rollout_previous"] == "1.4.2"
    assert inventory["children"]["rollout"] == {"children": {"app": {}}}
    assert inventory["children"]["app"]["hosts"]["web1"]["rollout_track"] == "blue"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("HA-Proxy version 2.2.9-2+deb11u6 2023/12/09 - https://haproxy.org/", (2, 2)),
        ("HAProxy version 3.2.26-1 2026/10/17 - https://haproxy.org/", (3, 2)),
        ("HAProxy version 3.3-dev7 2026/10/17", (3, 3)),
    ],
)
def test_the_version_of_haproxy_is_read(text: str, version: tuple[int, int]) -> None:
    assert parse_version(text) == version


def test_a_text_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="names no version"):
        parse_version("command not found")
