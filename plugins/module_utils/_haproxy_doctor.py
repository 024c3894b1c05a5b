# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What hurts rollouts in one HAProxy's configuration, measured by what this fleet's rollouts wait for. Pure.

`_haproxy_readiness` says what a configuration needs before it is put in place; here it runs already, and is known line by line.
"""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._duration import spelled
from ansible_collections.steady.rollout.plugins.module_utils._finding import (
    ERROR,
    NOTE,
    WARNING,
    Answer,
    Finding,
    Needs,
    Seen,
    are,
    some,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy import (
    HASH_ALGORITHMS,
    STATIC_ALGORITHMS,
    UNSHARED_ALGORITHMS,
)

OTHERS_WRITE = 0o002
# A rollout uses one connection at a time; a status and a person may look meanwhile.
FEWEST_CONNECTIONS = 3
# Calls send a command every second at least while they wait; a busy host may be late.
SHORTEST_SILENCE = 5.0
# A dead server gets traffic as long as its checks take to notice; less is not worth a word.
SLOW_CHECK_SECONDS = 10.0
STATE_LINES = (
    "Set `server-state-file PATH` in global and `load-server-state-from-file global` in defaults; the role "
    "steady.rollout.haproxy does"
)

Findings = t.Iterator[Finding]


def judge(lb: Seen, needs: Needs) -> list[Finding]:
    """For a load balancer whose reading is there."""
    return [
        *_reload(lb, needs),
        *_socket(lb),
        *_configuration(lb),
        *(finding for backend in lb.backends for finding in _backend(lb, backend, needs)),
        *_hard_stop(lb, needs),
    ]


def _reload(lb: Seen, needs: Needs) -> Findings:
    reading = lb.reading or {}
    reason = str(reading["survives_reload_reason"]).rstrip(".")
    if reading["survives_reload"] is None:
        problem = f"whether weights and states outlive a reload cannot be known: {reason}"
        yield Finding("reload-unknown", WARNING, problem, STATE_LINES, lb.name)
    elif not reading["survives_reload"]:
        problem = f"a reload forgets every weight and state set at run time, so that it can undo a rollout: {reason}"
        severity = NOTE if needs.unpersisted else ERROR
        yield Finding("reload-forgets", severity, problem, STATE_LINES, lb.name)


def lagging(lb: Seen, backend: str, claimed: bool, let_in: t.Collection[str]) -> Findings:
    """Servers that a reload would bring back otherwise. Saved only while no rollout holds the backend, and but for those that
    are let in: that saves them, too.
    """
    told = ((lb.configuration or {}).get("state_files") or {}).get(backend) or {}
    late = list(told.get("lagging") or ())
    if not late:
        return
    what = "says otherwise" if told["exists"] else "does not exist"
    servers = lb.servers(backend)
    repair = {
        "kind": "change",
        "servers": [
            {"name": name, "state": servers[name]["own_state"]}
            for name in late
            if name in servers and name not in let_in
        ],
    }
    yield Finding(
        "state-file-lags",
        WARNING,
        f"a reload now would not bring {some(late)} back as {are(late, 'it is', 'they are')}, as the state file {told['path']} {what}",
        f"Save the state: echo 'show servers state' | socat {lb.socket} - > {told['path']}",
        lb.name,
        backend,
        tuple(late),
        repair=None if claimed or not repair["servers"] else repair,
    )


def _socket(lb: Seen) -> Findings:
    configured = ((lb.configuration or {}).get("settings") or {}).get("sockets") or []
    where = next((each["where"] for each in configured if each["address"] == lb.socket), None)
    line = f"In global: stats socket {lb.socket} mode 600 level admin expose-fd listeners"
    if not (lb.reading or {})["admin"]:
        problem = f"the socket {lb.socket} is not of level admin, so nothing can change weights there"
        yield Finding("socket-level", ERROR, problem, line, lb.name, where=where)
    mode = (lb.configuration or {}).get("socket_mode")
    if mode is not None and int(mode, 8) & OTHERS_WRITE:
        problem = f"every user of the host may write to the socket {lb.socket} (mode {mode}), and so move all traffic"
        yield Finding("socket-mode", ERROR, problem, line, lb.name, where=where)
    for each in configured:
        if each["network"] and each["level"] == "admin":
            problem = f"the admin socket {each['address']} is open to the network, and asks for no password"
            yield Finding("socket-network", ERROR, problem, line, lb.name, where=each["where"])


def _configuration(lb: Seen) -> Findings:
    settings = (lb.configuration or {}).get("settings")
    if settings is None:
        why = (lb.configuration or {}).get("problem") or lb.configuration_problem or "it was not read"
        yield Finding(
            "configuration-unread",
            WARNING,
            f"timeouts, checks and sockets were not judged: {str(why).rstrip('.')}",
            "Run as root on the host of HAProxy, where its files are (rollout_become)",
            lb.name,
        )
        return
    unknown = _unknown(lb, settings)
    if unknown:
        yield Finding(
            "configuration-uncertain",
            NOTE,
            f"not judged, as variables or conditions of the configuration decide, or nothing in it tells: {some(unknown)}",
            "Look there by hand",
            lb.name,
        )
    connections = settings["stats_maxconn"]
    if connections["value"] is not None and connections["value"] < FEWEST_CONNECTIONS:
        problem = (
            f"the sockets take {connections['value']} connections at once: a rollout hangs while somebody else looks"
        )
        yield Finding(
            "stats-maxconn",
            WARNING,
            problem,
            f"In global: stats maxconn {FEWEST_CONNECTIONS} or more, 10 by default",
            lb.name,
            where=connections["where"],
        )
    silence = settings["stats_timeout"]
    if silence["value"] is not None and silence["value"] < SHORTEST_SILENCE:
        problem = f"the sockets close a connection that is silent for {spelled(silence['value'])}, which a call that waits may be"
        yield Finding("stats-timeout", WARNING, problem, "In global: stats timeout 2m", lb.name, where=silence["where"])


def _unknown(lb: Seen, settings: Answer) -> list[str]:
    """What would be judged, and cannot be."""
    own = {"stats_maxconn": "stats maxconn", "stats_timeout": "stats timeout", "hard_stop_after": "hard-stop-after"}
    names = [word for name, word in own.items() if not settings[name]["known"]]
    for backend in lb.backends:
        told = settings["backends"].get(backend)
        if told is None:
            names.append(f"backend {backend}")
            continue
        limits = {"timeout server": told["timeout_server"], "timeout tunnel": told["timeout_tunnel"]}
        limits.update({f"timeout client of {each['proxy']}": each["timeout"] for each in told["clients"]})
        names += [f"{word} ({backend})" for word, setting in limits.items() if not setting["known"]]
        names += [
            f"checks of {name} ({backend})"
            for name, server in lb.servers(backend).items()
            if server["health"] != "unchecked"
            and not server.get("tracks")
            and (told["servers"].get(name) or {}).get("fall_seconds") is None
        ]
    return names


def _backend(lb: Seen, backend: str, needs: Needs) -> Findings:
    settings = (((lb.configuration or {}).get("settings") or {}).get("backends") or {}).get(backend)
    yield from _algorithm(lb, backend, settings)
    yield from _unchecked(lb, backend, needs)
    if settings:
        yield from _slow_checks(lb, backend, settings, needs)
        yield from _timeouts(lb, backend, settings, needs)


def _algorithm(lb: Seen, backend: str, settings: Answer | None) -> Findings:
    algorithm = ((lb.reading or {}).get("backends") or {}).get(backend, {}).get("algorithm")
    where = settings["balance"]["where"] if settings else None
    kind = settings["hash_type"] if settings else {"value": None, "where": None}
    if algorithm in STATIC_ALGORITHMS or (algorithm in HASH_ALGORITHMS and kind["value"] == "map-based"):
        static = algorithm in STATIC_ALGORITHMS
        yield Finding(
            "static-algorithm",
            WARNING,
            f"with balance {algorithm}{'' if static else ' and a map-based hash'} HAProxy takes only 0 and 100 percent of a weight "
            "at run time, so no other share of the traffic can be given",
            "Use balance roundrobin" if static else "Use hash-type consistent",
            lb.name,
            backend,
            where=where if static else kind["where"] or where,
        )
    if algorithm in UNSHARED_ALGORITHMS:
        yield Finding(
            "unshared-algorithm",
            NOTE,
            f"with balance {algorithm} the traffic follows connections and not weights, so a share is only a wish",
            "Use balance roundrobin or random where shares matter",
            lb.name,
            backend,
            where=where,
        )


def _unchecked(lb: Seen, backend: str, needs: Needs) -> Findings:
    names = [name for name, server in lb.servers(backend).items() if server["health"] == "unchecked"]
    if names:
        yield Finding(
            "unchecked",
            NOTE if needs.allow_unchecked else ERROR,
            f"HAProxy does not check {some(names)}, so that nothing shows {are(names, 'that it is', 'that they are')} healthy, "
            + ("which rollout_allow_unchecked accepts" if needs.allow_unchecked else "and a rollout refuses it"),
            "Above the servers: default-server check inter 2s fall 3 rise 2",
            lb.name,
            backend,
            tuple(names),
        )


def _slow_checks(lb: Seen, backend: str, settings: Answer, needs: Needs) -> Findings:
    declared = {name: told for name, told in settings["servers"].items() if told and name in lb.servers(backend)}
    late = {name: told for name, told in declared.items() if (told["rise_seconds"] or 0) > needs.health_timeout}
    if late:
        longest = max(told["rise_seconds"] for told in late.values())
        yield Finding(
            "checks-rise",
            ERROR,
            f"checks take {spelled(longest)} to find {some(list(late))} UP, and rollout_health_timeout is "
            f"{spelled(needs.health_timeout)}, so that every step that waits for it fails",
            f"Use inter 2s rise 2, or a rollout_health_timeout above {spelled(longest)}",
            lb.name,
            backend,
            tuple(late),
            _first_place(late),
        )
    limit = max(needs.interval, SLOW_CHECK_SECONDS)
    slow = {name: told for name, told in declared.items() if (told["fall_seconds"] or 0) > limit}
    if slow:
        longest = max(told["fall_seconds"] for told in slow.values())
        yield Finding(
            "checks-fall",
            WARNING,
            f"checks take {spelled(longest)} to find that {some(list(slow))} died: it gets traffic as long, and polls every "
            f"{spelled(needs.interval)} see it healthy",
            "Use inter 2s fall 3",
            lb.name,
            backend,
            tuple(slow),
            _first_place(slow),
        )


def _first_place(told: t.Mapping[str, Answer]) -> str | None:
    place: str | None = next(iter(told.values()))["where"]
    return place


def _timeouts(lb: Seen, backend: str, settings: Answer, needs: Needs) -> Findings:
    limits = [("timeout server", backend, settings["timeout_server"])]
    limits += [("timeout client", each["proxy"], each["timeout"]) for each in settings["clients"]]
    endless = [limit for limit in limits if limit[2]["known"] and not limit[2]["value"]]
    for name, proxy, _setting in endless:
        yield Finding(
            "timeout-missing",
            WARNING,
            f"{proxy} has no `{name}`, so that a stuck connection stays for ever and holds up every drain for the whole "
            f"{spelled(needs.drain_timeout)} of rollout_drain_timeout",
            f"In {proxy} or its defaults: {name} 30s",
            lb.name,
            backend,
        )
    yield from _outlasting(lb, backend, [*limits, ("timeout tunnel", backend, settings["timeout_tunnel"])], needs)
    short = [limit for limit in limits if limit[2]["value"] and limit[2]["value"] < needs.drain_timeout]
    if short:
        name, proxy, setting = min(short, key=lambda limit: float(limit[2]["value"]))
        yield Finding(
            "timeout-short",
            NOTE,
            f"`{name}` of {proxy} ends a request that is silent for {spelled(setting['value'])}, though rollout_drain_timeout would wait "
            f"{spelled(needs.drain_timeout)} for it",
            "Nothing to do, unless longer requests are to survive a drain",
            lb.name,
            backend,
            where=setting["where"],
        )


def _outlasting(lb: Seen, backend: str, limits: t.Sequence[tuple[str, str, Answer]], needs: Needs) -> Findings:
    long = [limit for limit in limits if limit[2]["value"] and limit[2]["value"] > needs.drain_timeout]
    if not long:
        return
    name, proxy, setting = max(long, key=lambda limit: float(limit[2]["value"]))
    # Tunnels are silent as a matter of course, requests hardly ever.
    fails = name == "timeout tunnel" and needs.on_drain_timeout == "fail"
    then = {"fail": "the step fails", "cut": "it is cut", "continue": "it is left behind"}[needs.on_drain_timeout]
    yield Finding(
        "timeout-outlasts-drain",
        WARNING if fails else NOTE,
        f"`{name}` of {proxy} lets a connection be silent for {spelled(setting['value'])}, and a drain waits {spelled(needs.drain_timeout)} "
        f"(rollout_drain_timeout): then {then}",
        f"Raise rollout_drain_timeout, lower {name}, or set rollout_on_drain_timeout to what is to happen",
        lb.name,
        backend,
        where=setting["where"],
    )


def _hard_stop(lb: Seen, needs: Needs) -> Findings:
    setting = ((lb.configuration or {}).get("settings") or {}).get("hard_stop_after")
    if not setting or not setting["known"]:
        return
    longer = f"In global: hard-stop-after {spelled(2 * needs.drain_timeout or 60.0)}"
    if setting["value"] is None:
        problem = "there is no `hard-stop-after`, so that after a reload the old process may serve long connections for ever, which no drain can see"
        yield Finding("hard-stop-missing", NOTE, problem, longer, lb.name)
    elif setting["value"] < needs.drain_timeout:
        problem = (
            f"after a reload the old process cuts its connections after {spelled(setting['value'])}, though rollout_drain_timeout "
            f"would wait {spelled(needs.drain_timeout)} for them"
        )
        yield Finding("hard-stop-short", WARNING, problem, longer, lb.name, where=setting["where"])
