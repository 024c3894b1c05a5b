# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real nginx of this machine with a configuration of its own, and modules run against it."""

from __future__ import annotations

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError

from local_fleet.polling import poll

SECONDS = 60
WORKERS = 2
CONFIG = """
user root;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{main}
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log;
    include conf.d/*.conf;
    include sites-enabled/*;
{http}
}}
"""


class Nginx:
    """The files of an nginx in a folder, and nginx itself between ``start`` and the end."""

    def __init__(self, folder: pathlib.Path, main: str = "", http: str = "") -> None:
        self.folder = folder
        self.config = folder / "nginx.conf"
        self.config.write_text(CONFIG.format(folder=folder, workers=WORKERS, main=main, http=http))
        for name in ("conf.d", "sites-enabled"):
            (folder / name).mkdir()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Nginx:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def start(self) -> None:
        output = self._stack.enter_context((self.folder / "output").open("wb"))
        command = ["nginx", "-c", str(self.config), "-g", "daemon off;"]
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._stack.callback(running.wait)
        self._stack.callback(running.terminate)
        poll(lambda: running.poll() is not None or len(self.workers()) == WORKERS, "nginx runs", SECONDS)

    def workers(self) -> set[int]:
        """Pids of those that take requests."""
        with contextlib.suppress(NginxProcessError):
            master = process.master_of(str(self.folder / "nginx.pid"))
            return {one.pid for one in process.workers_of(master) if not one.leaves}
        return set()

    def get(self, port: int) -> str:
        """The body of an answer."""
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
        return reply.partition(b"\r\n\r\n")[2].decode()

    def module(self, name: str, *flags: str, **arguments: t.Any) -> dict[str, t.Any]:
        """What a module of ours returns, with this configuration; `output` is what a person sees."""
        program = pathlib.Path(sys.executable).with_name("ansible")
        given = json.dumps({"config": str(self.config), **arguments})
        command = [
            str(program),
            "-i",
            "localhost,",
            "-c",
            "local",
            "localhost",
            "-m",
            f"steady.rollout.{name}",
            "-a",
            given,
            *flags,
        ]
        command += ["-e", f"ansible_python_interpreter={sys.executable}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        status, _arrow, told = done.stdout.partition("=> ")
        assert told, done.stdout + done.stderr
        return {"failed": "FAILED" in status, "output": done.stdout, **json.loads(told)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
