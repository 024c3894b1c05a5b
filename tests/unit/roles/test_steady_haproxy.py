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
    "1\n# be_id be_name srv_id srv_name ...\n"
    "3 shop 1 web1 192.0.2.21 2 0 33 10 92 6 3 4 6 0 0 0 - 8080 - 0 0 - - 0\n"
    "3 shop 2 web3 192.0.2.23 2 8 10 10 92 6 3 4 6 0 0 0 - 8080 - 0 0 - - 0\n"
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


def test_an_answer_that_is_no_state_leaves_the_saved_one(folder: pathlib.Path) -> None:
    with Answering(folder / "sock", "Permission denied\n"):
        done = run(folder, "save")
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
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


def test_a_reload_that_brings_no_new_worker_fails(folder: pathlib.Path) -> None:
    master = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN); \
print(flush=True); signal.pause()",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert master.stdout
        master.stdout.readline()
        with Answering(folder / "sock", "Pid: 42\n"):
            done = run(folder, "reload", "--timeout=0.5", str(master.pid))
    finally:
        master.kill()
        master.communicate()
    assert done.returncode == 1
    assert "the old one (pid 42) goes on" in done.stderr
