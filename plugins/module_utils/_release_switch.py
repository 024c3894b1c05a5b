# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Makes a release the current one, in one step, and removes those that are not kept."""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, replace

from ansible_collections.steady.rollout.plugins.module_utils._release import checked_id
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base, now
from ansible_collections.steady.rollout.plugins.module_utils._release_history import (
    History,
    surplus,
    switched,
    with_origin,
    without,
)


@dataclass(frozen=True)
class Wanted:
    """``has_folder``: false for what has none in `releases`, as a package. ``origin``: what it is made of, for the record."""

    name: str
    keep: int
    has_folder: bool = True
    origin: t.Mapping[str, t.Any] | None = None


@dataclass(frozen=True)
class Switched:
    """``problems``: what could not be removed, as sentences."""

    before: History
    after: History
    removed: t.Sequence[str]
    changed: bool
    problems: t.Sequence[str] = ()


def switch(base: Base, wanted: Wanted) -> Switched:
    """Raises ReleaseError and OSError; where the release is not there, nothing is changed."""
    # What makes no sense is refused before anything is made.
    foreseen(base, wanted)
    with base.locked():
        if wanted.has_folder and not base.has(wanted.name):
            raise base.missing(wanted.name, base.history())
        found = _foreseen(base, wanted)
        linked = base.linked()
        # The link first: where a call ends after it, the next one knows what happened.
        if wanted.has_folder and linked != wanted.name:
            base.link(wanted.name)
        if not wanted.has_folder and linked is not None:
            base.unlink()
        for name in found.removed:
            base.withdraw(name)
        if found.changed:
            base.write(found.after)
        return replace(found, problems=base.remove_withdrawn())


def foreseen(base: Base, wanted: Wanted) -> Switched:
    """What ``switch`` would do, if the release is there by then. Nothing is changed. Raises as it does."""
    base.check()
    checked_id(wanted.name)
    return _foreseen(base, wanted)


def _foreseen(base: Base, wanted: Wanted) -> Switched:
    before = base.history()
    known = with_origin(before, wanted.name, wanted.origin or {}, now())
    if wanted.has_folder and before.get(wanted.name) is None:
        # Put there by other means: it can be current, and is not this collection's to remove.
        known = before
    after = switched(known, wanted.name)
    removed = surplus(after, wanted.keep)
    after = without(after, removed)
    linked = base.linked()
    changed = after != before or (linked != wanted.name if wanted.has_folder else linked is not None)
    return Switched(before, after, removed, changed)
