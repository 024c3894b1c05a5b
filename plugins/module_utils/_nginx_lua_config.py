# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What steady_rollout.lua is told in NGINX's configuration, and what it keeps on disk. Pure.

Lua in a configuration is not read in general: only what the role `nginx` writes, of which a unit test has its template be read back.
"""

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import (
    DOWN,
    MAX_WEIGHT,
    READY,
    STATES,
    canonical,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import Directive, NginxSyntaxError, parse
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import NginxConfigError

FORMAT = 1
# Of these NGINX takes one in `http`, in whatever way it is written.
_ONCE = re.compile(r"(lua_package_path|lua_package_cpath|init_by_lua|log_by_lua)(?:_block|_file)?")
_UPSTREAM = re.compile(r'^\s*\["([^"\n]+)"\] = \{$|^\s*\{name = "([^"\n]+)",.* weight = ([0-9]+)\},$', re.MULTILINE)


class Setting(t.NamedTuple):
    """What a rollout changes of a server. ``backup``: it takes over when no other one is left, which is not for rollouts to change."""

    weight: int
    state: str
    backup: bool = False


Settings = t.Mapping[str, Setting]  # by the server's address in its one form


class NginxLuaStateError(LoadBalancerError):
    """What is on disk of weights and states cannot be read; the message says why."""


def lua_servers(servers: t.Sequence[t.Mapping[str, t.Any]], weight: int) -> list[dict[str, t.Any]]:
    """Servers of the role's variables as `load{}` takes them: {name, address, port, weight}; ``port``: None for a unix socket.

    ``name`` is what NGINX without Lua would call it, so that a server has one name whichever way it is driven.
    """
    return [_lua_server(canonical(str(one["name"])), one.get("weight"), weight) for one in servers]


def _lua_server(name: str, own_weight: int | None, weight: int) -> dict[str, t.Any]:
    address, port = (name, None) if name.startswith("unix:") else _split(name)
    return {"name": name, "address": address, "port": port, "weight": int(weight if own_weight is None else own_weight)}


def _split(name: str) -> tuple[str, int]:
    address, _colon, port = name.rpartition(":")
    return address, int(port)


def told(path: str, data: bytes) -> dict[str, dict[str, Setting]]:
    """{upstream: what its servers have unless somebody changed it} of the upstreams under Lua in ``data``, the file ``path``."""
    found: dict[str, dict[str, Setting]] = {}
    blocks = [data[one.start : one.end] for one in _parsed(path, data) if one.name == b"init_by_lua_block"]
    for block in blocks:
        servers: dict[str, Setting] = {}
        for upstream, name, weight in _UPSTREAM.findall(block.decode("utf-8", "surrogateescape")):
            if upstream:
                servers = found.setdefault(upstream, {})
            else:
                servers[name] = Setting(int(weight), READY)
    return found


def once(path: str, data: bytes) -> set[str]:
    """What is in ``data``, the file ``path``, of that which NGINX takes once in `http`."""
    return {kind for one in _parsed(path, data) if (kind := once_of(one.name.decode("utf-8", "replace")))}


def once_of(directive: str) -> str:
    """What kind it is of those that NGINX takes once; "" for all others."""
    found = _ONCE.fullmatch(directive)
    return found[1] if found else ""


def _parsed(path: str, data: bytes) -> tuple[Directive, ...]:
    try:
        return parse(data)
    except NginxSyntaxError as exc:
        raise NginxConfigError(f"{exc} in {path}:{exc.line}") from exc


def state_text(settings: Settings) -> str:
    """A file of weights and states as steady_rollout.lua reads it. Of a server that it could not take, it is one that it can."""
    servers = [
        {"name": name, "weight": min(max(one.weight, 1), MAX_WEIGHT), "state": one.state}
        for name, one in settings.items()
    ]
    return json.dumps({"format": FORMAT, "version": 1, "servers": servers}) + "\n"


def state_of(path: str, text: str) -> dict[str, Setting]:
    """What steady_rollout.lua has kept in the file ``path``. Raises NginxLuaStateError."""
    try:
        kept = json.loads(text)
        known = kept["format"] == FORMAT
        found = {str(one["name"]): Setting(int(one["weight"]), str(one["state"])) for one in kept["servers"]}
    except (ValueError, KeyError, TypeError) as exc:
        raise NginxLuaStateError(
            f"{path} holds no weights and states: {exc!r}. Change a weight once by a rollout, which writes it anew, or remove the file to "
            "have those of the configuration."
        ) from exc
    if not known or any(one.state not in STATES for one in found.values()):
        raise NginxLuaStateError(
            f"{path} holds weights and states in a way that is not known here: it is of another version."
        )
    return found


def for_a_line(setting: Setting) -> Setting:
    """As a `server` line has it: most versions of NGINX know no `drain`, and those that do need clients that stick to servers."""
    return setting if setting.state == READY else setting._replace(state=DOWN)
