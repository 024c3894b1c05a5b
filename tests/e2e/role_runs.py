# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of a role of ours on a test host, and what they did to it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import typing as t
from dataclasses import dataclass

from e2e.hosts import Host

PLAY_SECONDS = 240


@dataclass
class Run:
    """What a run of the role said."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        found = re.search(r"changed=(\d+)", self.output)
        assert found, self.output
        return int(found[1])


def apply(role: str, host: Host, folder: pathlib.Path, variables: t.Mapping[str, t.Any], *flags: str) -> Run:
    """Run a role on a host with these variables."""
    return play(host, folder, {"roles": [f"steady.rollout.{role}"], "vars": dict(variables)}, *flags)


def play(
    host: Host, folder: pathlib.Path, content: t.Mapping[str, t.Any], *flags: str, names: t.Sequence[str] = ("lb1",)
) -> Run:
    """Run a play of one's own on a host, which is all hosts of these names."""
    with started(host, folder, content, *flags, names=names) as process:
        output, _nothing = process.communicate(timeout=PLAY_SECONDS)
    return Run(process.returncode, output)


@contextlib.contextmanager
def started(
    host: Host, folder: pathlib.Path, content: t.Mapping[str, t.Any], *flags: str, names: t.Sequence[str] = ("lb1",)
) -> t.Iterator[subprocess.Popen[str]]:
    """A play that runs meanwhile; it is killed in the end, with all that it started."""
    (folder / "play.json").write_text(json.dumps([{"hosts": "all", "gather_facts": False, **content}]))
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": dict.fromkeys(names, host.inventory)}}))
    program = pathlib.Path(sys.executable).with_name("ansible-playbook")
    command = [str(program), "-i", str(folder / "inventory.json"), str(folder / "play.json"), *flags]
    env = {**os.environ, "ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "true"}
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def written(host: Host) -> set[str]:
    """The files that differ from the image, without what every run of Ansible and the system itself write."""
    done = subprocess.run(["docker", "diff", host.id], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    passing = re.compile(
        r". /(root|run|tmp|var/cache/apt|var/log|var/tmp|var/lib/systemd|etc/machine-id)\b|.*__pycache__|C "
    )
    return {line for line in done.stdout.splitlines() if not passing.match(line)}
