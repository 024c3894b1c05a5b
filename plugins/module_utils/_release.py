# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What a release may be called, and how things of it are told to a person. Pure."""

from __future__ import annotations

import re
import typing as t

ID_PATTERN = "[A-Za-z0-9][A-Za-z0-9._+~-]*"
LONGEST_ID = 128
LONGEST_SHOWN = 120
_ID = re.compile(ID_PATTERN)
# user:password@ of a URL, up to the last @ before the path.
_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")


class ReleaseError(Exception):
    """What was asked cannot be done with this release; the text says what was found, what was done, and what to do next."""


class Unfit(ReleaseError):
    """Why something cannot be a release, without a full stop: told by whoever knows what it was to be."""


def checked_id(name: str) -> str:
    """A name that is one folder's, and an option of no program. Raises ReleaseError."""
    if len(name) > LONGEST_ID or not _ID.fullmatch(name):
        raise ReleaseError(
            f"{shown(name)} cannot be the name of a release: it is made of letters, digits and . _ + ~ -, begins with a letter or a digit, "
            f"and has at most {LONGEST_ID} characters. Nothing was changed."
        )
    return name


def checked_parts(option: str, path: str) -> tuple[str, ...]:
    """The parts of a path that stays below where it begins. Raises ReleaseError."""
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if path.startswith("/") or not parts or ".." in parts or "\0" in path:
        raise ReleaseError(
            f"{option} has {shown(path)}, which must be a path below the release, such as config/local.yml, without `..`. Nothing was changed."
        )
    return parts


def shown(name: str) -> str:
    """A name that others chose, on one line and of bounded length."""
    return repr(name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}...")


def without_credentials(text: str) -> str:
    """The text with users and passwords taken out of its URLs."""
    return _CREDENTIALS.sub(r"\g<scheme>", text)


def size_words(size: float) -> str:
    """A number of bytes: `812 MiB`."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def listed(ids: t.Sequence[str], most: int = 10) -> str:
    """The ids, the newest of many."""
    if not ids:
        return "none"
    left_out = len(ids) - most
    return ", ".join(ids[-most:]) + (f" and {left_out} older" if left_out > 0 else "")
