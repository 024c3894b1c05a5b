# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NGINX of a local fleet: its configuration, and what a person would do to it with an editor and a signal.

It knows nothing of the code under test, so that it can judge it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import string
import typing as t

from local_fleet.layout import BACKEND, BASE_WEIGHT, CLIENT_PORT, Layout
from local_fleet.polling import poll
from local_fleet.supervisor import FleetError, children, send

LUA_FILES = pathlib.Path(__file__).resolve().parents[2] / "roles" / "nginx" / "files"
RELOAD_SECONDS = 20.0
# Which version keeps idle connections of clients open for a moment over a reload.
KEEPS_IDLE_SINCE = (1, 27, 4)
# As steady.rollout's role writes it.
LOG_FORMAT = (
    '{"t":$msec,"ph":"$proxy_host","up":"$upstream_addr","us":"$upstream_status","uc":"$upstream_connect_time",'
    '"uh":"$upstream_header_time","ur":"$upstream_response_time","st":$status}'
)

TEMPLATE = """\
$modules
worker_processes 2;
pid $dir/nginx.pid;
error_log $dir/error.log notice;
$user
events { worker_connections 4096; }
http {
    log_format steady_rollout escape=json '$format';
    access_log $dir/access.log steady_rollout;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    scgi_temp_path $dir/scgi;
    uwsgi_temp_path $dir/uwsgi;
    $keeps_idle
    keepalive_timeout 30s;
    # The last one that was tried.
    map $$upstream_addr $$fleet_server {
        default $$upstream_addr;
$names
    }
    include $dir/upstream.conf;
$lua
    server {
        listen $address:$port;
        location / {
            proxy_pass http://$backend;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 2s;
            proxy_read_timeout 30s;
            add_header X-Server $$fleet_server always;
        }
    }
}
"""
UPSTREAM = """\
upstream $backend {
    zone $backend 256k;
$servers
    keepalive 16;
}
"""
# The reload-free driver: the servers are what Lua is told of.
LUA_MODULES = """\
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;"""
LUA = """\
    lua_package_path "$files/?.lua;/usr/share/lua/5.1/?.lua;;";
    lua_shared_dict steady_rollout 4m;
    init_by_lua_block {
        require("steady_rollout").load{dir = "$dir/state", socket = "$dir/api/api.sock", upstreams = {$backend = {
$servers
        }}}
    }
    log_by_lua_block { require("steady_rollout").log() }
    server {
        listen unix:$dir/api/api.sock;
        access_log off;
        location / { content_by_lua_block { require("steady_rollout").api() } }
    }"""
LUA_UPSTREAM = """\
upstream $backend {
    server 0.0.0.1;
    balancer_by_lua_block { require("steady_rollout").balance("$backend") }
    keepalive 16;
}
"""
_SERVER = re.compile(r"^ *server (?P<address>[^ ;]+)(?: weight=(?P<weight>\d+))?(?P<rest>[^;]*);", re.MULTILINE)


def config(layout: Layout, load_balancer: str, version: tuple[int, ...]) -> str:
    """The main configuration, for an NGINX of `version`."""
    names = "\n".join(f'        "~{re.escape(layout.endpoint(host))}$" {host};' for host in layout.app_hosts)
    lua = string.Template(LUA).substitute(
        files=LUA_FILES,
        dir=f"{layout.directory}/{load_balancer}",
        backend=BACKEND,
        servers=",\n".join(
            f'            {{name = "{layout.endpoint(host)}", address = "{layout.address(host)}", port = {layout.port(host)}, '
            f"weight = {_weight(layout, host)}}}"
            for host in layout.app_hosts
        ),
    )
    return string.Template(TEMPLATE).substitute(
        modules=LUA_MODULES if is_lua(layout) else "",
        lua=lua if is_lua(layout) else "",
        dir=f"{layout.directory}/{load_balancer}",
        address=layout.address(load_balancer),
        port=CLIENT_PORT,
        backend=BACKEND,
        names=names,
        format=LOG_FORMAT,
        user="user root;" if os.geteuid() == 0 else "",
        keeps_idle="keepalive_min_timeout 1s;" if version >= KEEPS_IDLE_SINCE else "",
    )


def is_lua(layout: Layout) -> bool:
    return layout.options.lb == "nginx_lua"


def socket_of(layout: Layout, load_balancer: str) -> str:
    """The path of the API of the reload-free driver."""
    return layout.path(load_balancer, "api/api.sock")


def folders(layout: Layout) -> tuple[str, ...]:
    """Of each load balancer, beside its files."""
    return ("state", "api") if is_lua(layout) else ()


def _weight(layout: Layout, host: str) -> int:
    return layout.options.weights.get(host, BASE_WEIGHT)


def upstream(layout: Layout) -> str:
    """The file with the servers."""
    if is_lua(layout):
        return string.Template(LUA_UPSTREAM).substitute(backend=BACKEND)
    lines = [f"    server {layout.endpoint(host)} weight={_weight(layout, host)};" for host in layout.app_hosts]
    return string.Template(UPSTREAM).substitute(backend=BACKEND, servers="\n".join(lines))


def command(directory: str) -> list[str]:
    """Starts the NGINX whose files are in a directory."""
    return [
        "nginx",
        "-p",
        directory,
        "-c",
        f"{directory}/nginx.conf",
        "-e",
        f"{directory}/error.log",
        "-g",
        "daemon off;",
    ]


def servers(layout: Layout, load_balancer: str) -> dict[str, dict[str, str]]:
    """By app host what its line says, or the API, in the words of HAProxy's `show stat`."""
    if is_lua(layout):
        told = {one["name"]: one for one in _ask(layout, load_balancer, "GET", "/")["upstreams"][BACKEND]["servers"]}
        words = {"ready": "no check", "drain": "DRAIN", "down": "MAINT"}
        return {
            host: {"svname": host, "status": words[one["state"]], "weight": str(one["weight"])}
            for host, one in ((host, told[layout.endpoint(host)]) for host in layout.app_hosts)
        }
    with open(layout.path(load_balancer, "upstream.conf"), encoding="utf-8") as file:
        lines = {found["address"]: found for found in _SERVER.finditer(file.read())}
    rows = {}
    for host in layout.app_hosts:
        line = lines[layout.endpoint(host)]
        out = re.search(r"\b(down|drain)\b", line["rest"])
        status = {"down": "MAINT", "drain": "DRAIN"}[out[1]] if out else "no check"
        rows[host] = {"svname": host, "status": status, "weight": line["weight"] or "1"}
    return rows


def set_state(layout: Layout, load_balancer: str, host: str, state: str) -> None:
    """Edit the line of an app host, and have it read. Raises FleetError."""
    if is_lua(layout):
        now = _ask(layout, load_balancer, "GET", "/")["upstreams"][BACKEND]
        (one,) = [one for one in now["servers"] if one["name"] == layout.endpoint(host)]
        wanted = {"name": one["name"], "weight": one["weight"], "state": "ready" if state == "ready" else "down"}
        _ask(layout, load_balancer, "PUT", f"/upstreams/{BACKEND}", {"version": now["version"], "servers": [wanted]})
        return
    path = layout.path(load_balancer, "upstream.conf")
    with open(path, encoding="utf-8") as file:
        text = file.read()

    def edited(found: re.Match[str]) -> str:
        if found["address"] != layout.endpoint(host):
            return found[0]
        rest = re.sub(r" (down|drain)\b", "", found["rest"]) + ("" if state == "ready" else " down")
        return f"    server {found['address']} weight={found['weight'] or 1}{rest};"

    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(_SERVER.sub(edited, text))
    os.replace(f"{path}.new", path)
    reload(layout, load_balancer)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(layout: Layout, load_balancer: str, method: str, path: str, body: t.Any = None) -> dict[str, t.Any]:
    with contextlib.closing(_Connection(socket_of(layout, load_balancer))) as connection:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        text = answer.read()
    if answer.status != 200:
        raise FleetError(f"{load_balancer} answered {method} {path} with {answer.status}: {text!r}")
    found: dict[str, t.Any] = json.loads(text)
    return found


def reload(layout: Layout, load_balancer: str) -> None:
    """Have it read its files, and wait for its new workers. Raises FleetError."""
    master = master_pid(layout, load_balancer)
    before = workers(master)
    send(master, signal.SIGHUP)
    poll(
        lambda: workers(master) and not workers(master) & before,
        f"{load_balancer} has new workers",
        RELOAD_SECONDS,
        FleetError,
    )


def master_pid(layout: Layout, load_balancer: str) -> int:
    with open(layout.path(load_balancer, "nginx.pid"), encoding="ascii") as file:
        return int(file.read())


def workers(master: int) -> set[int]:
    """Those that take requests."""
    found = set()
    for pid in children(master):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="latin-1") as file:
            title = file.read()
            if "worker process" in title and "shutting down" not in title:
                found.add(pid)
    return found


def parse_version(text: str) -> tuple[int, ...]:
    """Out of what `nginx -v` prints. Raises ValueError."""
    found = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", text)
    if found:
        return tuple(map(int, found.groups()))
    raise ValueError(f"this names no version of nginx: {text[:200]!r}")
