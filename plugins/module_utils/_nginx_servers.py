# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The servers of an upstream as values: what they are, what they are wanted to be, what is refused, and how they are told. Pure.

NGINX checks no server by itself, and knows neither sessions nor a queue of one: what is not known is null. It takes no weight of 0:
what is to get nothing is `down`, and keeps its weight for when it comes back.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError, Servers

READY, DRAIN, DOWN = "ready", "drain", "down"
STATES = (READY, DRAIN, DOWN)
# The word of other load balancers for a server that gets nothing at all.
MAINT = "maint"
# NGINX adds weights up as integers of 32 bits, and checks none of them.
MAX_WEIGHT = 100_000
# With these, weights are not shares of the traffic.
UNSHARED = frozenset({"least_conn", "least_time", "random"})


_PORT = re.compile(r"(?:\]|^[^\[\]:]*):[0-9]+\Z")


def canonical(address: str) -> str:
    """An address as nginx understands it: a host without a port has port 80, and letters make no difference."""
    if address.startswith("unix:"):
        return address
    return address.lower() if _PORT.search(address) else f"{address.lower()}:80"


def named(servers: t.Sequence[t.Mapping[str, t.Any]]) -> list[dict[str, t.Any]]:
    """The same with names as the servers have them."""
    return [{**one, "name": canonical(str(one["name"]))} for one in servers]


class Refused(LoadBalancerError):
    """Not even tried; nothing was changed."""


class Server(t.NamedTuple):
    """``name``: its address as NGINX understands it. ``weight``: also of one that is down. ``port``: None for a unix socket.

    ``max_connections``: its `max_conns`; None where there is no limit. ``sessions``: None where nobody knows.
    """

    name: str
    address: str
    port: int | None
    weight: int
    state: str
    backup: bool = False
    max_connections: int | None = None
    sessions: int | None = None

    @property
    def logged_as(self) -> str | None:
        """What a log has for it; None for a host name, as a log has its addresses."""
        if self.port is None:
            return self.name
        try:
            address = ipaddress.ip_address(self.address.strip("[]"))
        except ValueError:
            return None
        return f"[{address.compressed}]:{self.port}" if address.version == 6 else f"{address}:{self.port}"

    @property
    def usable(self) -> bool:
        return self.state == READY and not self.backup


class Policy(t.NamedTuple):
    """What the user allows, by the options of nginx_upstream of the same names."""

    require_healthy: bool = True
    allow_empty: bool = False
    allow_backup: bool = False


def check_wanted(wanted: t.Sequence[t.Mapping[str, t.Any]]) -> None:
    """Refuse what can be judged without NGINX: `[{name, weight, state}]`, each server once."""
    if not wanted:
        raise Refused("servers is empty; list the servers to change")
    seen: set[str] = set()
    for one in wanted:
        name, weight, state = one["name"], one.get("weight"), one.get("state")
        if name in seen:
            raise Refused(f"server {name} is listed twice; give each server once, with its weight and state together")
        seen.add(name)
        if weight is None and state is None:
            raise Refused(f"server {name} has neither weight nor state; say what it should become")
        if weight is not None and not 0 <= weight <= MAX_WEIGHT:
            raise Refused(f"server {name}: weight {weight} is outside 0 to {MAX_WEIGHT}")
        if state is not None and state not in (*STATES, MAINT):
            raise Refused(f"server {name}: state {state!r} is not one of {', '.join(STATES)}")


def check_safe(safe: t.Mapping[str, t.Any]) -> None:
    """Refuse what is no safe state: `{server: {weight, state}}`."""
    for name, values in safe.items():
        if not isinstance(values, dict) or not isinstance(values.get("weight"), (int, type(None))):
            raise Refused(
                f"the safe state of server {name} is {values!r}, which is no whole number as weight with a state"
            )
        check_wanted([{**values, "name": name}])


def aimed(
    upstream: str,
    servers: t.Sequence[Server],
    wanted: t.Sequence[t.Mapping[str, t.Any]],
    policy: Policy,
    drains: bool,
) -> list[Server]:
    """What the servers are to become. ``drains``: whether there is a state drain, beside down. Raises Refused."""
    known = {server.name: server for server in servers}
    unknown = [one["name"] for one in wanted if one["name"] not in known]
    if unknown:
        raise Refused(f"upstream {upstream} has no server {_some(unknown)}; it has {_some(list(known))}")
    asked = {one["name"]: one for one in wanted}
    after = [_aimed(server, asked[server.name], drains) if server.name in asked else server for server in servers]
    _refuse_outage(upstream, servers, after, policy)
    return after


def _aimed(server: Server, wanted: t.Mapping[str, t.Any], drains: bool) -> Server:
    weight, state = wanted.get("weight"), wanted.get("state") or server.state
    state = DOWN if state == MAINT else state
    # A server that is down gets nothing either, not even what sticks to it: it is not to be asked before it was seen to work.
    if state == DRAIN and (not drains or server.state == DOWN):
        state = DOWN
    if weight == 0:
        return server._replace(state=DOWN if state == READY else state)
    return server._replace(weight=server.weight if weight is None else weight, state=state)


def _refuse_outage(upstream: str, before: t.Sequence[Server], after: t.Sequence[Server], policy: Policy) -> None:
    if list(before) == list(after) or any(server.usable for server in after) or policy.allow_empty:
        return
    if any(server.backup and server.state == READY for server in after):
        if not policy.allow_backup:
            raise Refused(
                f"upstream {upstream} would have only backup servers left; set allow_backup: true if that is meant"
            )
        return
    raise Refused(
        f"upstream {upstream} would have no server left to take traffic; set allow_empty: true if that is meant"
    )


def gaining(before: t.Sequence[Server], after: t.Sequence[Server]) -> list[Server]:
    """The servers that may get requests afterwards and could not before, or get more of them."""
    known = {server.name: server for server in before}
    return [one for one in after if one.state == READY and _gains(known[one.name], one)]


def _gains(before: Server, after: Server) -> bool:
    return before.state != READY or after.weight > before.weight


def restored(
    servers: t.Sequence[Server], safe: t.Mapping[str, t.Mapping[str, t.Any]], down: t.Mapping[str, str]
) -> tuple[list[Server], dict[str, str]]:
    """What servers are to become to be safe, ``{name: {weight, state}}``, and why some cannot: {name: why}.

    ``down``: why servers do not accept connections; those that are out stay out. Where nothing else would be left to take traffic, what
    takes it now stays.
    """
    out = {name: f"{name} is not there any more" for name in safe if name not in {server.name for server in servers}}
    after = []
    for server in servers:
        target = safe.get(server.name)
        back = server if target is None else _aimed(server, target, drains=server.state == DRAIN)
        if server.name in down and back.state == READY:
            out[server.name] = (
                f"{down[server.name]}, so it stays {server.state}" if server.state != READY else down[server.name]
            )
            back = server if server.state != READY else back
        after.append(back)
    if not any(server.usable and server.name not in down for server in after):
        for place, server in enumerate(servers):
            if server.usable and not after[place].usable:
                out[server.name] = f"{server.name} stays {server.state}, as nothing else would be left to take traffic"
                after[place] = server
    return after, out


def leaving(after: t.Sequence[Server], wanted: t.Sequence[t.Mapping[str, t.Any]]) -> list[Server]:
    """The servers that must be empty in the end: those that were asked to go, by this call or already by another."""
    asked = {one["name"] for one in wanted if one.get("state") not in (None, READY)}
    return [one for one in after if one.name in asked and one.state != READY]


def shares(servers: t.Sequence[Server], algorithm: str) -> dict[str, float | None]:
    """Percent of new traffic per server by the weights; None where they do not tell. Backup ones get none while others can."""
    if algorithm in UNSHARED:
        return {server.name: None for server in servers}
    total = sum(server.weight for server in servers if server.usable)
    if total:
        return {one.name: round(100.0 * one.weight / total, 4) if one.usable else 0.0 for one in servers}
    return {one.name: None if one.backup and one.state == READY else 0.0 for one in servers}


def as_dicts(
    servers: t.Sequence[Server],
    algorithm: str,
    counters: t.Mapping[str, t.Mapping[str, t.Any]] | None,
    names: t.Collection[str] | None = None,
) -> Servers:
    """The servers as the modules return them, all or those in ``names``; ``counters``: {address: counts as _nginx_log.Counts}, None where
    nobody counts."""
    share = shares(servers, algorithm)
    return [
        _as_dict(server, share[server.name], _counts_of(server, counters))
        for server in servers
        if names is None or server.name in names
    ]


def _counts_of(server: Server, counters: t.Mapping[str, t.Mapping[str, t.Any]] | None) -> t.Mapping[str, t.Any] | None:
    if counters is None:
        return None
    address = server.logged_as
    return None if address is None else counters.get(address, {})


def uncountable(servers: t.Sequence[Server]) -> str:
    """Why not all servers can be counted; "" where they can."""
    names = [server.name for server in servers if server.logged_as is None and not server.backup]
    if not names:
        return ""
    return f"{_some(names)} is a host name, and the log has addresses; write its address in the configuration"


def _as_dict(server: Server, share: float | None, counts: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    def counted(name: str) -> int | None:
        return None if counts is None else int(counts.get(name, 0))

    return {
        "name": server.name,
        "address": server.address,
        "port": server.port,
        "weight": server.weight,
        "state": server.state,
        "own_state": server.state,
        "health": "unchecked",
        "settled": False,
        "share": share,
        "sessions": server.sessions,
        "max_sessions": server.max_connections,
        "queued": None,
        "requests": counted("requests"),
        "errors": {name: counted(name) for name in ("http_5xx", "http_4xx", "connect", "response")},
        "latencies": None if counts is None else dict(counts.get("times") or {}),
        "times": {"response": None, "total": None},
        "retries": None,
        "redispatches": None,
        "server_aborts": None,
        "status": None,
        "last_check": None,
        "initial_weight": server.weight,
        "effective_weight": None,
        "throttle": None,
        "backup": server.backup,
        "agent": None,
        "tracks": None,
    }


def _some(names: t.Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
