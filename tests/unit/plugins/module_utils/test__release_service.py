# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import pathlib
import stat
import subprocess
import sys
import time
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._release import ReleaseError
from ansible_collections.steady.rollout.plugins.module_utils._release_service import Service, working_directory
from ansible_collections.steady.rollout.plugins.module_utils._release_unit import RUNNING, STOPPED, Aim, Waits

# A systemctl that does what it is told to a unit kept in a file: after `restart` the readings of `next` come one by one.
SYSTEMCTL = """#!{python}
import json, sys
path = {state!r}
with open(path) as stream:
    state = json.load(stream)
words = [one for one in sys.argv[1:] if not one.startswith("--")]
state["calls"].append(" ".join(words))
unit = state["unit"]
code = state["codes"].get(words[0], 0)
if code:
    print(words[0] + " is refused", file=sys.stderr)
elif words[0] == "show":
    if state["queue"]:
        unit.update(state["queue"].pop(0))
    for name, value in unit.items():
        print(name + "=" + str(value))
elif words[0] in ("restart", "stop"):
    state["queue"] = state["next"]
elif words[0] in ("enable", "disable"):
    unit["UnitFileState"] = words[0] + "d"
elif words[0] == "daemon-reload":
    unit.update(state["reloaded"])
with open(path, "w") as stream:
    json.dump(state, stream)
sys.exit(code)
"""
JOURNALCTL = "#!/bin/sh\nprintf 'starting\\nport is in use {{ x }}\\n\\033[31mred\\n'\n"

UP = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running", "NeedDaemonReload": "no"}
DOWN = {**UP, "ActiveState": "inactive", "SubState": "dead", "MainPID": 0}
WAITS = Waits(start=0.4, stop=0.1, settle=0.1)


class Systemd:
    def __init__(self, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = root / "state.json"
        self.directory = os.path.realpath("/proc/self/cwd")
        self._write("systemctl", SYSTEMCTL.format(python=sys.executable, state=str(self.state)), root)
        self._write("journalctl", JOURNALCTL, root)
        monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
        self.is_up()

    @staticmethod
    def _write(name: str, text: str, root: pathlib.Path) -> None:
        (root / name).write_text(text)
        (root / name).chmod(stat.S_IRWXU)

    def _set(self, unit: dict[str, t.Any], following: t.Sequence[dict[str, t.Any]], **more: t.Any) -> None:
        known = {"calls": [], "queue": [], "codes": {}, "reloaded": {}, "unit": unit, "next": list(following), **more}
        self.state.write_text(json.dumps(known))

    def is_up(self, *following: dict[str, t.Any], **more: t.Any) -> None:
        unit = {**UP, "MainPID": os.getpid(), "InvocationID": "aa", "UnitFileState": "enabled"}
        self._set({**unit, **more.pop("unit", {})}, following, **more)

    def is_down(self, *following: dict[str, t.Any], **more: t.Any) -> None:
        unit = {**DOWN, "InvocationID": "", "UnitFileState": "disabled"}
        self._set({**unit, **more.pop("unit", {})}, following, **more)

    def started(self, pid: int | None = None) -> dict[str, t.Any]:
        return {**UP, "MainPID": pid or os.getpid(), "InvocationID": "bb"}

    @property
    def calls(self) -> list[str]:
        """What was done, without what only reads."""
        done: list[str] = json.loads(self.state.read_text())["calls"]
        return [call for call in done if not call.startswith("show")]


@pytest.fixture
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    return Systemd(tmp_path, monkeypatch)


def run(command: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def service(name: str = "shop") -> Service:
    return Service(run, name)


def test_what_runs_in_its_folder_is_left_alone(systemd: Systemd) -> None:
    done = service().bring(Aim(RUNNING, directory=systemd.directory), WAITS)
    assert (done.acts.any, systemd.calls) == (False, [])
    assert done.after.directory == systemd.directory


def test_a_unit_is_enabled_started_and_read_back(systemd: Systemd) -> None:
    systemd.is_down({**DOWN, "ActiveState": "activating"}, systemd.started())
    done = service().bring(Aim(RUNNING, directory=systemd.directory), WAITS)
    assert systemd.calls == ["enable shop.service", "reset-failed shop.service", "restart shop.service"]
    assert (done.before.is_up, done.after.is_up, done.after.is_enabled) == (False, True, True)


def test_a_unit_that_works_elsewhere_is_restarted(systemd: Systemd, tmp_path: pathlib.Path) -> None:
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as other:
        try:
            systemd.is_up(systemd.started(), unit={"MainPID": other.pid})
            done = service().bring(Aim(RUNNING, directory=systemd.directory), WAITS)
        finally:
            other.kill()
    assert systemd.calls == ["reset-failed shop.service", "restart shop.service"]
    assert done.acts.why == f"it worked in {tmp_path}"


def test_a_unit_that_works_elsewhere_after_its_start_is_told(systemd: Systemd, tmp_path: pathlib.Path) -> None:
    systemd.is_down(systemd.started())
    with pytest.raises(ReleaseError, match=rf"works in {systemd.directory}, not in {tmp_path}.*the link `current`"):
        service().bring(Aim(RUNNING, directory=str(tmp_path)), WAITS)


def test_a_folder_that_is_not_there_is_told_before_anything_is_done(systemd: Systemd) -> None:
    with pytest.raises(ReleaseError, match=r"/none is not there.*Nothing was changed"):
        service().bring(Aim(RUNNING, directory="/none"), WAITS)
    assert systemd.calls == []


def test_files_that_changed_are_read_and_the_unit_restarted(systemd: Systemd) -> None:
    systemd.is_up(systemd.started(), unit={"NeedDaemonReload": "yes"}, reloaded={"NeedDaemonReload": "no"})
    service().bring(Aim(RUNNING), WAITS)
    assert systemd.calls == ["daemon-reload", "reset-failed shop.service", "restart shop.service"]


def test_a_unit_that_systemd_does_not_know_is_looked_for_anew_and_told(systemd: Systemd) -> None:
    systemd.is_down(unit={"LoadState": "not-found"})
    with pytest.raises(ReleaseError, match=r"systemd knows no shop\.service\. Write its file"):
        service().bring(Aim(RUNNING), WAITS)
    assert systemd.calls == ["daemon-reload"]


@pytest.mark.parametrize("load", ["masked", "bad-setting", "error"])
def test_a_unit_that_cannot_be_used_is_told(systemd: Systemd, load: str) -> None:
    systemd.is_down(unit={"LoadState": load})
    with pytest.raises(ReleaseError, match=f"cannot use shop.service: it is {load}"):
        service().bring(Aim(RUNNING), WAITS)


def test_a_unit_that_ends_at_once_is_told_with_its_exit_code_and_its_journal(systemd: Systemd) -> None:
    ended = {
        "ActiveState": "failed",
        "Result": "exit-code",
        "ExecMainCode": 1,
        "ExecMainStatus": 3,
        "InvocationID": "bb",
    }
    systemd.is_down(ended)
    with pytest.raises(ReleaseError) as raised:
        service().bring(Aim(RUNNING), WAITS)
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("shop.service does not run: it ended right after it was started")
    assert "exit code 3 (state failed, result exit-code)" in lines[0]
    assert lines[1:] == ["starting", "port is in use {{ x }}", " [31mred"]


def test_a_unit_that_is_never_active_is_told(systemd: Systemd) -> None:
    systemd.is_down({**DOWN, "ActiveState": "activating", "SubState": "start"})
    with pytest.raises(ReleaseError, match=r"was not active 0.4 s after it was started: it is activating \(start\)"):
        service().bring(Aim(RUNNING), WAITS)


def test_a_process_that_ends_while_it_settles_is_told(systemd: Systemd) -> None:
    ended = {
        "ActiveState": "activating",
        "SubState": "auto-restart",
        "MainPID": 0,
        "ExecMainCode": 2,
        "ExecMainStatus": 11,
    }
    systemd.is_down(systemd.started(), ended)
    with pytest.raises(ReleaseError, match=rf"main process {os.getpid()} ended .* killed by signal 11"):
        service().bring(Aim(RUNNING), WAITS)


def test_a_unit_is_stopped_and_disabled(systemd: Systemd) -> None:
    systemd.is_up({"ActiveState": "deactivating"}, DOWN)
    done = service().bring(Aim(STOPPED, enabled=False), WAITS)
    assert systemd.calls == ["disable shop.service", "stop shop.service"]
    assert done.after.is_down


def test_a_unit_that_does_not_stop_is_told(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(times)))
    systemd.is_up({"ActiveState": "deactivating"})
    with pytest.raises(ReleaseError, match=r"is still stopping after 10.1 s"):
        service().bring(Aim(STOPPED), WAITS)


def test_what_systemctl_refuses_is_told(systemd: Systemd) -> None:
    systemd.is_down(codes={"restart": 4})
    with pytest.raises(
        ReleaseError, match=r"systemctl restart --no-block shop.service failed with 4: restart is refused"
    ):
        service().bring(Aim(RUNNING), WAITS)


def test_a_unit_that_cannot_be_reset_is_started_nevertheless(systemd: Systemd) -> None:
    systemd.is_down(systemd.started(), codes={"reset-failed": 1})
    assert service().bring(Aim(RUNNING), WAITS).after.is_up


def test_what_is_foreseen_is_not_done(systemd: Systemd) -> None:
    systemd.is_down(unit={"LoadState": "not-found"})
    assert service().foreseen(Aim(RUNNING, directory="/none")).acts.start
    assert systemd.calls == []


def test_a_host_without_systemd_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReleaseError, match="no systemctl on this host"):
        service().bring(Aim(RUNNING), WAITS)


@pytest.mark.parametrize("name", ["", "-x", "--now", "a b", "a/b", "*", "a\n", "a[b"])
def test_what_is_no_name_of_a_unit_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="is no name of a unit"):
        service(name)


@pytest.mark.parametrize(
    ("name", "unit"), [("shop", "shop.service"), ("shop.service", "shop.service"), ("a@1", "a@1.service")]
)
def test_a_unit_is_a_service(name: str, unit: str) -> None:
    assert service(name).name == unit


def test_the_folder_of_no_process_is_not_known() -> None:
    assert working_directory(0) is None
    assert working_directory(2**22 + 1) is None


def test_the_file_of_a_unit_is_kept_once(systemd: Systemd, tmp_path: pathlib.Path) -> None:
    file, kept = tmp_path / "shop.service", tmp_path / "kept"
    file.write_text("[Service]\nExecStart=/bin/shop\n")
    systemd.is_up(unit={"FragmentPath": str(file)})
    one = service()
    done = one.bring(Aim(RUNNING), WAITS)
    assert [one.keep(str(kept), done, WAITS), one.keep(str(kept), done, WAITS)] == [True, False]
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == (file.read_text(), 0o600)


def test_the_file_of_a_unit_that_somebody_else_started_and_that_ends_is_not_kept(
    systemd: Systemd, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "shop.service").write_text("[Service]\n")
    failed = {"ActiveState": "activating", "SubState": "auto-restart", "MainPID": 0}
    unit = {"FragmentPath": str(tmp_path / "shop.service")}
    systemd.is_up(unit=unit)
    one = service()
    done = one.bring(Aim(RUNNING), WAITS)
    systemd.is_up(unit=unit, queue=[{}, failed])
    with pytest.raises(ReleaseError, match="ended"):
        one.keep(str(tmp_path / "kept"), done, WAITS)
    assert not (tmp_path / "kept").exists()


def test_a_unit_without_a_file_cannot_be_kept(systemd: Systemd, tmp_path: pathlib.Path) -> None:
    one = service()
    with pytest.raises(ReleaseError, match="no file"):
        one.keep(str(tmp_path / "kept"), one.bring(Aim(RUNNING), WAITS), WAITS)
