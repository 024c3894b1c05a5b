# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import pathlib
import subprocess
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base
from ansible_collections.steady.rollout.plugins.module_utils._release_put import Put, Source, foreseen, put
from ansible_collections.steady.rollout.plugins.module_utils._release_repository import ENVIRONMENT, Repository
from ansible_collections.steady.rollout.plugins.module_utils._release_shared import Shared
from ansible_collections.steady.rollout.plugins.module_utils._release_unpack import Owner


class Git:
    """A repository of our own, and a host that has releases of it."""

    def __init__(self, root: pathlib.Path) -> None:
        self.path = root / "upstream"
        self.base = Base(str(root / "opt"))
        self.calls: list[list[str]] = []
        self.git("init", "--quiet", "--initial-branch=main", cwd=root, target=str(self.path))

    def git(self, *arguments: str, cwd: pathlib.Path | None = None, target: str | None = None) -> str:
        command = [
            "git",
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@example.com",
            *arguments,
            *([target] if target else []),
        ]
        return subprocess.run(
            command, cwd=cwd or self.path, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    def commit(self, content: str, *tags: str) -> str:
        (self.path / "file").write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", content)
        for tag in tags:
            self.git("tag", "--annotate", "--message", tag, tag)
        return self.git("rev-parse", "HEAD")

    def run(self, command: list[str]) -> tuple[int, str, str]:
        self.calls.append(command)
        done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def asked_the_network(self) -> bool:
        return any("fetch" in command or "ls-remote" in command for command in self.calls)

    def source(self, revision: str, url: str | None = None) -> Source:
        return Source(repository=Repository(self.run, self.base.repository, url or str(self.path)), revision=revision)

    def put(self, revision: str, name: str = "1.0", url: str | None = None) -> Put:
        self.calls.clear()
        return put(self.base, name, self.source(revision, url), Shared("/nowhere"), Owner())

    def foresee(self, revision: str, name: str = "1.0", url: str | None = None) -> Put:
        self.calls.clear()
        return foreseen(self.base, name, self.source(revision, url), Shared("/nowhere"))

    def content(self, name: str = "1.0") -> str:
        return (pathlib.Path(self.base.release(name)) / "file").read_text()

    def assert_nothing_is_left(self, *names: str) -> None:
        releases = self.base.releases
        assert sorted(os.listdir(releases) if os.path.exists(releases) else []) == sorted(names)


@pytest.fixture
def git(tmp_path: pathlib.Path) -> Git:
    return Git(tmp_path)


def test_a_tag_is_put_with_its_commit(git: Git) -> None:
    commit = git.commit("one", "v1")
    git.commit("two")
    done = git.put("v1")
    assert done.changed
    assert done.release is not None
    assert (done.release.revision, done.release.files, done.release.sha256) == (commit, 1, None)
    assert done.release.origin == {"repository": str(git.path), "revision": "v1"}
    assert git.content() == "one"
    assert not os.path.exists(os.path.join(git.base.release("1.0"), ".git"))


@pytest.mark.parametrize("length", [40, 12, 7])
def test_a_commit_is_put_by_its_hash(git: Git, length: int) -> None:
    commit = git.commit("one")
    git.commit("two")
    git.put(commit[:length])
    assert git.content() == "one"


def test_a_branch_is_put_as_it_is_now(git: Git) -> None:
    git.commit("one")
    git.put("main")
    git.commit("two")
    git.put("main", "2.0")
    assert (git.content("1.0"), git.content("2.0")) == ("one", "two")


def test_a_tag_is_meant_where_a_branch_has_the_same_name(git: Git) -> None:
    git.commit("one", "v1")
    git.git("checkout", "--quiet", "-b", "v1")
    git.commit("two")
    git.put("v1")
    assert git.content() == "one"


def test_a_tag_or_commit_that_was_fetched_before_needs_no_network(git: Git) -> None:
    first = git.commit("one", "v1")
    git.commit("two", "v2")
    git.put("v2", "2.0")
    git.path.rename(git.path.with_name("away"))
    git.put("v1", "1.0")
    assert not git.asked_the_network()
    git.put(first, "1.1")
    assert not git.asked_the_network()
    assert git.content("1.0") == git.content("1.1") == "one"


def test_no_network_is_told_with_what_to_do_and_puts_nothing(git: Git) -> None:
    git.commit("one", "v1")
    git.put("v1")
    git.path.rename(git.path.with_name("away"))
    for revision in ("v9", "main"):
        with pytest.raises(
            ReleaseError,
            match=r"cannot be fetched from: .*does not appear to be a git repository.*; have the host reach it",
        ):
            git.put(revision, "9.0")
    git.assert_nothing_is_left("1.0")


def test_a_host_that_refuses_is_told_without_the_password(git: Git) -> None:
    with pytest.raises(ReleaseError, match=r"http://127\.0\.0\.1:9/x\.git cannot be fetched from") as raised:
        git.put("v1", url="http://me:secret@127.0.0.1:9/x.git")
    assert "secret" not in str(raised.value)
    git.assert_nothing_is_left()


def test_a_revision_that_is_not_there_is_told_with_the_tags_that_are(git: Git) -> None:
    git.commit("one", "v1")
    git.commit("two", "v2")
    with pytest.raises(ReleaseError, match=r"no revision 'v3'.*newest tags: v[12], v[12]"):
        git.put("v3")
    with pytest.raises(ReleaseError, match="no revision"):
        git.put("0" * 40)
    git.assert_nothing_is_left()


@pytest.mark.parametrize(
    "revision", ["-x", "--upload-pack=x", "", "v1..v2", "a b", "@{1}", "v1:file", "^v1", ":/one", "v1~1"]
)
def test_what_is_no_name_of_a_revision_is_refused(git: Git, revision: str) -> None:
    git.commit("one", "v1")
    with pytest.raises(ReleaseError, match=r"is no name of a revision|has no revision"):
        git.put(revision)
    git.assert_nothing_is_left()


@pytest.mark.parametrize("url", ["-x", "--upload-pack=touch x", ""])
def test_what_is_an_option_is_no_repository(git: Git, url: str) -> None:
    with pytest.raises(ReleaseError, match="is no repository"):
        Repository(git.run, git.base.repository, url)


def test_a_program_is_not_run_for_a_url(git: Git) -> None:
    trap = git.path.with_name("trap")
    with pytest.raises(ReleaseError, match="cannot be fetched"):
        git.put("v1", url=f"ext::touch {trap}")
    assert not trap.exists()


def test_a_link_out_of_the_repository_is_refused(git: Git) -> None:
    (git.path / "l").symlink_to("../../outside")
    git.commit("one", "v1")
    with pytest.raises(ReleaseError, match=r"'l' is a link to '\.\./\.\./outside', which leads out of the release"):
        git.put("v1")
    git.assert_nothing_is_left()


def test_a_release_that_is_there_is_left_and_asks_no_network(git: Git) -> None:
    git.commit("one")
    git.put("main")
    git.commit("two")
    assert not git.put("main").changed
    assert not git.asked_the_network()
    assert git.content() == "one"


def test_a_release_is_never_used_for_another_commit(git: Git) -> None:
    git.commit("one", "v1")
    second = git.commit("two", "v2")
    git.put("v1")
    for revision in ("v2", second, "0" * 40):
        with pytest.raises(ReleaseError, match=r"is there already, with revision .* name of its own"):
            git.put(revision)


def test_a_mirror_that_a_killed_git_left_locked_is_used(git: Git) -> None:
    git.commit("one", "v1")
    git.put("v1")
    git.commit("two", "v2")
    for name in ("packed-refs.lock", "refs/tags/v2.lock", "HEAD.lock"):
        (pathlib.Path(git.base.repository) / name).write_text("")
    git.put("v2", "2.0")
    assert git.content("2.0") == "two"


def test_a_mirror_that_was_only_begun_is_completed(git: Git) -> None:
    git.commit("one", "v1")
    pathlib.Path(git.base.repository, "objects").mkdir(parents=True)
    pathlib.Path(git.base.path).chmod(0o755)
    git.put("v1")
    assert git.content() == "one"


def test_only_the_owner_may_read_the_mirror(git: Git) -> None:
    git.commit("one", "v1")
    git.put("v1")
    assert pathlib.Path(git.base.repository).stat().st_mode & 0o077 == 0


def test_a_url_with_a_password_is_recorded_nowhere(git: Git) -> None:
    git.commit("one", "v1")
    done = git.put("v1", url=f"file://me:secret@{git.path}")
    assert done.release is not None
    assert done.release.origin["repository"] == f"file://{git.path}"
    for place, _folders, files in os.walk(git.base.path):
        assert not any(b"secret" in pathlib.Path(place, name).read_bytes() for name in files)


@pytest.mark.parametrize("revision", ["v1", "main"])
def test_a_revision_is_foreseen_by_asking_and_nothing_is_made(git: Git, revision: str) -> None:
    commit = git.commit("one", "v1")
    found = git.foresee(revision)
    assert found.changed
    assert found.release is not None
    assert found.release.revision == commit
    assert not os.path.exists(git.base.path)


def test_a_revision_that_is_not_there_is_foreseen_to_fail(git: Git) -> None:
    git.commit("one", "v1")
    with pytest.raises(ReleaseError, match="no revision 'v2'"):
        git.foresee("v2")


def test_a_commit_that_was_not_fetched_yet_is_not_known(git: Git) -> None:
    assert git.foresee(git.commit("one")) == Put(True, None, [])


def test_a_host_without_git_is_told(git: Git) -> None:
    def no_git(command: list[str]) -> tuple[int, str, str]:
        return git.run(["timeout", "5", "git-that-is-not-there", *command[4:]])

    def no_timeout(command: list[str]) -> tuple[int, str, str]:
        raise FileNotFoundError(2, "No such file or directory", command[0])

    runs: list[tuple[t.Any, str]] = [(no_git, "git is not on this host"), (no_timeout, "timeout is not on this host")]
    for run, words in runs:
        source = Source(repository=Repository(run, git.base.repository, str(git.path)), revision="v1")
        with pytest.raises(ReleaseError, match=words):
            put(git.base, "1.0", source, Shared("/nowhere"), Owner())
    git.assert_nothing_is_left()


def test_files_that_are_not_to_be_exported_are_not_there(git: Git) -> None:
    (git.path / ".gitattributes").write_text("tests export-ignore\n.gitattributes export-ignore\n")
    (git.path / "tests").mkdir()
    (git.path / "tests" / "x").write_text("")
    git.commit("one", "v1")
    git.put("v1")
    assert os.listdir(git.base.release("1.0")) == ["file"]
