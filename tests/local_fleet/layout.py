# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a local fleet consists of: names, addresses, HAProxy's configuration and the inventory. Pure: no I/O."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import string
import typing as t

TESTS = pathlib.Path(__file__).resolve().parents[1]
DEPLOY = TESTS.parent / "inventories" / "local" / "deploy.yml"
LOAD_BALANCERS = ("lb1", "lb2")
CLIENT_PORT = 8000
APP_PORT = 8080
BACKEND = "shop"
BASE_WEIGHT = 10
FIRST_LB = 11  # last octets
FIRST_APP = 21
NUMBERS = range(20, 251)  # second octets that fleets pick from
NO_STATE = "1\n"  # a server-state file that holds nothing: an empty one is warned about

# Options that an older HAProxy does not know: those of at least (major, minor).
SOFT_STOP_SINCE = (2, 4)

TEMPLATE = """\
global
    log stdout format raw local0
    maxconn 4000
    hard-stop-after 60s
    stats socket $dir/admin.sock mode 600 level admin expose-fd listeners
    stats timeout 60s
    server-state-file $dir/server-state
$extra_global
defaults
    log global
    mode http
    option httplog
    option redispatch 1
$soft_stop
    retries 3
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout http-request 10s
    timeout http-keep-alive 30s
    timeout queue 5s
    timeout check 1s
    load-server-state-from-file global
$extra_defaults
frontend clients
    bind $address:$port
    capture request header X-Request-Id len 48
    # What a server answered is not logged: the log shows what the load balancer itself answered.
    http-response set-log-level silent
    # Only on answers of the load balancer itself does this come without the app's X-Release.
    http-after-response set-header X-Server %s
$extra_frontend
    default_backend $backend
backend $backend
    balance $balance
    option httpchk GET /health
    default-server check inter 200ms rise 2 fall 3
$extra_backend
$servers
"""


@dataclasses.dataclass(frozen=True)
class Options:
    """How a fleet differs from the plain one. Extra lines go to the section of their name, one line each.

    `template` replaces TEMPLATE; both know $dir (the LB's directory), $address, $port, $backend, $balance, $servers
    (the server lines), $soft_stop and the extra lines. `tracks` names the track of app hosts for the inventory.
    `haproxy_command` starts HAProxy up to its first argument; {dir} in it is the fleet's directory. With `lb` nginx what is
    said of HAProxy means nothing.
    """

    apps: int = 6
    lb: str = "haproxy"
    release: str = "1.0.0"
    balance: str = "roundrobin"
    weights: t.Mapping[str, int] = dataclasses.field(default_factory=dict)
    tracks: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    server_options: str = ""
    extra_global: t.Sequence[str] = ()
    extra_defaults: t.Sequence[str] = ()
    extra_frontend: t.Sequence[str] = ()
    extra_backend: t.Sequence[str] = ()
    template: str = TEMPLATE
    haproxy_command: t.Sequence[str] = ("haproxy",)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything of fleet `number` is; `directory` is its private directory."""

    number: int
    directory: str
    options: Options = Options()

    @property
    def app_hosts(self) -> tuple[str, ...]:
        return tuple(f"web{index}" for index in range(1, self.options.apps + 1))

    @property
    def is_nginx(self) -> bool:
        return self.options.lb != "haproxy"

    @property
    def hosts(self) -> tuple[str, ...]:
        return (*LOAD_BALANCERS, *self.app_hosts)

    def address(self, host: str) -> str:
        """The loopback address of a host."""
        if host in LOAD_BALANCERS:
            return f"127.{self.number}.0.{FIRST_LB + LOAD_BALANCERS.index(host)}"
        return f"127.{self.number}.0.{FIRST_APP + self.app_hosts.index(host)}"

    def port(self, host: str) -> int:
        return CLIENT_PORT if host in LOAD_BALANCERS else APP_PORT

    def endpoint(self, host: str) -> str:
        """address:port that the host listens on."""
        return f"{self.address(host)}:{self.port(host)}"

    def path(self, host: str, name: str) -> str:
        """A file of a host."""
        return f"{self.directory}/{host}/{name}"

    def server_lines(self) -> list[str]:
        """The server lines of the backend."""
        lines = []
        for host in self.app_hosts:
            weight = self.options.weights.get(host, BASE_WEIGHT)
            line = f"    server {host} {self.endpoint(host)} weight {weight} {self.options.server_options}"
            lines.append(line.rstrip())
        return lines

    def haproxy_config(self, load_balancer: str, version: tuple[int, ...]) -> str:
        """HAProxy's configuration, for HAProxy of `version`."""
        values = {
            "dir": f"{self.directory}/{load_balancer}",
            "address": self.address(load_balancer),
            "port": str(CLIENT_PORT),
            "backend": BACKEND,
            "balance": self.options.balance,
            "servers": "\n".join(self.server_lines()),
            # Else a reload closes idle client connections, on which a request may be on its way.
            "soft_stop": "    option idle-close-on-response" if version >= SOFT_STOP_SINCE else "",
        }
        for section in ("global", "defaults", "frontend", "backend"):
            lines: t.Sequence[str] = getattr(self.options, f"extra_{section}")
            values[f"extra_{section}"] = "\n".join(f"    {line}" for line in lines)
        text = string.Template(self.options.template).safe_substitute(values)
        return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"

    def inventory(self) -> dict[str, t.Any]:
        """The inventory: every host on this machine, so connections are local."""
        return {
            "all": {
                "vars": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
                    "fleet_directory": self.directory,
                    "fleet_program": str(TESTS),
                    "rollout_backend": BACKEND,
                    "rollout_become": False,
                    "rollout_deploy": {"tasks": str(DEPLOY)},
                    "rollout_load_balancers": list(LOAD_BALANCERS),
                    "rollout_previous": self.options.release,
                },
                "children": {
                    "lb": {"hosts": {name: self._lb_variables(name) for name in LOAD_BALANCERS}},
                    "app": {"hosts": {name: self._app_variables(name) for name in self.app_hosts}},
                    "rollout": {"children": {"app": {}}},
                },
            }
        }

    def _lb_variables(self, name: str) -> dict[str, t.Any]:
        reach = {"rollout_haproxy_socket": self.path(name, "admin.sock")}
        if self.is_nginx:
            reach = {
                "rollout_nginx_config": self.path(name, "nginx.conf"),
                "rollout_nginx_socket": self.path(name, "api/api.sock"),
            }
        return {"rollout_provider": self.options.lb, **reach, "rollout_state_dir": self.path(name, "rollout")}

    def _app_variables(self, name: str) -> dict[str, t.Any]:
        variables: dict[str, t.Any] = {"fleet_release_file": self.path(name, "release.json")}
        if self.is_nginx:
            variables.update(rollout_address=self.address(name), rollout_port=self.port(name))
        if name in self.options.tracks:
            variables["rollout_track"] = self.options.tracks[name]
        return variables


def parse_version(text: str) -> tuple[int, int]:
    """(major, minor) out of what `haproxy -v` prints. Raises ValueError."""
    found = re.search(r"\b(\d+)\.(\d+)", text)
    if found:
        return int(found[1]), int(found[2])
    raise ValueError(f"this names no version of HAProxy: {text[:200]!r}")
