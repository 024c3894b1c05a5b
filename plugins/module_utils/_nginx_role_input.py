# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What is wrong with the upstreams and servers given to the role `nginx`, beyond their types. Pure.

The values end up in NGINX's configuration, where a space or a semicolon in a name would start something else. A value of None counts as not given.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import MAX_WEIGHT, canonical

NAME = re.compile(r"[A-Za-z0-9_.-]+")
WORD = re.compile(r"[^\s\"'#;{}\\$]+")
# Words of a server line that rollouts change, or that have an option of their own here.
OWN_WORD = re.compile(r"(weight=|down\Z|drain\Z|backup\Z|max_fails=|fail_timeout=|max_conns=)")

# Where Lua chooses the servers, no other line of the upstream may, and what NGINX shares between its workers is of no use.
METHOD = re.compile(r"\s*(hash|ip_hash|least_conn|least_time|random|sticky|zone|queue|\w+_by_lua\w*)\b")
# steady_rollout.lua has no more turns than that in a cycle.
MOST_WEIGHT = 100_000_000

Items = t.Sequence[t.Mapping[str, t.Any]]


def input_problems(upstreams: Items, servers: Items, weight: int) -> list[str]:
    """Sentences, each naming one value that cannot work; empty when all can. ``weight``: of servers that have none of their own."""
    names = [str(upstream["name"]).lower() for upstream in upstreams]
    return [
        *_weight_problems("nginx_weight", weight),
        *(
            f"The upstream {name} is there {names.count(name)} times: names must be unique."
            for name in _repeated(names)
        ),
        *(problem for upstream in upstreams for problem in _upstream_problems(upstream)),
        *(problem for server in servers for problem in _listener_problems(server, names)),
    ]


def lua_problems(upstreams: Items, servers: Items, weight: int) -> list[str]:
    """As ``input_problems``: what cannot work where Lua chooses the servers, which knows nothing of most words of a server line."""
    return [
        *(problem for upstream in upstreams for problem in _lua_upstream_problems(upstream, weight)),
        *(problem for server in servers for problem in _lua_listener_problems(server)),
    ]


def _lua_listener_problems(server: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    for line in server.get("options") or []:
        if line.strip().startswith("log_by_lua") and "steady_rollout" not in line:
            yield (
                f"With nginx_lua, {line.split()[0]} of the server that listens on {' and '.join(map(str, server['listen']))} hides "
                'the one that counts requests in flight: have it call require("steady_rollout").log(), too.'
            )


def _lua_upstream_problems(upstream: t.Mapping[str, t.Any], weight: int) -> t.Iterator[str]:
    where = f"upstream {upstream['name']}"
    if str(upstream["name"]).startswith("."):
        yield f"With nginx_lua, the name of {where} must not begin with a dot: it names a file."
    for line in upstream.get("options") or []:
        found = METHOD.match(line)
        if found:
            yield f"With nginx_lua, the options of {where} must not have {found[1]}: Lua chooses the servers."
    for server in upstream["servers"]:
        yield from _lua_server_problems(f"server {server['name']} of {where}", server)
    weights = [weight if server.get("weight") is None else server["weight"] for server in upstream["servers"]]
    if sum(weights) > MOST_WEIGHT:
        yield f"With nginx_lua, the weights of {where} must not add up to more than {MOST_WEIGHT}."


def _lua_server_problems(where: str, server: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    if not _is_address(canonical(str(server["name"]))):
        yield f"With nginx_lua, {where} must be an IP address or unix:/PATH: names are not resolved where Lua chooses the server."
    for word in ("max_fails", "fail_timeout", "max_conns", "backup", "options"):
        # What says nothing, such as backup: false, is none.
        if server.get(word) is not None and server[word] is not False and server[word] != "":
            yield f"With nginx_lua, {where} must have no {word}: Lua chooses the servers, and does not know it."


def _is_address(name: str) -> bool:
    """Whether Lua can connect to it as it is."""
    if name.startswith("unix:"):
        return name.startswith("unix:/")
    host, _colon, port = name.rpartition(":")
    try:
        known = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    is_v6 = host.startswith("[") and host.endswith("]") and "%" not in host
    return (known.version == 6) == is_v6 and 0 < int(port) < 65536


def _upstream_problems(upstream: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    where = f"upstream {upstream['name']}"
    if not NAME.fullmatch(str(upstream["name"])):
        yield f"The upstream name {upstream['name']!r} does not work in an address: use letters, digits and - _ . only."
    if not upstream["servers"]:
        yield f"The {where} has no servers, and NGINX takes none without."
    elif all(server.get("backup") for server in upstream["servers"]):
        yield f"The {where} has only backup servers, and NGINX takes none without another one."
    keys = [canonical(str(server["name"])) for server in upstream["servers"]]
    for key in _repeated(keys):
        yield f"The server {key} of {where} is there {keys.count(key)} times: give each once."
    if (upstream.get("keepalive") or 0) < 0:
        yield f"The keepalive {upstream['keepalive']} of {where} must not be below 0."
    yield from _line_problems(where, upstream.get("options"))
    for server in upstream["servers"]:
        yield from _server_problems(f"server {server['name']} of {where}", server)


def _server_problems(where: str, server: t.Mapping[str, t.Any]) -> t.Iterator[str]:
    if not WORD.fullmatch(str(server["name"])):
        yield f"The address {server['name']!r} of {where} must be one word, such as 192.0.2.21:8080."
    if server.get("weight") is not None:
        yield from _weight_problems(f"The weight of {where}", server["weight"])
    if server.get("fail_timeout") is not None and not WORD.fullmatch(str(server["fail_timeout"])):
        yield f"The fail_timeout {server['fail_timeout']!r} of {where} must be one word, such as 10s."
    words = str(server.get("options") or "")
    if re.search(r"[;{}\r\n]", words):
        yield f"The options {words!r} of {where} must be words of one line."
    for word in words.split():
        if OWN_WORD.match(word):
            yield f"The options of {where} must not have {word}: it has a variable of its own, or is for rollouts to change."


def _listener_problems(server: t.Mapping[str, t.Any], upstreams: t.Collection[str]) -> t.Iterator[str]:
    where = f"server that listens on {' and '.join(map(str, server['listen'])) or 'nothing'}"
    if not server["listen"]:
        yield "A server of nginx_servers listens on nothing: give it a listen."
    for value in [*server["listen"], *(server.get("server_name") or [])]:
        if re.search(r"[;\r\n]", str(value)) or not str(value).strip():
            yield f"The value {value!r} of the {where} must be words of one line."
    if str(server["upstream"]).lower() not in upstreams:
        yield f"The upstream {server['upstream']!r} of the {where} is not in nginx_upstreams."
    yield from _line_problems(where, server.get("options"))


def _weight_problems(what: str, weight: int) -> t.Iterator[str]:
    if not 1 <= int(weight) <= MAX_WEIGHT:
        yield f"{what} must be between 1 and {MAX_WEIGHT}, not {weight}."


def _line_problems(where: str, lines: t.Sequence[str] | None) -> t.Iterator[str]:
    for line in lines or []:
        if "\n" in line or "\r" in line:
            yield f"A value of options of {where} has a line break: give each line as an element of its own."


def _repeated(names: t.Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
