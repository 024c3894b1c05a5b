# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What an HAProxy configuration lacks for rollouts, each lack with the line that mends it."""

from __future__ import annotations

import re
import typing as t
from dataclasses import asdict, dataclass

from ansible_collections.steady.rollout.plugins.module_utils._haproxy_config import Section, parse

SLOW_CHECK_SECONDS = 10.0  # a dead server gets traffic for as long as its checks take to notice
SHORT_STATS_SECONDS = 30.0  # HAProxy's own 10 s end a connection that waits for a drain
STATIC_ALGORITHMS = ("static-rr", "source", "uri", "url_param", "hdr", "rdp-cookie", "hash")
CHECK_LINE = "default-server check inter 2s fall 3 rise 2, above its servers"
# Words of a server line that a name of somebody's choice follows.
NAMING = frozenset({"cookie", "guid", "namespace", "pool-conn-name", "redir", "resolvers"})
UNIT_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Finding:
    """One lack. ``required``: rollouts do not work, or not safely, without; else they work less well.

    ``problem`` is a sentence; ``line`` belongs into the section ``where``.
    """

    required: bool
    problem: str
    where: str
    line: str


# Backend -> its servers, as haproxy_backend_info returns them.
Running = t.Mapping[str, t.Sequence[t.Mapping[str, t.Any]]]


def readiness(texts: t.Sequence[str], socket: str, running: Running | None = None) -> dict[str, t.Any]:
    """Judge the configuration files of one HAProxy, given in HAProxy's order.

    ``socket``: where rollouts expect the admin socket. ``running``: what runs of it, as far as known. Returns ``findings``
    (list of dicts as Finding), ``messages`` (each finding told to a person) and ``backends`` (names of the proxies that
    have servers).
    """
    sections = parse(texts)
    top = _top(sections)
    backends = [section for section in sections if section.kind in ("backend", "listen") and server_lines(section)]
    findings = [
        *_socket_findings(top, socket),
        *_state_findings(top, backends),
        *_check_findings(backends, running or {}),
        *_weight_findings(backends),
        *_timeout_findings(top, sections),
    ]
    return {
        "findings": [asdict(finding) for finding in findings],
        "messages": [message(finding) for finding in findings],
        "backends": [section.name for section in backends],
    }


def message(finding: Finding) -> str:
    """The finding in one sentence and the line to change."""
    weight = "required" if finding.required else "advised"
    return f"{weight}: {finding.problem} In {finding.where}: {finding.line}"


def _top(sections: t.Sequence[Section]) -> Section:
    """All global sections as one, as HAProxy reads them."""
    lines = [line for section in sections if section.kind == "global" for line in section.lines]
    return Section("global", "", lines)


def _socket_findings(top: Section, socket: str) -> t.Iterator[Finding]:
    line = f"stats socket {socket} mode 600 level admin expose-fd listeners"
    sockets = [words[2:] for words in top.lines if words[:2] == ["stats", "socket"] and len(words) > 2]
    admin = [words for words in sockets if option(words, "level") == "admin"]
    if not admin:
        problem = "There is no admin socket, so nothing can change weights."
        if sockets:
            problem = f"The socket {sockets[0][0]} is not of level admin, so nothing can change weights."
        yield Finding(True, problem, "global", line)
        return
    for words in admin:
        mode = option(words, "mode") or ""
        if re.fullmatch(r"[0-7]+", mode) and int(mode, 8) & 0o002:
            yield Finding(True, f"Every user of the host may write to the admin socket {words[0]}.", "global", line)
        if is_open_to_the_network(words[0]):
            problem = f"The admin socket {words[0]} is open to the network, without a password."
            yield Finding(True, problem, "global", line)
    paths = [socket_path(words[0]) for words in admin if not is_open_to_the_network(words[0])]
    if paths and socket not in paths and not any("$" in path for path in paths):
        problem = f"The admin socket is at {paths[0]}, not at {socket}."
        yield Finding(True, problem, "the inventory", f"haproxy_socket and rollout_haproxy_socket: {paths[0]}")


def socket_path(address: str) -> str:
    return address[len("unix@") :] if address.startswith("unix@") else address


def is_open_to_the_network(address: str) -> bool:
    if address.startswith(("/", "unix@", "abns@", "abnsz@", "fd@", "sockpair@")):
        return False
    if "$" in address:
        return False  # a variable: what it holds is not known here
    return not re.match(r"(ipv[46]@|tcp[46]?@)?(127\.|localhost:|\[?::1\]?:)", address)


def _state_findings(top: Section, backends: t.Sequence[Section]) -> t.Iterator[Finding]:
    loading = [(section.words("load-server-state-from-file") or ["none"])[0] for section in backends]
    if not top.words("server-state-file") and any(scope != "local" for scope in loading or ["none"]):
        problem = "There is no server-state file, so a reload forgets every change made at run time."
        yield Finding(True, problem, "global", "server-state-file /var/lib/haproxy/server-state")
    forgetful = [section.name for section, scope in zip(backends, loading) if scope not in ("global", "local")]
    if forgetful:
        problem = f"A reload does not restore the servers of {_names(forgetful)}."
        yield Finding(True, problem, "defaults", "load-server-state-from-file global")


def _check_findings(backends: t.Sequence[Section], running: Running) -> t.Iterator[Finding]:
    for section in backends:
        unchecked = [words[1] for words in server_lines(section) if not is_checked(section, words)]
        if not unchecked:
            # Lines that hold only under a condition, or are not loaded yet, show here.
            servers = running.get(section.name, ())
            unchecked = [server["name"] for server in servers if server["health"] == "unchecked"]
        if unchecked:
            problem = f"HAProxy does not check {_names(unchecked)}, so nothing shows that they are healthy."
            yield Finding(True, problem, _where(section), CHECK_LINE)
        slow = [words[1] for words in server_lines(section) if _seconds_to_notice(section, words) > SLOW_CHECK_SECONDS]
        if slow:
            longest = max(_seconds_to_notice(section, words) for words in server_lines(section))
            problem = f"It takes {longest:g} seconds of failing requests until {_names(slow)} count as down."
            yield Finding(False, problem, _where(section), "default-server inter 2s fall 3, above its servers")


def _weight_findings(backends: t.Sequence[Section]) -> t.Iterator[Finding]:
    for section in backends:
        algorithm = (section.words("balance") or ["roundrobin"])[0].split("(")[0]
        consistent = (section.words("hash-type") or ["map-based"])[0] == "consistent"
        if algorithm == "static-rr" or (algorithm in STATIC_ALGORITHMS and not consistent):
            problem = (
                f"With balance {algorithm} HAProxy takes only 0 and 100 percent of a weight, so there is no canary."
            )
            line = "balance roundrobin" if algorithm == "static-rr" else "hash-type consistent"
            yield Finding(False, problem, _where(section), line)
        if algorithm == "leastconn":
            problem = "With balance leastconn a weight is not a share of the traffic, so a canary may get any share."
            yield Finding(False, problem, _where(section), "balance roundrobin")


def _timeout_findings(top: Section, sections: t.Sequence[Section]) -> t.Iterator[Finding]:
    stats = (top.words("stats", "timeout") or ["10s"])[0]
    if seconds(stats) < SHORT_STATS_SECONDS:
        problem = f"The admin socket closes a connection after {stats}, which a drain may outlast."
        yield Finding(False, problem, "global", "stats timeout 2m")
    sides = {"client": ("frontend", "listen"), "connect": ("backend", "listen"), "server": ("backend", "listen")}
    for name, kinds in sides.items():
        without = [section.name for section in sections if section.kind in kinds and not section.words("timeout", name)]
        if without:
            problem = f"There is no timeout {name} for {_names(without)}, so a stuck connection stays for ever."
            yield Finding(False, problem, "defaults", f"timeout {name} {'5s' if name == 'connect' else '30s'}")


def server_lines(section: Section) -> list[list[str]]:
    """The lines that declare servers, as words; the second word names the server or the template."""
    return [words for words in section.lines if words[0] in ("server", "server-template") and len(words) > 2]


def is_checked(section: Section, server: t.Sequence[str]) -> bool:
    for words in server_settings(section, server):
        for word in reversed(words):
            if word in ("check", "no-check"):
                return word == "check"
    # A server that tracks another takes its health from there.
    return "track" in server


def _seconds_to_notice(section: Section, server: t.Sequence[str]) -> float:
    """Seconds from the death of a server to the check that takes it out, if each check fails at once."""
    sources = list(server_settings(section, server))
    inter = next((value for words in sources if (value := option(words, "inter"))), "2s")
    fall = next((value for words in sources if (value := option(words, "fall"))), "3")
    return seconds(inter) * (int(fall) if fall.isdigit() else 3)


def server_settings(section: Section, server: t.Sequence[str]) -> t.Iterator[list[str]]:
    """The words that hold for a server, the deciding ones first: its own, then those of `default-server` lines.

    A `default-server` line holds for the servers below it only.
    """
    yield _without_names(server[3:])
    above = section.lines[: [id(words) for words in section.lines].index(id(server))]
    holder = section.defaults
    while True:
        yield from (_without_names(words[1:]) for words in reversed(above) if words[0] == "default-server")
        if not holder:
            return
        above, holder = holder.lines, holder.defaults


def _without_names(words: t.Sequence[str]) -> list[str]:
    """The words of a server without those that name something, and so may look like any other."""
    pairs = zip(["", *words], words)
    return [word for before, word in pairs if before not in NAMING]


def option(words: t.Sequence[str], name: str) -> str | None:
    """The word after the last ``name``; None where there is none."""
    found = [value for word, value in zip(words, words[1:]) if word == name]
    return found[-1] if found else None


def seconds(text: str) -> float:
    """A time as HAProxy writes it (`2s`, `200ms`, `5000` for milliseconds); endless for what is none."""
    found = re.fullmatch(r"(\d+)(us|ms|s|m|h|d)?", text)
    return int(found[1]) * UNIT_SECONDS[found[2] or "ms"] if found else float("inf")


def _where(section: Section) -> str:
    return f"{section.kind} {section.name}"


def _names(names: t.Sequence[str]) -> str:
    """At most three names, so that a sentence stays one with two hundred servers."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
