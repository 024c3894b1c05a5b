# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""An NGINX of this host, and the configuration it reads: found, read as one whole, and changed."""

from __future__ import annotations

import os
import re
import time
import typing as t
from dataclasses import dataclass, replace

from ansible_collections.steady.rollout.plugins.module_utils import _nginx_build as build
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_lines as lines
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_pending as pending
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_change import Nginx, change
from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError, Process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_readiness import keeps_idle
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import Server
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import Splice, replaced
from ansible_collections.steady.rollout.plugins.module_utils._nginx_tree import tree
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import (
    NginxConfigError,
    Upstream,
    algorithm_of,
    edits,
    find,
    reads_as,
    rewrite,
    upstreams,
    written,
)
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import Server as Line
from ansible_collections.steady.rollout.plugins.module_utils._program import run

PROGRAMS = ("nginx", "/usr/sbin/nginx", "/usr/local/nginx/sbin/nginx")
# From this version on a server can be in drain, which is of use where clients stick to servers.
DRAIN_SINCE = (1, 29, 6)
_PORT = re.compile(r"(.*):([0-9]+)\Z", re.DOTALL)


@dataclass(frozen=True)
class Running:
    """``is_loaded``: whether the files are what serves, as far as changes of ours go. All was read from the same bytes."""

    nginx: Nginx
    version: tuple[int, int, int]
    prefix: str
    files: DiskFiles
    upstreams: tuple[Upstream, ...]
    master: Process
    is_loaded: bool

    def servers(self, upstream: Upstream) -> list[Server]:
        """Raises NginxConfigError where two have the same address."""
        found = [_server(one) for one in upstream.servers]
        names = [one.name for one in found]
        twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
        if twice:
            raise NginxConfigError(
                f"upstream {upstream.name} has server {', '.join(twice)} more than once, so that it cannot be told which line is meant"
            )
        return found

    def algorithm(self, upstream: Upstream) -> str:
        return algorithm_of(upstream)

    def drains(self, upstream: Upstream) -> bool:
        """Whether a server can be in drain, and it makes a difference."""
        return self.version >= DRAIN_SINCE and "sticky" in upstream.directives

    def may_change(self, names: t.Sequence[str]) -> bool:
        """Whether the files with the servers of upstreams can be replaced, and the master be told to read them."""
        paths = {line.path for name in names for line in find(self.upstreams, name).servers}
        folders = {os.path.dirname(os.path.realpath(path)) for path in paths}
        return all(os.access(folder, os.W_OK) for folder in folders) and os.geteuid() in (0, _owner(self.master))

    def serve(self, backend: str, wanted: t.Sequence[Server]) -> Running:
        """Bring the lines of servers to what is wanted, have them served, and read them back. Raises LoadBalancerError, and then nothing was
        changed, unless the message says so."""
        aims = {one.name: one for one in wanted}
        notes = lines.known(self.nginx.config)
        splices: dict[str, list[Splice]] = {}
        old: dict[str, bytes] = {}
        for line in find(self.upstreams, backend).servers:
            aim = aims.get(line.key)
            if aim is None or (aim.weight, aim.state) == (line.weight, line.state):
                continue
            path, data = os.path.realpath(line.path), self.files.read(line.path)
            splices.setdefault(path, []).extend(_edited(notes, path, data, line, aim))
            old[path] = data
        self._refuse_shared(backend, splices)
        new = {path: replaced(data, splices[path]) for path, data in old.items()}
        change(self.nginx, old, new)
        lines.keep(self.nginx.config, notes)
        for path, data in new.items():
            with open(path, "rb") as stream:
                if stream.read() != data:
                    raise NginxConfigError(
                        f"read back, {path} is not what was written just now: somebody else changes it, too"
                    )
        return replace(self, is_loaded=True)

    def _refuse_shared(self, backend: str, splices: t.Mapping[str, t.Sequence[Splice]]) -> None:
        """A file of servers that two upstreams include has one line for both."""
        mine = find(self.upstreams, backend)
        paths: dict[str, str] = {}
        for other in self.upstreams:
            for line in other.servers if other is not mine else ():
                path = paths.setdefault(line.path, os.path.realpath(line.path))
                low, high = line.directive.start, line.directive.end
                if any(low <= start < high for start, _end, _new in splices.get(path, ())):
                    raise NginxConfigError(
                        f"the line of {line.address} in {line.path} is one of upstream {other.name}, too, which would change with it; give "
                        "each upstream lines of its own. Nothing was changed."
                    )

    def as_dict(self) -> dict[str, t.Any]:
        """``uptime``: seconds since the master started."""
        ticks = os.sysconf("SC_CLK_TCK")
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME) - self.master.started / ticks
        return {
            "pid": self.master.pid,
            "version": ".".join(map(str, self.version)),
            "uptime": int(uptime),
            "loaded": self.is_loaded,
            "keeps_idle": keeps_idle(tree(self.nginx.config, self.files), self.version),
        }


class Installed(t.NamedTuple):
    """An NGINX of this host, whether it runs or not. ``silence``: why there is no ``master``; "" where there is one."""

    nginx: Nginx
    version: tuple[int, int, int]
    prefix: str
    master: Process | None
    silence: str


def _edited(notes: lines.Notes, path: str, data: bytes, line: Line, aim: Server) -> list[Splice]:
    """What makes a line what is wanted: the line that it once was, where that is the same. Notes it."""
    wanted, key, now = (aim.weight, aim.state), lines.key_of(path, line.key), written(data, line)
    original, made = notes.get(key, (now, now))
    if made != now:
        original = now  # somebody else has written it since
    back = [rewrite(line, original)]
    splices = back if reads_as(data, line, back) == wanted else edits(data, line, *wanted)
    if reads_as(data, line, splices) != wanted:
        raise NginxConfigError(f"the line of {line.address} in {line.path} cannot be edited; nothing was changed")
    start = line.directive.start
    notes[key] = (original, replaced(now, [(low - start, high - start, text) for low, high, text in splices]))
    return splices


def running(config: str, reload_seconds: float) -> Running:
    """Raises LoadBalancerError: where it does not run, or what it reads cannot be read."""
    files = DiskFiles(config)
    known = upstreams(config, files)
    one = installed(config, files, reload_seconds)
    if one.master is None:
        raise NginxProcessError(one.silence)
    is_loaded = pending.is_loaded(config, one.master)
    return Running(one.nginx, one.version, one.prefix, files, known, one.master, is_loaded)


def installed(config: str, files: DiskFiles, reload_seconds: float = 30.0) -> Installed:
    """Raises LoadBalancerError: where there is none, or its configuration cannot be read."""
    program, built = _built(PROGRAMS)
    pid_file = build.pid_file_of(config, files, built)
    try:
        master = process.master_of(pid_file)
    except NginxProcessError as exc:
        nginx = Nginx(config, pid_file, (program,), reload_seconds)
        return Installed(nginx, built.version, built.prefix, None, str(exc))
    # What was replaced on disk is still that name.
    running_program = os.path.realpath(f"/proc/{master.pid}/exe").removesuffix(" (deleted)")
    program = running_program if os.path.exists(running_program) else program
    words = master.title.split()
    prefix = words[words.index("-p") + 1] if "-p" in words[:-1] else built.prefix
    if "-c" in words[:-1]:
        own = os.path.join(prefix, words[words.index("-c") + 1])
        if os.path.realpath(own) != os.path.realpath(config):
            raise NginxProcessError(
                f"the nginx that runs (its master is {master.pid}) was started with {own}, not with {config}; name that one (in a rollout "
                "with rollout_nginx_config)"
            )
    command = (program, "-p", prefix) if "-p" in words else (program,)
    return Installed(Nginx(config, pid_file, command, reload_seconds), built.version, prefix, master, "")


def _built(programs: t.Sequence[str]) -> tuple[str, build.Build]:
    """The first of the programs that is there, and what it was built with."""
    for program in programs:
        try:
            _code, output, errors = run([program, "-V"])
        except FileNotFoundError:
            continue
        return program, build.build_of(output + errors)
    raise LoadBalancerError("there is no program nginx on this host")


def _server(line: Line) -> Server:
    found = _PORT.match(line.key)
    unix = line.key.startswith("unix:")
    address, port = (line.key, None) if unix or not found else (found[1].strip("[]"), int(found[2]))
    return Server(line.key, address, port, line.weight, line.state, line.backup, line.max_connections)


def _owner(one: Process) -> int:
    try:
        return os.stat(f"/proc/{one.pid}").st_uid
    except OSError:
        return -1
