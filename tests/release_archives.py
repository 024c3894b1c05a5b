# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of releases of the local fleet's app, as a build leaves them for roles/release.

    python3 -m release_archives FOLDER APPLICATION VERSION       # a good one: FOLDER/APPLICATION-VERSION.tar.gz

`sh bin/serve` in the unpacked archive runs it, on $PORT and by the name of $NAME.
"""

from __future__ import annotations

import io
import json
import pathlib
import sys
import tarfile
import typing as t

APP = pathlib.Path(__file__).resolve().parent / "local_fleet" / "app.py"
SERVE = b"""\
#!/bin/sh
exec python3 app.py --host "$NAME" --listen "0.0.0.0:$PORT" --release release.json
"""


def write(folder: pathlib.Path, application: str, version: str, **behaviour: t.Any) -> pathlib.Path:
    """The archive of a release, which behaves as app.py's docstring tells: `behaviour`, `rate` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{application}-{version}.tar.gz"
    release = json.dumps({"release": version, **behaviour}).encode()
    with tarfile.open(path, "w:gz") as archive:
        _add(archive, "app.py", APP.read_bytes(), 0o644)
        _add(archive, "release.json", release, 0o644)
        _add(archive, "bin/serve", SERVE, 0o755)
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = mode
    archive.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    print(write(pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
