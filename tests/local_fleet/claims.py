# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which fleet number belongs to whom, and the removal of what dead fleets left.

A number is claimed by an abstract unix socket: it belongs to a network namespace, as loopback addresses do, leaves no
file, and is given up by the kernel when its last holder ends. A fleet's supervisor holds it until all is removed.
"""

from __future__ import annotations

import functools
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import typing as t

from local_fleet.layout import NUMBERS
from local_fleet.supervisor import DOCKER_SECONDS, FleetError, remove_containers

CONTAINER_LABEL = "steady.fleet"  # its value is the claim's name
CONTAINER_FORMAT = f'{{{{.Names}}}} {{{{.Label "{CONTAINER_LABEL}"}}}}'


def claim_name(number: int) -> str:
    """The name of a claim; directories and containers of the fleet carry it too. Unique to the network namespace."""
    namespace = os.stat("/proc/self/ns/net").st_ino
    return f"steady-fleet-{namespace:x}-{number}"


def claim(number: int) -> socket.socket | None:
    """Claim a fleet number; None when another fleet has it."""
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        holder.bind("\0" + claim_name(number))
    except OSError:
        holder.close()
        return None
    return holder


def claim_any(usable: t.Callable[[int], bool]) -> tuple[int, socket.socket]:
    """Claim the first free number for which `usable` holds. Raises FleetError."""
    for number in NUMBERS:
        holder = claim(number)
        if holder is None:
            continue
        if usable(number):
            return number, holder
        holder.close()
    raise FleetError(f"all fleet numbers from {NUMBERS.start} to {NUMBERS.stop - 1} are taken.")


def make_directory(number: int) -> str:
    """A new private directory for the fleet of a claimed number."""
    return tempfile.mkdtemp(prefix=f"{claim_name(number)}-")


def sweep() -> None:
    """Remove the directories of fleets whose every process was killed before it could clean up."""
    prefix = os.path.join(tempfile.gettempdir(), claim_name(0)[:-1])
    for path in glob.glob(glob.escape(prefix) + "*-*"):
        word = path[len(prefix) :].partition("-")[0]
        if word.isdigit() and os.stat(path).st_uid == os.geteuid():
            _while_claimed(int(word), functools.partial(shutil.rmtree, path, ignore_errors=True))


def sweep_containers() -> None:
    """Remove the containers of fleets that are gone."""
    listed = subprocess.run(
        ["docker", "ps", "--all", f"--filter=label={CONTAINER_LABEL}", f"--format={CONTAINER_FORMAT}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=DOCKER_SECONDS,
        check=False,
        text=True,
    )
    for line in listed.stdout.splitlines():
        name, _space, owner = line.partition(" ")
        word = owner.rpartition("-")[2]
        if word.isdigit() and owner == claim_name(int(word)):
            _while_claimed(int(word), functools.partial(remove_containers, [name]))


def _while_claimed(number: int, act: t.Callable[[], object]) -> None:
    """Act if nobody holds the number, holding it meanwhile so that no new fleet takes it."""
    holder = claim(number)
    if holder is not None:
        with holder:
            act()
