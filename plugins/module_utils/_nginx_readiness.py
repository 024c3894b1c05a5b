# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a configuration of NGINX lacks for rollouts, each lack with the line that mends it. Pure."""

from __future__ import annotations

import ipaddress
import re
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.steady.rollout.plugins.module_utils._nginx_logging import Logged, logged
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import UNSHARED
from ansible_collections.steady.rollout.plugins.module_utils._nginx_tree import Node, Nodes, last, named, tree, within
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import (
    HTTP,
    Files,
    Server,
    Upstream,
    algorithm_of,
    find,
    upstreams,
)

# Old workers cut what takes longer than this. Most requests take less than a minute.
SHORT_SHUTDOWN_SECONDS = 60.0
# The first version that has keepalive_min_timeout, without which a reload closes idle connections that clients just reuse.
KEEPS_IDLE = (1, 27, 4)
KEEPALIVE_LINE = "keepalive_min_timeout 10s;"
# Measured: nginx 1.22 takes 60 servers into 64k.
ZONE_KILOBYTES, ZONE_SERVERS = 64, 50
UNIT_SECONDS = {
    "ms": 1e-3,
    "s": 1.0,
    "": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "M": 2592000.0,
    "y": 31536000.0,
}

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Finding:
    """One lack. ``code``: its kind; ``required``: rollouts do not work, or not safely, without; else they work less well.

    ``problem`` is a sentence; ``line`` belongs to the place ``where``. Both are empty for what no line mends.
    """

    code: str
    required: bool
    problem: str
    where: str = ""
    line: str = ""


def readiness(
    main: str,
    files: Files,
    version: Version,
    prefix: str,
    names: t.Collection[str] | None = None,
    silence: str = "",
) -> dict[str, t.Any]:
    """Judge a configuration for rollouts of some upstreams, by default of all that have servers.

    ``prefix``: nginx's own; ``silence``: why nginx does not run, "" where it does. Returns ``findings`` (list of dicts as
    Finding), ``messages`` (each finding told to a person), ``upstreams`` (list of {name, kind, path, algorithm, zone, servers}) and
    ``logs`` ({name: path of the log that its requests are counted in, or None}). Raises NginxConfigError.
    """
    top = tree(main, files)
    judged = _judged(upstreams(main, files), names)
    logs = {(one.kind, one.name): logged(top, one, prefix) for one in judged}
    findings = [
        *_process_findings(top, main, silence),
        *_log_findings(list(logs.values())),
        *(finding for one in judged for finding in _upstream_findings(one)),
        *_reload_findings(top, version, any(one.kind == HTTP and not is_lua(one) for one in judged)),
    ]
    return {
        "findings": [asdict(finding) for finding in findings],
        "messages": [message(finding) for finding in findings],
        "upstreams": [_as_dict(one) for one in judged],
        "logs": {name: log.path for (_kind, name), log in logs.items()},
    }


def message(finding: Finding) -> str:
    """The finding in one sentence, and the line to change where there is one."""
    weight = "required" if finding.required else "advised"
    mending = f" In {finding.where}: {finding.line}" if finding.where else ""
    return f"{weight}: {finding.problem}{mending}"


def zone_line(upstream: str, servers: int) -> str:
    """A zone that this many servers fit into."""
    return f"zone {upstream} {ZONE_KILOBYTES * (1 + servers // ZONE_SERVERS)}k;"


def seconds(text: str) -> float:
    """A time as nginx writes it (`30s`, `1m30s`, `500ms`, `60` for seconds); endless for what is none."""
    if not re.fullmatch(r"(?:\d+(?:ms|[smhdwMy]?)\s*)+", text):
        return float("inf")
    return sum(int(number) * UNIT_SECONDS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwMy]?)", text))


def _judged(known: t.Sequence[Upstream], names: t.Collection[str] | None) -> list[Upstream]:
    if names is None:
        return [one for one in known if one.servers]
    wanted = [find(known, name) if "/" in name else name for name in names]
    for name in wanted:
        if isinstance(name, str) and not any(one.name == name for one in known):
            find(known, name)
    return [one for one in known if one in wanted or one.name in wanted]


def _process_findings(top: Nodes, main: str, silence: str) -> t.Iterator[Finding]:
    if silence:
        pid = last(top, "pid")
        line = "start nginx; if it runs, name the file that it writes its pid to, as in: pid /run/nginx.pid;"
        yield Finding("not-running", True, f"{silence}, so nothing can reload it.", pid.where if pid else main, line)


def _log_findings(logs: t.Sequence[Logged]) -> t.Iterator[Finding]:
    told = [
        ("log-late" if log.path else "log", log.path is None, log.lack, log.where, log.line) for log in logs if log.lack
    ]
    # What is lacking for all of them is told once.
    yield from (Finding(*finding) for finding in dict.fromkeys(told))


def _upstream_findings(upstream: Upstream) -> t.Iterator[Finding]:
    name, where = upstream.name, f"upstream {upstream.name} ({upstream.path})"
    keys = [server.key for server in upstream.servers]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        problem = f"Upstream {name} has more than one server line of {_names(twice)}, so no weight of it is its share."
        yield Finding("server-twice", True, problem, where, "one line for each server")
    # What Lua chooses, nginx itself has no turns for.
    if "zone" not in upstream.directives and not is_lua(upstream):
        problem = (
            f"Upstream {name} has no zone, so each worker has its own turns: after a reload a small canary gets no traffic for long, and "
            "each worker finds a dead server for itself."
        )
        yield Finding("zone", False, problem, where, zone_line(name, len(keys)))
    algorithm = algorithm_of(upstream)
    if algorithm in UNSHARED:
        problem = f"With {algorithm} a weight is not a share of the traffic, so a canary of {name} may get many times its share."
        yield Finding("algorithm", False, problem, where, f"no {algorithm}, which leaves round robin")
    resolved = [server.address for server in upstream.servers if _is_resolved_at_reload(server)]
    if resolved:
        problem = f"nginx resolves {_names(resolved)} at each reload, which waits for DNS, and fails without."
        yield Finding("names", False, problem, where, "addresses in the place of names")


def is_lua(upstream: Upstream) -> bool:
    """Whether its servers are chosen by Lua, so that weights change without a reload."""
    return any(name.startswith("balancer_by_lua") for name in upstream.directives)


def _is_resolved_at_reload(server: Server) -> bool:
    words = [word.value for word in server.directive.words]
    if server.address.startswith("unix:") or b"resolve" in words:
        return False
    host = server.key.rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False


def _reload_findings(top: Nodes, version: Version, is_http: bool) -> t.Iterator[Finding]:
    shutdown = last(top, "worker_shutdown_timeout")
    if shutdown and seconds(" ".join(shutdown.words)) < SHORT_SHUTDOWN_SECONDS:
        problem = f"At each reload, requests that take longer than {' '.join(shutdown.words)} are cut."
        yield Finding(
            "shutdown-timeout",
            False,
            problem,
            shutdown.where,
            f"worker_shutdown_timeout {SHORT_SHUTDOWN_SECONDS:g}s; or none at all",
        )
    if not is_http:
        return
    if version < KEEPS_IDLE:
        problem = (
            f"nginx {_dotted(version)} closes idle connections of clients at each reload; a client that reuses one at that moment and does "
            f"not try again loses its request. nginx {_dotted(KEEPS_IDLE)} and later can be told not to."
        )
        yield Finding("keepalive", False, problem)
    elif not keeps_idle(top, version):
        block = named(top, HTTP)[0]
        problem = "Each reload closes idle connections of clients; a client that reuses one at that moment may lose its request."
        yield Finding("keepalive", False, problem, f"http ({block.where})", KEEPALIVE_LINE)


def keeps_idle(top: Nodes, version: Version) -> bool:
    """Whether clients may reuse connections over a reload: all servers have a keepalive_min_timeout, from `http` or by themselves."""
    if version < KEEPS_IDLE:
        return False
    level = within(top, HTTP)
    default = last(level, "keepalive_min_timeout")
    servers = [last(server.nodes, "keepalive_min_timeout") or default for server in named(level, "server")] or [default]
    return all(_is_some_time(one) for one in servers)


def _is_some_time(directive: Node | None) -> bool:
    return directive is not None and seconds(" ".join(directive.words)) > 0


def _as_dict(upstream: Upstream) -> dict[str, t.Any]:
    return {
        "name": upstream.name,
        "kind": upstream.kind,
        "path": upstream.path,
        "algorithm": algorithm_of(upstream),
        "zone": "zone" in upstream.directives,
        "servers": [server.key for server in upstream.servers],
    }


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _names(names: t.Sequence[str]) -> str:
    """At most three names, so that a sentence stays one with two hundred servers."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
