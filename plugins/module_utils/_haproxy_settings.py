# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The few settings of an HAProxy configuration that rollouts depend on, as plain data with their places. Pure.

A setting is `{known, value, where}`: ``where`` is `file:line`, or None for HAProxy's own default; ``value`` is None where nothing
is set, and also where ``known`` is False, as the text holds a variable or lines that count only under a condition.
"""

from __future__ import annotations

import math
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._haproxy_config import CONDITIONS, Section, parse
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_readiness import (
    is_checked,
    is_open_to_the_network,
    option,
    seconds,
    server_lines,
    server_settings,
    socket_path,
)

Setting = dict[str, t.Any]
# What HAProxy takes where nothing is set.
STATS_MAXCONN, STATS_TIMEOUT = "10", "10s"
INTER, RISE, FALL = "2s", "2", "3"


def settings(files: t.Sequence[tuple[str, str]], running: t.Mapping[str, t.Sequence[str]]) -> dict[str, t.Any]:
    """``files``: (path, text) in HAProxy's order; ``running``: names of the servers of the backends that matter."""
    sections = parse([text for _path, text in files])
    return _Reader(sections, files).read(running)


class _Reader:
    def __init__(self, sections: t.Sequence[Section], files: t.Sequence[tuple[str, str]]) -> None:
        self._sections = sections
        lines = [f"{path}:{number}" for path, text in files for number in range(1, len(text.splitlines()) + 1)]
        self._places = {
            id(words): lines[number] for section in sections for words, number in zip(section.lines, section.numbers)
        }
        # Which lines count is not known where conditions decide.
        self._certain = not any(line[0] in CONDITIONS for section in sections for line in section.lines)
        self._global = Section(
            "global", "", [line for section in sections if section.kind == "global" for line in section.lines]
        )

    def read(self, running: t.Mapping[str, t.Sequence[str]]) -> dict[str, t.Any]:
        return {
            "sockets": self._sockets(),
            "stats_maxconn": self._number(self._global, ("stats", "maxconn"), STATS_MAXCONN),
            "stats_timeout": self._time(self._global, ("stats", "timeout"), STATS_TIMEOUT),
            "hard_stop_after": self._time(self._global, ("hard-stop-after",)),
            "backends": {name: self._backend(name, servers) for name, servers in running.items()},
        }

    def _sockets(self) -> list[dict[str, t.Any]]:
        return [
            {
                "address": socket_path(words[2]),
                "level": option(words, "level") or "operator",
                "mode": option(words, "mode"),
                "network": is_open_to_the_network(words[2]),
                "where": self._places[id(words)],
            }
            for words in self._global.lines
            if words[:2] == ["stats", "socket"] and len(words) > 2
        ]

    def _backend(self, name: str, servers: t.Sequence[str]) -> dict[str, t.Any] | None:
        """None where the configuration does not have it by this name."""
        found = [each for each in self._sections if each.kind in ("backend", "listen") and each.name == name]
        if not found:
            return None
        section = found[-1]
        return {
            "balance": self._word(section, ("balance",), "roundrobin"),
            "hash_type": self._word(section, ("hash-type",), "map-based"),
            "timeout_server": self._time(section, ("timeout", "server")),
            "timeout_tunnel": self._time(section, ("timeout", "tunnel")),
            "clients": [
                {"proxy": each.name, "timeout": self._time(each, ("timeout", "client"))}
                for each in self._sections
                if self._leads_to(each, name) or (each is section and section.kind == "listen")
            ],
            "servers": {server: self._server(section, server) for server in servers},
        }

    def _leads_to(self, section: Section, backend: str) -> bool:
        return section.kind in ("frontend", "listen") and any(
            words[0] in ("default_backend", "use_backend") and words[1:2] == [backend] for words in section.lines
        )

    def _server(self, section: Section, name: str) -> dict[str, t.Any] | None:
        """How it is checked; None where no line declares it, as it was added at run time."""
        words = next((words for words in server_lines(section) if _declares(words, name)), None)
        if words is None:
            return None
        sources = list(server_settings(section, words))
        told: dict[str, t.Any] = {"where": self._places[id(words)], "fall_seconds": None, "rise_seconds": None}
        own_checks = is_checked(section, words) and "track" not in words
        if not self._certain or not own_checks:
            return {**told, "checked": is_checked(section, words) if self._certain else None}

        def given(name: str, default: str) -> str:
            return next((value for each in sources if (value := option(each, name))), default)

        inter = given("inter", INTER)
        first_up, between = _seconds(given("downinter", inter)), _seconds(given("fastinter", inter))
        rise, fall, first_down = _count(given("rise", RISE)), _count(given("fall", FALL)), _seconds(inter)
        return {
            **told,
            "checked": True,
            "fall_seconds": _until(first_down, between, fall),
            "rise_seconds": _until(first_up, between, rise),
        }

    def _word(self, section: Section, keyword: tuple[str, ...], default: str | None = None) -> Setting:
        """The first word after the last line that starts with ``keyword``, here or in the defaults."""
        holder: Section | None = section
        while holder:
            for line in reversed(holder.lines):
                if tuple(line[: len(keyword)]) == keyword:
                    value = line[len(keyword)] if len(line) > len(keyword) else None
                    known = self._certain and value is not None and "$" not in value
                    return {"known": known, "value": value if known else None, "where": self._places[id(line)]}
            holder = holder.defaults
        return {"known": self._certain, "value": default if self._certain else None, "where": None}

    def _time(self, section: Section, keyword: tuple[str, ...], default: str | None = None) -> Setting:
        """In seconds."""
        return _converted(self._word(section, keyword, default), _seconds)

    def _number(self, section: Section, keyword: tuple[str, ...], default: str) -> Setting:
        return _converted(self._word(section, keyword, default), _count)


def _converted(found: Setting, convert: t.Callable[[str], t.Any]) -> Setting:
    if found["value"] is None:
        return found
    value = convert(found["value"])
    return {**found, "known": value is not None, "value": value}


def _declares(words: t.Sequence[str], name: str) -> bool:
    """Whether a `server` or `server-template` line declares the server."""
    if words[0] == "server":
        return words[1] == name
    return name.startswith(words[1]) and name[len(words[1]) :].isdigit()


def _seconds(text: str) -> float | None:
    found = seconds(text)
    return None if math.isinf(found) else round(found, 6)


def _count(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _until(first: float | None, between: float | None, times: int | None) -> float | None:
    """Seconds until so many checks have agreed: HAProxy hurries once a first one differs (fastinter)."""
    if first is None or between is None or times is None:
        return None
    return round(first + between * max(0, times - 1), 6)
