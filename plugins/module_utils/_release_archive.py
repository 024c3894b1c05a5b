# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""The members of an archive as they are to be in a release, or why none of them is written. Pure.

All are judged before one byte is written: a member names no place outside of the release, is not below a link, and a link leads nowhere
outside, also by way of other links. So whoever writes them needs no further care than to write into a new folder.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._release import Unfit, shown, size_words

FILE, DIRECTORY, LINK, HARD_LINK, OTHER = "file", "directory", "link", "hard link", "other"
# Of files: what is left of the mode that an archive has. No setuid, setgid or sticky, and nobody but the owner writes.
_MODES = 0o755
LONGEST_NAME, LONGEST_PATH = 255, 3000  # bytes; a path of Linux has at most 4095, with where the release is
# How many links a path may lead through; Linux's own limit.
MOST_LINKS = 40
# Left free on a disk for what else writes to it, bytes.
MARGIN = 32 * 2**20
BLOCK = 4096

Parts = tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """As the archive has it. ``target``: of a link, as it is written there. ``number``: where it is in the archive. ``words``: its kind,
    where that is OTHER."""

    number: int
    name: str
    kind: str
    size: int = 0
    mode: int = 0o644
    target: str = ""
    words: str = ""


@dataclass(frozen=True)
class Entry:
    """As it is to be in the release. ``target``: of a link, as it is written; of a hard link, the path below the release."""

    number: int
    parts: Parts
    kind: str
    size: int
    mode: int
    target: str = ""

    @property
    def path(self) -> str:
        return "/".join(self.parts)


@dataclass(frozen=True)
class Room:
    """What is free. ``files``: how many more there can be; None where the file system has no such limit."""

    size: int
    files: int | None


def entries(members: t.Iterable[Member], strip: int = 0, room: Room | None = None) -> list[Entry]:
    """The members without their first ``strip`` path components, parents before what is in them. Those that are left with no name are left out.

    Members are read one by one, and no further than the first that ``room`` has no place for. Raises Unfit.
    """
    found: dict[Parts, Entry] = {}
    needed = 0
    for member in members:
        entry = _entry(member, strip)
        if entry is None:
            continue
        old = found.get(entry.parts)
        if old and (old.kind, entry.kind) != (DIRECTORY, DIRECTORY):
            raise Unfit(f"it has {shown(entry.path)} twice, and only one of them could be there")
        if entry.kind == HARD_LINK:
            target = found.get(tuple(entry.target.split("/")))
            if target is None or target.kind != FILE:
                raise Unfit(
                    f"{shown(entry.path)} is a hard link to {shown(entry.target)}, which is no file before it in the archive"
                )
        found[entry.parts] = entry
        needed += _space(entry)
        if room:
            check_room(needed, len(found), room)
    if not found:
        raise Unfit(f"it has nothing in it{f' below its first {strip} path components' if strip else ''}")
    tree = _with_parents(found)
    if room:
        check_room(sum(_space(entry) for entry in tree.values()), len(tree), room)
    for entry in found.values():
        if entry.kind == LINK:
            _check_link(tree, entry)
    return sorted(tree.values(), key=lambda one: one.parts)


def check_room(needed: int, files: int, room: Room) -> None:
    """Raises Unfit where it does not fit."""
    if needed + MARGIN > room.size:
        raise Unfit(
            f"it needs {size_words(needed)} or more, and {size_words(room.size)} are free, of which {size_words(MARGIN)} are left for others"
        )
    if room.files is not None and files > room.files:
        raise Unfit(f"it has {files} files or more, and the file system has room for {room.files} (inodes)")


def _entry(member: Member, strip: int) -> Entry | None:
    name = shown(member.name)
    # Before all else: older tarfiles come to such a member again and again.
    if member.size < 0:
        raise Unfit(f"{name} has a size of {member.size}")
    if member.kind == OTHER:
        raise Unfit(f"{name} is {member.words}, and a release has files, folders and links only")
    parts = _parts(member.name, f"{name} is")[strip:]
    if not parts:
        return None
    if any(len(_bytes(part)) > LONGEST_NAME for part in parts) or len(_bytes("/".join(parts))) > LONGEST_PATH:
        raise Unfit(f"{name} is too long for a path")
    target = member.target
    if member.kind == HARD_LINK:
        target = "/".join(_parts(target, f"{name} is a hard link to {shown(target)},")[strip:])
    elif member.kind == LINK and (not target or "\0" in target or len(_bytes(target)) > LONGEST_PATH):
        raise Unfit(f"{name} is a link to {shown(target)}, which is no path")
    own = 0o700 if member.kind == DIRECTORY else 0o600
    return Entry(member.number, parts, member.kind, member.size, member.mode & _MODES | own, target)


def _parts(name: str, what: str) -> Parts:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise Unfit(f"{what} outside of the release")
    return parts


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _space(entry: Entry) -> int:
    """What it takes on a disk, in whole blocks, with one for its name and its kind."""
    return BLOCK + (-(-entry.size // BLOCK) * BLOCK if entry.kind == FILE else 0)


def _with_parents(found: t.Mapping[Parts, Entry]) -> dict[Parts, Entry]:
    """With the folders that no member stands for. Raises Unfit where something is to be in what is no folder."""
    tree = dict(found)
    for entry in found.values():
        for length in range(len(entry.parts) - 1, 0, -1):
            parent = entry.parts[:length]
            above = tree.get(parent)
            if above is None:
                tree[parent] = Entry(-1, parent, DIRECTORY, 0, 0o755)
            elif above.kind != DIRECTORY:
                raise Unfit(f"{shown(entry.path)} is below {shown(above.path)}, which is a {above.kind}")
            else:
                # What it is in itself is seen to in its own turn, or was when it was added.
                break
    return tree


def _check_link(tree: t.Mapping[Parts, Entry], link: Entry) -> None:
    """Raises Unfit where it leads out of the release, or nobody can tell.

    It is followed as Linux does: `..` after a link is the parent of where that leads, which is not what the path looks like.
    """
    refusal = f"{shown(link.path)} is a link to {shown(link.target)}"
    here, left, links = link.parts[:-1], _steps(link.target, refusal), 0
    while left:
        step = left.pop(0)
        if step == "..":
            if not here:
                raise Unfit(f"{refusal}, which leads out of the release")
            here = here[:-1]
            continue
        entry = tree.get((*here, step))
        if entry is None or entry.kind in (FILE, HARD_LINK):
            # What is not there yet may come to be a link.
            if ".." in left:
                raise Unfit(f"{refusal}, and it is not known where that leads")
            return
        if entry.kind == DIRECTORY:
            here = entry.parts
            continue
        links += 1
        if links >= MOST_LINKS:
            raise Unfit(f"{refusal}, which leads in a circle, or through more than {MOST_LINKS} links")
        left = [*_steps(entry.target, f"{refusal}, and so to {shown(entry.target)}"), *left]


def _steps(target: str, refusal: str) -> list[str]:
    if target.startswith("/"):
        raise Unfit(f"{refusal}, which leads out of the release")
    return [step for step in target.split("/") if step not in ("", ".")]
