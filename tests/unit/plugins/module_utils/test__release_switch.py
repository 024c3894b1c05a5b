# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import io
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _release_folder
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base, in_order
from ansible_collections.steady.rollout.plugins.module_utils._release_history import History, Release
from ansible_collections.steady.rollout.plugins.module_utils._release_put import Source, put
from ansible_collections.steady.rollout.plugins.module_utils._release_shared import Shared
from ansible_collections.steady.rollout.plugins.module_utils._release_switch import (
    Switched,
    Wanted,
    foreseen,
    switch,
)
from ansible_collections.steady.rollout.plugins.module_utils._release_unpack import Owner


class Host:
    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.path = root / "opt"
        self.base = Base(str(self.path))

    def put(self, *names: str) -> None:
        for name in names:
            archive = self.root / f"{name}.tar"
            with tarfile.open(archive, "w") as written:
                member = tarfile.TarInfo("id")
                member.size = len(name)
                written.addfile(member, io.BytesIO(name.encode()))
            put(self.base, name, Source(archive=str(archive)), Shared("/nowhere"), Owner())

    def switch(self, name: str, keep: int = 5, **options: t.Any) -> Switched:
        return switch(self.base, Wanted(name, keep, **options))

    def foresee(self, name: str, keep: int = 5, **options: t.Any) -> Switched:
        return foreseen(self.base, Wanted(name, keep, **options))

    def runs(self) -> str:
        return (self.path / "current" / "id").read_text()

    def state(self) -> tuple[str | None, str | None, list[str]]:
        history = self.base.history()
        return history.current, history.previous, self.base.present()


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Host:
    return Host(tmp_path)


def test_the_first_switch_has_nothing_before(host: Host) -> None:
    host.put("1.0")
    done = host.switch("1.0")
    assert done.changed
    assert os.readlink(host.path / "current") == "releases/1.0"
    assert host.state() == ("1.0", None, ["1.0"])


def test_a_switch_knows_the_way_back(host: Host) -> None:
    host.put("1.0", "2.0")
    host.switch("1.0")
    host.switch("2.0")
    assert (host.runs(), host.state()) == ("2.0", ("2.0", "1.0", ["1.0", "2.0"]))
    host.switch("1.0")
    assert (host.runs(), host.state()) == ("1.0", ("1.0", "2.0", ["1.0", "2.0"]))


def test_a_second_switch_changes_nothing(host: Host) -> None:
    host.put("1.0")
    host.switch("1.0", origin={"archive": "x"})
    record = (host.path / "releases.json").stat()
    assert not host.switch("1.0", origin={"archive": "x"}).changed
    assert (host.path / "releases.json").stat().st_mtime_ns == record.st_mtime_ns


def test_a_release_that_is_gone_is_refused_and_those_that_are_there_are_named(host: Host) -> None:
    host.put("1.0", "2.0")
    host.switch("2.0")
    with pytest.raises(ReleaseError, match=r"release 3.0 is not in .*; there are: 1.0, 2.0\. Nothing was changed"):
        host.switch("3.0")
    assert (host.runs(), host.state()) == ("2.0", ("2.0", None, ["1.0", "2.0"]))


def test_a_previous_release_that_somebody_removed_is_still_named(host: Host) -> None:
    host.put("1.0", "2.0")
    host.switch("1.0")
    host.switch("2.0")
    os.unlink(host.path / "releases/1.0/id")
    os.rmdir(host.path / "releases/1.0")
    assert host.state() == ("2.0", "1.0", ["2.0"])
    with pytest.raises(ReleaseError, match=r"release 1\.0 is not in"):
        host.switch("1.0")
    assert host.runs() == "2.0"


@pytest.mark.parametrize("name", ["../x", "", ".", "releases/1.0"])
def test_a_name_that_is_none_is_refused(host: Host, name: str) -> None:
    with pytest.raises(ReleaseError, match="cannot be the name of a release"):
        host.switch(name)
    assert not host.path.exists()


def test_to_keep_none_is_refused_before_anything_changes(host: Host) -> None:
    host.put("1.0")
    with pytest.raises(ReleaseError, match="at least 1 release is kept"):
        host.switch("1.0", keep=0)
    assert not (host.path / "current").exists()


def test_old_releases_are_removed_and_what_is_current_or_was_before_never(host: Host) -> None:
    host.put("1.0", "2.0", "3.0", "4.0", "5.0")
    host.switch("1.0")
    done = host.switch("2.0", keep=2)
    assert done.removed == ["3.0"]
    assert host.state() == ("2.0", "1.0", ["1.0", "2.0", "4.0", "5.0"])
    assert sorted(os.listdir(host.path / "releases")) == ["1.0", "2.0", "4.0", "5.0"]


def test_what_was_put_there_by_other_means_can_be_current_and_is_never_removed(host: Host) -> None:
    (host.path / "releases" / "by-hand").mkdir(parents=True)
    host.path.chmod(0o755)
    host.put("1.0", "2.0", "3.0")
    host.switch("by-hand")
    host.switch("2.0")
    assert host.switch("3.0", keep=1).removed == ["1.0"]
    assert host.state() == ("3.0", "2.0", ["2.0", "3.0", "by-hand"])


def test_a_package_has_no_link_and_is_recorded(host: Host) -> None:
    origin = {"package": "shop", "version": "1.0-1"}
    assert host.switch("1.0", has_folder=False, origin=origin).changed
    assert not host.switch("1.0", has_folder=False, origin=origin).changed
    assert host.switch("2.0", has_folder=False).changed
    assert host.state() == ("2.0", "1.0", [])
    assert not (host.path / "current").is_symlink()
    assert [dict(one.origin) for one in host.base.history().releases] == [origin, {}]


def test_from_files_to_a_package_and_back(host: Host) -> None:
    host.put("1.0")
    host.switch("1.0")
    host.switch("2.0", has_folder=False)
    assert (host.state(), (host.path / "current").is_symlink()) == (("2.0", "1.0", ["1.0"]), False)
    host.switch("1.0")
    assert (host.state(), host.runs()) == (("1.0", "2.0", ["1.0"]), "1.0")


def test_records_of_packages_are_forgotten_like_releases(host: Host) -> None:
    for number in range(6):
        host.switch(f"{number}.0", keep=2, has_folder=False)
    assert [one.id for one in host.base.history().releases] == ["4.0", "5.0"]


def test_what_is_foreseen_is_what_is_done(host: Host) -> None:
    host.put("1.0", "2.0", "3.0", "4.0")
    host.switch("1.0")
    before = host.foresee("4.0", keep=1)
    assert host.state() == ("1.0", None, ["1.0", "2.0", "3.0", "4.0"])
    done = host.switch("4.0", keep=1)
    assert (before.changed, before.removed, before.after) == (done.changed, done.removed, done.after)


def test_on_a_host_that_has_nothing_a_switch_is_foreseen_and_nothing_made(host: Host) -> None:
    found = host.foresee("1.0")
    assert (found.changed, found.after.current, found.before) == (True, "1.0", History())
    assert not host.path.exists()


@pytest.mark.parametrize("target", ["/etc", "../x", "releases", "shared/1.0", "releases/1.0/id"])
def test_a_link_that_leads_elsewhere_is_not_taken_over(host: Host, target: str) -> None:
    host.put("1.0")
    (host.path / "current").symlink_to(target)
    with pytest.raises(ReleaseError, match=r"current leads to .*, which is no release.*Remove the link"):
        host.switch("1.0")
    assert os.readlink(host.path / "current") == target


def test_an_absolute_link_to_a_release_is_understood(host: Host) -> None:
    host.put("1.0", "2.0")
    (host.path / "current").symlink_to(host.path / "releases" / "1.0")
    assert host.switch("2.0").after.previous == "1.0"
    assert os.readlink(host.path / "current") == "releases/2.0"


def test_a_folder_in_the_place_of_the_link_is_refused(host: Host) -> None:
    host.put("1.0")
    (host.path / "current").mkdir()
    with pytest.raises(ReleaseError, match="current is no link"):
        host.switch("1.0")


def test_a_link_in_the_place_of_a_release_is_none(host: Host) -> None:
    host.put("1.0")
    (host.path / "releases" / "2.0").symlink_to("/etc")
    with pytest.raises(ReleaseError, match=r"release 2\.0 is not in"):
        host.switch("2.0")


def test_whoever_opens_current_meanwhile_gets_a_whole_release(host: Host) -> None:
    host.put("1.0", "2.0")
    host.switch("1.0")
    seen: set[str] = set()
    problems: list[OSError] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                seen.add(host.runs())
            except OSError as exc:
                problems.append(exc)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _time in range(100):
            host.switch("2.0")
            host.switch("1.0")
    finally:
        done.set()
        watcher.join()
    assert not problems
    assert seen <= {"1.0", "2.0"}


KILLED = """
import os, signal, sys
from ansible_collections.steady.rollout.plugins.module_utils._release_folder import Base
from ansible_collections.steady.rollout.plugins.module_utils._release_switch import Wanted, switch
path, place = sys.argv[1:]
def killing(function):
    def call(*arguments):
        function(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return call
if place == "symlink":
    os.symlink = killing(os.symlink)
else:
    setattr(Base, place, killing(getattr(Base, place)))
switch(Base(path), Wanted("3.0", 1))
"""


@pytest.mark.parametrize(
    ("place", "left"),
    [
        ("symlink", ("2.0", "1.0", ["1.0", "2.0", "3.0"])),
        ("link", ("3.0", "2.0", ["1.0", "2.0", "3.0"])),
        ("withdraw", ("3.0", "2.0", ["2.0", "3.0"])),
        ("write", ("3.0", "2.0", ["2.0", "3.0"])),
    ],
)
def test_a_switch_that_is_killed_is_understood_and_the_next_one_completes_it(
    host: Host, place: str, left: tuple[str, str, list[str]]
) -> None:
    host.put("1.0", "2.0", "3.0")
    host.switch("1.0")
    host.switch("2.0")
    done = subprocess.run([sys.executable, "-c", KILLED, str(host.path), place], check=False)
    assert done.returncode == -signal.SIGKILL
    assert host.state() == left
    assert host.runs() == left[0]
    host.switch("3.0", keep=1)
    assert host.state() == ("3.0", "2.0", ["2.0", "3.0"])
    assert sorted(os.listdir(host.path)) == [".lock", "current", "releases", "releases.json"]
    assert sorted(os.listdir(host.path / "releases")) == ["2.0", "3.0"]


def test_one_change_at_a_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.put("1.0")
    monkeypatch.setattr(_release_folder, "LOCK_SECONDS", 0.1)
    with Base(str(host.path)).locked(), pytest.raises(ReleaseError, match=f"process {os.getpid()}"):
        host.switch("1.0")
    host.switch("1.0")


def test_what_cannot_be_removed_is_told_and_the_switch_is_done(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.put("1.0", "2.0", "3.0")
    host.switch("2.0")

    def stuck(path: str, onerror: t.Any) -> None:
        onerror(None, path, (OSError, OSError("Operation not permitted"), None))

    monkeypatch.setattr(_release_folder.shutil, "rmtree", stuck)
    done = host.switch("3.0", keep=1)
    assert (done.removed, host.runs()) == (["1.0"], "3.0")
    assert done.problems == [f"{host.path}/releases/.outgoing-1.0: Operation not permitted"]
    assert host.base.present() == ["2.0", "3.0"]


def test_the_oldest_are_first_and_before_them_what_nobody_recorded() -> None:
    history = History((Release("b", 1), Release("a", 1)))
    assert in_order(["a", "b", "z", "y"], history) == ["y", "z", "b", "a"]


def test_a_record_that_is_damaged_is_told_and_nothing_is_changed(host: Host) -> None:
    host.put("1.0", "2.0")
    host.switch("1.0")
    (host.path / "releases.json").write_text("{")
    with pytest.raises(ReleaseError, match=r"releases.json cannot be read.*Put it back from a copy; or remove it"):
        host.switch("2.0")
    assert host.runs() == "1.0"
    (host.path / "releases.json").unlink()
    assert host.switch("2.0").after.previous == "1.0"
