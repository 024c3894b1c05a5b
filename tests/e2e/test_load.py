# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The load counts every request, and counts as lost or harmed what is, no more and no less."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import signal
import socketserver
import subprocess
import sys
import threading
import time
import typing as t

import pytest

from e2e.lab import haproxy_command
from local_fleet import supervisor
from local_fleet.fleet import Fleet
from local_fleet.incidents import Incidents
from local_fleet.layout import LOAD_BALANCERS
from local_fleet.load import Load, Profile
from local_fleet.polling import poll
from local_fleet.supervisor import FleetError
from local_fleet.tally import Summary, Terms

pytestmark = pytest.mark.alone

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 30.0
VERSIONS = [
    "system",
    pytest.param("oldest", marks=[pytest.mark.containers, pytest.mark.long]),
    pytest.param("newest", marks=[pytest.mark.containers, pytest.mark.long]),
]


def lasts(load: Load, seconds: float) -> None:
    """Wait until the load's records cover some seconds from now."""
    end = time.time() + seconds
    poll(
        lambda: max((record.due for record in load.records()), default=0) >= end, "the load goes on", seconds + SECONDS
    )


def has_crashed(fleet: Fleet, release: str) -> bool:
    return any(crash.release == release for crash in fleet.crashes())


def stopped(load: Load) -> Summary:
    load.stop()
    return load.summary()


# --- Against a good fleet


def test_no_request_is_lost_at_rest_at_600_a_second(fleet: Fleet, load: Load) -> None:
    before = fleet.cpu_seconds()
    lasts(load, 10)
    used = {name: seconds - before[name] for name, seconds in fleet.cpu_seconds().items()}
    summary = stopped(load)
    shares = {
        name: f"{seconds / summary.seconds:.0%}" for name, seconds in {**used, "load": load.usage["cpu_s"]}.items()
    }
    print(f"{summary.line()}, {summary.rate:.1f}/s, CPU {shares}, latency {summary.latency}, late {summary.lateness}")
    assert (summary.lost, summary.harmed) == (0, 0)
    assert summary.ok == summary.sent
    assert summary.rate == pytest.approx(600, rel=0.01)


def test_the_requests_are_those_that_the_load_balancers_saw(fleet: Fleet, load: Load) -> None:
    lasts(load, 1)
    summary = stopped(load)
    seen = {name: int(fleet.frontend(name)["req_tot"]) for name in LOAD_BALANCERS}
    assert {name: count.sent for name, count in summary.per_lb.items()} == seen


def test_the_mix_is_as_asked(start_load: t.Callable[..., Load]) -> None:
    load = start_load(rate=200, new_connections=0.5, posts=0.25, slow=0.1, slow_ms=50, connections=4)
    lasts(load, 2)
    load.stop()
    records = load.records()
    shares = [
        sum(record.method == "POST" for record in records) / len(records),
        sum(record.asked_ms > 0 for record in records) / len(records),
    ]
    assert shares == [pytest.approx(0.25, abs=0.08), pytest.approx(0.1, abs=0.05)]
    # Half of the requests may reuse a connection; on a busy machine fewer find an idle one.
    assert 0.01 < sum(record.reused for record in records) / len(records) < 0.6
    assert load.summary().ok == len(records)


@pytest.mark.parametrize("version", VERSIONS)
def test_no_request_is_lost_by_reloads(start_fleet: t.Callable[..., Fleet], version: str) -> None:
    fleet = start_fleet(haproxy_command=haproxy_command(version))
    with Load(fleet) as load:
        for _reload in range(4):
            for name in LOAD_BALANCERS:
                fleet.reload(name)
            lasts(load, 0.3)
    summary = load.summary()
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples


@pytest.mark.long
def test_connections_that_the_load_balancer_closed_while_idle_are_not_used(start_fleet: t.Callable[..., Fleet]) -> None:
    fleet = start_fleet(extra_defaults=["timeout http-keep-alive 20ms"])
    with Load(fleet, Profile(rate=20, connections=4, new_connections=0)) as load:
        lasts(load, 2)
    summary = load.summary()
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
    assert not any(record.reused for record in load.records())


# --- WebSockets


@pytest.mark.long
def test_websockets_are_closed_at_their_age_and_opened_anew_over_drains_and_reloads(
    fleet: Fleet, start_load: t.Callable[..., Load]
) -> None:
    load = start_load(rate=20, websockets=6, websocket_s=2.0)
    fleet.deploy_drained("web1", "1.1.0")
    fleet.reload("lb1")
    lasts(load, 3)
    summary = stopped(load)
    sockets = summary.sockets
    assert (summary.lost, summary.harmed, sockets.lost, sockets.harmed, sockets.cut) == (0, 0, 0, 0, 0), (
        summary.examples
    )
    assert sockets.ok == sockets.sent > 12
    assert sockets.messages > 5 * sockets.sent


@pytest.mark.long
def test_a_websocket_that_its_host_drops_is_cut_and_replaced(fleet: Fleet, start_load: t.Callable[..., Load]) -> None:
    load = start_load(rate=20, websockets=6, websocket_s=60)
    poll(
        lambda: all(int(fleet.servers(name)["web1"]["scur"]) for name in LOAD_BALANCERS), "WebSockets are open", SECONDS
    )
    fleet.kill("web1")
    poll(lambda: len(load.sockets()) >= 2, "WebSockets end", SECONDS)
    lasts(load, 1)
    summary = stopped(load)
    cut = [socket for socket in load.sockets() if socket.is_cut]
    assert {(socket.host, socket.lb) for socket in cut} == {("web1", "lb1"), ("web1", "lb2")}
    assert (summary.sockets.cut, summary.sockets.harmed) == (len(cut), 0)
    assert summary.sockets.ok == 12


@pytest.mark.long
def test_a_host_that_is_stopped_before_it_is_drained_closes_its_websockets(
    fleet: Fleet, start_load: t.Callable[..., Load]
) -> None:
    load = start_load(rate=20, websockets=6, websocket_s=60)
    poll(
        lambda: all(int(fleet.servers(name)["web1"]["scur"]) for name in LOAD_BALANCERS), "WebSockets are open", SECONDS
    )
    fleet.stop("web1")
    summary = stopped(load)
    # One on each load balancer, unless a request had its turn there.
    assert summary.sockets.lost == summary.sockets.cut
    assert 1 <= summary.sockets.cut <= 2
    assert {socket.broken for socket in load.sockets() if socket.is_cut} == {"it was closed with 1001"}


@pytest.mark.long
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[2]])
def test_websockets_that_a_crash_kills_are_harmed(start_fleet: t.Callable[..., Fleet], version: str) -> None:
    fleet = start_fleet(apps=2, haproxy_command=haproxy_command(version))
    with Load(fleet, Profile(rate=50, websockets=20, websocket_s=3)) as load:
        fleet.deploy_drained("web1", "2.0.0", "bad_after", rate=0.5, after_s=2.0, then="crash")
        poll(lambda: has_crashed(fleet, "2.0.0"), "the release crashes", SECONDS)
        lasts(load, 1)
    summary = load.summary()
    assert summary.sockets.lost == 0, summary.examples
    assert summary.sockets.harmed >= summary.sockets.cut > 0
    assert {socket.release for socket in load.sockets() if socket.is_cut} == {"2.0.0"}


# --- What the load balancer or somebody else does wrong


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_in_flight_to_a_killed_app_are_lost(start_fleet: t.Callable[..., Fleet], version: str) -> None:
    """Those that got an error are the errors that HAProxy counted itself; to the others it closed without a word."""
    fleet = start_fleet(haproxy_command=haproxy_command(version), extra_defaults=["retries 0"])
    with Load(fleet, Profile(rate=100, slow=0.3, slow_ms=400)) as load:
        poll(lambda: int(fleet.servers("lb1")["web1"]["scur"]) > 1, "requests in flight", SECONDS)
        fleet.kill("web1")
        fleet.wait_status("DOWN", "web1")
        lasts(load, 1)
    summary = load.summary()
    assert (summary.harmed, summary.per_release["1.0.0"].lost) == (0, 0)
    assert summary.lost > 1
    answered = [number for status, number in summary.statuses.items() if status >= 500]
    silent = [record for record in load.records() if record.broken]
    assert sum(answered) == sum(int(fleet.frontend(name)["hrsp_5xx"]) for name in LOAD_BALANCERS)
    assert summary.lost == sum(answered) + len(silent)


def test_a_load_balancer_without_servers_loses_its_requests(fleet: Fleet, start_load: t.Callable[..., Load]) -> None:
    load = start_load(rate=50)
    for host in fleet.app_hosts:
        fleet.ask("lb1", f"set server shop/{host} state maint")
    lasts(load, 1)
    summary = stopped(load)
    assert summary.lost == summary.statuses[503] == int(fleet.frontend("lb1")["hrsp_5xx"]) > 0
    assert summary.per_lb["lb2"].lost == 0
    assert summary.harmed == 0


@pytest.mark.long
def test_a_killed_load_balancer_loses_requests_and_does_not_slow_the_load(
    fleet: Fleet, start_load: t.Callable[..., Load]
) -> None:
    load = start_load(rate=100)
    fleet.kill("lb1")
    lasts(load, 2)
    summary = stopped(load)
    assert summary.per_lb["lb1"].lost > 150
    assert (summary.per_lb["lb2"].lost, summary.harmed) == (0, 0)
    assert summary.rate == pytest.approx(200, rel=0.05)
    assert {example["broken"].partition(":")[0] for example in summary.examples} >= {"cannot connect"}


@pytest.mark.long
def test_requests_are_sent_when_due_while_a_load_balancer_is_frozen(
    fleet: Fleet, start_load: t.Callable[..., Load]
) -> None:
    load = start_load(rate=100)
    worker = fleet.worker_pid("lb1")
    os.kill(worker, signal.SIGSTOP)
    try:
        lasts(load, 2)
    finally:
        os.kill(worker, signal.SIGCONT)
    summary = stopped(load)
    assert (summary.lost, summary.harmed) == (0, 0), summary.examples
    assert summary.latency.max > 1500
    assert summary.rate == pytest.approx(200, rel=0.05)


def test_a_request_without_an_answer_in_time_is_lost(fleet: Fleet, start_load: t.Callable[..., Load]) -> None:
    load = start_load(rate=20, slow=0.5, slow_ms=3000, timeout=0.5)
    lasts(load, 1)
    summary = stopped(load)
    slow = sum(record.asked_ms > 0 for record in load.records())
    assert summary.lost == slow > 0
    assert "no complete answer in 0.5 s" in summary.examples[0]["cause"]


# --- What a bad release does


def test_errors_of_a_release_are_harmed_at_its_rate(fleet: Fleet, load: Load) -> None:
    fleet.deploy_drained("web1", "2.0.0", "errors", rate=0.4)
    lasts(load, 4)
    summary = stopped(load)
    bad = summary.per_release["2.0.0"]
    assert (summary.lost, summary.per_release["1.0.0"].harmed) == (0, 0), summary.examples
    assert bad.harmed / bad.sent == pytest.approx(0.4, abs=0.1)
    assert summary.statuses[500] == bad.harmed


@pytest.mark.long
def test_a_slow_release_is_harmed_beyond_the_limit(fleet: Fleet, start_load: t.Callable[..., Load]) -> None:
    load = start_load(Terms(limit_ms=1000), rate=50)
    fleet.deploy_drained("web1", "2.0.0", "slow", rate=0.5, delay_ms=1200)
    lasts(load, 3)
    summary = stopped(load)
    bad = summary.per_release["2.0.0"]
    assert (summary.lost, bad.harmed) == (0, summary.harmed)
    assert bad.harmed / bad.sent == pytest.approx(0.5, abs=0.2)


@pytest.mark.long
def test_an_answer_of_an_unexpected_release_is_harmed(fleet: Fleet, start_load: t.Callable[..., Load]) -> None:
    load = start_load(Terms(releases=["1.0.0"]), rate=50)
    fleet.deploy_drained("web1", "6.6.6")
    lasts(load, 1)
    summary = stopped(load)
    assert summary.harmed == summary.per_release["6.6.6"].sent > 0
    assert summary.lost == 0


# HAProxy 2.2 does not retry a request that it had not even sent when it found the server's connection closed, and tells
# nobody of it. No record can say that a crash killed such a request, so it is lost.
@pytest.mark.long
@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[2]])
def test_what_a_crashing_release_kills_is_harmed_and_not_lost(
    start_fleet: t.Callable[..., Fleet], version: str
) -> None:
    fleet = start_fleet(haproxy_command=haproxy_command(version))
    with Load(fleet, Profile(rate=150, slow=0.2, slow_ms=200)) as load:
        for attempt in range(3):
            fleet.deploy_drained("web1", f"2.0.{attempt}", "crash", rate=0.05)
            poll(functools.partial(has_crashed, fleet, f"2.0.{attempt}"), "the release crashes", SECONDS)
        fleet.deploy_drained("web1", "2.1.0")
        lasts(load, 1)
    summary = load.summary()
    assert summary.lost == 0, summary.examples
    for attempt in range(3):
        assert summary.per_release[f"2.0.{attempt}"].harmed > 0
    assert summary.per_release["2.1.0"].sent > 0
    assert [summary.per_release[name].harmed for name in ("1.0.0", "2.1.0")] == [0, 0]


@pytest.mark.long
def test_what_a_crash_leaves_to_a_load_balancer_without_checks_is_harmed(start_fleet: t.Callable[..., Fleet]) -> None:
    fleet = start_fleet(apps=2, server_options="no-check", extra_defaults=["retries 0"])
    with Load(fleet, Profile(rate=50)) as load:
        fleet.deploy_drained("web1", "2.0.0", "crash", rate=0.2)
        poll(fleet.crashes, "the release crashes", SECONDS)
        lasts(load, 1)
    summary = load.summary()
    assert summary.lost == 0, summary.examples
    assert summary.per_release["2.0.0"].harmed > 20
    assert summary.statuses[503] > 20


# --- Answers that are no answers


class Loopback:
    """Stands in for a fleet: one load balancer whose every answer the test writes."""

    load_balancers = ("lb1",)

    def __init__(self, answer: t.Callable[[str], bytes]) -> None:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while request_id := self.read_head():
                    said = answer(request_id)
                    self.wfile.write(said)
                    if not said.endswith(b"}"):
                        return

            def read_head(self) -> str:
                """The request's id, or nothing at the end of the connection."""
                request_id = ""
                while (line := self.rfile.readline()) not in (b"", b"\r\n"):
                    name, _colon, value = line.decode().partition(":")
                    request_id = value.strip() if name.lower() == "x-request-id" else request_id
                return request_id

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def endpoint(self, _host: str) -> str:
        address, port = self.server.server_address[:2]
        return f"{address!s}:{port}"

    def incidents(self) -> Incidents:
        return Incidents()


def message(told: dict[str, t.Any], length: int = 0) -> bytes:
    body = json.dumps(told).encode()
    head = f"HTTP/1.1 200 OK\r\nX-Release: 1.0.0\r\nX-Host: web1\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def closing(told: dict[str, t.Any]) -> bytes:
    """A message that ends with its connection."""
    return b"HTTP/1.1 200 OK\r\nX-Release: 1.0.0\r\nX-Host: web1\r\n\r\n" + json.dumps(told).encode()


DEEP = b"HTTP/1.1 200 OK\r\nX-Release: 1.0.0\r\nContent-Length: 20000\r\n\r\n" + b"[" * 20_000


def right(request_id: str) -> dict[str, t.Any]:
    return {"release": "1.0.0", "host": "web1", "request": request_id, "status": 200}


@pytest.mark.parametrize(
    ("answer", "kind", "cause"),
    [
        (lambda request: message(right(request)), "ok", ""),
        (lambda request: message(right("another")), "lost", "not the answer to this request"),
        (lambda request: closing(right(request))[:-1], "lost", "the body is not JSON"),
        (lambda request: DEEP, "lost", "the body is not JSON"),
        (lambda request: message({**right(request), "host": "web2"}), "harmed", "the body differs in host"),
        (lambda request: message({**right(request), "more": 1}), "harmed", "the body differs in more"),
        (lambda request: message(right(request), 500)[:-1], "lost", "in the middle of the answer"),
        (lambda request: b"", "lost", "before an answer"),
        (lambda request: b"nonsense\r\n\r\n", "lost", "not HTTP"),
        (lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "lost", "lb1 itself answered 200"),
    ],
)
def test_every_answer_is_checked(answer: t.Callable[[str], bytes], kind: str, cause: str) -> None:
    fleet = Loopback(answer)
    with fleet.server, Load(fleet, Profile(rate=50, posts=0)) as load:
        lasts(load, 0.3)
        load.stop()
        fleet.server.shutdown()
    summary = load.summary()
    assert getattr(summary, kind) == summary.sent > 10
    assert all(cause in example["cause"] for example in summary.examples)


# --- The generator itself


def test_a_generator_that_is_held_up_says_so(start_load: t.Callable[..., Load]) -> None:
    load = start_load(rate=100)
    assert load.pid is not None
    os.kill(load.pid, signal.SIGSTOP)
    end = time.monotonic() + 1
    poll(lambda: time.monotonic() > end, "a second passes", SECONDS)
    os.kill(load.pid, signal.SIGCONT)
    lasts(load, 0.5)
    summary = stopped(load)
    assert summary.starved
    assert summary.rate == pytest.approx(200, rel=0.05)
    assert summary.lost == 0


def test_a_killed_generator_is_an_error(start_load: t.Callable[..., Load]) -> None:
    load = start_load(rate=50)
    assert load.pid is not None
    os.kill(load.pid, signal.SIGKILL)
    with pytest.raises(FleetError, match="ended early, with -9"):
        load.stop()


def test_the_generator_ends_with_its_owner(fleet: Fleet) -> None:
    owner = f"""
import sys
from local_fleet.fleet import RunningFleet
from local_fleet.load import Load
with Load(RunningFleet.open({fleet.directory!r})) as load:
    print(load.pid, flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
    )
    try:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()
    poll(lambda: not supervisor.is_running(pid), "the generator ends", SECONDS)


@pytest.mark.long
def test_two_loads_run_side_by_side(fleet: Fleet, start_load: t.Callable[..., Load]) -> None:
    loads = [start_load(rate=50), start_load(rate=25)]
    lasts(loads[0], 1)
    summaries = [stopped(load) for load in loads]
    assert [summary.lost for summary in summaries] == [0, 0]
    assert [summary.rate for summary in summaries] == [pytest.approx(100, rel=0.05), pytest.approx(50, rel=0.05)]
