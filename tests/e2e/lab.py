# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One real HAProxy with a configuration of the test's own, and app servers whose every answer the test decides."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import os
import pathlib
import secrets
import shutil
import signal
import socket as net
import subprocess
import tempfile
import threading
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._haproxy import Backend
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_backend import (
    Outcome,
    Request,
    change_backend,
)
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_plan import Policy
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backend
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Wanted

from local_fleet.polling import poll

TESTS = pathlib.Path(__file__).resolve().parents[1]
# HAProxy's versions under test: the system's own, and the oldest and newest that Debian has.
RELEASES = {"system": "", "oldest": "bullseye", "newest": "forky"}
CONFIG = """
global
    stats socket {dir}/admin.sock mode 600 level admin expose-fd listeners
    stats socket {dir}/operator.sock mode 600 level operator
    stats socket {dir}/user.sock mode 600 level user
    stats socket ipv4@{host}:9999 level admin
    stats timeout 60s
    hard-stop-after 20s
    {top}
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout queue 30s
    {defaults}
frontend shop
    bind {host}:8000
    default_backend shop
"""
STATE_FILE = "server-state-file {dir}/state"
LOAD_STATE = "load-server-state-from-file global"


class App(http.server.ThreadingHTTPServer):
    """An app host: /health answers by ``healthy``; /hold answers once ``held`` is released; /error with 500; all else at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int) -> None:
        self.healthy = True
        self.held = threading.Semaphore(0)
        self.holding = 0
        self.asked = 0  # health checks
        self.answered = 0  # all other requests
        self.reason = "Service Unavailable"  # what an unhealthy answer says
        self.broken = False  # hangs up on every request but health checks
        super().__init__((host, port), _Handler)
        threading.Thread(target=functools.partial(self.serve_forever, 0.05), daemon=True).start()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: App

    def do_GET(self) -> None:
        if self.path == "/hold":
            self.server.holding += 1
            self.server.held.acquire(timeout=30)
            self.server.holding -= 1
        self.server.asked += self.path == "/health"
        self.server.answered += self.path != "/health"
        if self.server.broken and self.path != "/health":
            self.close_connection = True
            return
        status = 503 if self.path == "/health" and not self.server.healthy else 500 if self.path == "/error" else 200
        self.send_response(status, self.server.reason if status == 503 else None)
        self.send_header("Content-Length", "2")
        with contextlib.suppress(OSError):
            self.end_headers()
            self.wfile.write(b"ok")

    def log_message(self, *args: object) -> None:
        pass


class Lab:
    """A running HAProxy. Use as a context manager.

    ``body`` holds further sections; in all texts ``{dir}`` is the lab's directory and ``{host}`` its own loopback address,
    where app servers listen on ports 8081 and up.
    """

    def __init__(
        self,
        body: str,
        apps: int = 3,
        top: str = STATE_FILE,
        defaults: str = LOAD_STATE,
        command: t.Sequence[str] = ("haproxy",),
    ) -> None:
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="steady-lab-"))
        self.host = f"127.252.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
        self.text = CONFIG.replace("{top}", top).replace("{defaults}", defaults) + body
        self._apps = apps
        self._command = [word.replace("{dir}", str(self.dir)) for word in command]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        self._stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
        try:
            self.apps = [self._app(8081 + i) for i in range(self._apps)]
            self.write_config(self.text)
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _app(self, port: int) -> App:
        app = App(self.host, port)
        self._stack.callback(app.server_close)
        self._stack.callback(app.shutdown)
        return app

    def start(self) -> None:
        log = self._stack.enter_context((self.dir / "haproxy.log").open("ab"))
        command = [*self._command, "-W", "-db", "-S", f"{self.dir}/master.sock", "-f", f"{self.dir}/haproxy.cfg"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._stack.callback(self._stop)
        poll(self._answers, f"HAProxy answers; it said: {self.log()}")

    def _stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"HAProxy ended: {self.log()}")
        with contextlib.suppress(OSError):
            # The master starts anew once its worker runs, and refuses connections for a moment.
            return "Pid" in self.ask("show info") and "worker" in self.ask("show proc", "master.sock")
        return False

    def log(self) -> str:
        return (self.dir / "haproxy.log").read_text(errors="replace")[-2000:]

    @property
    def socket(self) -> str:
        return str(self.dir / "admin.sock")

    def write_config(self, text: str) -> None:
        text = text.replace("{dir}", str(self.dir)).replace("{host}", self.host)
        (self.dir / "haproxy.cfg").write_text(text)

    def ask(self, command: str, path: str = "admin.sock") -> str:
        """One command, outside the code under test."""
        with net.socket(net.AF_UNIX) as conn:
            conn.settimeout(10)
            conn.connect(str(self.dir / path))
            conn.sendall(command.encode() + b"\n")
            conn.shutdown(net.SHUT_WR)
            return b"".join(iter(functools.partial(conn.recv, 65536), b"")).decode()

    def pid(self) -> int:
        return int(self.ask("show info").split("\nPid: ")[1].split()[0])

    def reload(self) -> None:
        before = self.pid()
        self.ask("reload", "master.sock")
        poll(lambda: self._worker_other_than(before), "a new worker after the reload")

    def _worker_other_than(self, pid: int) -> bool:
        with contextlib.suppress(OSError, IndexError):
            return self.pid() != pid
        return False

    def raw(self, backend: str = "shop") -> dict[str, tuple[int, int]]:
        """Weight and admin state bits per server, read outside the code under test."""
        rows = [line.split() for line in self.ask(f"show servers state {backend}").splitlines()[2:] if line]
        return {row[3]: (int(row[7]), int(row[6])) for row in rows}

    def rows(self, backend: str = "shop") -> dict[str, dict[str, str]]:
        header, *lines = [line for line in self.ask("show stat").splitlines() if line]
        names = header[2:].split(",")
        rows = [dict(zip(names, line.split(","))) for line in lines]
        return {row["svname"]: row for row in rows if row["pxname"] == backend}

    def restart(self) -> None:
        """Kill HAProxy and start it again."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """Kill HAProxy, its worker included."""
        worker = self.pid()
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)

    def connect(self, port: int) -> net.socket:
        return net.create_connection((self.host, port), timeout=10)

    def wait_down(self, *servers: str) -> None:
        """Whatever the app says: it may stand in the way of reading the table by columns."""
        poll(
            lambda: all(
                f",{name}," in row and ",DOWN," in row
                for name in servers
                for row in self.ask("show stat").splitlines()
                if row.startswith(f"shop,{name},")
            ),
            f"{servers} DOWN",
        )

    def wait_status(self, status: str, *servers: str, backend: str = "shop") -> None:
        poll(lambda: all(self.rows(backend)[name]["status"] == status for name in servers), f"{servers} {status}")

    def read(self, backend: str = "shop") -> Backend:
        return read_backend(self.socket, backend, 5.0)[1]

    def change(self, *wanted: Wanted, **options: t.Any) -> Outcome:
        """The code of haproxy_backend, without the seconds that Ansible takes around it."""
        policy = {key: options.pop(key) for key in list(options) if key in Policy._fields}
        defaults: dict[str, t.Any] = {"address": self.socket, "backend": "shop", "timeout": 5.0, "health_timeout": 10.0}
        return change_backend(Request(wanted=wanted, policy=Policy(**policy), **{**defaults, **options}))

    def hold(self, count: int = 1, app: App | None = None) -> list[Client]:
        """Start ``count`` requests that stay in flight until ``app.held`` is released."""
        app = app or self.apps[0]
        before = app.holding
        clients = [self.client() for _i in range(count)]
        poll(lambda: app.holding >= before + count, f"{count} requests in flight")
        return clients

    def client(self, headers: dict[str, str] | None = None) -> Client:
        return Client(self.host, headers or {})


class Client:
    """One request in a thread; ``status`` is its answer's, or 0 for a broken one."""

    def __init__(self, host: str, headers: dict[str, str], path: str = "/hold") -> None:
        self._path = path
        self.status: int | None = None
        self._host = host
        self._headers = headers
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        conn = http.client.HTTPConnection(self._host, 8000, timeout=40)
        try:
            conn.request("GET", self._path, headers=self._headers)
            self.status = conn.getresponse().status
        except (OSError, http.client.HTTPException):
            self.status = 0
        finally:
            conn.close()

    def answer(self) -> int:
        self._thread.join(30)
        assert self.status is not None, "no answer in 30 s"
        return self.status


@functools.cache
def haproxy_command(version: str) -> tuple[str, ...]:
    """How to start HAProxy of ``version`` (a key of RELEASES), with files and network of this machine."""
    if not RELEASES[version]:
        return ("haproxy",)
    made = subprocess.run(
        [str(TESTS / "images" / "build"), RELEASES[version]], stdout=subprocess.PIPE, check=True, text=True
    )
    image = made.stdout.split()[-1]
    user = f"--user={os.geteuid()}:{os.getegid()}"
    return ("docker", "run", "--rm", user, "--network=host", "--pid=host", "-v{dir}:{dir}", image, "haproxy")
