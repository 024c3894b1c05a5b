# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader who does on a local fleet what a README shows, word by word.

What a README cannot know is beside its inventory: how this fleet's hosts are reached, and where their files are. DURATIONS and
`hurried` are all that is replaced, so that nobody waits for minutes. What is to be deployed is the role `shop`, in the roles path, also where an
example leaves it to the role release: this fleet has no units of systemd. tests/e2e/test_role_release.py has hosts that do.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import typing as t

from e2e.rollouts import RELEASE, Result, Rollouts, Running
from local_fleet.layout import Options
from readmes import Example, commands

OLD = "1.4.1"  # what the READMEs say runs before
BLUE, GREEN = ("web1", "web2", "web3"), ("web4", "web5", "web6")
SHOP = (*BLUE, *GREEN)
COLOURS = {**dict.fromkeys(BLUE, "blue"), **dict.fromkeys(GREEN, "green")}
# For how long something is looked at, in seconds. Deadlines stay as they are.
DURATIONS: dict[str, t.Any] = {
    "rollout_probe": {"interval": 0.1},
    "rollout_analysis": {"interval": 0.5},
    "blue_green_bake": 2,
    "canary_step_for": 1,
    "canary_min_healthy_time": 1,
    "rolling_min_healthy_time": 1,
}
PLACES = ("rollout_haproxy_socket", "rollout_state_dir", "fleet_release_file")


def hurried(text: str) -> str:
    """An example whose steps take seconds, not minutes."""
    return re.sub(r"\bfor: \d+m\b", "for: 4s", text)


class Reader(Rollouts):
    """A reader with a shell in a folder of theirs, the desk, and a fleet as the READMEs have it: six hosts, UP.

    `collections` is where Ansible looks for collections first, if not where the tests do.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        apps: int = len(SHOP),
        desk: pathlib.Path | None = None,
        collections: pathlib.Path | None = None,
    ) -> None:
        super().__init__(folder, Options(apps=apps, release=OLD, tracks=COLOURS), {}, {})
        self.desk = desk or folder / "desk"
        self.desk.mkdir(exist_ok=True)
        self._collections = collections
        self.write_role("shop", [RELEASE])

    def __enter__(self) -> Reader:
        super().__enter__()
        return self

    @property
    def inventory(self) -> pathlib.Path:
        return self.desk / "inventory.yml"

    def write_inventory(self, *_change: t.Any) -> None:
        """Write what an example's inventory lacks on this machine, beside it: it is the example's own otherwise."""
        everybody = self.fleet.layout.inventory()["all"]
        shared = {name: value for name, value in everybody["vars"].items() if name.startswith(("ansible_", "fleet_"))}
        self.write_places("group_vars", "all", {**shared, "rollout_deploy": {"role": "shop"}, **DURATIONS})
        for group in ("lb", "app"):
            for host, variables in everybody["children"][group]["hosts"].items():
                places = {name: variables[name] for name in PLACES if name in variables}
                self.write_places("host_vars", host, {**places, "ansible_become": False})

    def write_places(self, kind: str, name: str, variables: t.Mapping[str, t.Any]) -> None:
        """Write variables of a host (`host_vars`) or a group (`group_vars`)."""
        (self.desk / kind).mkdir(exist_ok=True)
        (self.desk / kind / f"{name}.json").write_text(json.dumps(variables))

    def write(self, name: str, example: Example) -> None:
        """Put an example into a file on the desk."""
        (self.desk / name).write_text(hurried(example.text))

    def command(self, command: str) -> Result:
        """What a command in the reader's shell does."""
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        folder.mkdir()
        running = Running(["sh", "-ec", command], folder, self._environment(), self.niceness, self.desk)
        self._stack.callback(running.kill)
        return running.result()

    def playbook(self, name: str) -> Result:
        """Run a playbook that is on the desk, with the inventory."""
        return self.command(f"ansible-playbook -i inventory.yml {name}")

    def quick_start(self, example: Example) -> list[str]:
        """Write the inventory of the quick start; return the commands that follow."""
        first, *others = commands(example.text)
        written = self.command(first)
        assert written.code == 0, written.output
        return others

    def _environment(self) -> dict[str, str]:
        env = super()._environment()
        env["PATH"] = os.pathsep.join([str(pathlib.Path(sys.executable).parent), env["PATH"]])
        if self._collections:
            # Nothing but what the reader installs there.
            env["ANSIBLE_COLLECTIONS_PATH"] = str(self._collections)
            del env["PYTHONPATH"]
        return env
