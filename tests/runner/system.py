"""The programs that come from the system's packages, installed only when a stage needs them and they are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import typing as t

from runner.errors import SetupError

INSTALL_TIMEOUT = 900
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")

# Program, or path of a file -> the Debian package that brings it.
PACKAGES = {
    "debootstrap": "debootstrap",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "git": "git",
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "shellcheck": "shellcheck",
    "wrk": "wrk",
    "zip": "zip",
    "/usr/lib/nginx/modules/ngx_http_lua_module.so": "libnginx-mod-http-lua",
    "/usr/lib/nginx/modules/ngx_stream_module.so": "libnginx-mod-stream",
}
NGINX = ("nginx", *(name for name in PACKAGES if name.startswith("/usr/lib/nginx/")))


def search_path() -> str:
    """PATH with the folders of system programs, which an ordinary user's may lack, and without pyenv's shims."""
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if not folder.endswith("/shims")]
    return os.pathsep.join([*folders, *(folder for folder in SYSTEM_FOLDERS if folder not in folders)])


def need(programs: t.Iterable[str]) -> None:
    """Install the packages of the programs and files that are missing."""
    missing = [program for program in programs if shutil.which(program, os.F_OK, search_path()) is None]
    install(sorted({PACKAGES[program] for program in missing}))


def install(packages: t.Sequence[str]) -> None:
    """Install Debian packages; raise SetupError when that is not possible."""
    if not packages:
        return
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise SetupError(f"These packages are needed and apt-get is not here to install them: {names}.")
    print(f"   installing {names}", flush=True)
    _as_root(["apt-get", "update", "-q"], names)
    _as_root(["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages], names)


def root_prefix() -> list[str]:
    """What to put before a command that needs root: nothing, or sudo."""
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def _as_root(command: list[str], names: str) -> None:
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    try:
        result = subprocess.run(
            [*root_prefix(), *environment, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"These packages are needed and could not be installed ({error}): {names}.") from error
    if result.returncode != 0:
        print(result.stdout[-4000:], flush=True)
        raise SetupError(f"These packages are needed and `{' '.join(command[:2])}` failed, see above: {names}.")
