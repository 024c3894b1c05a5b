# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One real nginx in front of app servers whose every answer the test decides."""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_driver import NginxDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import FORMAT_NAME, HTTP_FORMAT
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError

from e2e.lab import App
from local_fleet.polling import poll
from local_fleet.supervisor import is_running

CONFIG = """
user root;
worker_processes 2;
pid {dir}/nginx.pid;
error_log {dir}/error.log;
{top}
events { worker_connections 512; }
http {
    log_format {format_name} escape=json '{format}';
    access_log {dir}/access.log {format_name};
    proxy_temp_path {dir}/temp;
    {defaults}
    include {dir}/shop.conf;
    server {
        listen {host}:8000;
        location / {
            proxy_pass http://shop;
            proxy_connect_timeout 2s;
            proxy_read_timeout 30s;
        }
    }
}
"""
UPSTREAM = """# whose servers are changed
upstream shop {
    zone shop 256k;
{servers}
}
"""


class NginxLab:
    """A running nginx. Use as a context manager.

    Its upstream `shop` is in a file of its own; in all texts `{dir}` is the lab's directory and `{host}` its own loopback address,
    where app servers listen on ports 8081 and up.
    """

    def __init__(self, apps: int = 3, top: str = "", defaults: str = "", config: str = CONFIG) -> None:
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="steady-nginx-"))
        self.host = f"127.253.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
        self.config = self.dir / "nginx.conf"
        self.upstream = self.dir / "shop.conf"
        self._apps = apps
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self.config.write_text(self.filled(config.replace("{top}", top).replace("{defaults}", defaults)))
        self.write_upstream("\n".join(f"    server {{host}}:{8081 + place} weight=10;" for place in range(apps)))

    def __enter__(self) -> NginxLab:
        try:
            self.apps = [self._app(8081 + place) for place in range(self._apps)]
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def filled(self, text: str) -> str:
        values = {"dir": str(self.dir), "host": self.host, "format_name": FORMAT_NAME, "format": HTTP_FORMAT}
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def write_upstream(self, servers: str) -> None:
        self.upstream.write_text(self.filled(UPSTREAM.replace("{servers}", servers)))

    def server(self, place: int) -> str:
        """The name of a server, as its line has it."""
        return f"{self.host}:{8081 + place}"

    def _app(self, port: int) -> App:
        app = App(self.host, port)
        self._stack.callback(app.server_close)
        self._stack.callback(app.shutdown)
        return app

    def start(self) -> None:
        output = self._stack.enter_context((self.dir / "output").open("ab"))
        command = ["nginx", "-p", str(self.dir), "-c", str(self.config), "-g", "daemon off;"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        self._stack.callback(self.kill)
        poll(self._runs, f"nginx runs; it said: {self.log()}")

    def _runs(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"nginx ended: {self.log()}")
        return len(self.workers()) == 2

    def kill(self) -> None:
        """All its processes at once. It has no time to start a worker in the place of one that is gone."""
        self.process.send_signal(signal.SIGSTOP)
        workers = [one.pid for one in process.workers_of(process.Process(self.process.pid, 0, 0, ""))]
        self.process.kill()
        self.process.wait()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        poll(lambda: not any(is_running(pid) for pid in workers), "its workers are gone")

    def master(self) -> process.Process:
        return process.master_of(str(self.dir / "nginx.pid"))

    def workers(self) -> set[int]:
        """Those that take requests."""
        with contextlib.suppress(NginxProcessError):
            return {one.pid for one in process.workers_of(self.master()) if not one.leaves}
        return set()

    def reload(self) -> None:
        process.reload(self.master(), 20.0)

    def log(self) -> str:
        names = ("output", "error.log")
        return "".join(
            (self.dir / name).read_text(errors="replace")[-2000:] for name in names if (self.dir / name).exists()
        )

    def driver(self, **options: t.Any) -> NginxDriver:
        return NginxDriver(
            str(self.config), **{"timeout": 20.0, "health_timeout": 5.0, "drain_timeout": 10.0, **options}
        )
