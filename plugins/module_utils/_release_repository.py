# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Commits of a repository, from a bare mirror of it on this host: what the mirror has needs no network."""

from __future__ import annotations

import contextlib
import os
import re
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._release import (
    ReleaseError,
    Unfit,
    shown,
    without_credentials,
)

# Runs a command: its exit code, its output and its errors. Raises FileNotFoundError where there is no such program.
Run = t.Callable[[list[str]], tuple[int, str, str]]

# The whole of it; a host that is not reached is given up much earlier.
FETCH_SECONDS = 900
ENVIRONMENT = {
    # Nobody is there to be asked.
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15",
    "LC_ALL": "C",
}
# Less than a kilobyte a second for half a minute is no transfer. Nothing goes on when the call is over.
_SETTINGS = ("http.lowSpeedLimit=1000", "http.lowSpeedTime=30", "gc.autoDetach=false", "maintenance.autoDetach=false")
_REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_COMMIT = re.compile("[0-9a-f]{7,64}")
_WHOLE_COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
MOST_NAMED = 10
# What git says below an error, whatever it was.
_ADVICE = ("Please make sure", "and the repository exists", "hint:")


class Repository:
    """``path``: where the mirror is, or is to be. ``url``: what it is a mirror of."""

    def __init__(self, run: Run, path: str, url: str) -> None:
        if not url or url.startswith("-"):
            raise ReleaseError(f"{shown(url)} is no repository. Nothing was changed.")
        self._run = run
        self._path = path
        self._url = url
        self.name = without_credentials(url)

    def known(self, revision: str) -> str | None:
        """The commit of a tag or of a hash that the mirror has. None also for branches, which move."""
        _check_revision(revision)
        if not os.path.exists(os.path.join(self._path, "HEAD")):
            return None
        names = [f"refs/tags/{revision}"]
        if _COMMIT.fullmatch(revision):
            names.append(revision)
        return next((found for found in map(self._commit, names) if found), None)

    def fetched(self, revision: str) -> str:
        """The commit of a tag, a branch or a hash; what the mirror does not have is fetched. Raises Unfit."""
        found = self.known(revision)
        if found:
            return found
        self._fetch()
        found = self.known(revision) or self._commit(f"refs/heads/{revision}")
        if found is None:
            raise Unfit(
                f"{self.name} has no revision {shown(revision)}: no tag, branch or commit of a branch or tag has that name. "
                f"Its newest tags: {self._tags()}"
            )
        return found

    def foreseen(self, revision: str) -> str | None:
        """What ``fetched`` would return, as far as it can be known without fetching. Raises Unfit where it would."""
        found = self.known(revision)
        if found or _COMMIT.fullmatch(revision):
            return found
        code, output, errors = self._git(
            "ls-remote",
            "--",
            self._url,
            f"refs/tags/{revision}",
            f"refs/tags/{revision}^{{}}",
            f"refs/heads/{revision}",
        )
        if code != 0:
            raise self._unreachable(code, errors)
        refs = {name: commit for commit, _tab, name in (line.partition("\t") for line in output.splitlines())}
        for name in (f"refs/tags/{revision}^{{}}", f"refs/tags/{revision}", f"refs/heads/{revision}"):
            if name in refs:
                return refs[name]
        raise Unfit(f"{self.name} has no revision {shown(revision)}: no tag or branch has that name")

    def export(self, commit: str, path: str) -> None:
        """Write the files of a commit as a tar. Raises Unfit."""
        code, _output, errors = self._git("-C", self._path, "archive", "--format=tar", f"--output={path}", commit)
        if code != 0:
            raise Unfit(f"git cannot export {commit} of {self.name}: {self._words(code, errors)}")

    def _fetch(self) -> None:
        code, _output, errors = self._git("init", "--quiet", "--bare", self._path)
        if code != 0:
            raise Unfit(f"git cannot make a mirror of {self.name} in {self._path}: {self._words(code, errors)}")
        os.chmod(self._path, 0o700)
        self._unlock()
        code, _output, errors = self._git("-C", self._path, "fetch", "--quiet", "--prune", "--", self._url, *_REFS)
        if code != 0:
            raise self._unreachable(code, errors)

    def _unlock(self) -> None:
        """Remove the locks that a git left which was killed: nobody else works in the mirror now."""
        for folder, _folders, files in os.walk(self._path):
            for name in files:
                if name.endswith(".lock"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(folder, name))

    def _commit(self, name: str) -> str | None:
        code, output, _errors = self._git("-C", self._path, "rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")
        commit = output.strip()
        return commit if code == 0 and _WHOLE_COMMIT.fullmatch(commit) else None

    def _tags(self) -> str:
        _code, output, _errors = self._git(
            "-C",
            self._path,
            "for-each-ref",
            "--sort=-creatordate",
            f"--count={MOST_NAMED}",
            "--format=%(refname:short)",
            "refs/tags",
        )
        return ", ".join(output.split()) or "none"

    def _git(self, *arguments: str) -> tuple[int, str, str]:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        try:
            return self._run(["timeout", "--kill-after=10", str(FETCH_SECONDS), "git", *settings, *arguments])
        except FileNotFoundError as exc:
            raise Unfit(f"{exc.filename} is not on this host; install git") from exc

    def _unreachable(self, code: int, errors: str) -> Unfit:
        return Unfit(
            f"{self.name} cannot be fetched from: {self._words(code, errors)}; have the host reach it, or name a tag or commit that was "
            "fetched before"
        )

    def _words(self, code: int, errors: str) -> str:
        if code == 124:
            return f"git was not done after {FETCH_SECONDS} s"
        if code in (126, 127):
            return "git is not on this host; install it"
        words = without_credentials(errors.replace(self._url, self.name))
        told = [
            line.strip().rstrip(".") for line in words.splitlines() if line.strip() and not line.startswith(_ADVICE)
        ]
        return "; ".join(told[-3:]) or f"git ended with {code}"


def is_whole_commit(revision: str) -> bool:
    return _WHOLE_COMMIT.fullmatch(revision) is not None


def _check_revision(revision: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/+@~-]*", revision) or ".." in revision or "@{" in revision:
        raise ReleaseError(
            f"{shown(revision)} is no name of a revision: give a tag, a branch, or the hash of a commit. Nothing was changed."
        )
