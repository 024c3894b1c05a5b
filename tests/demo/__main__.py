# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python3 -m demo`, as `./demo` calls it: read the command line, set up what is needed, and go on there."""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import tempfile

from demo import cli
from runner import collection, environments, system
from runner.errors import SetupError

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main() -> int:
    arguments = sys.argv[1:]
    try:
        acts = cli.parse(arguments)
        print("setting up", flush=True)
        environment = set_up(acts[0].lb)
    except (cli.UsageError, SetupError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    # Short: the paths of Unix sockets below it may hold 107 bytes.
    workspace = pathlib.Path(tempfile.mkdtemp(prefix="steady-"))
    try:
        tree = collection.linked_tree(ROOT)
        variables = environments.variables(environment, workspace, tree)
        variables["PYTHONPATH"] = os.pathsep.join([str(tree), str(ROOT / "tests")])
        program = str(environment.program("python"))
        # It takes the place of this process, so that a signal finds the one that has to clean up.
        os.execve(program, [program, "-m", "demo.show", str(workspace), *arguments], variables)
    except BaseException:
        shutil.rmtree(workspace, ignore_errors=True)
        raise


def set_up(lb: str) -> environments.Environment:
    """A load balancer, and an environment with Ansible. Raises SetupError."""
    system.need(["haproxy"] if lb == "haproxy" else system.NGINX)
    environment = environments.open_environment(ROOT, "demo")
    if environment is None:
        known = environments.PYTHONS["demo"]
        raise SetupError(f"Ansible needs a Python of {', '.join(sorted(known, key=_series))}, and none is here.")
    return environment


def _series(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


raise SystemExit(main())
