# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real nginx whose servers are chosen by steady_rollout.lua: what it sends where, what it keeps, and what its driver makes of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._lock import exclusive
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_api import Api, Conflict, Lost, NginxLuaError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_driver import NginxLuaDriver
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import Refused

from e2e.nginx_lua_lab import CLIENTS, UPSTREAM, NginxLuaLab
from local_fleet.polling import poll

REQUESTS = 60
CHANGES = 20
LOAD_CLIENTS = 8


@pytest.fixture
def start() -> t.Iterator[t.Callable[..., NginxLuaLab]]:
    """Start a lab, with a server for each weight, and stop it in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *weights, **options: stack.enter_context(NginxLuaLab(*weights, **options))


@pytest.fixture
def lab(start: t.Callable[..., NginxLuaLab]) -> NginxLuaLab:
    """Two servers of the same weight."""
    return start(10, 10)


@pytest.fixture
def busy(lab: NginxLuaLab) -> NginxLuaLab:
    """A request is in flight on the first server, and new ones go to the second one as well."""
    a, b = lab.names
    lab.put((b, 10, "down"))
    lab.hold(a)
    lab.put((b, 10, "ready"))
    return lab


def wanted(name: str, weight: int | None = None, state: str | None = None) -> dict[str, t.Any]:
    return {"name": name, "weight": weight, "state": state}


# Shares


@pytest.mark.parametrize("weights", [(90, 10), (99, 1), (100_000, 25_000), (5, 3, 2)])
def test_shares_are_exact_over_all_workers(start: t.Callable[..., NginxLuaLab], weights: tuple[int, ...]) -> None:
    lab = start(*weights)
    found = lab.shares(500)
    for name, weight in lab.weights.items():
        assert abs(found[name] - 500 * weight / sum(weights)) <= 2


def test_a_change_of_weights_moves_the_very_next_request(lab: NginxLuaLab) -> None:
    a, b = lab.names
    driver = lab.driver()
    for _round in range(5):
        driver.change(UPSTREAM, [wanted(a, 1, "ready"), wanted(b, 10, "down")])
        assert set(lab.shares(4)) == {a}
        driver.change(UPSTREAM, [wanted(a, 1, "down"), wanted(b, 10, "ready")])
        assert set(lab.shares(4)) == {b}


def test_servers_on_unix_sockets_are_served_as_well(lab: NginxLuaLab) -> None:
    path = lab.dir / "app.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        name = f"unix:{path}"
        lab.weights = {name: 3}
        lab.configure()
        lab.reload()
        client = lab.client("/")
        listener.settimeout(10)
        connection, _address = listener.accept()
        with connection:
            assert lab.upstream()["servers"][0]["port"] is None
            (server,) = lab.driver().read([UPSTREAM]).backends[UPSTREAM]["servers"]
            assert (server["name"], server["port"], server["sessions"]) == (name, None, 1)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert client.answer() == 204


class Load:
    """Clients that keep their connections, and count every request. Use as a context manager."""

    def __init__(self, lab: NginxLuaLab) -> None:
        self._lab = lab
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.answers: dict[str, int] = {}
        self.lost: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _number in range(LOAD_CLIENTS)]

    @property
    def total(self) -> int:
        return sum(self.answers.values())

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def await_more(self, count: int) -> None:
        before = self.total
        poll(lambda: self.total >= before + count or self.lost, f"{count} more answers")

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._lab.host, CLIENTS, timeout=10)
        with contextlib.closing(connection):
            while not self._stop.is_set():
                try:
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    body = answer.read().decode()
                except (OSError, http.client.HTTPException) as exc:
                    self.lost.append(repr(exc))
                    return
                with self._lock:
                    if answer.status == 200:
                        self.answers[body] = self.answers.get(body, 0) + 1
                    else:
                        self.lost.append(f"{answer.status} {body[:80]}")


def test_no_request_is_lost_over_changes_and_drains_under_load(lab: NginxLuaLab) -> None:
    a, b = lab.names
    driver = lab.driver()
    with Load(lab) as load:
        for number in range(CHANGES):
            if number % 4 == 3:
                out = (a, b)[number // 4 % 2]
                changed = driver.change(UPSTREAM, [wanted(out, state="down")])
                assert [one["sessions"] for one in changed.after] == [0]
                driver.change(UPSTREAM, [wanted(out, state="ready")])
            else:
                driver.change(UPSTREAM, [wanted(a, 10 + number), wanted(b, 90 - number)])
            load.await_more(REQUESTS)
    assert load.lost == []
    assert set(load.answers) == {a, b}
    poll(lambda: lab.in_flight() == 0, "every request is counted to its end")


# Drains


def test_a_drain_ends_with_the_request_in_flight_and_not_before(busy: NginxLuaLab) -> None:
    a, b = busy.names
    done = threading.Event()
    found: list[t.Any] = []

    def drain() -> None:
        found.append(busy.driver().change(UPSTREAM, [wanted(a, state="drain")]))
        done.set()

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    poll(lambda: busy.settings()[a] == (10, "drain"), "it is in drain")
    # Traffic went away at once, while the call still waits.
    assert set(busy.shares(10)) == {b}
    assert not done.is_set()
    assert busy.in_flight() == 1
    busy.apps[a].release()
    assert done.wait(10)
    (after,) = found[0].after
    assert (found[0].changed, after["state"], after["sessions"]) == (True, "drain", 0)


def test_a_drain_waits_for_workers_of_before_a_reload(busy: NginxLuaLab) -> None:
    a, _b = busy.names
    busy.reload()
    with pytest.raises(NginxLuaError, match="1 requests in flight"):
        busy.driver(drain_timeout=0.2).change(UPSTREAM, [wanted(a, state="drain")])
    busy.apps[a].release()
    busy.driver().change(UPSTREAM, [wanted(a, state="drain")])


def test_a_drain_that_takes_too_long_is_put_back(busy: NginxLuaLab) -> None:
    a, b = busy.names
    before = busy.settings()
    with pytest.raises(
        NginxLuaError,
        match=f"{a} still has 1 requests in flight after 0.2 s of drain.*Everything was put back as it was",
    ):
        busy.driver(drain_timeout=0.2).change(UPSTREAM, [wanted(a, 20, "drain"), wanted(b, 30)])
    assert busy.settings() == before


def test_a_drain_that_takes_too_long_may_go_on_by_itself(busy: NginxLuaLab) -> None:
    a, _b = busy.names
    changed = busy.driver(drain_timeout=0.2, on_drain_timeout="continue").change(UPSTREAM, [wanted(a, state="maint")])
    assert "continue leaves them" in changed.warnings[0]
    assert busy.settings()[a] == (10, "down")
    assert [one["sessions"] for one in changed.after] == [1]


def test_a_drain_that_would_cut_is_refused_before_anything_changes(busy: NginxLuaLab) -> None:
    a, b = busy.names
    before = busy.upstream()
    driver = busy.driver(on_drain_timeout="cut")
    with pytest.raises(Refused, match="cut cannot be had here"):
        driver.change(UPSTREAM, [wanted(a, state="down")])
    assert busy.upstream() == before
    busy.put((b, 10, "down"))
    assert not driver.change(UPSTREAM, [wanted(b, state="down")]).changed, "nothing has to be drained there"


def test_a_client_that_leaves_is_not_counted_any_more(lab: NginxLuaLab) -> None:
    connection = http.client.HTTPConnection(lab.host, CLIENTS, timeout=10)
    connection.request("GET", "/hold")
    poll(lambda: lab.in_flight() == 1, "a request in flight")
    connection.close()
    poll(lambda: lab.in_flight() == 0, "none is counted")


def test_a_worker_that_was_killed_holds_up_no_drain(busy: NginxLuaLab) -> None:
    a, _b = busy.names
    ((pid,),) = [tuple(one["in_flight"]) for one in busy.upstream()["servers"] if one["in_flight"]]
    os.kill(int(pid), signal.SIGKILL)
    poll(lambda: len(busy.workers()) == 2 and int(pid) not in busy.workers(), "a worker in its place")
    assert busy.driver().change(UPSTREAM, [wanted(a, state="down")]).changed
    assert busy.in_flight() == 0


SUBREQUESTS = """
        location /guarded { auth_request /auth; proxy_pass http://shop/; }
        location = /auth { internal; proxy_pass http://shop/; }
        location /mirrored { mirror /copy; proxy_pass http://shop/; }
        location = /copy { internal; proxy_pass http://shop/; }
        location /status/500 { proxy_pass http://shop; proxy_intercept_errors on; error_page 500 = /again; }
        location = /again { internal; proxy_pass http://shop/; }
"""


@pytest.mark.parametrize("path", ["/guarded", "/mirrored", "/status/500"])
def test_subrequests_and_redirects_are_counted_to_their_end(start: t.Callable[..., NginxLuaLab], path: str) -> None:
    lab = start(locations=SUBREQUESTS)
    for _number in range(6):
        assert lab.get(path)[0] == 200
    poll(lambda: sum(app.answered for app in lab.apps.values()) == 12, "the other request of each, too")
    poll(lambda: lab.in_flight() == 0, "every request is counted to its end")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def test_requests_that_share_a_connection_are_counted_each_on_its_own(start: t.Callable[..., NginxLuaLab]) -> None:
    lab = start(10, locations="} server { listen {host}:8001 http2; location / { proxy_pass http://shop; } ")
    (app,) = lab.apps.values()
    fields = {":method": "GET", ":scheme": "http", ":path": "/hold", ":authority": "x"}
    block = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in fields.items()
    )
    with socket.create_connection((lab.host, 8001), 10) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        client.sendall(b"".join(frame(1, 5, stream, block) for stream in range(1, 21, 2)))
        poll(lambda: app.holding == 10, "ten requests at the server")
        assert lab.in_flight() == 10
        app.release(4)
        poll(lambda: lab.in_flight() == 6, "four have their answer")
        client.sendall(frame(3, 0, 19, struct.pack(">I", 8)))
        poll(lambda: lab.in_flight() == 5, "the client has given up one")
    poll(lambda: lab.in_flight() == 0, "none is counted")


# What is kept


@pytest.mark.parametrize("how", ["reload", "restart", "kill"])
def test_weights_and_states_survive(lab: NginxLuaLab, how: str) -> None:
    a, b = lab.names
    lab.driver().change(UPSTREAM, [wanted(a, 70, "ready"), wanted(b, 30, "down")])
    before = lab.settings()
    if how == "reload":
        lab.reload()
    else:
        lab.stop() if how == "restart" else lab.kill()
        lab.start()
    assert lab.settings() == before == {a: (70, "ready"), b: (30, "down")}
    assert set(lab.shares(10)) == {a}
    assert lab.driver().read_with_survival([UPSTREAM]).survives_reload


def test_a_reload_brings_servers_that_are_new_and_drops_those_that_are_gone(lab: NginxLuaLab) -> None:
    a, b = lab.names
    lab.driver().change(UPSTREAM, [wanted(a, 70), wanted(b, 30, "down")])
    c = lab.start_app(f"{lab.host}:9000").name
    version = lab.version()
    lab.weights = {b: 5, c: 7}
    lab.configure()
    lab.reload()
    assert lab.settings() == {b: (30, "down"), c: (7, "ready")}
    assert lab.version() > version
    assert set(lab.shares(4)) == {c}


def test_a_weight_of_the_configuration_that_nobody_changed_follows_it(lab: NginxLuaLab) -> None:
    a, b = lab.names
    lab.weights[b] = 30
    lab.configure()
    lab.reload()
    assert lab.settings() == {a: (10, "ready"), b: (30, "ready")}


BROKEN = [
    "",
    '{"format":1,"version":1,"servers":[{"na',
    '{"format":2}',
    "[]",
    '{"format":1,"servers":[{"name":"x","weight":0}]}',
    "\0\1",
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_state_file_is_told_and_the_configuration_serves(lab: NginxLuaLab, text: str) -> None:
    a, b = lab.names
    lab.put((a, 70, "ready"), (b, 30, "down"))
    (lab.state / "shop.json").write_text(text)
    reading = lab.driver().read_with_survival([UPSTREAM])
    assert reading.survives_reload is False
    assert "shop.json" in reading.survives_reload_reason
    lab.stop()
    lab.start()
    assert lab.settings() == {a: (10, "ready"), b: (10, "ready")}
    assert "[error]" in lab.log()
    assert "weights and states are those of the configuration" in lab.log()
    lab.put((a, 70, "ready"))
    assert json.loads((lab.state / "shop.json").read_text())["servers"][0]["weight"] == 70


def test_a_state_file_that_is_lost_while_nginx_runs_is_told_and_what_is_in_force_stays(lab: NginxLuaLab) -> None:
    a, b = lab.names
    lab.put((a, 70, "ready"), (b, 30, "down"))
    (lab.state / "shop.json").unlink()
    assert "is not there" in lab.driver().read_with_survival([UPSTREAM]).survives_reload_reason
    lab.reload()
    assert lab.settings() == {a: (70, "ready"), b: (30, "down")}
    assert "the weights and states in force stay" in lab.log()


def test_a_change_that_cannot_be_kept_is_not_made(lab: NginxLuaLab) -> None:
    a, _b = lab.names
    before = lab.upstream()
    (lab.state / "shop.json").mkdir()
    status, answer = lab.put((a, 70, "ready"))
    assert status == 500
    assert "the change cannot be kept, so it was not made: " in answer["error"]
    with pytest.raises(NginxLuaError, match=r"answered 500.*shop\.json: Is a directory"):
        lab.driver().change(UPSTREAM, [wanted(a, 70)])
    assert lab.upstream() == before
    assert lab.shares(4)[a] == 2


def test_a_folder_that_workers_may_not_write_is_told(lab: NginxLuaLab) -> None:
    if os.geteuid() == 0:
        os.chown(lab.state, 0, 0)
    lab.state.chmod(0o555)
    reading = lab.driver().read_with_survival([UPSTREAM])
    assert reading.survives_reload is False
    assert "cannot be written by the workers of nginx: Permission denied" in reading.survives_reload_reason
    assert lab.put((lab.names[0], 70, "ready"))[0] == 500


def test_a_pipe_in_the_place_of_the_state_file_holds_up_no_start(lab: NginxLuaLab) -> None:
    os.mkfifo(lab.state / "shop.json")
    lab.stop()
    lab.start()
    assert set(lab.settings()) == set(lab.names)


# Servers that fail


def test_a_dead_server_is_tried_elsewhere_and_then_left_out(lab: NginxLuaLab) -> None:
    a, b = lab.names
    lab.apps[a].die()
    assert lab.shares(20) == {b: 20}
    refused = lab.log().count("Connection refused")
    # Both workers know, as of the first of them that noticed.
    assert 1 <= refused <= 2
    assert lab.shares(20) == {b: 20}
    assert lab.log().count("Connection refused") == refused


def test_a_server_that_hangs_up_on_a_request_that_is_not_repeated_is_left_out_as_well(lab: NginxLuaLab) -> None:
    a, b = lab.names
    assert lab.get("/die", method="POST")[0] == 502
    (alive,) = [name for name in (a, b) if not lab.apps[name].answered]
    assert lab.shares(10) == {alive: 10}


def test_where_all_refuse_the_answer_is_502_and_nothing_breaks(lab: NginxLuaLab) -> None:
    for app in lab.apps.values():
        app.die()
    workers = lab.workers()
    assert lab.shares(10) == {"502": 10}
    lab.start_app(lab.names[0])
    assert lab.shares(10) == {lab.names[0]: 10}, "all have failed lately, so all are tried"
    assert lab.workers() == workers
    assert lab.in_flight() == 0
    assert "lua entry thread aborted" not in lab.log()


def test_where_nothing_is_ready_the_answer_is_502(lab: NginxLuaLab) -> None:
    lab.put(*((name, 10, "down") for name in lab.names))
    workers = lab.workers()
    assert lab.shares(4) == {"502": 4}
    assert lab.workers() == workers


def test_an_idle_connection_that_a_server_has_closed_loses_no_request_even_of_the_only_one(
    start: t.Callable[..., NginxLuaLab],
) -> None:
    lab = start(10, workers=1)
    (name,) = lab.names
    lab.shares(4)
    lab.apps[name].die()
    lab.start_app(name)
    assert lab.shares(4) == {name: 4}


# The API


def test_a_change_of_what_was_read_before_another_change_is_refused(lab: NginxLuaLab) -> None:
    a, b = lab.names
    version = lab.version()
    assert lab.put((a, 70, "ready"), version=version)[0] == 200
    status, answer = lab.put((b, 70, "ready"), version=version)
    assert status == 409
    assert str(version) in answer["error"]
    assert lab.settings() == {a: (70, "ready"), b: (10, "ready")}
    with pytest.raises(Conflict, match="answered 409"):
        Api(lab.socket).put(UPSTREAM, version, [wanted(a, 1, "ready")])


def test_changes_at_the_same_time_are_made_one_after_the_other(lab: NginxLuaLab) -> None:
    a, b = lab.names
    statuses: list[int] = []

    def change(weight: int) -> None:
        for _number in range(10):
            statuses.append(lab.put((a, weight, "ready"), (b, weight, "ready"))[0])
            seen = lab.settings()
            assert seen[a] == seen[b]

    threads = [threading.Thread(target=change, args=(weight,)) for weight in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(statuses) == 60
    assert set(statuses) <= {200, 409}
    kept = json.loads((lab.state / "shop.json").read_text())
    assert {one["name"]: (one["weight"], one["state"]) for one in kept["servers"]} == lab.settings()
    assert sorted(path.name for path in lab.state.iterdir()) == ["shop.json"]


BAD = [
    ("not json", 400, "no JSON"),
    ('{"version": VERSION, "servers": []}', 422, "at least one server"),
    ('{"servers": [{"name": "NAME", "weight": 1, "state": "ready"}]}', 422, "version is no number"),
    ('{"version": VERSION, "servers": [{"name": "x", "weight": 1, "state": "ready"}]}', 422, "has no server x"),
    ('{"version": VERSION, "servers": [{"name": "NAME", "weight": 0, "state": "ready"}]}', 422, "weight 0 is no"),
    ('{"version": VERSION, "servers": [{"name": "NAME", "weight": 1.5, "state": "ready"}]}', 422, "weight 1.5 is no"),
    ('{"version": VERSION, "servers": [{"name": "NAME", "weight": 100001, "state": "ready"}]}', 422, "weight 100001"),
    ('{"version": VERSION, "servers": [{"name": "NAME", "weight": 1, "state": "up"}]}', 422, "state up is not"),
    ('{"version": VERSION, "servers": [{"name": "NAME", "weight": 1}]}', 422, "state nil is not"),
    (
        '{"version": VERSION, "servers": [{"name": "NAME", "weight": 2, "state": "ready"}, {"name": "NAME", "weight": 1, "state": "ready"}]}',
        422,
        "listed twice",
    ),
    ("[" * 100, 400, "too deep"),
    ('{"version": VERSION, "servers": 7}', 422, "no list"),
]


def test_a_bad_change_is_told_and_changes_nothing(lab: NginxLuaLab) -> None:
    before = lab.upstream()
    for text, status, words in BAD:
        text = text.replace("VERSION", str(before["version"])).replace("NAME", lab.names[0])
        answered, answer = lab.ask("PUT", f"/upstreams/{UPSTREAM}", text)
        assert (answered, words in answer["error"]) == (status, True), (text, answered, answer)
    for method, path, status in [
        ("PUT", "/upstreams/x", 404),
        ("GET", "/x", 404),
        ("POST", "/", 405),
        ("GET", "/upstreams/shop", 405),
    ]:
        assert lab.ask(method, path, None if method == "GET" else "{}")[0] == status
    assert lab.upstream() == before
    assert not list(lab.state.iterdir())


def test_large_changes_go_in_one_request(start: t.Callable[..., NginxLuaLab]) -> None:
    lab = start(1)
    lab.weights = {f"{lab.host}:{10_000 + place}": 10 for place in range(1000)}
    lab.configure()
    lab.reload()
    driver = lab.driver(policy={"require_healthy": False})
    assert driver.change(UPSTREAM, [wanted(name, 1 + place) for place, name in enumerate(lab.weights)]).changed
    assert lab.settings() == {name: (1 + place, "ready") for place, name in enumerate(lab.weights)}


def test_another_user_does_not_reach_the_api(lab: NginxLuaLab) -> None:
    """Its folder is closed to all others; somebody else tries where there is a way to become that."""
    folder = os.stat(os.path.dirname(lab.socket))
    assert (stat.S_IMODE(folder.st_mode), folder.st_uid) == (0o700, os.geteuid())
    if os.geteuid() != 0:
        return
    code = f"""
import os, socket
os.setgid(65534); os.setuid(65534)
try:
    socket.socket(socket.AF_UNIX).connect({lab.socket!r})
except PermissionError:
    print("denied")
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "denied\n"


def test_an_api_that_is_not_there_or_not_ours_is_told_with_what_to_do(lab: NginxLuaLab) -> None:
    with pytest.raises(NginxLuaError, match=r"No such file or directory\. Is nginx running"):
        NginxLuaDriver(f"{lab.socket}x").read([UPSTREAM])
    with pytest.raises(NginxLuaError, match=f"nginx has no upstream blog at {lab.socket}; it has shop"):
        lab.driver().read(["blog"])
    lab.stop()
    with pytest.raises(NginxLuaError, match="cannot connect to the API of nginx"):
        lab.driver().read([UPSTREAM])


def test_a_server_of_nginx_that_is_not_our_api_is_told(start: t.Callable[..., NginxLuaLab]) -> None:
    lab = start(locations='} server { listen unix:{dir}/other.sock; return 200 "hello"; ')
    path = str(lab.dir / "other.sock")
    with pytest.raises(NginxLuaError, match="answered 200 with b'hello', which is not what"):
        NginxLuaDriver(path).read([UPSTREAM])


def test_an_api_that_hangs_is_told(lab: NginxLuaLab) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(lab.dir / "silent.sock"))
        silent.listen()
        with pytest.raises(Lost, match=r"was not answered in 0\.1 s"):
            Api(str(lab.dir / "silent.sock"), 0.1).read()


# The driver


def test_a_reading_tells_what_the_contract_asks_for(lab: NginxLuaLab) -> None:
    reading = lab.driver().read([UPSTREAM])
    assert (reading.process["pid"], reading.process["version"].count("."), reading.process["uptime"]) == (
        lab.master,
        2,
        None,
    )
    first, second = reading.backends[UPSTREAM]["servers"]
    assert (first["requests"], first["errors"]["http_5xx"], second["requests"]) == (0, 0, 0)
    assert (first["weight"], first["state"], first["share"], first["sessions"], first["queued"]) == (
        10,
        "ready",
        50.0,
        0,
        None,
    )
    assert NginxLuaDriver(lab.socket).read([UPSTREAM]).backends[UPSTREAM]["servers"][0]["requests"] is None


def test_nothing_to_do_changes_nothing(lab: NginxLuaLab) -> None:
    a, b = lab.names
    driver = lab.driver()
    assert driver.change(UPSTREAM, [wanted(a, 70), wanted(b, state="maint")]).changed
    before = lab.upstream()
    assert not driver.change(UPSTREAM, [wanted(a, 70), wanted(b, state="maint")]).changed
    assert lab.upstream() == before


def test_a_server_in_maint_stays_down_when_told_to_drain(lab: NginxLuaLab) -> None:
    _a, b = lab.names
    driver = lab.driver()
    driver.change(UPSTREAM, [wanted(b, state="maint")])
    assert not driver.change(UPSTREAM, [wanted(b, state="drain")]).changed
    assert lab.settings()[b] == (10, "down")


def test_an_outage_is_refused_before_anything_changes(lab: NginxLuaLab) -> None:
    before = lab.upstream()
    with pytest.raises(Refused, match="no server left to take traffic"):
        lab.driver().change(UPSTREAM, [wanted(name, state="down") for name in lab.names])
    assert lab.upstream() == before


def test_a_server_that_does_not_accept_connections_gets_no_traffic(lab: NginxLuaLab) -> None:
    a, b = lab.names
    driver = lab.driver(health_timeout=0.3)
    driver.change(UPSTREAM, [wanted(b, state="down")])
    lab.apps[b].die()
    before = lab.upstream()
    with pytest.raises(Refused, match=f"no connection to {b}: Connection refused after 0.3 s. Nothing was changed"):
        driver.change(UPSTREAM, [wanted(a, 1), wanted(b, state="ready")])
    assert lab.upstream() == before
    lab.driver(policy={"require_healthy": False}).change(UPSTREAM, [wanted(b, state="ready")])
    assert lab.settings()[b] == (10, "ready")


def test_a_server_that_comes_up_late_is_waited_for(lab: NginxLuaLab) -> None:
    _a, b = lab.names
    lab.driver().change(UPSTREAM, [wanted(b, state="down")])
    lab.apps[b].die()
    timer = threading.Timer(0.3, lab.start_app, (b,))
    timer.start()
    try:
        assert lab.driver().change(UPSTREAM, [wanted(b, state="ready")]).changed
    finally:
        timer.join()


def test_check_mode_tells_and_changes_nothing(lab: NginxLuaLab) -> None:
    a, b = lab.names
    lab.put((b, 10, "down"))
    lab.apps[b].die()
    before = lab.upstream()
    driver = lab.driver(check_mode=True)
    changed = driver.change(UPSTREAM, [wanted(a, 70, "drain"), wanted(b, 30, "ready")])
    assert changed.changed
    assert [(one["weight"], one["state"]) for one in changed.after] == [(70, "drain"), (30, "ready")]
    assert "a real run would wait" in changed.warnings[0]
    restored = driver.restore(UPSTREAM, {b: {"weight": 5, "state": "ready"}})
    assert (restored.changed, restored.after[0]["weight"], restored.out) == (True, 5, {})
    with pytest.raises(Refused):
        driver.change(UPSTREAM, [wanted(a, state="drain")])
    assert lab.upstream() == before


def test_calls_wait_for_each_other_and_a_call_that_is_not_admitted_changes_nothing(lab: NginxLuaLab) -> None:
    a, _b = lab.names
    before = lab.upstream()

    def deny() -> None:
        raise LoadBalancerError("a rollout holds it")

    with pytest.raises(LoadBalancerError, match="a rollout holds it"):
        lab.driver(admit=deny).change(UPSTREAM, [wanted(a, 70)])
    driver = lab.driver(timeout=0.1, health_timeout=0.0, drain_timeout=0.1)
    with exclusive(driver.lock_name(UPSTREAM), 1), pytest.raises(Refused, match="cannot lock upstream shop"):
        driver.change(UPSTREAM, [wanted(a, 70)])
    assert lab.upstream() == before


def test_a_change_by_somebody_else_in_between_is_seen_and_kept(
    lab: NginxLuaLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = lab.names
    put, others = Api.put, [1]

    def late(api: Api, *told: t.Any) -> t.Any:
        if others:
            lab.put((b, others.pop(), "ready"))
        return put(api, *told)

    monkeypatch.setattr(Api, "put", late)
    assert lab.driver().change(UPSTREAM, [wanted(a, 70)]).changed
    assert lab.settings() == {a: (70, "ready"), b: (1, "ready")}


def test_an_answer_that_was_lost_is_found_out_about(lab: NginxLuaLab, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _b = lab.names
    put = Api.put

    def lost(api: Api, *told: t.Any) -> t.Any:
        put(api, *told)
        raise Lost("no answer")

    monkeypatch.setattr(Api, "put", lost)
    changed = lab.driver().change(UPSTREAM, [wanted(a, 70)])
    assert (changed.changed, changed.before[0]["weight"], changed.after[0]["weight"]) == (True, 10, 70)


# The way back


def test_restoring_brings_back_what_was_and_takes_out_the_rest(start: t.Callable[..., NginxLuaLab]) -> None:
    lab = start(10, 10, 10)
    a, b, c = lab.names
    lab.put((a, 1, "down"), (b, 1, "drain"), (c, 99, "ready"))
    safe = {
        a: {"weight": 10, "state": "ready"},
        b: {"weight": 20, "state": "ready"},
        c: {"weight": 0, "state": "ready"},
    }
    restored = lab.driver().restore(UPSTREAM, safe)
    assert (restored.changed, restored.out) == (True, {})
    assert lab.settings() == {a: (10, "ready"), b: (20, "ready"), c: (99, "down")}
    assert not lab.driver().restore(UPSTREAM, safe).changed


def test_restoring_tells_who_does_not_come_up_or_is_gone(start: t.Callable[..., NginxLuaLab]) -> None:
    lab = start(10, 10, 10)
    a, b, c = lab.names
    lab.put((a, 1, "down"), (b, 1, "down"))
    lab.apps[b].die()
    safe = {
        a: {"weight": 10, "state": "ready"},
        b: {"weight": 10, "state": "ready"},
        c: {"weight": 5, "state": "maint"},
    }
    restored = lab.driver(health_timeout=0.3).restore(
        UPSTREAM, {**safe, "10.9.9.9:80": {"weight": 1, "state": "ready"}}
    )
    assert set(restored.out) == {b, "10.9.9.9:80"}
    assert "stays down" in restored.out[b]
    assert lab.settings() == {a: (10, "ready"), b: (1, "down"), c: (5, "down")}
    lab.start_app(b)
    assert lab.driver().restore(UPSTREAM, safe).out == {}
    assert lab.settings()[b] == (10, "ready")


def test_what_comes_up_carries_at_once_and_nothing_is_lowered_before_the_rest_is_back(
    start: t.Callable[..., NginxLuaLab],
) -> None:
    lab = start(10, 10, 10)
    a, b, c = lab.names
    lab.put((a, 1, "down"), (b, 1, "down"))
    lab.apps[b].die()
    safe = {
        a: {"weight": 10, "state": "ready"},
        b: {"weight": 10, "state": "ready"},
        c: {"weight": 10, "state": "drain"},
    }
    thread = threading.Thread(target=lab.driver(health_timeout=20).restore, args=(UPSTREAM, safe), daemon=True)
    thread.start()
    poll(lambda: lab.settings()[a] == (10, "ready"), "what accepts connections is back")
    assert lab.settings() == {a: (10, "ready"), b: (1, "down"), c: (10, "ready")}
    lab.start_app(b)
    poll(lambda: lab.settings() == {a: (10, "ready"), b: (10, "ready"), c: (10, "down")}, "all is back")
    thread.join(10)


@pytest.mark.parametrize("state", ["ready", "down"])
def test_restoring_never_leaves_nothing_that_works(lab: NginxLuaLab, state: str) -> None:
    """Whatever state the server of the safe state is in: it is dead."""
    a, b = lab.names
    lab.put((a, 10, state), (b, 10, "ready"))
    lab.apps[a].die()
    safe = {a: {"weight": 10, "state": "ready"}, b: {"weight": 10, "state": "down"}}
    restored = lab.driver(health_timeout=0.2).restore(UPSTREAM, safe)
    assert set(restored.out) == {a, b}
    assert lab.settings() == {a: (10, state), b: (10, "ready")}
    assert lab.shares(4) == {b: 4}


# Configurations that nginx refuses to start with


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ('name = "a", address = "10.0.0.1", port = 80, weight = 1, backup = true', "backup servers are not supported"),
        ('name = "a", address = "app.example", port = 80, weight = 1', "neither an IP address nor unix:/PATH"),
        ('name = "a", address = "10.0.0.1", weight = 1', "port nil does not go with 10.0.0.1"),
        ('name = "a", address = "10.0.0.1", port = 80, weight = 0', "weight 0 is no whole number from 1 to 100000"),
    ],
)
def test_a_configuration_that_cannot_work_keeps_the_old_one_serving(lab: NginxLuaLab, server: str, words: str) -> None:
    path = lab.dir / "nginx.conf"
    text = path.read_text()
    path.write_text(text.replace("upstreams = {shop = {", f"upstreams = {{other = {{{{{server}}}}}, shop = {{"))
    before = lab.upstream()
    os.kill(lab.master, signal.SIGHUP)
    poll(lambda: words in lab.log(), "the refusal is logged")
    assert lab.upstream() == before
    assert lab.shares(4)[lab.names[0]] == 2
