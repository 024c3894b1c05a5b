# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Puts the files of a release on this host, so that they are there as a whole, or not at all."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils import _release_shared as shared_files
from ansible_collections.steady.rollout.plugins.module_utils._release import (
    ReleaseError,
    Unfit,
    shown,
    size_words,
    without_credentials,
)
from ansible_collections.steady.rollout.plugins.module_utils._release_archive import Entry, entries
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base, now
from ansible_collections.steady.rollout.plugins.module_utils._release_history import Release, with_release
from ansible_collections.steady.rollout.plugins.module_utils._release_reader import BROKEN, Archive, digests, opened
from ansible_collections.steady.rollout.plugins.module_utils._release_repository import Repository, is_whole_commit
from ansible_collections.steady.rollout.plugins.module_utils._release_shared import Shared
from ansible_collections.steady.rollout.plugins.module_utils._release_unpack import Owner, flush, is_full, unpack

_LENGTHS = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True)
class Checksum:
    algorithm: str
    digest: str


@dataclass(frozen=True)
class Source:
    """What a release is made of: either ``archive``, a file on this host, or a ``revision`` of ``repository``."""

    archive: str | None = None
    repository: Repository | None = None
    revision: str = ""
    checksum: Checksum | None = None
    strip: int = 0

    @property
    def words(self) -> str:
        return self.archive or f"revision {self.revision} of {self.repository.name if self.repository else ''}"


@dataclass(frozen=True)
class Put:
    """``release``: None where it cannot be known in check mode. ``shared``: what was made in the shared folder."""

    changed: bool
    release: Release | None
    shared: t.Sequence[str] = ()


def checksum(text: str) -> Checksum:
    """Of `sha256:HEX`. Raises ReleaseError."""
    algorithm, _colon, digest = text.strip().partition(":")
    length = _LENGTHS.get(algorithm)
    if length is None or not re.fullmatch(f"[0-9a-fA-F]{{{length}}}", digest):
        raise ReleaseError(
            f"checksum is {shown(text)}; it must be sha256: and 64, or sha512: and 128 hexadecimal digits. Nothing was changed."
        )
    return Checksum(algorithm, digest.lower())


def owner(user: str | None, group: str | None) -> Owner:
    """By name or number; without ``group``, that of the user. Raises ReleaseError."""
    uid, gid = -1, -1
    try:
        if user is not None:
            found = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid = found.pw_uid, found.pw_gid
        if group is not None:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as exc:
        raise ReleaseError(
            f"there is no such owner or group: {exc.args[0]}. Nothing was changed. Make it first."
        ) from exc
    return Owner(uid, gid)


def put(base: Base, name: str, source: Source, shared: Shared, owned_by: Owner) -> Put:
    """Raises ReleaseError and OSError, and then nothing of the release is there, and all else is as it was."""
    with base.locked(), _told(base, name):
        if base.has(name):
            return Put(False, _same(base, name, source))
        with base.incoming() as folder:
            release, path = _fetched(source, folder)
            tree = os.path.join(folder, name)
            with open(path, "rb") as stream:
                digest = _verified(source, path, stream)
                with opened(stream, source.words) as archive:
                    found = _judged(archive, base, source, shared)
                    unpacked = unpack(archive, found, tree, owned_by)
            made = shared_files.make(shared, tree, owned_by)
            shared_files.link(shared, tree, base.release(name), owned_by)
            flush(folder)
            # Recorded first: of what is there, it is known what it is. A record of what is not there is none.
            recorded = Release(name, unpacked.files, unpacked.size, added=now(), **release, **digest)
            base.write(with_release(base.history(), recorded))
            base.publish(tree, name)
        return Put(True, recorded, made)


def foreseen(base: Base, name: str, source: Source, shared: Shared) -> Put:
    """What ``put`` would do, as far as it can be known. Nothing is changed. Raises as it does."""
    base.check()
    with _told(base, name):
        if base.has(name):
            return Put(False, _same(base, name, source))
        made = [shared.place(parts) for parts in shared_files.missing_directories(shared)]
        missing = [shared.place(parts) for parts in shared_files.missing_files(shared)]
        if source.repository:
            revision = source.repository.foreseen(source.revision)
            return Put(True, Release(name, revision=revision) if revision else None, [*made, *missing])
        if not os.path.exists(source.archive or ""):
            return Put(True, None, [*made, *missing])
        with open(source.archive or "", "rb") as stream:
            digest = _verified(source, source.archive or "", stream)
            with opened(stream, source.words) as archive:
                found = _judged(archive, base, source, shared)
        files = [entry for entry in found if entry.kind in ("file", "hard link")]
        return Put(True, Release(name, len(files), sum(one.size for one in files), **digest), [*made, *missing])


@contextlib.contextmanager
def _told(base: Base, name: str) -> t.Iterator[None]:
    """Errors as a person needs them: nothing of the release is there when they are told."""
    left = "Nothing of it is left there, and the releases that are there were not touched."
    try:
        yield
    except Unfit as exc:
        raise ReleaseError(f"release {name} was not put in {base.releases}: {exc}. {left}") from exc
    except OSError as exc:
        if is_full(exc):
            raise ReleaseError(
                f"release {name} was not put in {base.releases}: the disk became full while it was written ({exc.strerror}); now "
                f"{size_words(base.room().size)} are free. {left} Make room, or keep fewer releases."
            ) from exc
        raise ReleaseError(f"release {name} was not put in {base.releases}: {exc}. {left}") from exc


def _fetched(source: Source, folder: str) -> tuple[dict[str, t.Any], str]:
    """What is recorded of it, and the archive that has it."""
    if source.repository is None:
        path = source.archive or ""
        if not os.path.isfile(path):
            raise Unfit(f"{path} is not a file on this host")
        return {"origin": {"archive": os.path.basename(path)}}, path
    commit = source.repository.fetched(source.revision)
    path = os.path.join(folder, ".tar")
    source.repository.export(commit, path)
    return {"revision": commit, "origin": {"repository": source.repository.name, "revision": source.revision}}, path


def _verified(source: Source, path: str, stream: t.IO[bytes]) -> dict[str, t.Any]:
    """The digests of an archive. What is exported from a repository has none: its commit is one."""
    if source.repository:
        return {}
    found: dict[str, t.Any] = dict(digests(stream))
    if source.checksum and found[source.checksum.algorithm] != source.checksum.digest:
        raise Unfit(
            f"{path} has the {source.checksum.algorithm} {found[source.checksum.algorithm]}, and {source.checksum.digest} was asked for: "
            "it is another file, or was damaged on its way; fetch it again"
        )
    return found


def _judged(archive: Archive, base: Base, source: Source, shared: Shared) -> list[Entry]:
    try:
        found = entries(archive.members(), source.strip, base.room())
    except Unfit as exc:
        raise Unfit(f"{source.words} is refused: {exc}") from exc
    except BROKEN as exc:
        raise Unfit(f"{source.words} is broken: {exc or type(exc).__name__}") from exc
    shared_files.missing_directories(shared)
    shared_files.check(shared, shared_files.missing_files(shared), found)
    return found


def _same(base: Base, name: str, source: Source) -> Release:
    """What is there. Raises ReleaseError where it is known to be something else than what was asked for."""
    known = base.history().get(name)
    if known is None:
        raise ReleaseError(
            f"{base.release(name)} is there, and it is not recorded what it is. Nothing was changed. Remove it, or give the release another name."
        )
    for what, wanted, recorded in _claims(source, known):
        if wanted != recorded:
            raise ReleaseError(
                f"release {name} is there already, with {what} {recorded}, and {what} {wanted} was asked for. Nothing was changed: the name of "
                "a release is never used for other content. Give the new one a name of its own."
            )
    return known


def _claims(source: Source, known: Release) -> t.Iterator[tuple[str, str, str | None]]:
    if source.repository:
        commit = source.revision if is_whole_commit(source.revision) else source.repository.known(source.revision)
        if commit or known.revision is None:
            yield "revision", commit or without_credentials(source.revision), known.revision
        return
    recorded = {"sha256": known.sha256, "sha512": known.sha512}
    if source.checksum:
        yield source.checksum.algorithm, source.checksum.digest, recorded[source.checksum.algorithm]
    if os.path.isfile(source.archive or ""):
        with open(source.archive or "", "rb") as stream:
            yield "sha256", digests(stream)["sha256"], known.sha256
