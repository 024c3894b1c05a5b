"""The virtual environments of the tests and the demo, kept in a cache that several runs share.

An environment is named after its requirement file and a hash of the requirements and the Python, so a change of
either makes a new one and nothing is ever upgraded in place. It is built where it stays, because it cannot be moved;
the marker file, written last, says that it is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import typing as t
from dataclasses import dataclass
from pathlib import Path

from runner import pythons, system
from runner.errors import SetupError

BUILD_TIMEOUT = 900
MARKER = ".ready"

# The Pythons that a set of requirements runs on, the preferred one first.
PYTHONS = {
    "core221": ("3.13", "3.14", "3.12"),
    "core219": ("3.11",),
    "core217": ("3.11", "3.12", "3.10"),
    "python39": ("3.9",),
    "molecule": ("3.13", "3.14", "3.12", "3.11"),
    "demo": ("3.13", "3.14", "3.12", "3.11", "3.10"),
}


def cache_dir() -> Path:
    """Where environments, collections and tool caches are kept between runs."""
    named = os.environ.get("STEADY_CACHE")
    if named:
        return Path(named).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "steady-rollout"


@dataclass(frozen=True)
class Environment:
    """A complete virtual environment."""

    name: str
    folder: Path
    python: pythons.Python

    def program(self, name: str) -> Path:
        """A program of this environment."""
        return self.folder / "bin" / name


def variables(environment: Environment, workspace: Path, *collections: Path) -> dict[str, str]:
    """Environment variables for a program of a virtual environment; nothing of the user's own set-up leaks in.

    Homes and temporary files are below `workspace`.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("ANSIBLE_", "PYTHON", "PYENV_", "PYTEST_", "VIRTUAL_ENV"))
    }
    return {
        **kept,
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join(map(str, collections)),
        "ANSIBLE_HOME": str(_folder(workspace, "ansible")),
        "HOME": str(_folder(workspace, "home")),
        "LC_ALL": "C.UTF-8",
        "PATH": os.pathsep.join([str(environment.folder / "bin"), system.search_path()]),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONUNBUFFERED": "1",
        "STEADY_CACHE": str(cache_dir()),
        "TMPDIR": str(_folder(workspace, "tmp")),
        "XDG_CACHE_HOME": str(cache_dir() / "tools"),
    }


def _folder(workspace: Path, name: str) -> Path:
    folder = workspace / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> t.Iterator[None]:
    """Hold a lock file, so that of two runs one prepares a thing and the other waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_environment(root: Path, name: str) -> Environment | None:
    """The environment of tests/requirements/NAME.txt, built when needed; None when no suitable Python is here."""
    python = pythons.first_of(PYTHONS[name])
    if python is None:
        return None
    requirements = root / "tests" / "requirements" / f"{name}.txt"
    digest = hashlib.sha256((_flat(requirements) + f"{python.version} {python.path}").encode()).hexdigest()[:12]
    folder = cache_dir() / "venvs" / f"{name}-{digest}"
    environment = Environment(name, folder, python)
    if not _is_complete(environment):
        with locked(folder.with_suffix(".lock")):
            if not _is_complete(environment):
                _build(environment, requirements)
    return environment


def _is_complete(environment: Environment) -> bool:
    # The interpreter is a link to the one it was made from, which may have been removed since.
    return (environment.folder / MARKER).exists() and environment.program("python").exists()


def _build(environment: Environment, requirements: Path) -> None:
    print(f"   making the environment {environment.name} (Python {environment.python.version})", flush=True)
    shutil.rmtree(environment.folder, ignore_errors=True)
    if not _runs([environment.python.path, "-c", "import ensurepip, venv"]):
        system.install([f"python{environment.python.series}-venv"])
    _step(environment.name, [environment.python.path, "-m", "venv", environment.folder])
    _step(environment.name, [environment.program("python"), "-m", "pip", "install", "-q", "-r", requirements])
    (environment.folder / MARKER).touch()


def pip_download(environment: Environment, wanted: list[str], target: Path) -> None:
    """Fetch packages, without their dependencies, into a folder."""
    pip = [environment.program("python"), "-m", "pip", "download", "-q", "--no-deps", "-d", target]
    _step(" ".join(wanted), [*pip, *wanted])


def _runs(command: list[t.Any]) -> bool:
    result = subprocess.run(list(map(str, command)), capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return result.returncode == 0


def _step(name: str, command: list[t.Any]) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    words = list(map(str, command))
    try:
        result = subprocess.run(
            words,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=BUILD_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"{name} was not ready after {BUILD_TIMEOUT} s: is the package registry reachable?") from error
    if result.returncode != 0:
        print(result.stdout[-4000:], flush=True)
        raise SetupError(f"{name} could not be made ready, see above for what `{' '.join(words[1:4])}` said.")


def _flat(requirements: Path) -> str:
    """The text of a requirement file with those it includes, comments left out."""
    lines = []
    for line in requirements.read_text().splitlines():
        if line.startswith("-r "):
            lines.append(_flat(requirements.parent / line[3:].strip()))
        elif line and not line.startswith("#"):
            lines.append(line)
    return "\n".join(lines)
