# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Keeps the guard running while a lease is in force: a systemd unit that survives a reboot, or else a detached process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._fence import armed_backends
from ansible_collections.steady.rollout.plugins.module_utils._files import replace_file
from ansible_collections.steady.rollout.plugins.module_utils._guard_lock import is_running
from ansible_collections.steady.rollout.plugins.module_utils._state import DEFAULT_STATE_DIR, StateError

KINDS = ("auto", "systemd", "process", "off")
LOG = "@guard.log"
UNITS = "/etc/systemd/system"
DETACH = 'setsid "$0" -I "$1" "$2" </dev/null >/dev/null 2>>"$3" &'
START_SECONDS = 10.0
POLL_SECONDS = 0.02

UNIT = """\
# Made by steady.rollout while a rollout is under way, and removed at its end.
[Unit]
Description=Return traffic to its safe state when a rollout is abandoned ({state_dir})
After=network.target haproxy.service nginx.service

[Service]
ExecStart="{python}" -I "{program}" "{state_dir}"
Restart=on-failure
RestartSec=1
NoNewPrivileges=yes
# NGINX's configuration is written: it is in /etc, or below /usr/local where it was built by hand.
ProtectSystem=yes
ReadWritePaths=-/usr/local
ProtectHome=read-only
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
# `nginx -t` binds the ports, and a master may be another user's.
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_CHOWN CAP_FOWNER CAP_SYS_PTRACE CAP_NET_BIND_SERVICE CAP_KILL

[Install]
WantedBy=multi-user.target
"""


# Runs a command: its exit code, its output and its errors. A module's run_command.
Run = t.Callable[[list[str]], tuple[int, str, str]]


@dataclass(frozen=True)
class Service:
    """The guard of one state directory. ``kind``: one of KINDS."""

    state_dir: str
    kind: str
    run: Run

    def ensure(self) -> None:
        """Have it run. Raises StateError when it does not."""
        if self.kind == "off" or is_running(self.state_dir):
            return
        # Only here: nearly always the guard runs already.
        from ansible_collections.steady.rollout.plugins.module_utils._guard_program import install

        try:
            program = install(self.state_dir)
            if self.kind == "systemd" or (self.kind == "auto" and _has_systemd()):
                self._start_unit(program)
            else:
                self._start_process(program)
        except OSError as exc:
            raise StateError(f"the guard cannot be started: {exc}") from exc
        deadline = time.monotonic() + START_SECONDS
        while not is_running(self.state_dir):
            if time.monotonic() >= deadline:
                where = _where_it_says(self.state_dir)
                raise StateError(f"the guard does not run {START_SECONDS:g} s after it was started; see {where}")
            time.sleep(POLL_SECONDS)

    def dismiss(self) -> None:
        """Remove the unit when no lease is left. A detached guard ends by itself. What fails is left for the next end."""
        unit = unit_name(self.state_dir)
        if not os.path.exists(os.path.join(UNITS, unit)) or armed_backends(self.state_dir):
            return
        with contextlib.suppress(OSError):
            self._systemctl("disable", "--now", unit)
            os.unlink(os.path.join(UNITS, unit))
            self._systemctl("daemon-reload")

    def _start_process(self, program: str) -> None:
        """In a session of its own, so that it does not end with the connection that started it."""
        log = os.path.join(self.state_dir, LOG)
        code, output, errors = self.run(["/bin/sh", "-c", DETACH, sys.executable, program, self.state_dir, log])
        if code != 0:
            raise OSError(f"setsid failed with {code}: {(errors or output).strip()}")

    def _start_unit(self, program: str) -> None:
        unit = unit_name(self.state_dir)
        replace_file(os.path.join(UNITS, unit), unit_text(self.state_dir, program, sys.executable), 0o644)
        self._systemctl("daemon-reload")
        self._systemctl("enable", unit)
        self._systemctl("restart", unit)

    def _systemctl(self, *arguments: str) -> None:
        code, output, errors = self.run(["systemctl", *arguments])
        if code != 0:
            raise OSError(f"systemctl {' '.join(arguments)} failed with {code}: {(errors or output).strip()}")


def unit_name(state_dir: str) -> str:
    """One unit for each state directory."""
    if os.path.normpath(state_dir) == DEFAULT_STATE_DIR:
        return "steady-rollout-guard.service"
    return f"steady-rollout-guard-{hashlib.sha256(state_dir.encode()).hexdigest()[:8]}.service"


def unit_text(state_dir: str, program: str, python: str) -> str:
    def quoted(path: str) -> str:
        return path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")

    return UNIT.format(state_dir=quoted(state_dir), program=quoted(program), python=quoted(python))


def _has_systemd() -> bool:
    return os.geteuid() == 0 and os.path.isdir("/run/systemd/system") and shutil.which("systemctl") is not None


def _where_it_says(state_dir: str) -> str:
    unit = unit_name(state_dir)
    if os.path.exists(os.path.join(UNITS, unit)):
        return f"journalctl -u {unit}"
    return os.path.join(state_dir, LOG)
