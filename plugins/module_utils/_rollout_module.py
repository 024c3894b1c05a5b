# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The options that rollout_info and rollout_act share, and their values as types; documented in the rollout_records fragment."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import Driver
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_module import SOCKET_OPTIONS, checked_state_file
from ansible_collections.steady.rollout.plugins.module_utils._nginx_module import CONFIG_OPTIONS
from ansible_collections.steady.rollout.plugins.module_utils._state import DEFAULT_STATE_DIR, StateError
from ansible_collections.steady.rollout.plugins.module_utils._wait import checked_timeout, checked_wait

COMMON_OPTIONS: dict[str, dict[str, t.Any]] = {
    **SOCKET_OPTIONS,
    "config": CONFIG_OPTIONS["config"],
    "provider": {"type": "str", "choices": ["haproxy", "nginx", "nginx_lua"], "default": "haproxy"},
    "backends": {"type": "list", "elements": "str", "required": True},
    "state_dir": {"type": "path", "default": DEFAULT_STATE_DIR},
}

Params = t.Mapping[str, t.Any]
_POLICY = ("require_healthy", "allow_unchecked", "allow_empty", "allow_backup")


def driver_of(params: Params, check_mode: bool) -> Driver:
    """The driver of a provider, from the options of a module that has all, or some, of those that change servers.

    Raises LoadBalancerError, and StateError.
    """
    if not params["backends"]:
        raise StateError("backends is empty; name the backends of the rollout")
    return DRIVERS[str(params["provider"])](params, check_mode)


# Each imports its own driver: a load balancer compiles what it imports anew at every call.


def _haproxy(params: Params, check_mode: bool) -> Driver:
    from ansible_collections.steady.rollout.plugins.module_utils._haproxy_driver import HaproxyDriver
    from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import parse_address

    return HaproxyDriver(
        address=parse_address(params["socket"], params["allow_remote_socket"]),
        timeout=checked_timeout(params["timeout"]),
        on_drain_timeout=params.get("on_drain_timeout", "fail"),
        policy={name: params[name] for name in _POLICY if name in params},
        state_file=checked_state_file(params["state_file"]),
        check_mode=check_mode,
        **_waits(params),
    )


def _nginx(params: Params, check_mode: bool) -> Driver:
    from ansible_collections.steady.rollout.plugins.module_utils._nginx_driver import NginxDriver

    return NginxDriver(
        config=params["config"],
        on_drain_timeout=params.get("on_drain_timeout", "fail"),
        policy={name: params[name] for name in _POLICY if name in params},
        check_mode=check_mode,
        **_waits(params),
    )


def _nginx_lua(params: Params, check_mode: bool) -> Driver:
    from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_driver import NginxLuaDriver

    return NginxLuaDriver(
        socket=params["socket"],
        config=params["config"],
        timeout=checked_timeout(params["timeout"]),
        on_drain_timeout=params.get("on_drain_timeout", "fail"),
        policy={name: params[name] for name in _POLICY if name in params},
        check_mode=check_mode,
        **_waits(params),
    )


DRIVERS: dict[str, t.Callable[[Params, bool], Driver]] = {
    "haproxy": _haproxy,
    "nginx": _nginx,
    "nginx_lua": _nginx_lua,
}


def _waits(params: Params) -> dict[str, t.Any]:
    return {name: checked_wait(name, params[name]) for name in ("drain_timeout", "health_timeout") if name in params}


def read_tables(option: str, given: t.Mapping[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    """`{backend: {server: {...}}}`. Raises StateError for another shape."""
    for backend, servers in given.items():
        if not isinstance(servers, dict) or not all(isinstance(values, dict) for values in servers.values()):
            raise StateError(f"{option} must be {{backend: {{server: {{...}}}}}}; what it says of {backend} is not")
    return dict(given)


def read_safe(given: t.Mapping[str, t.Any]) -> dict[str, dict[str, t.Any]]:
    """`{backend: {server: {weight, state}}}`. Raises StateError."""
    return {
        backend: {
            server: {
                "weight": _weight(f"safe: server {backend}/{server}", values.get("weight")),
                "state": values.get("state"),
            }
            for server, values in servers.items()
        }
        for backend, servers in read_tables("safe", given).items()
    }


def read_servers(given: t.Mapping[str, t.Any]) -> dict[str, list[dict[str, t.Any]]]:
    """`{backend: [{name, weight, state}, ...]}`. Raises StateError."""
    return {backend: _servers(backend, servers) for backend, servers in given.items()}


def _servers(backend: str, servers: t.Any) -> list[dict[str, t.Any]]:
    if not isinstance(servers, list) or not all(isinstance(one, dict) and "name" in one for one in servers):
        raise StateError(
            f"servers must be {{backend: [{{name, weight, state}}, ...]}}; what it says of {backend} is not"
        )
    unknown = sorted({str(key) for one in servers for key in one} - {"name", "weight", "state"})
    if unknown:
        raise StateError(
            f"servers: backend {backend} has {', '.join(unknown)}; a server has only name, weight and state"
        )
    return [
        {
            "name": str(one["name"]),
            "weight": _weight(f"server {backend}/{one['name']}", one.get("weight")),
            "state": one.get("state"),
        }
        for one in servers
    ]


def _weight(where: str, given: t.Any) -> int | None:
    """Templates may make text of numbers."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return given
    if isinstance(given, str) and given.isascii() and given.isdigit():
        return int(given)
    raise StateError(f"{where}: weight {given!r} is not a whole number")
