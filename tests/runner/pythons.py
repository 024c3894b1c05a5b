"""Find the Pythons of this machine that really work."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import typing as t
from dataclasses import dataclass
from pathlib import Path

PROBE = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
PROBE_TIMEOUT = 20


@dataclass(frozen=True)
class Python:
    """An interpreter that was run and told its version."""

    path: Path
    version: str

    @property
    def series(self) -> str:
        """The version without the patch level: 3.13."""
        return self.version.rpartition(".")[0]


@functools.cache
def find(series: str) -> Python | None:
    """The first working interpreter of a series such as 3.13, or None."""
    for path in _candidates(series):
        version = _version(path)
        if version is not None and version.startswith(f"{series}."):
            return Python(path, version)
    return None


def first_of(wanted: t.Iterable[str]) -> Python | None:
    """The first series of the list that this machine has."""
    return next((python for python in map(find, wanted) if python is not None), None)


def _candidates(series: str) -> t.Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted((pyenv / "versions").glob(f"{series}.*/bin/python{series}"), reverse=True)
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        path = Path(folder) / f"python{series}"
        # A shim of pyenv exists for versions that are switched off, too; what is behind it was found above.
        if Path(folder).name != "shims" and path.is_file():
            yield path
    yield Path(sys.executable)


def _version(path: Path) -> str | None:
    try:
        answer = subprocess.run(
            [str(path), "-c", PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
