# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Single tries against real servers on loopback, the badly behaved ones above all."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import os
import pathlib
import socket
import ssl
import subprocess
import threading
import time
import typing as t

import pytest
import trustme
from ansible_collections.steady.rollout.plugins.module_utils._probe import Rules, Target, Try, parse_targets
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import ProbeError
from ansible_collections.steady.rollout.plugins.module_utils._probe_http import Prober, Tls, tls_context
from ansible_collections.steady.rollout.plugins.module_utils._probe_run import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# Seconds: what a try of a well-behaved server gets, and of one that must be cut off.
ENOUGH, SHORT = 10.0, 0.3
# What a loaded machine may add to SHORT.
SLACK = 2.0
MAX_BODY = 4096

Handler = t.Callable[[socket.socket, "Server"], None]


class Server:
    """Accepts on a socket and lets `handler` do what it likes with each connection, in a thread of its own."""

    def __init__(self, handler: Handler, listener: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.handler = handler
        self.requests: list[bytes] = []
        self.names: list[str | None] = []  # what clients asked for in SNI
        self.closing = threading.Event()
        self._listener, self._context = listener, context
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(ENOUGH)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(ENOUGH)
        with contextlib.suppress(OSError):
            try:
                if self._context:
                    connection = self._context.wrap_socket(connection, server_side=True)
                self.handler(connection, self)
            finally:
                connection.close()


def read_request(connection: socket.socket, server: Server) -> bytes:
    """The whole request, which the server remembers."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += received(connection)
    head, _end, body = request.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0]):
        body += received(connection)
    server.requests.append(head + b"\r\n\r\n" + body)
    return server.requests[-1]


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the client went away")
    return data


def reply(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def sends(data: bytes) -> Handler:
    """Answers each request with the data, then closes."""

    def handler(connection: socket.socket, server: Server) -> None:
        read_request(connection, server)
        connection.sendall(data)

    return handler


def sends_and_waits(data: bytes) -> Handler:
    """Answers with the data and leaves the connection open."""

    def handler(connection: socket.socket, server: Server) -> None:
        read_request(connection, server)
        connection.sendall(data)
        server.closing.wait(ENOUGH)

    return handler


def dribbles(data: bytes, drop: bytes) -> Handler:
    """Answers with the data, then with one drop at a time, without end."""

    def handler(connection: socket.socket, server: Server) -> None:
        read_request(connection, server)
        connection.sendall(data)
        while not server.closing.wait(0.02):
            connection.sendall(drop)

    return handler


def listening(family: int = socket.AF_INET, address: t.Any = ("127.0.0.1", 0)) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    return listener


Serve = t.Callable[..., Server]


@pytest.fixture
def serve() -> t.Iterator[Serve]:
    servers: list[Server] = []

    def start(handler: Handler, listener: socket.socket | None = None, context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(handler, listener or listening(), context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def target(common: dict[str, t.Any] | None = None, **options: t.Any) -> Target:
    params: dict[str, t.Any] = {
        "scheme": "http",
        "path": "/",
        "method": "GET",
        "body": None,
        "follow_redirects": False,
        "expect": {"status": ["200"]},
        "max_body": MAX_BODY,
        "targets": [{"name": "web1", **options}],
    }
    return parse_targets({**params, **(common or {})})[0]


def ask(server: Server, common: dict[str, t.Any] | None = None, seconds: float = ENOUGH, **options: t.Any) -> Try:
    asked = target(common, address="127.0.0.1", port=server.port, **options)
    return Prober(None, MAX_BODY).attempt(asked, seconds)


# Regular expressions.


def test_body_is_searched_for_a_regular_expression(serve: Serve) -> None:
    server = serve(sends(reply(b"it is ready")))
    with contextlib.closing(Prober(None, MAX_BODY)) as prober:
        tries = [
            prober.attempt(target(address="127.0.0.1", port=server.port, expect={"body_regex": regex}), ENOUGH)
            for regex in ("ready$", "^ready")
        ]
    assert [result.ok for result in tries] == [True, False]


def test_endless_search_is_a_failure_in_time_and_delays_no_other_target(serve: Serve) -> None:
    server = serve(sends(reply(b"a" * 64 + b"b")))
    endless = {"expect": {"status": ["200"], "body_regex": "(a+)+$"}}
    asked = target(endless, address="127.0.0.1", port=server.port)
    targets = [asked, dataclasses.replace(asked, name="good", expect=target(address="127.0.0.1").expect)]
    rules = Rules(rise=3, fall=0, interval=0.05, timeout=1.0, deadline=2.5)
    with contextlib.closing(Prober(None, MAX_BODY)) as prober:
        (slow, good), elapsed = run(targets, rules, prober.attempt)
    assert (slow.health, good.health) == ("down", "up")
    assert good.elapsed < 1.0
    assert elapsed < rules.deadline + SLACK
    assert slow.last_failure is not None
    assert "regular expression '(a+)+$' took longer than" in str(slow.last_failure.reason)


# Servers that behave.


def test_answer_as_expected_is_a_success(serve: Serve) -> None:
    result = ask(serve(sends(reply(b"ready"))))
    assert (result.ok, result.status, result.body) == (True, 200, None)
    assert result.latency_ms is not None


def test_other_answer_is_a_failure_with_its_status_and_body(serve: Serve) -> None:
    result = ask(serve(sends(reply(b"not\tyet\x1b[31m", "503 Service Unavailable"))))
    assert (result.reason, result.status) == ("answered 503 instead of 200", 503)
    assert result.body == "not\\tyet\\x1b[31m"


def test_request_is_what_was_asked_for(serve: Serve) -> None:
    server = serve(sends(reply()))
    ask(server, path="/health?full=1", headers={"X-Probe": "a", "User-Agent": "mine"}, host="shop.test")
    lines = server.requests[0].decode("ascii").split("\r\n")
    assert lines[0] == "GET /health?full=1 HTTP/1.1"
    assert lines[1:-2] == [
        "Accept-Encoding: identity",
        "Host: shop.test",
        "Accept: */*",
        "Connection: close",
        "X-Probe: a",
        "User-Agent: mine",
    ]


def test_own_host_header_is_sent_once(serve: Serve) -> None:
    server = serve(sends(reply()))
    ask(server, headers={"Host": "shop.test"})
    assert server.requests[0].lower().count(b"host:") == 1


def test_body_is_sent_with_its_length(serve: Serve) -> None:
    server = serve(sends(reply()))
    assert ask(server, {"method": "POST", "body": "größe"}).ok
    assert server.requests[0].startswith(b"POST / HTTP/1.1\r\n")
    assert b"Content-Length: 7\r\n" in server.requests[0]
    assert server.requests[0].endswith("\r\n\r\ngröße".encode())


def test_every_try_makes_its_own_connection(serve: Serve) -> None:
    server = serve(sends(reply()))
    assert ask(server).ok
    assert ask(server).ok
    assert len(server.requests) == 2


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"it is ready"),
        CHUNKED + b"6\r\nit is \r\n5\r\nready\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + reply(b"it is ready"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + reply(b"it is ready"),
    ],
    ids=["length", "chunked", "early-hints", "continue"],
)
def test_body_is_read_to_its_end_though_the_connection_stays_open(serve: Serve, answer: bytes) -> None:
    started = time.monotonic()
    assert ask(serve(sends_and_waits(answer)), expect={"body": "is ready"}).ok
    assert time.monotonic() - started < ENOUGH / 2


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_body_without_length_ends_with_the_connection(serve: Serve, version: str) -> None:
    assert ask(serve(sends(f"{version} 200 OK\r\n\r\nit is ready".encode())), expect={"body": "is ready"}).ok


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_answer_that_has_no_body_is_complete_without_one(serve: Serve, method: str, status: str) -> None:
    server = serve(sends_and_waits(f"HTTP/1.1 {status}\r\nContent-Length: 100\r\n\r\n".encode()))
    assert ask(server, {"method": method}, expect={"status": [status[:3]]}).ok


def test_unix_socket_is_asked(serve: Serve, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "app.sock")
    server = serve(sends(reply()), listening(socket.AF_UNIX, path))
    assert Prober(None, MAX_BODY).attempt(target(unix_socket=path, path="/health"), ENOUGH).ok
    assert server.requests[0].startswith(b"GET /health HTTP/1.1\r\n")
    assert b"\r\nHost: localhost\r\n" in server.requests[0]


def test_ipv6_address_is_asked(serve: Serve) -> None:
    server = serve(sends(reply()), listening(socket.AF_INET6, ("::1", 0)))
    assert Prober(None, MAX_BODY).attempt(target(url=f"http://[::1]:{server.port}/"), ENOUGH).ok
    assert f"\r\nHost: [::1]:{server.port}\r\n".encode() in server.requests[0]


# Servers that do not.


def is_cut_off(serve: Serve, handler: Handler, phase: str, **options: t.Any) -> bool:
    server = serve(handler)
    started = time.monotonic()
    result = ask(server, seconds=SHORT, **options)
    assert time.monotonic() - started < SHORT + SLACK
    assert (result.reason, result.status) == (f"gave {phase} within {SHORT} s", None)
    return result.cut


def test_server_that_never_answers_is_cut_off(serve: Serve) -> None:
    assert is_cut_off(serve, sends_and_waits(b""), "no answer")


@pytest.mark.parametrize(
    ("start", "drop", "phase"),
    [
        (b"", b"H", "no answer"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", "no answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n", b"x", "no complete answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x", "no complete answer"),
        (CHUNKED, b"1\r\nx\r\n", "no complete answer"),
        (CHUNKED + b"0\r\n", b"X: y\r\n", "no complete answer"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "no answer"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", "no answer"),
    ],
    ids=["status-line", "headers", "body", "body-without-end", "chunks", "trailers", "continues", "hints"],
)
def test_server_that_dribbles_is_cut_off(serve: Serve, start: bytes, drop: bytes, phase: str) -> None:
    assert is_cut_off(serve, dribbles(start, drop), phase)


def test_server_that_does_not_read_the_request_is_cut_off(serve: Serve) -> None:
    def reads_nothing(_connection: socket.socket, server: Server) -> None:
        server.closing.wait(ENOUGH)

    server = serve(reads_nothing)
    started = time.monotonic()
    result = ask(server, {"method": "POST", "body": "x" * 32_000_000}, seconds=SHORT)
    assert time.monotonic() - started < SHORT + SLACK
    assert result.cut


def test_host_that_swallows_connections_is_cut_off() -> None:
    with full_listener() as port:
        result = Prober(None, MAX_BODY).attempt(target(address="127.0.0.1", port=port), SHORT)
    assert (result.reason, result.cut) == (f"gave no connection within {SHORT} s", True)


@contextlib.contextmanager
def full_listener() -> t.Iterator[int]:
    """A port whose queue is full, so that Linux drops whatever comes to it."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        while True:
            client = stack.enter_context(socket.socket())
            client.settimeout(SHORT)
            try:
                client.connect(listener.getsockname())
            except socket.timeout:
                break
        yield listener.getsockname()[1]


def test_closed_port_is_told() -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
    result = Prober(None, MAX_BODY).attempt(target(address="127.0.0.1", port=port), ENOUGH)
    assert result.reason == f"gave no connection: {os.strerror(errno.ECONNREFUSED)}"


def test_missing_unix_socket_is_told(tmp_path: pathlib.Path) -> None:
    result = Prober(None, MAX_BODY).attempt(target(unix_socket=str(tmp_path / "none")), ENOUGH)
    assert result.reason == f"gave no connection: {os.strerror(errno.ENOENT)}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-x\r\n", "sent something that is not HTTP: 'SSH-2.0-x\\r\\n'"),
        (b"\x15\x03\x01\x00\x02\x02\x46\r\n", "sent something that is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "closed the connection in the middle of its answer"),
        (CHUNKED + b"a\r\nshort", "closed the connection in the middle of its answer"),
        (CHUNKED + b"zz\r\nx", "closed the connection in the middle of its answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "sent an answer that is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", "sent an answer that is not valid HTTP"),
    ],
    ids=["nothing", "ssh", "tls", "short", "short-chunk", "bad-chunk", "long-header", "many-headers"],
)
def test_broken_answer_is_told(serve: Serve, answer: bytes, reason: str) -> None:
    result = ask(serve(sends(answer)))
    assert str(result.reason).startswith(reason)
    assert str(result.reason).isprintable()


def test_chunk_of_negative_length_is_a_failure(serve: Serve) -> None:
    # Python's http.client stumbles over it, and how depends on its version.
    assert ask(serve(sends(CHUNKED + b"-5\r\nx"))).reason in (
        "closed the connection in the middle of its answer",
        "sent an answer that is not valid HTTP: read length must be non-negative or -1",
    )


def test_reset_connection_is_told(serve: Serve) -> None:
    def resets(connection: socket.socket, server: Server) -> None:
        read_request(connection, server)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    assert ask(serve(resets)).reason == f"gave no answer: {os.strerror(errno.ECONNRESET)}"


def test_no_more_than_max_body_is_read(serve: Serve) -> None:
    sent = 0

    def endless(connection: socket.socket, server: Server) -> None:
        nonlocal sent
        read_request(connection, server)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            sent += connection.send(b"x" * 65536)

    assert ask(serve(endless)).ok
    assert sent < 32_000_000  # what the buffers of two sockets hold


def test_body_of_exactly_max_body_is_whole(serve: Serve) -> None:
    document = b'{"a": "' + b"x" * (MAX_BODY - 9) + b'"}'
    assert len(document) == MAX_BODY
    expect = {"json": {"a": "x" * (MAX_BODY - 9)}}
    assert ask(serve(sends(reply(document))), expect=expect).ok
    assert "longer than max_body" in str(ask(serve(sends(reply(document + b" "))), expect=expect).reason)


def test_echoed_secret_is_not_shown(serve: Serve) -> None:
    def echoes(connection: socket.socket, server: Server) -> None:
        request = read_request(connection, server)
        connection.sendall(reply(request[-200:], "500 Oops"))

    result = ask(serve(echoes), headers={"Authorization": "Bearer s3cret-token"})
    assert result.body is not None
    assert "Authorization: ********" in result.body
    assert "s3cret" not in result.body


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda *parts: b"".join(parts),
        st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503\r\n", b"HTTP/9 x\r\n", b"HTTP/1.1 101 \r\n"]),
        st.sampled_from([b"", b"Content-Length: x\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"]),
        st.sampled_from([b"", b"\r\n", b"\r\n5\r\n", b"\r\n-1\r\n", b"\r\nffffffffffffffffffff\r\n"]),
        st.binary(max_size=50),
    )
)
def test_no_answer_makes_a_try_crash(fuzzed: Server, answer: bytes) -> None:
    fuzzed.handler = sends(answer)
    result = ask(fuzzed, expect={"status": ["200"], "json": {"a": 1}})
    assert result.reason is not None
    assert result.reason.isprintable()
    assert not result.cut


@pytest.fixture
def fuzzed(serve: Serve) -> Server:
    return serve(sends(b""))


# Names.


Addresses = list[tuple[t.Any, ...]]


def resolving(monkeypatch: pytest.MonkeyPatch, resolve: t.Callable[[], Addresses]) -> None:
    """Let every name be resolved by `resolve`."""
    real = socket.getaddrinfo

    def getaddrinfo(host: t.Any, port: t.Any, *args: t.Any, **options: t.Any) -> t.Any:
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            return real(host, port, *args, **options)
        return resolve()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def loopback(port: int) -> tuple[t.Any, ...]:
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)


def test_name_is_resolved(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(sends(reply()))
    resolving(monkeypatch, lambda: [loopback(server.port)])
    assert Prober(None, MAX_BODY).attempt(target(address="web1.test", port=8080), ENOUGH).ok
    assert b"\r\nHost: web1.test:8080\r\n" in server.requests[0]


def test_unknown_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolving(monkeypatch, unknown)
    result = Prober(None, MAX_BODY).attempt(target(address="web1.test"), ENOUGH)
    assert result.reason == "has a name that cannot be resolved: Name or service not known"


def test_name_that_cannot_be_one_is_told() -> None:
    asked = dataclasses.replace(target(address="web1.test"), address="x" * 300 + ".test")
    result = Prober(None, MAX_BODY).attempt(asked, ENOUGH)
    assert str(result.reason).startswith("has a name that cannot be resolved: ")


def test_hanging_lookup_is_cut_off_and_costs_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    lookups: list[None] = []

    def hang() -> Addresses:
        lookups.append(None)
        let_go.wait(ENOUGH)
        return []

    resolving(monkeypatch, hang)
    prober = Prober(None, MAX_BODY)
    try:
        results = [prober.attempt(target(address="web1.test"), 0.1) for _try in range(3)]
    finally:
        let_go.set()
    assert {result.reason for result in results} == {"gave no address of web1.test within 0.1 s"}
    assert len(lookups) == 1


def test_name_is_resolved_anew_for_each_try(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = serve(sends(reply(b"", "503 Gone"))), serve(sends(reply()))
    answers = iter([[loopback(old.port)], [loopback(new.port)]])
    resolving(monkeypatch, lambda: next(answers))
    prober = Prober(None, MAX_BODY)
    assert [prober.attempt(target(address="web1.test"), ENOUGH).status for _try in range(2)] == [503, 200]


def test_second_address_is_tried_when_the_first_refuses(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(sends(reply()))
    with listening() as listener:
        closed = listener.getsockname()[1]
    resolving(monkeypatch, lambda: [loopback(closed), loopback(server.port)])
    assert Prober(None, MAX_BODY).attempt(target(address="web1.test"), ENOUGH).ok


def test_second_address_has_time_left_when_the_first_swallows_connections(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(sends(reply()))
    with full_listener() as full:
        resolving(monkeypatch, lambda: [loopback(full), loopback(server.port)])
        assert Prober(None, MAX_BODY).attempt(target(address="web1.test"), 2.0).ok


# Redirects.


def test_redirect_is_an_answer_like_any_other(serve: Serve) -> None:
    server = serve(sends(reply(b"", "302 Found", "Location: /login")))
    assert ask(server).reason == "answered 302 instead of 200"
    assert ask(server, expect={"status": ["302"], "headers": {"location": "/login"}}).ok


def test_redirect_on_the_server_is_followed_when_asked_for(serve: Serve) -> None:
    def redirects(connection: socket.socket, server: Server) -> None:
        first = read_request(connection, server).startswith(b"GET / ")
        connection.sendall(reply(b"", "302 Found", "Location: /login") if first else reply(b"welcome"))

    server = serve(redirects)
    assert ask(server, {"follow_redirects": True}, expect={"body": "welcome"}).ok
    assert len(server.requests) == 2


def test_redirect_to_another_server_is_a_failure_and_not_followed(serve: Serve) -> None:
    other = serve(sends(reply()))
    away = serve(sends(reply(b"", "302 Found", f"Location: http://127.0.0.1:{other.port}/")))
    result = ask(away, {"follow_redirects": True})
    assert result.reason == (
        f"answered 302 and redirected to 'http://127.0.0.1:{other.port}/', which is not this server"
    )
    assert other.requests == []


def test_redirects_without_end_are_a_failure(serve: Serve) -> None:
    server = serve(sends(reply(b"", "302 Found", "Location: /")))
    assert ask(server, {"follow_redirects": True}).reason == "redirected more than 5 times"
    assert len(server.requests) == 6


# TLS.


class Authority:
    """An authority of the tests, and what it has signed. All files are PEM."""

    def __init__(self, directory: pathlib.Path) -> None:
        self._directory = directory
        self.file = self._path("ca.pem")
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=Authority of the tests", "-keyout", self._path("ca.key"), "-out", self.file,
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def sign(self, name: str, alternatives: str) -> tuple[str, str]:
        """Paths of a certificate and of its key."""
        cert, key, request, extensions = (self._path(f"{name}.{end}") for end in ("pem", "key", "csr", "ext"))
        pathlib.Path(extensions).write_text(
            f"subjectAltName={alternatives}\nauthorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n",
            encoding="utf-8",
        )
        self._openssl(
            "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={name}", "-keyout", key, "-out", request,
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self._path("ca.key"), "-CAcreateserial",
            "-days", "2", "-extfile", extensions, "-out", cert,
        )  # fmt: skip
        return cert, key

    def encrypt(self, key: str) -> str:
        encrypted = f"{key}.encrypted"
        self._openssl("pkcs8", "-topk8", "-in", key, "-passout", "pass:x", "-out", encrypted)
        return encrypted

    def _path(self, name: str) -> str:
        return str(self._directory / name)

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def web1(authority: Authority) -> tuple[str, str]:
    return authority.sign("web1.test", "DNS:web1.test,IP:127.0.0.1")


ServeTls = t.Callable[..., Server]


@pytest.fixture
def serve_tls(serve: Serve, web1: tuple[str, str]) -> ServeTls:
    def start(cert: tuple[str, str] = web1, clients: Authority | None = None) -> Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*cert)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.file)
        server = serve(sends(reply()), context=context)
        context.sni_callback = lambda _sock, name, _context: server.names.append(name)
        return server

    return start


def ask_tls(server: Server, tls: Tls, seconds: float = ENOUGH, **options: t.Any) -> Try:
    asked = target(address="127.0.0.1", port=server.port, scheme="https", **options)
    return Prober(tls_context(tls), MAX_BODY).attempt(asked, seconds)


def test_certificate_of_a_trusted_authority_is_accepted(serve_tls: ServeTls, authority: Authority) -> None:
    server = serve_tls()
    assert ask_tls(server, Tls(ca_path=authority.file)).ok
    assert server.requests[0].startswith(b"GET / HTTP/1.1\r\n")


def test_directory_of_authorities_is_accepted(
    serve_tls: ServeTls, authority: Authority, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(pathlib.Path(authority.file).read_bytes())
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, capture_output=True, timeout=60)
    assert ask_tls(serve_tls(), Tls(ca_path=str(tmp_path))).ok


def test_server_sees_the_name_it_is_asked_for(serve_tls: ServeTls, authority: Authority) -> None:
    server = serve_tls()
    assert ask_tls(server, Tls(ca_path=authority.file), server_hostname="web1.test").ok
    assert ask_tls(server, Tls(ca_path=authority.file), host="web1.test:8443").ok
    assert server.names == ["web1.test", "web1.test"]


def test_certificate_of_an_unknown_authority_is_refused(serve_tls: ServeTls) -> None:
    server = serve_tls()
    result = ask_tls(server, Tls())
    assert str(result.reason).startswith("has a certificate that is not accepted: ")
    assert server.requests == []


def test_certificate_of_an_unknown_authority_is_accepted_without_validation(serve_tls: ServeTls) -> None:
    assert ask_tls(serve_tls(), Tls(validate_certs=False)).ok


def test_certificate_for_another_name_is_refused(serve_tls: ServeTls, authority: Authority) -> None:
    result = ask_tls(serve_tls(), Tls(ca_path=authority.file), server_hostname="web2.test")
    assert str(result.reason).startswith("has a certificate that is not accepted: Hostname mismatch")


def test_expired_certificate_is_refused(serve_tls: ServeTls, tmp_path: pathlib.Path) -> None:
    # No option of openssl's command makes a past date on every version of it.
    authority = trustme.CA()
    yesterday = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)
    expired = authority.issue_cert("127.0.0.1", not_after=yesterday)
    cert, key, ca = (str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem"))
    authority.cert_pem.write_to_path(ca)
    expired.private_key_pem.write_to_path(key)
    expired.cert_chain_pems[0].write_to_path(cert)
    result = ask_tls(serve_tls((cert, key)), Tls(ca_path=ca))
    assert result.reason == "has a certificate that is not accepted: certificate has expired"


def test_certificate_is_shown_to_a_server_that_wants_one(serve_tls: ServeTls, authority: Authority) -> None:
    cert, key = authority.sign("probe.test", "DNS:probe.test")
    assert ask_tls(serve_tls(clients=authority), Tls(ca_path=authority.file, client_cert=cert, client_key=key)).ok


def test_server_that_wants_a_certificate_refuses_without(serve_tls: ServeTls, authority: Authority) -> None:
    server = serve_tls(clients=authority)
    result = ask_tls(server, Tls(ca_path=authority.file))
    assert result.reason is not None
    assert result.status is None
    assert server.requests == []


def test_server_that_speaks_no_tls_is_told(serve: Serve, authority: Authority) -> None:
    def speaks_plainly(connection: socket.socket, _server: Server) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        received(connection)

    assert str(ask_tls(serve(speaks_plainly), Tls(ca_path=authority.file)).reason).startswith("failed at TLS: ")


def test_server_that_never_shakes_hands_is_cut_off(serve: Serve, authority: Authority) -> None:
    def says_nothing(_connection: socket.socket, server: Server) -> None:
        server.closing.wait(ENOUGH)

    started = time.monotonic()
    result = ask_tls(serve(says_nothing), Tls(ca_path=authority.file), seconds=SHORT)
    assert time.monotonic() - started < SHORT + SLACK
    assert (result.reason, result.cut) == (f"gave no TLS handshake within {SHORT} s", True)


def test_tls_server_that_dribbles_is_cut_off(serve_tls: ServeTls, authority: Authority) -> None:
    server = serve_tls()
    server.handler = dribbles(b"HTTP/1.1 200 OK\r\n\r\n", b"x")
    started = time.monotonic()
    result = ask_tls(server, Tls(ca_path=authority.file), seconds=SHORT)
    assert time.monotonic() - started < SHORT + SLACK
    assert (result.reason, result.cut) == (f"gave no complete answer within {SHORT} s", True)


def tls_with(files: dict[str, t.Any]) -> Tls:
    return Tls(**files)


@pytest.mark.parametrize("option", ["ca_path", "client_cert", "client_key"])
def test_missing_file_is_refused_with_the_name_of_its_option(option: str, tmp_path: pathlib.Path) -> None:
    missing = str(tmp_path / "none.pem")
    with pytest.raises(ProbeError, match=rf"^{option} {missing} cannot be read on this host: No such file"):
        tls_context(tls_with({option: missing}))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"ca_path": "note"}, "ca_path .* holds no certificate"),
        ({"client_cert": "note"}, "client_cert .* cannot be used"),
        ({"client_cert": "cert"}, "which must hold its key too"),
        ({"client_cert": "cert", "client_key": "note"}, "client_key .* cannot be used"),
        ({"client_cert": "cert", "client_key": "other key"}, "cannot be used: key values mismatch"),
        ({"client_cert": "cert", "client_key": "encrypted key"}, "client_key is encrypted"),
        ({"client_key": "other key"}, "client_key is given without client_cert"),
    ],
)
def test_file_that_is_of_no_use_is_refused(
    wrong: dict[str, str], told: str, authority: Authority, web1: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    note = tmp_path / "note.txt"
    note.write_text("This is no certificate.\n", encoding="utf-8")
    files = {
        "note": str(note),
        "cert": web1[0],
        "other key": authority.sign("other.test", "DNS:other.test")[1],
        "encrypted key": authority.encrypt(web1[1]),
    }
    with pytest.raises(ProbeError, match=told):
        tls_context(tls_with({option: files[name] for option, name in wrong.items()}))
