# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Hosts out of rotation and back in, around tasks of the user's own, without a rollout. Pure."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _capacity, _fleet
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad, reasons, why
from ansible_collections.steady.rollout.plugins.module_utils._executor import LoadBalancer, Settings, how_to_reach
from ansible_collections.steady.rollout.plugins.module_utils._fleet import FleetError, Reading
from ansible_collections.steady.rollout.plugins.module_utils._plan import Member
from ansible_collections.steady.rollout.plugins.module_utils._preflight import addresses_of
from ansible_collections.steady.rollout.plugins.module_utils._targets import Refused, Targets

Results = t.Sequence[t.Mapping[str, t.Any]]
OUT, IN = "maint", "ready"
# Out of rotation, where it is not called maint.
OUT_AT = {"nginx": "down", "nginx_lua": "down"}


def turn(targets: Targets, answers: t.Mapping[str, Reading], hosts: t.Collection[str]) -> dict[str, t.Any]:
    """What to tell the load balancers of ``hosts``, all of them at once; and whom to probe. Raises Refused."""
    try:
        members = _fleet.make_members(
            {host: targets.own[host] for host in targets.own if host in hosts}, targets.backends
        )
    except FleetError as exc:
        raise Refused(str(exc)) from exc
    lbs, probes = [], []
    for lb in targets.lbs:
        answer = answers.get(lb.name) or {}
        if bad(answer) or "backends" not in answer:
            raise Refused(f"load balancer {lb.name}: {why(answer)}")
        for backend in targets.backends:
            names = [member.servers[backend] for member in members if backend in member.servers]
            if names:
                servers = _fleet.servers_of(answer, backend)
                _refuse(lb, backend, servers, names, targets)
                lbs.append(_tell(lb, backend, names, targets.action, targets.settings))
        probes.append(_probe(lb, answer, members, targets))
    return {"lbs": lbs, "probes": probes}


def _refuse(
    lb: LoadBalancer, backend: str, servers: t.Mapping[str, t.Any], names: t.Sequence[str], targets: Targets
) -> None:
    missing = [name for name in names if name not in servers]
    if missing:
        raise Refused(f"{lb.name}: backend {backend} has no server {', '.join(missing)}; set rollout_server")
    if targets.action != "drain":
        return
    meant = {name: server for name, server in servers.items() if _fleet.carries(server) or name in names}
    problem = _capacity.changing(
        {name: {**server, "base": server["weight"] or server["initial_weight"]} for name, server in meant.items()},
        {name: {"state": "maint"} for name in names},
        targets.settings.min_capacity,
        targets.settings.headroom,
    )
    if problem:
        raise Refused(f"{lb.name}, backend {backend}: {problem.rstrip('.')}")


def _tell(lb: LoadBalancer, backend: str, names: t.Sequence[str], action: str, settings: Settings) -> dict[str, t.Any]:
    drain_timeout = settings.drain_timeout if action == "drain" else 0.0
    return {
        **how_to_reach(lb),
        "backend": backend,
        "servers": [
            {"name": name, "state": OUT_AT.get(lb.provider, OUT) if action == "drain" else IN} for name in names
        ],
        "drain_timeout": drain_timeout,
        "on_drain_timeout": settings.on_drain_timeout,
        "health_timeout": settings.health_timeout,
        "allow_unchecked": settings.allow_unchecked,
        "timeout": int(drain_timeout + settings.health_timeout + settings.lb_timeout),
    }


def _probe(lb: LoadBalancer, answer: Reading, members: t.Sequence[Member], targets: Targets) -> dict[str, t.Any]:
    probe = targets.settings.probe
    addresses = addresses_of(targets, members)
    wanted = []
    for member in members:
        backend, name = next(iter(member.servers.items()))
        server = _fleet.servers_of(answer, backend)[name]
        address, port = addresses[member.key]
        place = _fleet.probe_place(address or server["address"], probe.get("port") or port or server["port"])
        wanted.append({"name": name, **place})
    options = {name: value for name, value in probe.items() if name != "port"}
    return {
        "lb": lb.name,
        "targets": wanted,
        "options": {**options, "deadline": targets.settings.healthy_deadline},
        "timeout": int(targets.settings.healthy_deadline + targets.settings.lb_timeout),
    }


def turned(acts: Results, probes: Results) -> tuple[str, list[dict[str, t.Any]]]:
    """What went wrong, or ""; and what to tell those load balancers that did their part, to have it as it was."""
    silent = [f"{answer['item']['lb']}: {reason}" for answer in probes if bad(answer) for reason in reasons(answer)]
    failed = [f"{answer['item']['lb']}: {why(answer)}" for answer in acts if bad(answer)]
    if not silent and not acts:
        failed.append("the load balancers were not told")
    if not failed:
        return "; ".join(silent), []
    # Only what this call took out: a server that was out before stays so.
    back = []
    for answer in acts:
        if bad(answer) or not answer.get("changed"):
            continue
        was_in = {server["name"] for server in answer.get("before") or () if server["state"] == "ready"}
        servers = [
            {"name": server["name"], "state": "ready"}
            for server in answer["item"]["servers"]
            if server["name"] in was_in and server["state"] != "ready"
        ]
        if servers:
            back.append({**answer["item"], "servers": servers})
    return "; ".join([*silent, *failed]), back
