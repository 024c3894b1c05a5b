# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role nginx on real hosts: from a host without NGINX to one that is ready, and a second run while traffic is moved."""

from __future__ import annotations

import copy
import json
import pathlib
import typing as t
from dataclasses import dataclass

import pytest

from e2e import role_runs
from e2e.hosts import Host, image_of
from e2e.role_runs import Run, written
from local_fleet.polling import poll
from readmes import example_of

# In one process: making a host ready takes a minute and a half.
pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("test_role_nginx")]

OLDEST = pytest.param("bullseye", marks=[pytest.mark.core, pytest.mark.oldest_only])
NEWEST = "forky"
MAIN = "/etc/nginx/nginx.conf"
OWN = "/etc/nginx/conf.d/steady-rollout.conf"
WELCOME = "/etc/nginx/sites-enabled/default"
LOG = "/var/log/nginx/steady-rollout.log"
ASK = "import urllib.request as r; print(','.join(r.urlopen('http://127.0.0.1:80/', timeout=5).read().decode() for _n in range(12)))"
# Takes a port, so that NGINX cannot have it.
TAKE = "import socket, time; s = socket.create_server(('127.0.0.1', 8100)); time.sleep(600)"
WEBS = {"web1": "127.0.0.21:8080", "web2": "127.0.0.22:8080"}
SHOP: dict[str, t.Any] = {
    "nginx_reload_timeout": 8,
    "nginx_servers": [{"listen": ["80"], "upstream": "shop"}],
    "nginx_upstreams": [{"name": "shop", "servers": [{"name": address} for address in WEBS.values()]}],
    "nginx_http_options": [f"server {{ listen {address}; return 200 {name}; }}" for name, address in WEBS.items()],
}
FOREIGN = """
upstream mine {
    least_conn;
    server localhost:8080;
}
server { listen 8000; location / { proxy_pass http://mine; } }
"""


def apply(host: Host, folder: pathlib.Path, variables: t.Mapping[str, t.Any], *flags: str) -> Run:
    return role_runs.apply("nginx", host, folder, variables, *flags)


def shop_with(**variables: t.Any) -> dict[str, t.Any]:
    return {**copy.deepcopy(SHOP), **variables}


def answers(host: Host) -> set[str]:
    """Who answers twelve requests."""
    return set(host.run("python3", "-c", ASK).stdout.strip().split(","))


def workers(host: Host) -> set[str]:
    """Pids of those that take requests."""
    listed = host.run("pgrep", "--list-full", "--full", "nginx: worker process").stdout.splitlines()
    return {line.split()[0] for line in listed if "shutting down" not in line}


@dataclass
class Made:
    """A host that had no NGINX, and what three runs of the role did to it."""

    host: Host
    checked: Run
    written_by_check: set[str]
    first: Run
    second: Run
    workers: tuple[set[str], set[str]]  # before the second run and after it
    config: str


@pytest.fixture(scope="module", params=[OLDEST, NEWEST])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Made]:
    folder = tmp_path_factory.mktemp("role")
    with Host(image_of(request.param)) as host:
        before = written(host)
        checked = apply(host, folder, SHOP, "--check", "--diff")
        after = written(host)
        first = apply(host, folder, SHOP, "--diff")
        assert first.code == 0, first.output
        running = workers(host)
        second = apply(host, folder, SHOP, "--diff")
        yield Made(host, checked, after - before, first, second, (running, workers(host)), host.read(OWN))


@pytest.fixture
def ready(made: Made) -> t.Iterator[Host]:
    """A host that the role made ready; afterwards it is so again."""
    yield made.host
    made.host.write(OWN, made.config)
    made.host.run("systemctl", "restart", "nginx")


def test_check_mode_on_a_host_without_nginx_changes_nothing(made: Made) -> None:
    assert made.checked.code == 0, made.checked.output
    assert made.checked.changed == 1
    assert made.written_by_check == set()


def test_a_host_without_nginx_becomes_ready_and_serves(made: Made) -> None:
    assert "required:" not in made.first.output
    assert answers(made.host) == {"web1", "web2"}
    assert made.host.run("systemctl", "is-enabled", "nginx").stdout.strip() == "enabled"
    assert '"ph":"shop","up":"127.0.0.21:8080"' in made.host.read(LOG)


def test_the_distributions_own_configuration_stays(made: Made) -> None:
    assert made.host.run("dpkg", "--verify", "nginx", "nginx-common").stdout == ""


def test_a_second_run_changes_nothing_and_does_not_reload(made: Made) -> None:
    assert made.second.code == 0, made.second.output
    assert made.second.changed == 0
    assert made.workers[0] == made.workers[1]


def test_the_example_of_the_readme_makes_a_host_ready(ready: Host, tmp_path: pathlib.Path) -> None:
    old = workers(ready)
    run = role_runs.playbook(ready, tmp_path, example_of("roles/nginx/README.md", "play").text)
    assert run.code == 0, run.output
    assert "required:" not in run.output
    for line in ("server 192.0.2.21:8080 weight=100;", "server 192.0.2.22:8080 weight=100;", "listen 80;"):
        assert line in ready.read(OWN)
    assert workers(ready).isdisjoint(old)


@pytest.mark.long
def test_weights_and_states_that_a_rollout_changed_survive_a_second_run(ready: Host, tmp_path: pathlib.Path) -> None:
    moved = (
        ready.read(OWN)
        .replace("21:8080 weight=100;", "21:8080 weight=7;")
        .replace("22:8080 weight=100;", "22:8080 weight=100 down;")
    )
    ready.write(OWN, moved)
    ready.run("systemctl", "restart", "nginx")
    again = apply(ready, tmp_path, SHOP)
    assert (again.code, again.changed, ready.read(OWN)) == (0, 0, moved), again.output
    servers = [*SHOP["nginx_upstreams"][0]["servers"], {"name": "127.0.0.23:8080", "weight": 50}]
    options = [*SHOP["nginx_http_options"], "server { listen 127.0.0.23:8080; return 200 web3; }"]
    more = apply(
        ready, tmp_path, shop_with(nginx_upstreams=[{"name": "shop", "servers": servers}], nginx_http_options=options)
    )
    assert more.code == 0, more.output
    lines = [line.strip() for line in ready.read(OWN).splitlines() if line.strip().startswith("server 127")]
    assert lines == [
        "server 127.0.0.21:8080 weight=7;",
        "server 127.0.0.22:8080 weight=100 down;",
        "server 127.0.0.23:8080 weight=50;",
    ]
    assert answers(ready) == {"web1", "web3"}


@pytest.mark.long
def test_check_mode_tells_a_change_and_does_not_make_it(ready: Host, tmp_path: pathlib.Path) -> None:
    before = (ready.read(OWN), workers(ready), written(ready))
    run = apply(ready, tmp_path, shop_with(nginx_keepalive=8), "--check", "--diff")
    assert (run.code, run.changed) == (0, 1), run.output
    assert "+    keepalive 8;" in run.output
    assert (ready.read(OWN), workers(ready), written(ready)) == before


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        pytest.param(shop_with(nginx_weight=0), "nginx_weight must be between", id="value"),
        pytest.param(shop_with(nginx_http_options=["no-such-word;"]), "no-such-word", id="word"),
    ],
)
def test_what_nginx_cannot_load_changes_nothing(
    ready: Host, tmp_path: pathlib.Path, variables: dict[str, t.Any], message: str
) -> None:
    before = (ready.read(OWN), workers(ready))
    run = apply(ready, tmp_path, variables)
    assert run.code == 2
    assert message in run.output
    assert (ready.read(OWN), workers(ready)) == before


def test_a_configuration_that_does_not_start_is_taken_back(ready: Host, tmp_path: pathlib.Path) -> None:
    before = ready.read(OWN)
    ready.run("systemctl", "stop", "nginx")
    ready.run("systemd-run", "--unit", "taker", "python3", "-c", TAKE)
    try:
        ready.run("sh", "-c", "until ss -ltn | grep -q :8100; do sleep 0.1; done")
        options = [*SHOP["nginx_http_options"], "server { listen 127.0.0.1:8100; }"]
        run = apply(ready, tmp_path, shop_with(nginx_http_options=options))
    finally:
        ready.run("systemctl", "stop", "taker")
    assert run.code == 2
    assert "its configuration is as it was before" in run.output
    assert ready.read(OWN) == before


GUARD = "steady-rollout-guard.service"


def test_the_guard_restores_by_its_own_unit_what_a_dead_controller_left(ready: Host, tmp_path: pathlib.Path) -> None:
    """With what systemd lets it do, on port 80, which `nginx -t` binds."""
    before = ready.read(OWN)
    safe = {"shop": {address: {"weight": 100, "state": "ready"} for address in WEBS.values()}}
    common = {"provider": "nginx", "rollout_id": "r1", "backends": ["shop"]}
    acts: list[dict[str, t.Any]] = [
        {"act": "begin", "safe": safe, "lease": 60},
        {"act": "shift", "servers": {"shop": [{"name": WEBS["web1"], "state": "maint"}]}, "lease": 8},
    ]
    tasks = [{"name": one["act"], "steady.rollout.rollout_act": {**common, **one}} for one in acts]
    run = role_runs.play(ready, tmp_path, {"tasks": tasks})
    assert run.code == 0, run.output
    assert "21:8080 weight=100 down;" in ready.read(OWN)
    poll(lambda: ready.read(OWN) == before, lambda: ready.run("journalctl", "-u", GUARD, check=False).stdout, 60)
    assert answers(ready) == {"web1", "web2"}
    ending: list[dict[str, t.Any]] = [
        {"act": "begin", "rollout_id": "r2", "take_over": ["r1"]},
        {"act": "end", "rollout_id": "r2", "outcome": "rolled_back"},
    ]
    tasks = [{"name": one["act"], "steady.rollout.rollout_act": {**common, **one}} for one in ending]
    run = role_runs.play(ready, tmp_path, {"tasks": tasks})
    assert run.code == 0, run.output
    assert GUARD not in ready.run("ls", "/etc/systemd/system").stdout


# Clients that reuse their connections, until there is a file /run/enough; a request that fails is not sent again.
CLIENTS = """
import http.client, json, os, threading, time
ok, failed = [], []
def client():
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=20)
    while not os.path.exists("/run/enough"):
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            (ok if answer.status == 200 else failed).append(answer.status)
        except (OSError, http.client.HTTPException) as error:
            failed.append(repr(error))
            connection.close()
        time.sleep(0.01)
threads = [threading.Thread(target=client) for _number in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps({"ok": len(ok), "failed": failed}))
"""
CHANGES = 20


def test_a_version_that_keeps_idle_connections_loses_no_request_of_clients_that_reuse_them(
    ready: Host, tmp_path: pathlib.Path
) -> None:
    """Twenty changes of weights, each a reload."""
    assert "keepalive_min_timeout" in ready.read(OWN)
    ready.run("rm", "-f", "/run/enough")
    ready.write("/run/clients.py", CLIENTS)
    ready.run("systemd-run", "--unit", "clients", "sh", "-c", "python3 /run/clients.py > /run/counted")
    tasks = [
        {
            "name": f"Change {number}",
            "steady.rollout.nginx_upstream": {
                "upstream": "shop",
                "servers": [
                    {"name": address, "weight": 1 + (number + place) % 9} for place, address in enumerate(WEBS.values())
                ],
            },
        }
        for number in range(CHANGES)
    ]
    run = role_runs.play(ready, tmp_path, {"tasks": tasks})
    ready.run("touch", "/run/enough")
    ready.run("sh", "-c", "while systemctl is-active --quiet clients; do sleep 0.1; done")
    assert (run.code, run.changed) == (0, CHANGES), run.output
    counted = json.loads(ready.read("/run/counted"))
    assert counted["failed"] == []
    assert counted["ok"] > 1000


LUA = shop_with(nginx_lua=True)
SOCKET = "/run/steady-rollout-nginx/api.sock"
# One request to the API; prints what is in force.
TELL = f"""
import http.client, json, socket, sys
def ask(method, path, body=None):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect({SOCKET!r})
    connection.request(method, path, body)
    return json.load(connection.getresponse())
def servers():
    return ask("GET", "/")["upstreams"]["shop"]
if sys.argv[1:]:
    ask("PUT", "/upstreams/shop", json.dumps(dict(version=servers()["version"], servers=json.loads(sys.argv[1]))))
print(json.dumps(dict((one["name"], [one["weight"], one["state"]]) for one in servers()["servers"])))
"""


def in_force(host: Host, **servers: tuple[int, str]) -> dict[str, list[t.Any]]:
    """{server: [weight, state]} as Lua has it, after some were changed."""
    asked = [{"name": WEBS[name], "weight": weight, "state": state} for name, (weight, state) in servers.items()]
    told = host.run("python3", "-c", TELL, *([json.dumps(asked)] if asked else [])).stdout
    return t.cast("dict[str, list[t.Any]]", json.loads(told))


def lines_of(host: Host) -> list[str]:
    return [line.strip() for line in host.read(OWN).splitlines() if line.strip().startswith("server 127")]


@dataclass
class UnderLua:
    """A host whose NGINX had a server out of rotation when Lua took over."""

    host: Host
    files: Run
    checked: Run
    written_by_check: set[str]
    first: Run
    second: Run
    workers: tuple[set[str], set[str]]  # before the second run and after it


@pytest.fixture(scope="module")
def under_lua(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[UnderLua]:
    folder = tmp_path_factory.mktemp("lua")
    with Host(image_of(NEWEST)) as host:
        files = apply(host, folder, SHOP)
        assert files.code == 0, files.output
        host.write(OWN, host.read(OWN).replace("22:8080 weight=100;", "22:8080 weight=9 down;"))
        host.run("systemctl", "reload", "nginx")
        before = written(host)
        checked = apply(host, folder, LUA, "--check")
        after = written(host)
        first = apply(host, folder, LUA)
        assert first.code == 0, first.output
        running = workers(host)
        second = apply(host, folder, LUA)
        yield UnderLua(host, files, checked, after - before, first, second, (running, workers(host)))


@pytest.mark.long
def test_lua_takes_over_and_a_server_that_is_down_stays_down(under_lua: UnderLua) -> None:
    host = under_lua.host
    assert "required:" not in under_lua.first.output
    assert in_force(host) == {WEBS["web1"]: [100, "ready"], WEBS["web2"]: [9, "down"]}
    assert answers(host) == {"web1"}
    assert '"ph":"shop","up":"127.0.0.21:8080"' in host.read(LOG)
    assert under_lua.second.changed == 0, under_lua.second.output
    assert under_lua.workers[0] == under_lua.workers[1]


@pytest.mark.long
def test_check_mode_tells_that_lua_would_be_installed_and_changes_nothing(under_lua: UnderLua) -> None:
    assert under_lua.checked.code == 0, under_lua.checked.output
    assert under_lua.checked.changed > 0
    assert under_lua.written_by_check == set()


@pytest.mark.long
def test_what_lua_was_told_survives_the_role_a_restart_and_a_kill(under_lua: UnderLua, tmp_path: pathlib.Path) -> None:
    host = under_lua.host
    moved = in_force(host, web1=(7, "ready"), web2=(3, "ready"))
    assert moved == {WEBS["web1"]: [7, "ready"], WEBS["web2"]: [3, "ready"]}
    again = apply(host, tmp_path, LUA)
    assert (again.code, again.changed, in_force(host)) == (0, 0, moved), again.output
    host.run("systemctl", "restart", "nginx")
    assert in_force(host) == moved
    host.run("pkill", "--signal", "KILL", "nginx")
    host.run("sh", "-c", "until systemctl is-failed --quiet nginx; do sleep 0.1; done")
    host.run("systemctl", "start", "nginx")
    assert in_force(host) == moved
    assert host.run("stat", "--format", "%U %a", SOCKET.rpartition("/")[0]).stdout.strip() == "root 700"
    assert answers(host) == {"web1", "web2"}


@pytest.mark.long
def test_a_server_that_lua_has_down_stays_down_without_it_and_lua_comes_back(
    under_lua: UnderLua, tmp_path: pathlib.Path
) -> None:
    host = under_lua.host
    moved = in_force(host, web1=(5, "down"), web2=(4, "ready"))
    back = apply(host, tmp_path, SHOP)
    assert back.code == 0, back.output
    assert lines_of(host) == ["server 127.0.0.21:8080 weight=5 down;", "server 127.0.0.22:8080 weight=4;"]
    assert answers(host) == {"web2"}
    again = apply(host, tmp_path, LUA)
    assert (again.code, in_force(host)) == (0, moved), again.output


@pytest.mark.long
def test_check_mode_tells_a_change_of_what_lua_is_told(under_lua: UnderLua, tmp_path: pathlib.Path) -> None:
    host = under_lua.host
    before = (host.read(OWN), workers(host), written(host))
    run = apply(host, tmp_path, {**LUA, "nginx_weight": 50}, "--check", "--diff")
    assert (run.code, run.changed) == (0, 1), run.output
    assert "weight = 50}" in run.output
    assert (host.read(OWN), workers(host), written(host)) == before


@pytest.mark.long
def test_a_release_without_the_lua_module_is_told_so(tmp_path: pathlib.Path) -> None:
    with Host(image_of("bullseye")) as host:
        run = apply(host, tmp_path, LUA)
    assert run.code == 2
    assert "nginx_lua needs the packages libnginx-mod-http-lua and lua-resty-core" in run.output


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Host]:
    """A host with a configuration that is not ours, and runs."""
    with Host(image_of(NEWEST)) as host:
        host.run("apt-get", "update")
        host.run("apt-get", "install", "--yes", "nginx")
        host.write("/etc/nginx/conf.d/mine.conf", FOREIGN)
        host.run("systemctl", "restart", "nginx")
        yield host


@pytest.fixture(scope="module")
def foreign_check(foreign: Host, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return apply(foreign, tmp_path_factory.mktemp("strict"), {**SHOP, "nginx_strict": True})


def test_a_foreign_configuration_is_only_judged(foreign: Host, tmp_path: pathlib.Path) -> None:
    before = (written(foreign), workers(foreign))
    run = apply(foreign, tmp_path, SHOP)
    assert run.code == 0, run.output
    assert run.changed == 0
    assert (written(foreign), workers(foreign)) == before


@pytest.mark.parametrize(
    "line",
    [
        "access_log /var/log/nginx/steady-rollout.log steady_rollout;",
        "In upstream mine (/etc/nginx/conf.d/mine.conf): zone mine 64k;",
        "In upstream mine (/etc/nginx/conf.d/mine.conf): no least_conn",
        "nginx resolves localhost:8080 at each reload",
    ],
)
def test_the_lines_that_a_foreign_configuration_lacks_are_told(foreign_check: Run, line: str) -> None:
    assert line in foreign_check.output


def test_strict_makes_the_lack_a_failure(foreign_check: Run) -> None:
    assert foreign_check.code == 2
    assert "lb1 is not ready for rollouts: required:" in foreign_check.output


# The last one on this host: it is managed afterwards.
@pytest.mark.long
def test_beside_a_foreign_configuration_the_file_is_written_when_asked_for(
    foreign: Host, tmp_path: pathlib.Path
) -> None:
    run = apply(foreign, tmp_path, {**SHOP, "nginx_manage": True})
    assert run.code == 0, run.output
    assert foreign.read("/etc/nginx/conf.d/mine.conf") == FOREIGN
    assert answers(foreign) == {"web1", "web2"}
    again = apply(foreign, tmp_path, SHOP)
    assert (again.code, again.changed) == (0, 0), again.output
