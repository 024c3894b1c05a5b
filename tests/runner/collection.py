"""The checkout as a collection that Ansible and Python can find, and the collections the tests use besides."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

from runner import environments, system
from runner.errors import SetupError

NAME = Path("ansible_collections") / "steady" / "rollout"
EXTRA = ("community/general", "community/docker", "community/library_inventory_filtering_v1")


def linked_tree(root: Path) -> Path:
    """A folder in which ansible_collections/steady/rollout leads to the checkout."""
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    tree = environments.cache_dir() / f"collections-{digest}"
    link = tree / NAME
    with environments.locked(tree.with_suffix(".lock")):
        if not link.is_symlink() or link.resolve() != root:
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(root)
    return tree


def copied_tree(root: Path, parent: Path) -> Path:
    """A folder with a copy of the collection: what git tracks, and new files that it does not ignore.

    For tools that insist on a real folder of that name, or write into it.
    """
    target = parent / NAME
    for name in files(root):
        source = root / name
        # A file may be deleted, but not yet in git.
        if source.exists() or source.is_symlink():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)
    return parent


def files(root: Path) -> list[str]:
    """The paths of the project's files, relative to its root."""
    system.need(["git"])
    # A clone may belong to another user than the one who runs the tests.
    git = ["git", "-c", f"safe.directory={root}", "-C", str(root)]
    try:
        answer = subprocess.run(
            [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            text=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise SetupError(f"git could not list the files of {root}: {error.stderr.strip()}") from error
    return sorted(set(filter(None, answer.stdout.split("\0"))))


def extra_collections(root: Path, environment: environments.Environment) -> Path:
    """A folder with the community collections, taken out of the `ansible` package."""
    requirements = root / "tests" / "requirements" / "collections.txt"
    digest = hashlib.sha256(requirements.read_bytes() + "".join(EXTRA).encode()).hexdigest()[:12]
    folder = environments.cache_dir() / f"extra-collections-{digest}"
    marker = folder / environments.MARKER
    if not marker.exists():
        with environments.locked(folder.with_suffix(".lock")):
            if not marker.exists():
                print("   fetching community.general and community.docker", flush=True)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                environments.pip_download(environment, ["-r", str(requirements)], folder)
                for package in folder.glob("*.whl"):
                    _unpack(package, folder)
                    package.unlink()
                marker.touch()
    return folder


def _unpack(package: Path, folder: Path) -> None:
    wanted = tuple(f"ansible_collections/{name}/" for name in EXTRA)
    with zipfile.ZipFile(package) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith(wanted)])
