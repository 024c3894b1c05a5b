"""The Molecule scenarios of extensions/molecule: which there are, what each runs on, and one run of one."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import typing as t
from pathlib import Path

import containers
from runner.errors import SetupError

SCENARIOS = Path("extensions") / "molecule"
BASE_CONFIG = Path(".config") / "molecule" / "config.yml"
RELEASES = ("bullseye", "bookworm", "trixie", "forky")
BUILD_TIMEOUT = 1200

# What each scenario runs on without --all: the releases whose images the other tests make, too.
ON = {"rolling": "forky"}


def scenarios(root: Path) -> list[str]:
    """The names of the scenarios."""
    return sorted(path.parent.name for path in (root / SCENARIOS).glob("*/molecule.yml"))


def chosen(root: Path, words: t.Sequence[str], long: bool) -> tuple[list[tuple[str, str]], list[str]]:
    """The (scenario, release) pairs that a command line asks for, and the words that are for pytest."""
    known = scenarios(root)
    first = next((place for place, word in enumerate(words) if word not in known), len(words))
    names = list(words[:first]) or (known if long else list(ON))
    pairs = [(name, release) for name in names for release in (RELEASES if long else (ON.get(name, "forky"),))]
    return pairs, list(words[first:])


def image(root: Path, release: str, env: t.Mapping[str, str]) -> str:
    """The image of a release: named by STEADY_IMAGE_RELEASE, kept from before, or made now."""
    command = [str(root / "tests" / "images" / "build"), release]
    made = subprocess.run(command, env=dict(env), stdout=subprocess.PIPE, text=True, timeout=BUILD_TIMEOUT, check=False)
    if made.returncode != 0:
        raise SetupError(f"There is no image of Debian {release}, see above.")
    return made.stdout.strip()


@contextlib.contextmanager
def own_containers() -> t.Iterator[str]:
    """The owner that containers and networks of this run carry. Those of dead owners go before, ours after it."""
    containers.remove_orphans()
    try:
        yield containers.identity(os.getpid())
    finally:
        containers.remove_own()


def variables(
    workspace: Path, scenario: str, release: str, image_name: str, owner: str, arguments: list[str]
) -> dict[str, str]:
    """The environment variables of one scenario on one release."""
    folder = workspace / f"{scenario}-{release}"
    folder.mkdir()
    return {
        "MOLECULE_EPHEMERAL_DIRECTORY": str(folder),
        "PYTEST_ADDOPTS": shlex.join(arguments),
        "STEADY_MOLECULE_IMAGE": image_name,
        "STEADY_MOLECULE_OWNER": owner,
        "STEADY_MOLECULE_RUN": f"steady-{owner}-{scenario.replace('_', '-')}",
    }
