# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Where NGINX logs the requests of an upstream in the format that they can be counted by. Pure.

Where a level of the configuration has an `access_log`, it replaces all those of the levels around it, so one line in a server can
take its requests out of the log that all others share. A request that nobody counts would be missing in every verdict.
"""

from __future__ import annotations

import os
import re
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import FORMAT_NAME, HTTP_FORMAT, STREAM_FORMAT
from ansible_collections.steady.rollout.plugins.module_utils._nginx_tree import Node, Nodes, named, tree, within
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import Files, Upstream

DEFAULT_PATH = "/var/log/nginx/steady-rollout.log"
FORMATS = {"http": HTTP_FORMAT, "stream": STREAM_FORMAT}
PASSING = {
    "http": ("proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"),
    "stream": ("proxy_pass",),
}
# These blocks are a part of the location around them: what it passes, they pass.
PARTS = ("if", "limit_except")
# A place like http://NAME, as far as its path, and what may follow: variables that begin with one.
_TARGET = re.compile(
    r"(?:[a-z]+://)?([^/?#$]+)(?:[/?#]|\$\{?(?:request_uri|uri|document_uri|is_args)\b|\Z)", re.IGNORECASE
)
# The words of an access_log that lose lines, or keep them back.
_LOSING, _DELAYING = re.compile(r"(?:if|gzip)\b"), re.compile(r"(?:buffer|flush)=")


@dataclass(frozen=True)
class Logged:
    """``path``: the absolute path of the log that has all requests of an upstream; None where there is none.

    ``lack``: what is wrong, in a sentence, "" where nothing is; also beside a path, where the log is only late. ``where`` and
    ``line``: the place of the configuration that the line belongs to.
    """

    path: str | None
    lack: str = ""
    where: str = ""
    line: str = ""

    @property
    def problem(self) -> str:
        """What is wrong and what to write where; "" where nothing is wrong."""
        return f"{self.lack} In {self.where}: {self.line}" if self.where else self.lack


class Place(t.NamedTuple):
    """Where requests are passed to a name. ``node``: what does that; ``logs``: the `access_log` directives that hold there."""

    target: str
    node: Node
    logs: Nodes


def log_of(main: str, files: Files, upstream: Upstream, prefix: str) -> Logged:
    """Where the requests of an upstream are logged. ``prefix``: nginx's own, for relative paths. Raises NginxConfigError."""
    return logged(tree(main, files), upstream, prefix)


def logged(top: Nodes, upstream: Upstream, prefix: str) -> Logged:
    """As ``log_of``, of a configuration that was read already.

    Where nothing passes requests to the upstream by its name, some variable may, and the level of `http` or `stream` decides.
    """
    kind, name = upstream.kind, upstream.name
    block = named(top, kind)[0]
    level = within(top, kind)
    lack = _format_lack(block, level)
    if lack:
        return lack
    places = [one for one in _places(level, kind, ()) if one.target == name.lower()]
    found = [_logged_at(f"What {one.node.where} passes to {name}", one.logs, block) for one in places]
    found = found or [_logged_at(f"What is passed to {name}", named(level, "access_log"), block)]
    found = [replace(one, path=_absolute(one.path, prefix)) for one in found]
    for one in found:
        if one.path is None:
            return one
    other = next((number for number, one in enumerate(found) if one.path != found[0].path), None)
    if other is not None:
        lack_of_one = f"What {places[other].node.where} passes to {name} is logged in {found[other].path}, and only one file is counted."
        return Logged(None, lack_of_one, places[other].logs[-1].where, _log_line(str(found[0].path)))
    return next((one for one in found if one.lack), found[0])


def _absolute(path: str | None, prefix: str) -> str | None:
    return None if path is None else os.path.normpath(os.path.join(prefix, path))


def _format_lack(block: Node, level: Nodes) -> Logged | None:
    """What is wrong with the format itself; None where nothing is."""
    wanted = f"log_format {FORMAT_NAME} '{FORMATS[block.name]}';"
    formats = [node for node in named(level, "log_format") if node.words[:1] == (FORMAT_NAME,)]
    if not formats:
        lack = f"There is no log in the format {FORMAT_NAME}, so nothing counts requests."
        return Logged(None, lack, _place_of(block), f"{wanted} {_log_line(_path_of_ours(level))}")
    for node in formats:
        words = node.words[2:] if node.words[1:2] and node.words[1].startswith("escape=") else node.words[1:]
        if "".join(words) != FORMATS[block.name]:
            return Logged(None, f"The format {FORMAT_NAME} is not the one that is counted.", node.where, wanted)
    return None


def _places(nodes: Nodes, kind: str, logs: Nodes, around: str = "") -> t.Iterator[Place]:
    """All places that pass to a literal name, in and below a block. ``around``: what the location that it is a part of passes to."""
    own = named(nodes, "access_log")
    logs = own or logs
    passes = [Place(target, node, logs) for node in named(nodes, *PASSING[kind]) if (target := _target(node))]
    yield from passes
    if around and own and not named(nodes, "return", *PASSING[kind]):
        yield Place(around, own[-1], logs)
    target = passes[-1].target if passes else around
    for node in nodes:
        if node.name != "upstream" and node.nodes:
            yield from _places(node.nodes, kind, logs, target if node.name in PARTS else "")


def _target(node: Node) -> str:
    """The name that requests are passed to, as nginx compares it; "" where a variable has it."""
    found = _TARGET.match(node.words[0]) if node.words else None
    return found[1].lower() if found else ""


def _logged_at(requests: str, logs: Nodes, block: Node) -> Logged:
    """The one log of ours among those that hold for ``requests``, the path as it is written."""
    ours = [node for node in logs if node.words[1:2] == (FORMAT_NAME,)]
    off = [node for node in logs if node.words[:1] == ("off",)]
    if off or not ours:
        how = "at all" if off else f"in the format {FORMAT_NAME}"
        where = (off or logs)[-1].where if logs else _place_of(block)
        return Logged(
            None, f"{requests} is not logged {how}, so nothing counts it.", where, _log_line(_path_of_ours(block.nodes))
        )
    if len(ours) > 1:
        lack = f"{requests} is logged {len(ours)} times in the format {FORMAT_NAME}."
        return Logged(None, lack, ours[-1].where, f"no second access_log with {FORMAT_NAME}")
    return _usable(ours[0])


def _usable(log: Node) -> Logged:
    """Whether a log is a file with all lines in it."""
    path = log.words[0]
    if path.startswith(("syslog:", "/dev/")) or "$" in path:
        lack = f"A log that is counted must be one plain file, not {path}."
        return Logged(None, lack, log.where, _log_line(DEFAULT_PATH))
    losing = [word for word in log.words[2:] if _LOSING.match(word)]
    if losing:
        lack = f"The log {path} cannot be counted with {' '.join(losing)}: requests are missing in it, or it is compressed."
        return Logged(None, lack, log.where, _log_line(path))
    delaying = [word for word in log.words[2:] if _DELAYING.match(word)]
    if delaying:
        lack = f"With {' '.join(delaying)} requests are counted late in {path}, so a bad release is noticed late."
        return Logged(path, lack, log.where, _log_line(path))
    return Logged(path)


def _place_of(block: Node) -> str:
    return f"{block.name} ({block.where})"


def _path_of_ours(level: Nodes) -> str:
    """The path that is used already, else the usual one."""
    ours = [node.words[0] for node in named(level, "access_log") if node.words[1:2] == (FORMAT_NAME,)]
    return ours[0] if ours else DEFAULT_PATH


def _log_line(path: str) -> str:
    return f"access_log {path} {FORMAT_NAME};"
