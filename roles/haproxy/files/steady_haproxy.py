# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Called by HAProxy's unit: keeps weights and states across reloads and restarts, and tells whether a reload worked.

    steady-haproxy save     write the servers' runtime state to the file that HAProxy loads at its next start
    steady-haproxy reload   save, have the master with this pid reload, and wait until a new worker answers
    steady-haproxy pending  exit with 0 if the configuration is newer than the worker that runs

It never changes a running HAProxy other than by the reload asked for.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
import tempfile
import time

ANSWER_SECONDS = 5
POLL_SECONDS = 0.1
NAME, PORT = 3, 18  # columns of `show servers state`, format version 1
SECTION = re.compile(r"(defaults|frontend|backend|listen)\s+(\S+)")
SERVER = re.compile(r"\s*server\s+(\S+)\s+(\S+):(\d+)(\s|$)")


class Failure(Exception):
    """What was asked for cannot be done; the message is for a person."""


def main() -> int:
    arguments = read_arguments()
    try:
        return int(arguments.command(arguments) or 0)
    except Failure as failure:
        print(f"steady-haproxy: {failure}", file=sys.stderr)
        return 1


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="steady-haproxy", description="Keep HAProxy's runtime state.")
    parser.add_argument("--socket", required=True, help="path of the admin socket")
    parser.add_argument("--state-file", required=True, help="HAProxy's server-state-file")
    parser.add_argument("--config", required=True, help="HAProxy's configuration file")
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("save").set_defaults(command=save)
    commands.add_parser("pending").set_defaults(command=pending)
    reload = commands.add_parser("reload")
    reload.add_argument("--timeout", type=float, required=True, help="seconds until a new worker must answer")
    reload.add_argument("pid", type=int, help="pid of HAProxy's master")
    reload.set_defaults(command=reload_haproxy)
    return parser.parse_args()


def save(arguments: argparse.Namespace) -> None:
    """Write the state file. Raises Failure, and then leaves the file as it was."""
    reply = ask(arguments.socket, "show servers state")
    if not is_whole_state(reply):
        raise Failure(f"HAProxy did not tell the whole state of its servers, it said: {reply.strip()[:200]!r}.")
    try:
        with open(arguments.config, encoding="utf-8", errors="surrogateescape") as stream:
            ports = configured_ports(stream.read())
        replace(arguments.state_file, with_ports(reply, ports))
    except OSError as error:
        raise Failure(f"the state is not saved: {error}.") from error


def reload_haproxy(arguments: argparse.Namespace) -> None:
    """Reload, and prove it: HAProxy keeps its old worker when it cannot use the new configuration, and says nothing."""
    before = worker_pid(arguments.socket)
    try:
        save(arguments)
    except Failure as failure:
        # A reload must not be impossible because the socket is what has to be mended.
        print(f"steady-haproxy: weights and states are those of the last save: {failure}", file=sys.stderr)
    asked = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.kill(arguments.pid, signal.SIGUSR2)
    end = time.monotonic() + arguments.timeout
    while time.monotonic() < end:
        now = worker_pid(arguments.socket)
        # The old worker too may be the first to answer, if it was too busy before the reload.
        if now and now != before and is_younger(now, asked):
            return
        time.sleep(POLL_SECONDS)
    raise Failure(
        f"no new worker answered on {arguments.socket} within {arguments.timeout:g} seconds of the reload; "
        + (f"the old one (pid {before}) goes on with the old configuration." if before else "none answered before.")
    )


def pending(arguments: argparse.Namespace) -> int:
    """0 if the worker started before the configuration was last written, else 3."""
    pid = worker_pid(arguments.socket)
    if not pid:
        raise Failure(f"no worker answers on {arguments.socket}.")
    return 0 if os.stat(arguments.config).st_mtime > start_time(pid) else 3


def start_time(pid: int) -> float:
    """When a process started, in seconds of the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + seconds_after_boot(pid)


def is_younger(pid: int, moment: float) -> bool:
    """Whether a process started at or after a moment of CLOCK_BOOTTIME; False if it is gone."""
    tick = 1 / os.sysconf("SC_CLK_TCK")
    try:
        return seconds_after_boot(pid) >= moment - tick
    except OSError:
        return False


def seconds_after_boot(pid: int) -> float:
    """When a process started, by CLOCK_BOOTTIME, rounded down to a tick. HAProxy's own Uptime_sec is too coarse."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
        return int(stream.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def worker_pid(path: str) -> int | None:
    """Pid of the worker that answers; None where none does."""
    try:
        found = re.search(r"^Pid: (\d+)", ask(path, "show info"), re.MULTILINE)
    except Failure:
        return None
    return int(found[1]) if found else None


def ask(path: str, command: str) -> str:
    """HAProxy's whole reply to one command."""
    parts = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(path)
            connection.sendall(command.encode() + b"\n")
            while part := connection.recv(65536):
                parts.append(part)
        except OSError as error:
            raise Failure(f"no answer to `{command}` on {path}: {error}.") from error
    return b"".join(parts).decode(errors="surrogateescape")


def is_whole_state(reply: str) -> bool:
    """Whether a reply is all of `show servers state`: a reply ends with a blank line, each row is as wide as the header."""
    version, _newline, rest = reply.partition("\n")
    header, *rows = rest.split("\n")
    if version != "1" or not header.startswith("# ") or rows[-2:] != ["", ""]:
        return False
    width = len(header.split()) - 1
    return width > PORT and all(len(row.split(" ")) == width for row in rows[:-2])


def configured_ports(text: str) -> dict[tuple[str, str], str]:
    """(backend, server) -> port of each server line of a configuration that has a port."""
    ports = {}
    section = ""
    for line in text.splitlines():
        if line[:1].isalpha():
            found = SECTION.match(line)
            section = found[2] if found else ""
        elif (server := SERVER.match(line)) and section:
            ports[section, server[1]] = server[3]
    return ports


def with_ports(state: str, ports: dict[tuple[str, str], str]) -> str:
    """The state with these ports: HAProxy would prefer a saved port to one that has changed in its configuration."""
    rows = []
    for row in state.splitlines():
        columns = row.split(" ")
        if len(columns) > PORT:
            columns[PORT] = ports.get((columns[1], columns[NAME]), columns[PORT])
        rows.append(" ".join(columns))
    return "\n".join(rows) + "\n"


def replace(path: str, text: str) -> None:
    """Put a text in place of a file in one step: HAProxy must never load half of it."""
    directory = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=".server-state.", dir=directory)  # mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


if __name__ == "__main__":
    sys.exit(main())
