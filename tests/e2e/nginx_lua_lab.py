# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One real nginx whose servers are chosen by steady_rollout.lua, and app servers that say who they are."""

from __future__ import annotations

import collections
import contextlib
import functools
import http.client
import http.server
import json
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import FORMAT_NAME, HTTP_FORMAT
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_driver import NginxLuaDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_process import NginxProcessError

from local_fleet.polling import poll

FILES = pathlib.Path(__file__).resolve().parents[2] / "roles" / "nginx" / "files"
MODULES = pathlib.Path("/usr/lib/nginx/modules")
CLIENTS, FIRST_APP = 8000, 8081
UPSTREAM = "shop"
CONFIG = """
load_module {modules}/ndk_http_module.so;
load_module {modules}/ngx_http_lua_module.so;
{user}
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log notice;
events {{ worker_connections 512; }}
http {{
    log_format {format_name} escape=json '{format}';
    access_log {dir}/access.log {format_name};
    keepalive_requests 100000;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    lua_package_path "{files}/?.lua;/usr/share/lua/5.1/?.lua;;";
    lua_shared_dict steady_rollout 4m;
    init_by_lua_block {{
        require("steady_rollout").load{{
            dir = "{dir}/state",
            socket = "{dir}/api/api.sock",
            upstreams = {{shop = {{
{servers}
            }}}},
        }}
    }}
    log_by_lua_block {{ require("steady_rollout").log() }}
    upstream shop {{
        server 0.0.0.1;
        balancer_by_lua_block {{ require("steady_rollout").balance("shop") }}
        keepalive 32;
    }}
    server {{
        listen unix:{dir}/api/api.sock;
        access_log off;
        location / {{ content_by_lua_block {{ require("steady_rollout").api() }} }}
    }}
    server {{
        listen {host}:8000 backlog=512;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_connect_timeout 2s;
        location / {{ proxy_pass http://shop; }}
{locations}
    }}
}}
"""


class App(http.server.ThreadingHTTPServer):
    """Answers its name; /hold once ``held`` is released, /status/N and /error with a status, and /die not at all."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host: str, port: int) -> None:
        self.name = f"{host}:{port}"
        self.holding = 0
        self.answered = 0
        self.held = threading.Semaphore(0)
        self._connections: set[socket.socket] = set()
        super().__init__((host, port), _Handler)
        threading.Thread(target=functools.partial(self.serve_forever, 0.02), daemon=True).start()

    def hold(self) -> None:
        self.holding += 1
        self.held.acquire(timeout=30)
        self.holding -= 1

    def release(self, count: int = 1) -> None:
        self.held.release(count)

    def get_request(self) -> t.Any:
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def die(self) -> None:
        """No more connections, and an end to those there are: as a process that was killed."""
        self.shutdown()
        self.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer are two packets: without this each waits for an acknowledgement of the one before.
    disable_nagle_algorithm = True
    server: App

    def do_GET(self) -> None:
        self.server.answered += 1
        status = 200
        if self.path == "/die":
            self.close_connection = True
            return
        if self.path == "/hold":
            self.server.hold()
        elif self.path == "/error":
            status = 500
        elif self.path.startswith("/status/"):
            status = int(self.path.rpartition("/")[2])
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(self.server.name)))
            self.end_headers()
            self.wfile.write(self.server.name.encode())

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        pass


class Client:
    """One request in a thread of its own."""

    def __init__(self, lab: NginxLuaLab, path: str, timeout: float) -> None:
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run, args=(lab, path, timeout), daemon=True)
        self._thread.start()

    def _run(self, lab: NginxLuaLab, path: str, timeout: float) -> None:
        try:
            self.status = lab.get(path, timeout)[0]
        except (OSError, http.client.HTTPException):
            self.status = 0

    def answer(self) -> int:
        self._thread.join(30)
        assert self.status is not None, "no answer in 30 s"
        return self.status


class NginxLuaLab:
    """A running nginx. Use as a context manager. ``weights``: of the configuration, an app server for each.

    ``locations``: more of the server for clients; ``{dir}`` in it is the lab's directory and ``{host}`` its own loopback address.
    """

    def __init__(self, *weights: int, locations: str = "", workers: int = 2) -> None:
        # Sockets want short paths, and workers are another user.
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nl"))
        self.host = f"127.252.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
        self.weights = {f"{self.host}:{FIRST_APP + place}": weight for place, weight in enumerate(weights or (10, 10))}
        self.names = list(self.weights)
        self.apps: dict[str, App] = {}
        self.socket = str(self.dir / "api" / "api.sock")
        self.state = self.dir / "state"
        self._locations = locations.replace("{dir}", str(self.dir)).replace("{host}", self.host)
        self._workers = workers
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> NginxLuaLab:
        self._stack.callback(shutil.rmtree, self.dir, ignore_errors=True)
        try:
            for name in self.names:
                self.start_app(name)
            self.dir.chmod(0o711)
            (self.dir / "api").mkdir(mode=0o700)
            self.state.mkdir(mode=0o750)
            if os.geteuid() == 0:
                worker = pwd.getpwnam("nobody")
                os.chown(self.state, worker.pw_uid, worker.pw_gid)
            self.configure()
            self._stack.callback(self.kill)
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def start_app(self, name: str) -> App:
        host, _colon, port = name.rpartition(":")
        app = self.apps[name] = App(host, int(port))
        self._stack.callback(self._stop_app, app)
        return app

    @staticmethod
    def _stop_app(app: App) -> None:
        app.release(1000)
        app.die()

    def configure(self) -> None:
        """Write the configuration with ``weights`` as they are now."""
        lines = [
            f'{{name = "{name}", address = "{name.rpartition(":")[0]}", port = {name.rpartition(":")[2]}, weight = {weight}}},'
            if not name.startswith("unix:")
            else f'{{name = "{name}", address = "{name}", weight = {weight}}},'
            for name, weight in self.weights.items()
        ]
        text = CONFIG.format(
            modules=MODULES,
            user="user nobody nogroup;" if os.geteuid() == 0 else "",
            workers=self._workers,
            dir=self.dir,
            files=FILES,
            host=self.host,
            format_name=FORMAT_NAME,
            format=HTTP_FORMAT,
            servers="\n".join(lines),
            locations=self._locations,
        )
        (self.dir / "nginx.conf").write_text(text)

    def start(self) -> None:
        command = ["nginx", "-p", str(self.dir), "-c", str(self.dir / "nginx.conf"), "-g", "daemon off;"]
        with (self.dir / "output").open("ab") as output:
            self._master = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        poll(self._is_up, lambda: f"nginx runs: {self.log()}", 20)

    def _is_up(self) -> bool:
        assert self._master.poll() is None, f"nginx ended: {self.log()}"
        with contextlib.suppress(OSError):
            return len(self.workers()) == self._workers and self.ask("GET", "/")[0] == 200
        return False

    def stop(self) -> None:
        self._master.terminate()
        self._master.wait(20)

    def kill(self) -> None:
        """Kill the master and its workers at once, if they still run."""
        if self._master.poll() is not None:
            return
        # A master that cannot react starts no worker in the place of one that was killed.
        self._master.send_signal(signal.SIGSTOP)
        workers = self._all_workers()
        self._master.kill()
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        self._master.wait(20)
        poll(lambda: not any(process.is_running(worker) for worker in workers), "workers are gone")

    def reload(self) -> None:
        process.reload(self._all_workers_master(), 20)

    def _all_workers_master(self) -> process.Process:
        return process.master_of(str(self.dir / "nginx.pid"))

    def _all_workers(self) -> list[process.Process]:
        with contextlib.suppress(NginxProcessError):
            return process.workers_of(self._all_workers_master())
        return []

    def workers(self) -> list[int]:
        """Those that take new requests."""
        return [one.pid for one in self._all_workers() if not one.leaves]

    @property
    def master(self) -> int:
        return self._master.pid

    def log(self) -> str:
        parts = [self.dir / name for name in ("output", "error.log")]
        return "".join(part.read_text(errors="replace")[-4000:] for part in parts if part.exists())

    def ask(self, method: str, path: str, body: t.Any = None) -> tuple[int, t.Any]:
        """One request to the API, outside the code under test. ``body``: text, or what becomes JSON."""
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection = http.client.HTTPConnection("localhost", timeout=10)
        with contextlib.closing(connection):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(10)
            connection.sock.connect(self.socket)
            connection.request(method, path, text)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def put(self, *servers: tuple[str, int, str], version: int | None = None) -> tuple[int, t.Any]:
        told = [{"name": name, "weight": weight, "state": state} for name, weight, state in servers]
        return self.ask("PUT", f"/upstreams/{UPSTREAM}", {"version": version or self.version(), "servers": told})

    def upstream(self) -> dict[str, t.Any]:
        status, answer = self.ask("GET", "/")
        assert status == 200, answer
        return t.cast("dict[str, t.Any]", answer["upstreams"][UPSTREAM])

    def version(self) -> int:
        return int(self.upstream()["version"])

    def settings(self) -> dict[str, tuple[int, str]]:
        """{server: (weight, state)} as in force."""
        return {one["name"]: (one["weight"], one["state"]) for one in self.upstream()["servers"]}

    def in_flight(self) -> int:
        return sum(count for one in self.upstream()["servers"] for count in one["in_flight"].values())

    def get(self, path: str = "/", timeout: float = 40.0, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, CLIENTS, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def shares(self, requests: int) -> collections.Counter[str]:
        """Which server answered, of requests each on a connection of its own, so that all workers have some."""
        found: collections.Counter[str] = collections.Counter()
        for _number in range(requests):
            status, body = self.get()
            found[body if status == 200 else str(status)] += 1
        return found

    def client(self, path: str = "/hold", timeout: float = 40.0) -> Client:
        return Client(self, path, timeout)

    def hold(self, name: str, count: int = 1) -> list[Client]:
        """Requests that stay in flight on a server, the only one that is ready, until its app releases them."""
        app = self.apps[name]
        before = app.holding
        clients = [self.client() for _number in range(count)]
        poll(lambda: app.holding == before + count, f"{count} requests in flight on {name}")
        return clients

    def driver(self, **options: t.Any) -> NginxLuaDriver:
        defaults = {"health_timeout": 5.0, "drain_timeout": 10.0, "config": str(self.dir / "nginx.conf")}
        return NginxLuaDriver(self.socket, **{**defaults, **options})
