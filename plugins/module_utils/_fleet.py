# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The hosts of the play and the servers of the load balancers, brought together. Pure.

A host takes part with one member, or with one per slot (`rollout_tracks`). Every server that is not a backup one must
belong to exactly one member, and the reverse: else hosts were lost (by --limit, a job slice, a typo), and a rollout that
does not see them would leave them on the old release, or take away more than it thinks.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._plan import Member

# One reading per load balancer: what rollout_info returns for it.
Reading = t.Mapping[str, t.Any]
Server = dict[str, t.Any]


class FleetError(Exception):
    """The hosts of the play and the servers do not fit together; the text says how, in one sentence."""


def make_members(hosts: t.Mapping[str, t.Mapping[str, t.Any]], backends: t.Sequence[str]) -> tuple[Member, ...]:
    """The members of all hosts, in the order of the play. ``hosts``: each host's own variables."""
    members = [member for host, given in hosts.items() for member in _members_of(host, given, backends)]
    owners: dict[tuple[str, str], Member] = {}
    for member in members:
        for place in member.servers.items():
            if place in owners:
                raise FleetError(
                    f"{owners[place].host} and {member.host} are both server {place[1]} of backend {place[0]}; "
                    "give each its own rollout_server"
                )
            owners[place] = member
    return tuple(members)


def _members_of(host: str, given: t.Mapping[str, t.Any], backends: t.Sequence[str]) -> list[Member]:
    domain = given.get("domain")
    domain = "" if domain is None else str(domain)
    slots = given.get("tracks")
    if not slots:
        servers = _servers_of(host, given.get("server") or host, backends, "rollout_server")
        return [Member(host, host, str(given.get("track") or ""), servers, domain)]
    if not isinstance(slots, t.Mapping) or not all(isinstance(slot, t.Mapping) for slot in slots.values()):
        raise FleetError(
            f"{host}: rollout_tracks must be like {{blue: {{server: {host}-blue, port: 8081}}, green: ...}}"
        )
    return [
        Member(
            f"{host}:{track}",
            host,
            str(track),
            _servers_of(host, slot.get("server") or f"{host}-{track}", backends, f"rollout_tracks.{track}.server"),
            domain,
        )
        for track, slot in slots.items()
    ]


def _servers_of(host: str, server: t.Any, backends: t.Sequence[str], variable: str) -> dict[str, str]:
    if isinstance(server, t.Mapping):
        unknown = [str(name) for name in server if name not in backends]
        if unknown:
            raise FleetError(f"{host}: {variable} names backend {', '.join(unknown)}, which is not in rollout_backend")
        servers = {backend: str(server[backend]) for backend in backends if server.get(backend)}
    elif isinstance(server, (str, int)):
        servers = dict.fromkeys(backends, str(server))
    else:
        raise FleetError(f"{host}: {variable} must be a name or a map of backends to names, not {server!r}")
    if not servers:
        raise FleetError(f"{host}: {variable} names no server in backend {', '.join(backends)}")
    return servers


def check_servers(members: t.Sequence[Member], readings: t.Mapping[str, Reading], hint: str) -> None:
    """Refuse load balancers that do not know exactly the servers of the members. ``hint``: what narrows the play."""
    backends = list(dict.fromkeys(backend for member in members for backend in member.servers))
    for backend in backends:
        wanted = {member.servers[backend]: member for member in members if backend in member.servers}
        known = {lb: _active(reading, backend) for lb, reading in readings.items()}
        anywhere = set().union(*known.values())
        for lb, names in known.items():
            missing = sorted(anywhere - names)
            others = [other for other in known if known[other].intersection(missing)]
            if missing:
                raise FleetError(
                    f"the load balancers differ: {lb} lacks server {', '.join(missing)} of backend {backend}, which "
                    f"{', '.join(others)} has; give all the same servers"
                )
        lb, names = next(iter(known.items()))
        ownerless, homeless = sorted(names - set(wanted)), [m for name, m in wanted.items() if name not in names]
        if homeless:
            raise FleetError(
                f"{_count(homeless, 'host')} of the play ({_some([m.key for m in homeless])}) would be server "
                f"{_some([m.servers[backend] for m in homeless])} of backend {backend}, which {lb} does not have; "
                "set rollout_server, or leave the host out of the play"
            )
        if ownerless:
            raise FleetError(
                f"server {_some(ownerless)} of backend {backend} belongs to no host of this play{hint}; a rollout needs the "
                "whole fleet"
            )


def _active(reading: Reading, backend: str) -> set[str]:
    return {server["name"] for server in reading["backends"][backend]["servers"] if not server["backup"]}


def servers_of(reading: Reading, backend: str) -> dict[str, Server]:
    """The servers of a backend by name, backup ones left out."""
    return {server["name"]: server for server in reading["backends"][backend]["servers"] if not server["backup"]}


def found(reading: Reading, backends: t.Sequence[str]) -> dict[str, dict[str, dict[str, t.Any]]]:
    """{backend: {server: {weight, state, base, agent, address, port}}} as the rollout finds it; ``base`` is its weight in
    rotation.

    A server that waits at weight 0 gets its configured weight when it is its turn.
    """
    return {
        backend: {
            name: {
                "weight": server["weight"],
                "state": server["own_state"],
                "base": server["weight"] or server["initial_weight"],
                "agent": bool(server["agent"]),
                "address": server["address"],
                "port": server["port"],
            }
            for name, server in servers_of(reading, backend).items()
        }
        for backend in backends
    }


def probe_place(address: t.Any, port: t.Any) -> dict[str, t.Any]:
    """Where http_probe finds a server, by its address as a load balancer has it."""
    if str(address).startswith("unix:") and port is None:
        return {"unix_socket": str(address).removeprefix("unix:")}
    return {"address": address, "port": port}


def is_in_state(state: str, wanted: str) -> bool:
    """Whether a server is what it was told to be. NGINX knows one way of being out of rotation, down, for all there are."""
    return state == wanted or (state == "down" and wanted != "ready")


def carries(server: t.Mapping[str, t.Any]) -> bool:
    """Whether it is in rotation by its own state and weight; whether it is healthy is another question.

    The weight of a server with an agent is the agent's: it may be 0 now, and anything a moment later.
    """
    return bool(server["state"] == "ready" and (server["weight"] > 0 or server.get("agent")))


def live_tracks(members: t.Sequence[Member], readings: t.Mapping[str, Reading]) -> dict[str, set[str]]:
    """The tracks of which at least one server is in rotation, per load balancer."""
    return {
        lb: {
            member.track
            for member in members
            for backend, name in member.servers.items()
            if carries(servers_of(reading, backend)[name])
        }
        for lb, reading in readings.items()
    }


def in_rotation(members: t.Sequence[Member], readings: t.Mapping[str, Reading]) -> list[str]:
    """Keys of the members that any load balancer sends traffic to."""
    return [
        member.key
        for member in members
        if any(
            carries(servers_of(reading, backend)[name])
            for reading in readings.values()
            for backend, name in member.servers.items()
        )
    ]


def everywhere_in(member: Member, readings: t.Mapping[str, Reading]) -> bool:
    """Whether every load balancer sends traffic to the member, in each of its backends."""
    servers = [
        servers_of(reading, backend).get(name)
        for reading in readings.values()
        for backend, name in member.servers.items()
    ]
    return bool(servers) and all(server is not None and carries(server) for server in servers)


def differs(member: Member, readings: t.Mapping[str, Reading]) -> bool:
    """Whether one of its servers gets traffic from one load balancer and none from another."""
    return any(
        len({carries(servers_of(reading, backend)[name]) for reading in readings.values()}) > 1
        for backend, name in member.servers.items()
    )


def releases(
    members: t.Sequence[Member], records: t.Mapping[str, t.Mapping[str, t.Any]], deploy_key: str
) -> dict[str, str | None]:
    """The release each member was last seen to run, by the records of the load balancers; None where they disagree or do
    not know. ``records``: {lb: {backend: {releases: {server: {deploy_key: release}}}}}."""
    return {member.key: _release(member, records, deploy_key) for member in members}


def _release(member: Member, records: t.Mapping[str, t.Mapping[str, t.Any]], deploy_key: str) -> str | None:
    seen = {
        (record[backend].get("releases") or {}).get(name, {}).get(deploy_key)
        for record in records.values()
        for backend, name in member.servers.items()
    }
    return seen.pop() if len(seen) == 1 else None


def _count(things: t.Sequence[t.Any], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _some(names: t.Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
