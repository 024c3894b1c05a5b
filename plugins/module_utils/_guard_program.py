# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The guard as one file that Python runs: a zipapp of the module utils that it needs, made out of those that the calling
module has with it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import os
import typing as t
import zipfile

from ansible_collections.steady.rollout.plugins.module_utils import _guard

PACKAGE = "ansible_collections.steady.rollout.plugins.module_utils"
PROGRAM = "@guard.pyz"


def install(state_dir: str) -> str:
    path = os.path.join(state_dir, PROGRAM)
    wanted = zipapp()
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as stream:
        if stream.read() == wanted:
            return path
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb", opener=_private) as stream:
        stream.write(wanted)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def zipapp() -> bytes:
    """The guard and all that it imports, as one file that Python runs. The same modules always give the same bytes."""
    sources = _with_imports(_guard.__name__)
    folder = PACKAGE.replace(".", "/")
    files = {f"{folder}/{name.rpartition('.')[2]}.py": text for name, text in sources.items()}
    parts = folder.split("/")
    files.update({"/".join([*parts[: number + 1], "__init__.py"]): "" for number in range(len(parts))})
    # All at once: it does its work when nobody knows what has become of this file.
    imports = "".join(f"import {name}\n" for name in sorted(sources))
    files["__main__.py"] = f"import sys\n{imports}\nfrom {PACKAGE}._guard import main\n\nsys.exit(main())\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name])
    return buffer.getvalue()


def _with_imports(first: str) -> dict[str, str]:
    """{module: source} of a module of ours and of all of ours that it imports."""
    found: dict[str, str] = {}
    wanted = [first]
    while wanted:
        name = wanted.pop()
        if name not in found:
            found[name] = _source(name)
            wanted += _imports(found[name])
    return found


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    loader: t.Any = spec.loader if spec else None
    source: str | None = loader.get_source(name) if loader else None
    if source is None:
        raise OSError(f"there is no source of {name} to make the guard of")
    return source


def _imports(source: str) -> t.Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            elif node.module.startswith(f"{PACKAGE}."):
                yield node.module
