# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What is wrong with the frontends and backends given to the role `haproxy`, beyond their types.

The values end up in HAProxy's configuration, where a space or a line break in a name would start something else. A value of None counts as not given.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

NAME = re.compile(r"[A-Za-z0-9_.:-]+")  # HAProxy's own limit for names of proxies and servers
WORD = re.compile(r"[^\s\"'#\\]+")
HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
HIGHEST_WEIGHT = 256

Proxies = t.Sequence[t.Mapping[str, t.Any]]


def input_problems(frontends: Proxies, backends: Proxies) -> list[str]:
    """Sentences, each naming one value that cannot work; empty when all can."""
    return [
        *_name_problems("frontend", frontends),
        *_name_problems("backend", backends),
        *(problem for frontend in frontends for problem in _frontend_problems(frontend, backends)),
        *(problem for backend in backends for problem in _backend_problems(backend)),
    ]


def _name_problems(kind: str, items: Proxies, within: str = "") -> t.Iterator[str]:
    names = [str(item["name"]) for item in items]
    for name in names:
        if not NAME.fullmatch(name):
            yield f"The {kind} name {name!r}{within} is not one for HAProxy: use letters, digits and - _ . : only."
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"The {kind} {name}{within} is there {names.count(name)} times: names must be unique."


def _frontend_problems(frontend: t.Mapping[str, t.Any], backends: Proxies) -> t.Iterator[str]:
    where = f"frontend {frontend['name']}"
    yield from _line_problems(where, "bind", frontend["bind"])
    yield from _line_problems(where, "options", frontend.get("options") or [])
    wanted = frontend.get("default_backend")
    if wanted is not None and wanted not in [backend["name"] for backend in backends]:
        yield f"The default_backend {wanted!r} of {where} is not in haproxy_backends."


def _backend_problems(backend: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    where = f"backend {backend['name']}"
    yield from _name_problems("server", backend["servers"], f" of {where}")
    yield from _line_problems(where, "balance", [backend.get("balance") or ""])
    yield from _line_problems(where, "options", backend.get("options") or [])
    check = backend.get("check") or {}
    for key in ("path", "host", "status", "inter"):
        if check.get(key) is not None and not WORD.fullmatch(str(check[key])):
            yield f"The check's {key} {check[key]!r} of {where} must be one word without quotes."
    for key in ("rise", "fall"):
        if check.get(key) is not None and int(check[key]) < 1:
            yield f"The check's {key} of {where} must be at least 1."
    for server in backend["servers"]:
        yield from _server_problems(f"server {server['name']} of {where}", server)


def _server_problems(where: str, server: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    if not _is_address(str(server["address"])):
        yield (
            f"The address {server['address']!r} of {where} must be an IP address or a host name, "
            "without brackets and without the port."
        )
    if not 0 < int(server["port"]) < 65536:
        yield f"The port {server['port']} of {where} must be between 1 and 65535."
    if server.get("weight") is not None and not 0 <= int(server["weight"]) <= HIGHEST_WEIGHT:
        yield f"The weight {server['weight']} of {where} must be between 0 and {HIGHEST_WEIGHT}."
    yield from _line_problems(where, "options", [server.get("options") or ""])


def _is_address(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, without a zone, or may be a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return HOST_NAME.fullmatch(text) is not None
    return "%" not in text


def _line_problems(where: str, key: str, lines: t.Sequence[str]) -> t.Iterator[str]:
    for line in lines:
        if "\n" in line or "\r" in line:
            yield f"A value of {key} of {where} has a line break: give each line as an element of its own."
