# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make container images of Debian releases that boot systemd and carry HAProxy; print their names.

    tests/images/build RELEASE [RELEASE ...]        bullseye bookworm trixie forky sid

An image is made by debootstrap and `docker import`, so no image registry is needed. It is tagged with a hash of
what decides its content and kept in docker's own store: a second call prints the name at once.
STEADY_IMAGE_BULLSEYE (and so on) names an image to use instead of making one.

Needs root, debootstrap and a running dockerd (`./test` starts one). It never starts a service, and never
touches an image it did not make.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import typing as t

HERE = pathlib.Path(__file__).resolve().parent

# The debootstrap script of each release: releases newer than the debootstrap at hand are made with sid's.
RELEASES = {"bullseye": "bullseye", "bookworm": "bookworm", "trixie": "trixie", "forky": "sid", "sid": "sid"}

# python3-apt and sudo are what Ansible wants on a Debian host; the rest is the host and the load balancer.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-apt", "sudo", "iproute2", "procps", "haproxy")

IMPORT_CHANGES = ('CMD ["/sbin/cg2-init"]',)

BUILDS_AT_ONCE = 2  # two cores: more only take longer together
DEBOOTSTRAP_SECONDS = 900
COMMAND_SECONDS = 300


class BuildError(Exception):
    """An image cannot be made; the message is for a person."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests/images/build", description="Make container images of Debian releases; print their names."
    )
    parser.add_argument("releases", nargs="+", metavar="RELEASE", choices=sorted(RELEASES))
    releases = parser.parse_args().releases
    try:
        with concurrent.futures.ThreadPoolExecutor(BUILDS_AT_ONCE) as pool:
            for name in pool.map(provide_image, releases):
                print(name, flush=True)
    except BuildError as error:
        print(f"tests/images/build: {error}", file=sys.stderr)
        return 1
    return 0


def provide_image(release: str) -> str:
    """The name of an image of `release`: the one the environment names, the one kept, or a new one."""
    named = os.environ.get(f"STEADY_IMAGE_{release.upper()}")
    if named:
        return named
    name = image_name(release)
    with exclusive(cache_dir() / f"{release}.lock"):
        if not image_exists(name):
            make_image(release, name)
    return name


def image_name(release: str) -> str:
    """`steady-test/RELEASE:HASH`, the hash over what decides the image's content, as far as it is ours."""
    digest = hashlib.sha256(" ".join([RELEASES[release], *PACKAGES, *IMPORT_CHANGES]).encode())
    for path in (HERE / "prepare-root", HERE / "cg2-init"):
        digest.update(path.read_bytes())
    return f"steady-test/{release}:{digest.hexdigest()[:12]}"


def image_exists(name: str) -> bool:
    """Whether docker keeps the image. Raises BuildError when docker does not answer."""
    found = run(["docker", "image", "ls", "--quiet", name], "ask docker for its images")
    return bool(found.strip())


def make_image(release: str, name: str) -> None:
    """Bootstrap, prepare and import one image. The root file system is removed in any case."""
    mirror, security_mirror = debian_mirrors()
    root = cache_dir() / f"root-{release}"
    remove_tree(root)
    print(f"making {name} from {mirror} (about 90 seconds)", file=sys.stderr, flush=True)
    try:
        run(
            # A mount namespace of its own: debootstrap's mounts vanish with it, even when it is killed.
            [
                *("unshare", "--mount", "debootstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES)),
                *(release, str(root), mirror, f"/usr/share/debootstrap/scripts/{RELEASES[release]}"),
            ],
            f"bootstrap Debian {release} from {mirror}",
            DEBOOTSTRAP_SECONDS,
        )
        run([str(HERE / "prepare-root"), str(root), release, mirror, security_mirror], f"prepare Debian {release}")
        import_root(root, name)
    finally:
        remove_tree(root)


def import_root(root: pathlib.Path, name: str) -> None:
    """Hand the file system to docker as an image of one layer, with cg2-init as what it starts by default."""
    script = 'set -o pipefail; tar --numeric-owner --xattrs -C "$1" -c . | docker import "${@:3}" - "$2"'
    changes = [f"--change={change}" for change in IMPORT_CHANGES]
    run(["bash", "-c", script, "import", str(root), name, *changes], f"import the image {name}")


def debian_mirrors() -> tuple[str, str]:
    """(mirror, security mirror) that apt of this machine uses; STEADY_DEBIAN_MIRROR names another mirror.

    The security mirror is empty where apt names none.
    """
    form = "$(REPO_URI) $(RELEASE)"
    lines = run(["apt-get", "indextargets", "--no-release-info", "--format", form], "read apt's sources").splitlines()
    sites = [(line.split()[0], line.split()[-1]) for line in lines if line.strip()]
    named = os.environ.get("STEADY_DEBIAN_MIRROR", "")
    debian = [uri for uri, _suite in sites if uri.rstrip("/").endswith("/debian")]
    security = [uri for uri, suite in sites if suite.endswith("-security") and "debian" in uri]
    if not named and not debian:
        raise BuildError("apt of this machine has no mirror of Debian; name one in STEADY_DEBIAN_MIRROR.")
    return named or debian[0], (security or [""])[0]


def cache_dir() -> pathlib.Path:
    """Where locks and half-made file systems are; the finished images are docker's."""
    fallback = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    base = os.environ.get("STEADY_CACHE") or os.path.join(fallback, "steady-rollout")
    path = pathlib.Path(base) / "images"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def exclusive(path: pathlib.Path) -> t.Iterator[None]:
    """Hold a file lock, so that two runs do not make the same image."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def remove_tree(root: pathlib.Path) -> None:
    if root.exists():
        run(["rm", "-rf", "--one-file-system", str(root)], f"remove {root}")


def run(command: list[str], what: str, seconds: int = COMMAND_SECONDS) -> str:
    """Run a command within `seconds` and return its output; BuildError says what it was for and its last lines."""
    if not shutil.which(command[0]):
        raise BuildError(f"cannot {what}: {command[0]} is not installed.")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException as reason:
        # Whatever ended the wait, nothing of the command stays behind.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(reason, subprocess.TimeoutExpired):
            raise BuildError(f"cannot {what}: {command[0]} took more than {seconds} seconds.") from reason
        raise
    if process.returncode != 0:
        last = "\n".join((err + out).strip().splitlines()[-5:])
        raise BuildError(f"cannot {what}: {command[0]} ended with {process.returncode}:\n{last}")
    return out


if __name__ == "__main__":
    sys.exit(main())
