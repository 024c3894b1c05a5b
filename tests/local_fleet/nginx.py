# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NGINX of a local fleet: its configuration, and what a person would do to it with an editor and a signal.

It knows nothing of the code under test, so that it can judge it.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import string

from local_fleet.layout import BACKEND, BASE_WEIGHT, CLIENT_PORT, Layout
from local_fleet.polling import poll
from local_fleet.supervisor import FleetError, children, send

RELOAD_SECONDS = 20.0
# Which version keeps idle connections of clients open for a moment over a reload.
KEEPS_IDLE_SINCE = (1, 27, 4)
# As steady.rollout's role writes it.
LOG_FORMAT = (
    '{"t":$msec,"ph":"$proxy_host","up":"$upstream_addr","us":"$upstream_status","uc":"$upstream_connect_time",'
    '"uh":"$upstream_header_time","ur":"$upstream_response_time","st":$status}'
)

TEMPLATE = """\
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
_SERVER = re.compile(r"^ *server (?P<address>[^ ;]+)(?: weight=(?P<weight>\d+))?(?P<rest>[^;]*);", re.MULTILINE)


def config(layout: Layout, load_balancer: str, version: tuple[int, ...]) -> str:
    """The main configuration, for an NGINX of `version`."""
    names = "\n".join(
        f'        "~{re.escape(layout.endpoint(host))}$" {host};' for host in layout.app_hosts
    )
    return string.Template(TEMPLATE).substitute(
        dir=f"{layout.directory}/{load_balancer}",
        address=layout.address(load_balancer),
        port=CLIENT_PORT,
        backend=BACKEND,
        names=names,
        format=LOG_FORMAT,
        user="user root;" if os.geteuid() == 0 else "",
        keeps_idle="keepalive_min_timeout 1s;" if version >= KEEPS_IDLE_SINCE else "",
    )


def upstream(layout: Layout) -> str:
    """The file with the servers."""
    lines = [
        f"    server {layout.endpoint(host)} weight={layout.options.weights.get(host, BASE_WEIGHT)};"
        for host in layout.app_hosts
    ]
    return string.Template(UPSTREAM).substitute(backend=BACKEND, servers="\n".join(lines))


def command(directory: str) -> list[str]:
    """Starts the NGINX whose files are in a directory."""
    return ["nginx", "-p", directory, "-c", f"{directory}/nginx.conf", "-e", f"{directory}/error.log", "-g", "daemon off;"]


def servers(layout: Layout, load_balancer: str) -> dict[str, dict[str, str]]:
    """By app host what its line says, in the words of HAProxy's `show stat`."""
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


def reload(layout: Layout, load_balancer: str) -> None:
    """Have it read its files, and wait for its new workers. Raises FleetError."""
    master = master_pid(layout, load_balancer)
    before = workers(master)
    send(master, signal.SIGHUP)
    poll(lambda: workers(master) and not workers(master) & before, f"{load_balancer} has new workers", RELOAD_SECONDS, FleetError)


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

