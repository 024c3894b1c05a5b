# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Archives, tar and zip, read from one open file: first all members, then the content of some.

Nothing is unpacked by what Python has for it: on the oldest Python, tarfile writes wherever an archive says.
"""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import lzma
import stat
import tarfile
import typing as t
import zipfile
import zlib

from ansible_collections.steady.rollout.plugins.module_utils._release import Unfit, shown
from ansible_collections.steady.rollout.plugins.module_utils._release_archive import (
    DIRECTORY,
    FILE,
    HARD_LINK,
    LINK,
    LONGEST_PATH,
    OTHER,
    Member,
)

CHUNK = 2**20
DIGESTS = ("sha256", "sha512")
_KINDS = {
    tarfile.SYMTYPE: LINK,
    tarfile.LNKTYPE: HARD_LINK,
    tarfile.DIRTYPE: DIRECTORY,
    **dict.fromkeys(tarfile.REGULAR_TYPES, FILE),
}
_TAR_WORDS = {
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.FIFOTYPE: "a named pipe",
}
_ZIP_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: LINK}
_ENCRYPTED = 0x1
# What reading a broken archive raises. One of a compression that zipfile does not know is a RuntimeError, too.
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OverflowError,
    ValueError,
    RuntimeError,
)


class Archive(t.Protocol):
    """``members`` is read to its end, or left, before ``content`` is asked for."""

    def members(self) -> t.Iterator[Member]: ...

    def content(self, number: int) -> t.ContextManager[t.IO[bytes]]: ...

    def modified(self, number: int) -> float | None:
        """Seconds of the epoch; None where it does not say."""


def digests(stream: t.IO[bytes]) -> dict[str, str]:
    """{algorithm: hexadecimal digest} of all of a file, for each of DIGESTS."""
    stream.seek(0)
    found = {name: hashlib.new(name) for name in DIGESTS}
    while True:
        chunk = stream.read(CHUNK)
        if not chunk:
            return {name: one.hexdigest() for name, one in found.items()}
        for one in found.values():
            one.update(chunk)


@contextlib.contextmanager
def opened(stream: t.IO[bytes], what: str) -> t.Iterator[Archive]:
    """Raises Unfit where it is no archive, or a broken one."""
    try:
        stream.seek(0)
        if zipfile.is_zipfile(stream) and stream.seek(0) == 0 and stream.read(2) == b"PK":
            with zipfile.ZipFile(stream) as zipped:
                yield _Zip(zipped)
            return
        stream.seek(0)
        with tarfile.open(fileobj=stream, mode="r:*", errorlevel=1) as tarred:
            yield _Tar(tarred)
    except tarfile.ReadError as exc:
        raise Unfit(
            f"{what} is no archive that can be read ({exc}): it must be a tar, also with gzip, bzip2 or xz, or a zip"
        ) from exc
    except BROKEN as exc:
        raise Unfit(f"{what} is broken: {exc or type(exc).__name__}") from exc
    except OSError as exc:
        if exc.errno is not None:
            raise
        # What gzip and bzip2 say of damaged data.
        raise Unfit(f"{what} is broken: {exc}") from exc


class _Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._found: list[tarfile.TarInfo] = []

    def members(self) -> t.Iterator[Member]:
        for number, info in enumerate(self._archive):
            self._found.append(info)
            words = _TAR_WORDS.get(info.type, f"of a kind that is not known ({info.type!r})")
            kind = FILE if info.sparse is not None else _KINDS.get(info.type, OTHER)
            yield Member(number, info.name, kind, info.size, info.mode, info.linkname, words)
        self._check_end()

    def _check_end(self) -> None:
        """What is damaged in the middle is the end of an archive to tarfile, and would be half a release."""
        stream = self._archive.fileobj
        if stream is None:
            raise tarfile.ReadError("it is closed")
        stream.seek(self._archive.offset)
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
            raise tarfile.ReadError(f"it breaks off after {len(self._found)} members, at byte {self._archive.offset}")

    def content(self, number: int) -> t.ContextManager[t.IO[bytes]]:
        stream = self._archive.extractfile(self._found[number])
        if stream is None:
            raise Unfit(f"{shown(self._found[number].name)} cannot be read from the archive")
        return contextlib.closing(stream)

    def modified(self, number: int) -> float | None:
        return self._found[number].mtime


class _Zip:
    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._found = archive.infolist()

    def members(self) -> t.Iterator[Member]:
        for number, info in enumerate(self._found):
            if info.flag_bits & _ENCRYPTED:
                raise Unfit(f"{shown(info.filename)} is encrypted")
            mode = info.external_attr >> 16
            kind = _zip_kind(info, mode)
            yield Member(
                number,
                info.filename,
                kind,
                info.file_size,
                # Made where there are no modes.
                stat.S_IMODE(mode) or (0o755 if kind == DIRECTORY else 0o644),
                self._target(info) if kind == LINK else "",
                "neither a file, nor a folder, nor a link",
            )

    def _target(self, info: zipfile.ZipInfo) -> str:
        with self._archive.open(info) as stream:
            return stream.read(LONGEST_PATH + 1).decode("utf-8", "surrogateescape")

    def content(self, number: int) -> t.ContextManager[t.IO[bytes]]:
        return self._archive.open(self._found[number])

    def modified(self, number: int) -> float | None:
        with contextlib.suppress(ValueError, OverflowError):
            return float(calendar.timegm((*self._found[number].date_time, 0, 0, 0)))
        return None


def _zip_kind(info: zipfile.ZipInfo, mode: int) -> str:
    if info.filename.endswith("/"):
        return DIRECTORY if stat.S_IFMT(mode) in (0, stat.S_IFDIR) else OTHER
    return _ZIP_KINDS.get(stat.S_IFMT(mode), OTHER) if stat.S_IFMT(mode) else FILE
