# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Can the servers that remain carry the traffic? Asked before servers are taken out or loaded. Pure.

Servers are ``{name: {weight, state, health, base, sessions, max_sessions, backup}}`` of one backend on one load balancer, as
`rollout_info` tells them, with ``base``, the weight a server has when it carries its full part. What is missing or None is
not known: a server of unknown health is down, one of unknown base has its weight for it, and without ``max_sessions`` there
is no limit. Give only servers that are meant to carry the traffic in question: a spare colour is no missing capacity.

Sessions afterwards are an estimate: a server that loses part of its share of the traffic loses that part of its sessions, and
those that gain share get them in proportion to what they gain.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._plan_error import listed

Servers = t.Mapping[str, t.Mapping[str, t.Any]]

_ROUNDING = 1e-6  # what sums of fractions may be off by


def changing(
    servers: Servers, told: t.Mapping[str, t.Mapping[str, t.Any]], min_percent: float, headroom_percent: float
) -> str | None:
    """Why the servers may not be told ``{name: {state, weight}}`` now (what is missing stays as it is), or None where they may.

    A change from which no server gains weight is judged as ``taking_out``, any other as ``loading``.
    """
    now = _carrying(servers)
    weights = {name: _told_weight({**servers[name], **change}) for name, change in told.items() if name in servers}
    if any(_healthy(servers[name]) and weight > now[name] for name, weight in weights.items()):
        return loading(servers, weights, min_percent, headroom_percent)
    return taking_out(servers, [name for name, weight in weights.items() if not weight], min_percent, headroom_percent)


def taking_out(servers: Servers, out: t.Collection[str], min_percent: float, headroom_percent: float) -> str | None:
    """Why the servers ``out`` may not leave the rotation now, or None where they may.

    They may not when no server would be left; when less than ``min_percent`` of all base weight would be left; or when a
    server would come nearer to its limit of sessions than ``headroom_percent`` of it. Servers that are not in rotation can
    always be taken out.
    """
    now = _carrying(servers)
    going = [name for name in servers if name in out and now.get(name)]
    if not going:
        return None
    after = {name: 0.0 if name in going else weight for name, weight in now.items()}
    what = f"Taking out {listed(going)}"
    if not sum(after.values()):
        return f"{what} would leave no healthy server in rotation; bring others back or take out fewer at once."
    left, total = sum(_base(servers[name]) for name in after if after[name]), sum(map(_base, servers.values()))
    if total and 100 * left / total < min_percent - _ROUNDING:
        return (
            f"{what} would leave {_figure(100 * left / total)} % of the capacity in rotation (weight {_figure(left)} of "
            f"{_figure(total)}), and {_figure(min_percent)} % must remain; bring others back or take out fewer at once."
        )
    return _overload(servers, now, after, headroom_percent, what)


def loading(
    servers: Servers, weights: t.Mapping[str, float], min_percent: float, headroom_percent: float
) -> str | None:
    """Why the servers may not get ``weights`` (servers not named keep theirs), or None where they may.

    They may not when no healthy server would carry traffic; when a server that gains would carry so much more than its part
    by base weight of what is in rotation now, that this part is less than ``min_percent`` of what it would carry; or when a
    server would come nearer to its limit of sessions than ``headroom_percent`` of it.
    """
    now = _carrying(servers)
    after = {name: _positive(weights.get(name, now[name])) if _healthy(servers[name]) else 0.0 for name in servers}
    if not sum(after.values()):
        return "No healthy server would carry traffic with the wanted weights; see why the servers are down first."
    thin = _thinnest(servers, now, after)
    if thin and thin[1] < min_percent - _ROUNDING:
        name, percent, share = thin
        return (
            f"{name} would get {_figure(share)} % of the traffic, and has {_figure(percent)} % of the capacity for it, by base "
            f"weight against what is in rotation now; {_figure(min_percent)} % are needed. Send it less, or to more servers."
        )
    return _overload(servers, now, after, headroom_percent, "The wanted weights")


def sessions_after(servers: Servers, weights: t.Mapping[str, float]) -> dict[str, float]:
    """The sessions each server is estimated to have once its weight is that of ``weights``; unknown ones count as none."""
    now, after = _shares(_carrying(servers)), _shares({name: _positive(weights.get(name)) for name in servers})
    own = {name: _positive(server.get("sessions")) for name, server in servers.items()}
    gains = {name: max(0.0, after[name] - now[name]) for name in servers}
    gained = sum(gains.values())
    if not gained:
        return own
    lost = {name: own[name] * (1 - after[name] / now[name]) if now[name] > after[name] else 0.0 for name in servers}
    moved = sum(lost.values())
    return {name: own[name] - lost[name] + moved * gains[name] / gained for name in servers}


def _overload(
    servers: Servers, now: t.Mapping[str, float], after: t.Mapping[str, float], headroom_percent: float, what: str
) -> str | None:
    """The server that would be fullest, in words, when it would be too full; only servers that gain are looked at."""
    sessions, before, then = sessions_after(servers, after), _shares(now), _shares(after)
    usable = 1 - min(100.0, _positive(headroom_percent)) / 100
    limits = {name: _positive(server.get("max_sessions")) for name, server in servers.items()}
    full = [
        name
        for name, most in limits.items()
        if most and then[name] > before[name] and sessions[name] > most * usable + _ROUNDING
    ]
    if not full:
        return None
    name = max(full, key=lambda server: sessions[server] / limits[server])
    return (
        f"{what} would bring {name} to about {sessions[name]:.0f} sessions of at most {_figure(limits[name])}, and "
        f"{_figure(headroom_percent)} % are to stay free; wait for less traffic, or move less at once."
    )


def _thinnest(
    servers: Servers, now: t.Mapping[str, float], after: t.Mapping[str, float]
) -> tuple[str, float, float] | None:
    """Of the servers that gain, the one with the least capacity for what it gets: (name, percent of it, its share)."""
    reference = sum(_base(servers[name]) for name, weight in now.items() if weight)
    if not reference:
        return None  # nothing carries yet: there is nothing to compare with
    before, then = _shares(now), _shares(after)
    found = [
        (100 * _base(servers[name]) / reference / then[name], name) for name in servers if then[name] > before[name]
    ]
    if not found:
        return None
    percent, name = min(found)
    return name, percent, 100 * then[name]


def _carrying(servers: Servers) -> dict[str, float]:
    """The weight of each server that takes new requests now; 0 for the others."""
    return {
        name: _positive(server.get("weight")) if server.get("state") == "ready" and _healthy(server) else 0.0
        for name, server in servers.items()
    }


def _told_weight(server: t.Mapping[str, t.Any]) -> float:
    return _positive(server.get("weight")) if server.get("state") == "ready" else 0.0


def _healthy(server: t.Mapping[str, t.Any]) -> bool:
    return server.get("health") in ("up", "unchecked") and not server.get("backup")


def _base(server: t.Mapping[str, t.Any]) -> float:
    base = server.get("base")
    return 0.0 if server.get("backup") else _positive(server.get("weight") if base is None else base)


def _shares(weights: t.Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total if total else 0.0 for name, weight in weights.items()}


def _positive(value: t.Any) -> float:
    return float(value) if isinstance(value, (int, float)) and 10**-9 < value < 10**15 else 0.0


def _figure(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")
