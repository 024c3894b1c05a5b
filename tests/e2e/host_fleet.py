# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as people have it, of hosts that run systemd: two load balancers and three app hosts, each a container.

The load balancers are made ready by the role haproxy, the app is put on its hosts as archives by the role release. It
serves two backends: `shop` on all three, and `duo`, whose two colours are both on web1.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import http.client
import io
import json
import pathlib
import tarfile
import typing as t

from e2e.hosts import Host, HostError, Network, image_of
from e2e.rollouts import GENTLE, QUICK, REQUESTS, Result, Runs
from local_fleet import app
from local_fleet.load import Balancers, Load, Profile
from local_fleet.polling import poll
from local_fleet.tally import Terms

RELEASE = "bullseye"  # the oldest Debian with a HAProxy and a Python that are supported
LOAD_BALANCERS = ("lb1", "lb2")
APP_HOSTS = ("web1", "web2", "web3")
COLOURS = {"blue": {"server": "web1-blue", "port": 8081}, "green": {"server": "web1-green", "port": 8082}}
SHOP_PORT, DUO_PORT, APP_PORT = 8000, 8001, 8080
FIRST = "1.0.0"
# An app that is stopped before it is drained drops its WebSockets after a second, and so shows it.
COMMAND = "/usr/bin/python3 app.py --grace 1"
APP = pathlib.Path(app.__file__)
SOCKET = "/run/haproxy/admin.sock"
STATE = "/var/lib/steady-rollout"
GUARD = "steady-rollout-guard.service"
ASK = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1]); \
s.sendall(sys.argv[2].encode()+b'\\n'); print(''.join(iter(lambda: s.recv(65536).decode(), '')))"
SECONDS = 60.0
# Hosts take longer to restart their unit than the local fleet its process.
VARIABLES: dict[str, t.Any] = {
    **QUICK,
    "rollout_become": False,
    "rollout_drain_timeout": 20,
    "rollout_health_timeout": 20,
    "rolling_batches": 1,
    "rolling_healthy_deadline": 10,
    "rolling_max_unavailable": "34%",
}
# How the app is put on a host.
DEPLOY = "steady.rollout.release"


class HostFleet(Runs):
    """A fleet of test hosts, and rollouts on it. Use as a context manager; raises HostError."""

    def __init__(self, folder: pathlib.Path, release: str = RELEASE) -> None:
        super().__init__(folder)
        (folder / "duo").mkdir()
        self.duo = Runs(folder / "duo")  # rollouts on the two colours of web1
        self._image = release
        self._hosts: dict[str, Host] = {}
        self._number = 1

    def __enter__(self) -> HostFleet:
        self._stack.enter_context(self.duo)
        try:
            self._start_hosts()
            (self.folder / "archives").mkdir()
            self.pack(FIRST)
            self._write_inventories()
            self._make_ready()
        except BaseException:
            self._stack.close()
            raise
        return self

    # --- hosts

    def host(self, name: str) -> Host:
        """A load balancer or an app host."""
        return self._hosts[name]

    def address(self, name: str) -> str:
        """The address of a host, which it keeps over restarts."""
        return self._network.address(10 + (*LOAD_BALANCERS, *APP_HOSTS).index(name))

    def _start_hosts(self) -> None:
        image = image_of(self._image)
        self._network = self._stack.enter_context(Network())
        for name in (*LOAD_BALANCERS, *APP_HOSTS):
            options = [f"--hostname={name}", f"--network={self._network.name}", f"--ip={self.address(name)}"]
            self._hosts[name] = Host(image, options)
            self._stack.callback(self._hosts[name].remove)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for _host in pool.map(Host.__enter__, self._hosts.values()):
                pass

    # --- the inventories

    def _write_inventories(self) -> None:
        self._write(self.inventory, "shop", APP_HOSTS, {"rollout_port": APP_PORT})
        self._write(self.duo.inventory, "duo", APP_HOSTS[:1], {"rollout_tracks": COLOURS})

    def _write(
        self, path: pathlib.Path, backend: str, hosts: t.Sequence[str], variables: t.Mapping[str, t.Any]
    ) -> None:
        everybody = {
            **VARIABLES,
            "rollout_backend": backend,
            "rollout_load_balancers": list(LOAD_BALANCERS),
            "rollout_previous": FIRST,
            "rollout_deploy": {"role": DEPLOY},
            "release_archive": f"{self.folder}/archives/shop-{{{{ release_id }}}}.tar.gz",
            "release_command": COMMAND,
            "release_start_timeout": 10,
            "release_stop_timeout": 15,
            "release_settle": 1,
        }
        groups = {
            "lb": {"hosts": {name: self._hosts[name].inventory for name in LOAD_BALANCERS}, "vars": self._balancer()},
            "app": {"hosts": {name: self._hosts[name].inventory for name in hosts}, "vars": dict(variables)},
        }
        path.write_text(json.dumps({"all": {"vars": everybody, "children": groups}}, indent=1))

    def _balancer(self) -> dict[str, t.Any]:
        """The variables of the role haproxy."""
        shop = [{"name": name, "address": self.address(name), "port": APP_PORT} for name in APP_HOSTS]
        duo = [
            {"name": colour["server"], "address": self.address("web1"), "port": colour["port"]}
            for colour in COLOURS.values()
        ]
        # Only on answers of the load balancer itself does this come without the app's X-Release.
        options = ["http-after-response set-header X-Server %s"]
        return {
            "haproxy_check_inter": "200ms",
            "haproxy_timeout_check": "1s",
            "haproxy_frontends": [
                {"name": f"{name}-clients", "bind": [f"*:{port}"], "default_backend": name, "options": options}
                for name, port in (("shop", SHOP_PORT), ("duo", DUO_PORT))
            ],
            "haproxy_backends": [
                {"name": name, "check": {"path": "/health"}, "servers": servers}
                for name, servers in (("shop", shop), ("duo", duo))
            ],
        }

    def _make_ready(self) -> None:
        """Have the first release run everywhere, but for green, and the load balancers see it."""
        balancers = {"hosts": "lb", "gather_facts": False, "roles": ["steady.rollout.haproxy"]}
        for runs, plays in ((self, [balancers, self._install("")]), (self.duo, [self._install("blue")])):
            done = runs.run(plays)
            if done.code != 0:
                raise HostError(f"the fleet could not be made ready:\n{done.output}")
        for name in LOAD_BALANCERS:
            self.ask(name, f"set server duo/{COLOURS['green']['server']} state drain")
        self.expect_rest()

    def _install(self, track: str) -> dict[str, t.Any]:
        told = {"rollout_deploy_release": FIRST, "rollout_deploy_action": "deploy", "rollout_deploy_track": track}
        task = {"ansible.builtin.include_role": {"name": DEPLOY}}
        return {"hosts": "app", "gather_facts": False, "tasks": [{"ansible.builtin.set_fact": told}, task]}

    # --- releases

    def new_release(self, behaviour: str = "good", **values: t.Any) -> str:
        """Pack a release that this fleet has not seen, and return its id. `values` are those of app.Release."""
        self._number += 1
        return self.pack(f"{self._number}.0.0", behaviour, **values)

    def pack(self, release: str, behaviour: str = "good", **values: t.Any) -> str:
        """Make the archive of a release: the app, and the file that says how it behaves."""
        told = json.dumps(app.as_json(app.Release(release, behaviour, **values))).encode()
        with tarfile.open(self.folder / "archives" / f"shop-{release}.tar.gz", "w:gz") as archive:
            for name, content in (("app.py", APP.read_bytes()), ("release.json", told)):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                archive.addfile(member, io.BytesIO(content))
        return release

    # --- load

    def load(
        self, *releases: str, port: int = SHOP_PORT, only: t.Sequence[str] = LOAD_BALANCERS, **profile: t.Any
    ) -> Load:
        """A load, to be started, that expects answers of some releases."""
        balancers = Balancers({name: f"{self.address(name)}:{port}" for name in only})
        values = {"rate": GENTLE, "timeout": 25.0, **profile}
        return Load(balancers, Profile(**values), Terms(releases=releases))

    # --- what is true now

    def ask(self, load_balancer: str, command: str) -> str:
        """The answer of a load balancer's admin socket. Raises HostError."""
        return self._hosts[load_balancer].run("python3", "-c", ASK, SOCKET, command).stdout

    def servers(self, load_balancer: str, backend: str = "shop") -> dict[str, dict[str, str]]:
        """The rows of `show stat` for a backend's servers; none while HAProxy does not answer."""
        with contextlib.suppress(HostError):
            header, *lines = [line for line in self.ask(load_balancer, "show stat").splitlines() if line]
            rows = [dict(zip(header[2:].split(","), line.split(","))) for line in lines]
            return {row["svname"]: row for row in rows if row["pxname"] == backend and row["type"] == "2"}
        return {}

    def carrying(self, load_balancer: str, backend: str = "shop") -> set[str]:
        """The servers that take new requests on a load balancer."""
        rows = self.servers(load_balancer, backend)
        return {name for name, row in rows.items() if row["status"] == "UP" and row["weight"] != "0"}

    def running(self, host: str, port: int = APP_PORT) -> str:
        """The release that runs on an app host, as it says itself; empty where none answers."""
        return answer(self.address(host), port) or ""

    def answering(self, load_balancer: str, port: int = SHOP_PORT) -> set[str | None]:
        """The releases that answer a number of requests to a load balancer; None is an answer of its own, or none."""
        return {answer(self.address(load_balancer), port) for _number in range(REQUESTS)}

    def guarded(self, load_balancer: str) -> bool:
        """Whether a guard watches over a rollout there."""
        host = self._hosts[load_balancer]
        return host.run("systemctl", "is-active", GUARD, check=False).stdout.strip() == "active"

    def journal(self, load_balancer: str, backend: str = "shop") -> str:
        """The record of the rollouts."""
        return self._hosts[load_balancer].read(f"{STATE}/{backend}/journal.jsonl")

    def expect_release(self, release: str) -> None:
        """Assert that all hosts of the shop run a release and carry, and that nothing else answers."""
        assert {host: self.running(host) for host in APP_HOSTS} == dict.fromkeys(APP_HOSTS, release)
        for name in LOAD_BALANCERS:
            assert self.carrying(name) == set(APP_HOSTS), (name, self.servers(name))
            assert self.answering(name) == {release}

    def expect_rest(self) -> None:
        """Wait until all hosts of the shop and one colour of the duo carry, and no guard is left. Raises AssertionError."""
        for name in LOAD_BALANCERS:
            poll(functools.partial(self._rests, name), f"{name} is at rest", SECONDS, interval=0.5)

    def _rests(self, load_balancer: str) -> bool:
        return (
            self.carrying(load_balancer) == set(APP_HOSTS)
            and len(self.carrying(load_balancer, "duo")) == 1
            and not self.guarded(load_balancer)
        )


def answer(address: str, port: int) -> str | None:
    """The release that answers a request; None where no app does."""
    connection = http.client.HTTPConnection(address, port, timeout=10)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()
        return response.headers.get("X-Release")
    return None


def cut_sessions(result: Result) -> int:
    """How many sessions a run says that it cut."""
    return sum(entry.get("cut", 0) for entry in result.entries)
