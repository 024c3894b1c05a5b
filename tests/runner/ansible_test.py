"""The home folder of ansible-test, where it keeps the environments of its sanity tests between runs."""

from __future__ import annotations

import contextlib
import subprocess
import typing as t
from pathlib import Path

from runner import environments
from runner.errors import SetupError

# Asks ansible-test which pip it wants to begin an empty environment with.
ASK_PIP_VERSION = """
import sys, types
from ansible_test._internal.python_requirements import get_venv_packages
print(get_venv_packages(types.SimpleNamespace(version=sys.argv[1]))["pip"])
"""

# ansible-test fetches a script from a server of its own to install pip. This one does the same with pip's own package,
# so that the package registry is the only thing that has to be reachable.
INSTALL_PIP = """
import runpy, sys
sys.path.insert(0, {wheel!r})
options = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
sys.argv = ["pip", "install", "--quiet", *options]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""


@contextlib.contextmanager
def home(core: environments.Environment) -> t.Iterator[Path]:
    """A home folder for ansible-test of this core, for one run at a time."""
    folder = environments.cache_dir() / f"ansible-test-{core.folder.name}"
    with environments.locked(folder.with_suffix(".lock")):
        version = _pip_version(core)
        script = folder / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
        if not script.exists():
            script.parent.mkdir(parents=True, exist_ok=True)
            wheel = _fetch_pip(core, version, script.parent)
            script.write_text(INSTALL_PIP.format(wheel=str(wheel)))
        yield folder


def _pip_version(core: environments.Environment) -> str:
    command = [str(core.program("python")), "-c", ASK_PIP_VERSION, core.python.series]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise SetupError(f"ansible-test of {core.name} does not tell which pip it wants: {answer.stderr.strip()}")
    return answer.stdout.strip()


def _fetch_pip(core: environments.Environment, version: str, folder: Path) -> Path:
    environments.pip_download(core, [f"pip=={version}"], folder)
    return next(folder.glob(f"pip-{version}-*.whl"))
