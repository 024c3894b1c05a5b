# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change of a running nginx's configuration: it serves, or everything is as it was."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_change import Nginx, NginxChangeError, change
from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import replaced
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import edits, find, upstreams

from local_fleet.polling import poll

REQUESTS = 12
# Two servers that say who they are, and more lines that somebody else may add.
CONFIG = """
user root;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    include conf.d/*.conf;
    server {{ listen unix:{folder}/a.sock; return 200 a; }}
    server {{ listen unix:{folder}/b.sock; return 200 b; }}
    server {{ listen unix:{folder}/clients.sock; location / {{ proxy_pass http://app; }} }}
}}
"""
UPSTREAM = """# ours
upstream app {{
    zone app 64k;
    server unix:{folder}/a.sock weight=3; server unix:{folder}/b.sock; # both
}}
"""


class Server:
    """A running nginx, and its files."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.main = folder / "nginx.conf"
        self.upstream = folder / "conf.d" / "app.conf"
        self.upstream.parent.mkdir()
        self.main.write_text(CONFIG.format(folder=folder))
        self.upstream.write_text(UPSTREAM.format(folder=folder))
        self.nginx = Nginx(str(self.main), str(folder / "nginx.pid"), ("nginx", "-p", str(folder)), reload_seconds=5.0)

    def __enter__(self) -> Server:
        command = ["nginx", "-p", str(self.folder), "-c", str(self.main), "-g", "daemon off;"]
        self._log = (self.folder / "output").open("wb")
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)
        poll(lambda: self._process.poll() is not None or len(self.workers()) == 2, "nginx runs", 20)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def workers(self) -> set[int]:
        with contextlib.suppress(NginxProcessError):
            return {one.pid for one in process.workers_of(process.master_of(self.nginx.pid_file)) if not one.leaves}
        return set()

    def edited(self, name: str, **wanted: t.Any) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """The contents before and after an edit of the server whose socket has a name."""
        files = DiskFiles(str(self.main))
        (server,) = [
            one
            for one in find(upstreams(str(self.main), files), "app").servers
            if one.address.endswith(f"/{name}.sock")
        ]
        data = files.read(server.path)
        return {server.path: data}, {server.path: replaced(data, edits(data, server, **wanted))}

    def answering(self) -> list[str]:
        found = []
        for _number in range(REQUESTS):
            connection = http.client.HTTPConnection("localhost", timeout=5)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self.folder / "clients.sock"))
            with contextlib.closing(connection):
                connection.request("GET", "/")
                found.append(connection.getresponse().read().decode())
        return found


@pytest.fixture
def folder() -> t.Iterator[pathlib.Path]:
    """Sockets want short paths."""
    with tempfile.TemporaryDirectory(prefix="n") as name:
        yield pathlib.Path(name)


@pytest.fixture
def server(folder: pathlib.Path) -> t.Iterator[Server]:
    with Server(folder) as running:
        yield running


def test_a_change_serves_with_new_workers_and_leaves_all_else_of_the_file(server: Server) -> None:
    before, text = server.workers(), server.upstream.read_text()
    old, new = server.edited("a", state="down")
    workers = change(server.nginx, old, new)
    assert before.isdisjoint(one.pid for one in workers)
    assert set(server.answering()) == {"b"}
    assert server.upstream.read_text() == text.replace("a.sock weight=3;", "a.sock weight=3 down;")


def test_weights_are_the_share_of_requests(server: Server) -> None:
    change(server.nginx, *server.edited("b", weight=9))
    assert server.answering().count("a") == REQUESTS * 3 // 12


def test_a_reload_that_silently_does_nothing_is_noticed_and_taken_back(server: Server) -> None:
    before, text = server.workers(), server.upstream.read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (server.folder / "conf.d" / "more.conf").write_text(f"server {{ listen 127.0.0.1:{port}; }}")
        with pytest.raises(
            NginxChangeError, match=r"started no new workers in 5 s.*The configuration is as it was before"
        ):
            change(server.nginx, *server.edited("a", state="down"))
    assert server.workers() == before
    assert server.upstream.read_bytes() == text
    assert set(server.answering()) == {"a", "b"}


def test_a_configuration_that_was_broken_before_is_refused_in_nginxs_words(server: Server) -> None:
    (server.folder / "conf.d" / "more.conf").write_text("sever { }")
    before, text = server.workers(), server.upstream.read_bytes()
    with pytest.raises(NginxChangeError, match=r'unknown directive "sever" in .*more.conf:1.*Nothing was changed'):
        change(server.nginx, *server.edited("a", state="down"))
    assert (server.workers(), server.upstream.read_bytes()) == (before, text)


@pytest.mark.parametrize("private", [True, False])
def test_a_change_that_nginx_does_not_take_is_refused_in_its_words(
    server: Server, private: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `unshare` it cannot be tested where nobody sees it, and is taken back."""
    if not private:
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "nginx").symlink_to(str(shutil.which("nginx")))
        monkeypatch.setenv("PATH", str(programs))
    text = server.upstream.read_bytes()
    with pytest.raises(NginxChangeError, match='invalid parameter "weight=0"'):
        change(
            server.nginx, {str(server.upstream): text}, {str(server.upstream): text.replace(b"weight=3", b"weight=0")}
        )
    assert server.upstream.read_bytes() == text
    assert set(server.answering()) == {"a", "b"}


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(server: Server) -> None:
    old, new = server.edited("a", state="down")
    server.upstream.write_text(server.upstream.read_text() + "# mine\n")
    with pytest.raises(NginxChangeError, match="was changed by somebody else"):
        change(server.nginx, old, new)
    assert server.upstream.read_text().endswith("# mine\n")


def test_a_file_keeps_its_mode_and_owner_and_nothing_is_left_beside_it(server: Server) -> None:
    server.upstream.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(server.upstream, 1, 1)
    before = server.upstream.stat()
    change(server.nginx, *server.edited("a", weight=4))
    after = server.upstream.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert list(server.upstream.parent.iterdir()) == [server.upstream]


def test_an_nginx_that_does_not_run_is_told_and_nothing_is_touched(folder: pathlib.Path) -> None:
    server = Server(folder)
    text = server.upstream.read_bytes()
    with pytest.raises(NginxProcessError, match="nginx does not run"):
        change(server.nginx, *server.edited("a", weight=4))
    assert server.upstream.read_bytes() == text
