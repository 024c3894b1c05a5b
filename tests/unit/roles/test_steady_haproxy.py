# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command that HAProxy's unit calls, as far as it needs no HAProxy."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import types
import typing as t

import pytest

COMMAND = pathlib.Path(__file__).resolve().parents[3] / "roles" / "haproxy" / "files" / "steady_haproxy.py"
CONFIG = """
defaults
    mode http
backend shop
    server web1 192.0.2.21:8081 check
    server web2 [2001:db8::2]:8082
    server web3 192.0.2.23
    server-template t 3 192.0.2.30:9000
# a comment
listen more
    server web1 web1.example:80
frontend web
    bind :8000
"""
STATE = (
    "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr "
    "srv_agent_addr srv_agent_port\n"
    "3 shop 1 web1 192.0.2.21 2 0 33 10 92 6 3 4 6 0 0 0 - 8080 - 0 0 - - 0\n"
    "3 shop 2 web3 192.0.2.23 2 8 10 10 92 6 3 4 6 0 0 0 - 8080 - 0 0 - - 0\n\n"
)


@pytest.fixture(scope="module")
def command() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("steady_haproxy", COMMAND)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Answering:
    """A socket that gives the same answer to each connection."""

    def __init__(self, path: pathlib.Path, answer: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.answer = answer.encode()
        self.thread = threading.Thread(target=self.serve)

    def serve(self) -> None:
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            with connection:
                connection.recv(1024)
                connection.sendall(self.answer)

    def __enter__(self) -> Answering:
        self.thread.start()
        return self

    def __exit__(self, *_reason: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


def run(folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [f"--socket={folder}/sock", f"--state-file={folder}/state", f"--config={folder}/cfg"]
    command = [sys.executable, str(COMMAND), *paths, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "cfg").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "state").write_text("1\n", encoding="utf-8")
    return tmp_path


def test_the_ports_of_servers_are_read_from_the_configuration(command: t.Any) -> None:
    assert command.configured_ports(CONFIG) == {
        ("shop", "web1"): "8081",
        ("shop", "web2"): "8082",
        ("more", "web1"): "80",
    }


def test_a_configured_port_replaces_the_saved_one_and_nothing_else(command: t.Any) -> None:
    assert command.with_ports(STATE, {("shop", "web1"): "8081"}) == STATE.replace("8080", "8081", 1)


def test_save_writes_what_haproxy_tells_for_root_only(folder: pathlib.Path) -> None:
    with Answering(folder / "sock", STATE):
        assert run(folder, "save").returncode == 0
    assert (folder / "state").read_text(encoding="utf-8") == STATE.replace("8080", "8081", 1)
    assert (folder / "state").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param("Permission denied\n", "Permission denied", id="refusal"),
        pytest.param("1\n", "not tell the whole state", id="version-only"),
        pytest.param(STATE[:60], "not tell the whole state", id="cut-in-the-header"),
        pytest.param(STATE[:-20], "not tell the whole state", id="cut-in-a-row"),
        pytest.param(STATE[: STATE.index("3 shop 2")], "not tell the whole state", id="cut-between-rows"),
    ],
)
def test_an_answer_that_is_not_the_whole_state_leaves_the_saved_one(
    folder: pathlib.Path, answer: str, told: str
) -> None:
    with Answering(folder / "sock", answer):
        done = run(folder, "save")
    assert done.returncode == 1
    assert told in done.stderr
    assert (folder / "state").read_text(encoding="utf-8") == "1\n"


def test_a_socket_that_is_not_there_is_told(folder: pathlib.Path) -> None:
    done = run(folder, "save")
    assert done.returncode == 1
    assert f"no answer to `show servers state` on {folder}/sock" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["cfg", "state"]


@pytest.mark.parametrize(("age", "code"), [(-5, 0), (86400 * 365, 3)], ids=["newer", "older"])
def test_pending_compares_the_configuration_with_the_worker(folder: pathlib.Path, age: int, code: int) -> None:
    os.utime(folder / "cfg", times=(time.time() - age,) * 2)
    with Answering(folder / "sock", f"Name: HAProxy\nPid: {os.getpid()}\n"):
        assert run(folder, "pending").returncode == code


@pytest.fixture
def master() -> t.Iterator[int]:
    """Pid of a process that a reload's signal does not disturb."""
    program = "import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_reload_that_brings_no_new_worker_fails(folder: pathlib.Path, master: int) -> None:
    with Answering(folder / "sock", "Pid: 42\n"):
        done = run(folder, "reload", "--timeout=0.5", str(master))
    assert done.returncode == 1
    assert "the old one (pid 42) goes on" in done.stderr


def test_an_old_worker_that_answers_only_after_the_reload_is_no_success(
    command: t.Any, folder: pathlib.Path, master: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Silent until the signal, then the same worker as before: this process.
    pids = iter([None])
    monkeypatch.setattr(command, "worker_pid", lambda _path: next(pids, os.getpid()))
    arguments = types.SimpleNamespace(
        socket=f"{folder}/sock", state_file=f"{folder}/state", config=f"{folder}/cfg", pid=master, timeout=0.3
    )
    with pytest.raises(command.Failure, match="no new worker answered"):
        command.reload_haproxy(arguments)


def test_a_worker_that_started_after_a_moment_is_younger(command: t.Any, master: int) -> None:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert command.is_younger(master, now - 60)
    assert not command.is_younger(master, now + 60)
    assert not command.is_younger(2**22 + 1, 0)
