# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Test hosts: containers of a Debian release that run systemd, each gone when its test is, even if that was killed.

    with Host(image_of("bullseye")) as host:
        host.run("systemctl", "is-active", "haproxy")

No host is privileged. Each carries the pid of its owner; whoever starts one removes those whose owner is gone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import random
import subprocess
import types
import typing as t

from containers import COMMAND_SECONDS, OWNER, DockerError, docker, identity, remove_orphans
from local_fleet.polling import poll

BUILD = pathlib.Path(__file__).resolve().parents[1] / "images" / "build"
BUILD_SECONDS = 1200  # may wait for another run that makes the same image
BOOT_SECONDS = 60
POLL_SECONDS = 0.1
# A boot of a host is one of its own: the kernel, which is this machine's, knows of none. ProtectKernelTunables
# and ProtectControlGroups of a unit would show it the kernel's again, so the guard goes without.
BOOT = """
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
guard=/usr/lib/systemd/system/steady-rollout-guard.service.d
mkdir -p "$guard"
printf '[Service]\\nProtectKernelTunables=no\\nProtectControlGroups=no\\n' >"$guard/boot-id.conf"
exec /sbin/cg2-init
"""
NETWORK = "10.213"
NETWORKS = 8  # that are tried


class HostError(DockerError):
    """A test host does not work; the message says what it said."""


@functools.cache
def image_of(release: str) -> str:
    """The name of an image of a Debian release, made where there is none."""
    made = subprocess.run([str(BUILD), release], stdout=subprocess.PIPE, text=True, check=False, timeout=BUILD_SECONDS)
    if made.returncode != 0:
        raise HostError(f"there is no image of {release}, see above")
    return made.stdout.strip()


class Host:
    """One running test host; `id` is its container's, and `options` are further ones of docker."""

    def __init__(self, image: str, options: t.Sequence[str] = ()) -> None:
        self.image = image
        self.id = ""
        self._more = options
        self._removed = False

    def __enter__(self) -> Host:
        remove_orphans()
        self.id = docker("run", "--detach", *self._options(), self.image, "/bin/sh", "-ec", BOOT).strip()
        try:
            self._await_systemd()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.remove()

    def _options(self) -> list[str]:
        # What systemd needs to boot, and to see where processes of other users work, as root does on any host; the image's cg2-init does the rest.
        options = {
            "cap-add": ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"],
            "security-opt": ["seccomp=unconfined", "apparmor=unconfined"],
        }
        options |= {"tmpfs": ["/run", "/run/lock", "/tmp:exec"], "cgroupns": ["private"], "env": ["container=docker"]}
        options |= {"label": [f"{OWNER}={identity(os.getpid())}"]}
        return [*(f"--{name}={value}" for name, values in options.items() for value in values), *self._more]

    def _await_systemd(self) -> None:
        def state() -> str:
            return self.run("systemctl", "is-system-running", check=False).stdout.strip()

        def ended() -> str:
            return now if (now := state()) in ("running", "degraded") else ""

        def late() -> str:
            return f"systemd is up, its state is {state()!r}:\n{docker('logs', self.id)}"

        if poll(ended, late, BOOT_SECONDS, HostError, POLL_SECONDS) == "degraded":
            raise HostError(f"units failed at boot:\n{self.run('systemctl', '--failed').stdout}")

    def run(self, *command: str, check: bool = True, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command on the host. Raises HostError when it fails, unless not ``check``."""
        done = subprocess.run(
            ["docker", "exec", "--interactive", self.id, *command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        if check and done.returncode != 0:
            raise HostError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def read(self, path: str) -> str:
        """The text of a file."""
        return self.run("cat", path).stdout

    def write(self, path: str, text: str) -> None:
        """Put a text into a file, which keeps its owner and mode."""
        self.run("tee", path, stdin=text)

    @property
    def inventory(self) -> dict[str, t.Any]:
        """The variables by which Ansible reaches the host; needs community.docker in the collections path."""
        return {
            "ansible_connection": "community.docker.docker",
            "ansible_host": self.id,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
        }

    def boot_id(self) -> str:
        """What tells its boots apart."""
        return self.read("/proc/sys/kernel/random/boot_id").strip()

    def remove(self) -> None:
        """Remove the host with all that it wrote."""
        if self.id and not self._removed:
            docker("rm", "--force", "--volumes", self.id)
            self._removed = True

    def restart(self, seconds: int = 10) -> None:
        """Have it end and boot again; after some seconds what still runs is killed, with 0 as if its power went."""
        docker("restart", f"--time={seconds}", self.id)
        self._await_systemd()


class Network:
    """A network of its own for test hosts, who may ask for an address of it."""

    def __init__(self) -> None:
        self.name = ""

    def __enter__(self) -> Network:
        remove_orphans()
        # What docker would pick gives no host an address that it still has after a restart.
        for number in random.SystemRandom().sample(range(256), NETWORKS):
            self._prefix = f"{NETWORK}.{number}"
            with contextlib.suppress(DockerError):
                name = f"steady-{os.getpid()}-{number}"
                docker(
                    "network",
                    "create",
                    f"--subnet={self._prefix}.0/24",
                    f"--label={OWNER}={identity(os.getpid())}",
                    name,
                )
                self.name = name
                return self
        raise HostError(f"there is no free network among {NETWORKS} of {NETWORK}.0.0/16: see docker network ls.")

    def __exit__(self, *_exc: object) -> None:
        docker("network", "rm", self.name)

    def address(self, number: int) -> str:
        """The address of this number, from 2 on."""
        return f"{self._prefix}.{number}"
