# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Which releases were put on a host, which one is current, which one was before, and which are kept. Pure."""

from __future__ import annotations

import json
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.steady.rollout.plugins.module_utils._release import (
    ReleaseError,
    checked_id,
    without_credentials,
)

FORMAT = 1


@dataclass(frozen=True)
class Release:
    """``files``, ``size``: None where it has no folder, as a package. ``revision``: of a repository, the whole name of the commit.
    ``origin``: what it was made of, for whoever looks. ``added``: when it was put there, UTC, ISO 8601."""

    id: str
    files: int | None = None
    size: int | None = None
    sha256: str | None = None
    sha512: str | None = None
    revision: str | None = None
    origin: t.Mapping[str, t.Any] = field(default_factory=dict)
    added: str | None = None

    @property
    def has_folder(self) -> bool:
        return self.files is not None

    def as_dict(self) -> dict[str, t.Any]:
        return {name: dict(value) if name == "origin" else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class History:
    """``releases``: oldest first. ``previous``: what was current before ``current``."""

    releases: tuple[Release, ...] = ()
    current: str | None = None
    previous: str | None = None

    def get(self, name: str | None) -> Release | None:
        return next((one for one in self.releases if one.id == name), None)


def read(text: str, path: str) -> History:
    """Raises ReleaseError where it is not what ``written`` makes."""
    try:
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(f"it is of format {data['format']}, and this version knows {FORMAT}")
        names = set(vars(Release("x")))
        releases = tuple(Release(**{name: one[name] for name in names if name in one}) for one in data["releases"])
        history = History(releases, data["current"], data["previous"])
        ids = [one.id for one in releases]
        for name in (*ids, history.current, history.previous):
            checked_id(name or "none")
        if len(set(ids)) < len(ids):
            raise ValueError("a release is there twice")
        return history
    except (ValueError, TypeError, KeyError, AttributeError, ReleaseError) as exc:
        raise ReleaseError(
            f"{path} cannot be read: {exc!r}. It says which releases were put here. Nothing was changed. Put it back from a copy; or remove it, "
            "and then the releases that are there can be used, but are not known, and never removed."
        ) from exc


def written(history: History) -> str:
    data = {
        "format": FORMAT,
        "current": history.current,
        "previous": history.previous,
        "releases": [one.as_dict() for one in history.releases],
    }
    return json.dumps(data, indent=2, sort_keys=True) + "\n"


def reconciled(history: History, link: str | None) -> History:
    """What is true, given the release that `current` leads to: a call may have ended between the link and its record."""
    recorded = history.get(history.current)
    if link is None and recorded is not None and not recorded.has_folder:
        return history
    if link == history.current:
        return history
    return replace(history, current=link, previous=history.previous if history.current is None else history.current)


def existing(history: History, present: t.Collection[str]) -> History:
    """Without the records of folders that are not there: they were removed by somebody else, or a call ended before they were."""
    return replace(history, releases=tuple(one for one in history.releases if not one.has_folder or one.id in present))


def with_release(history: History, release: Release) -> History:
    """With it as the newest; one of that name, of which nothing is there any more, is forgotten."""
    return replace(history, releases=(*(one for one in history.releases if one.id != release.id), release))


def with_origin(history: History, name: str, origin: t.Mapping[str, t.Any], added: str) -> History:
    """With what the release is made of; one that is not known yet has no folder."""
    known = history.get(name)
    clean = {key: without_credentials(value) if isinstance(value, str) else value for key, value in origin.items()}
    if known is None:
        return with_release(history, Release(name, origin=clean, added=added))
    if not origin or known.origin == clean:
        return history
    return replace(
        history, releases=tuple(replace(one, origin=clean) if one.id == name else one for one in history.releases)
    )


def switched(history: History, name: str) -> History:
    if history.current == name:
        return history
    return replace(history, current=name, previous=history.current or history.previous)


def surplus(history: History, keep: int) -> list[str]:
    """Those to remove: all but the newest ``keep``, and never what is current, or was before it. Oldest first."""
    if keep < 1:
        raise ReleaseError(f"keep is {keep}; at least 1 release is kept. Nothing was changed.")
    kept = {one.id for one in history.releases[-keep:]} | {history.current, history.previous}
    return [one.id for one in history.releases if one.id not in kept]


def without(history: History, names: t.Collection[str]) -> History:
    return replace(
        history,
        releases=tuple(one for one in history.releases if one.id not in names),
        previous=None if history.previous in names else history.previous,
    )
