# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""One HTTP try of one target: the socket's side of a probe.

A try never takes longer than it was given, whatever the server does: every single read and write gets what is left of
the time, so that a server which sends a byte now and then is cut off like one that sends nothing.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import ssl
import threading
import time
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._probe import (
    MAX_REDIRECTS,
    REDIRECTS,
    Target,
    Try,
    redirected,
)
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import (
    Answer,
    Excerpts,
    ProbeError,
    mismatch,
)
from ansible_collections.steady.rollout.plugins.module_utils._probe_match import Matcher, SlowMatch

USER_AGENT = "steady.rollout http_probe"
CHUNK = 65536  # bytes

_Address = tuple[t.Any, ...]  # one result of socket.getaddrinfo


class _TryFailed(Exception):
    """There was no answer; says why, as the end of a sentence about the target."""


class _OutOfTime(_TryFailed):
    pass


class _Clock:
    """The time one try has; `phase` is what a timeout is told to have waited for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = time.monotonic()
        self.phase = "no connection"

    def left(self) -> float:
        left = self.started + self.seconds - time.monotonic()
        if left <= 0:
            raise self.out_of_time()
        return left

    def out_of_time(self) -> _OutOfTime:
        return _OutOfTime(f"gave {self.phase} within {self.seconds:.3g} s")

    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.started) * 1000


class _Reader(io.RawIOBase):
    """What comes in on a socket, each read within the time left of the try."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock, self._clock = sock, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: t.Any) -> int:
        self._sock.settimeout(self._clock.left())
        return self._sock.recv_into(buffer)


class _Incoming(io.BufferedReader):
    def close(self) -> None:
        """Stay open: http.client closes after each response, also after one that only precedes the answer."""


class _Stream:
    """A connected socket as http.client wants one."""

    def __init__(self, sock: socket.socket, clock: _Clock) -> None:
        self._sock, self._clock = sock, clock
        self._incoming = _Incoming(_Reader(sock, clock))

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._sock.settimeout(self._clock.left())
            view = view[self._sock.send(view[:CHUNK]) :]

    def makefile(self, _mode: str) -> t.BinaryIO:
        return self._incoming

    def close(self) -> None:
        self._sock.close()


@dataclass(frozen=True)
class Tls:
    """How TLS servers are trusted, and what they are shown. Paths of PEM files on this host."""

    validate_certs: bool = True
    ca_path: str | None = None  # a file, or a directory as `openssl rehash` makes it
    client_cert: str | None = None
    client_key: str | None = None


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Load the files once for all tries. Raises ProbeError, naming the option whose file cannot be used."""
    for option in ("ca_path", "client_cert", "client_key"):
        _check_readable(option, getattr(tls, option))
    if tls.client_key and not tls.client_cert:
        raise ProbeError("client_key is given without client_cert: give the certificate it belongs to.")
    context = _trusting(tls.ca_path)
    context.set_alpn_protocols(["http/1.1"])
    if not tls.validate_certs:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.client_cert:
        _load_client(context, tls.client_cert, tls.client_key)
    return context


def _check_readable(option: str, path: str | None) -> None:
    if path is None:
        return
    try:
        if not (option == "ca_path" and os.path.isdir(path)):
            with open(path, "rb"):
                return
    except OSError as error:
        raise ProbeError(f"{option} {path} cannot be read on this host: {error.strerror}.") from error


def _trusting(ca_path: str | None) -> ssl.SSLContext:
    try:
        if ca_path and os.path.isdir(ca_path):
            return ssl.create_default_context(capath=ca_path)
        return ssl.create_default_context(cafile=ca_path)
    except ssl.SSLError as error:
        raise ProbeError(f"ca_path {ca_path} holds no certificate in PEM form: {_ssl_reason(error)}.") from error


def _load_client(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except ssl.SSLError as error:
        pair = f"client_cert {cert}" + (f" with client_key {key}" if key else " (which must hold its key too)")
        raise ProbeError(f"{pair} cannot be used: {_ssl_reason(error)}.") from error


def _refuse_password() -> t.NoReturn:
    # Without this, OpenSSL would ask on the terminal and wait.
    raise ProbeError("client_key is encrypted: the probe has no password for it. Give a key without one.")


class Prober:
    """Makes single tries; safe to be used by many threads at once."""

    def __init__(self, context: ssl.SSLContext | None, max_body: int) -> None:
        self._context = context
        self._max_body = max_body  # bytes read of a body
        self._resolver = _Resolver()
        self._matcher = Matcher()

    def close(self) -> None:
        """End the processes that tries have started."""
        self._matcher.close()

    def attempt(self, target: Target, seconds: float) -> Try:
        """Ask once; takes not more than `seconds`."""
        excerpts = Excerpts(target.secrets)
        clock = _Clock(seconds)
        try:
            answer = self._ask_following(target, clock, excerpts)
        except _OutOfTime as failure:
            return Try(reason=str(failure), cut=True)
        except _TryFailed as failure:
            return Try(reason=str(failure))
        reason, cut = self._judge(target, answer, clock, excerpts)
        body = None if reason is None else excerpts.plain(answer.text)
        return Try(reason=reason, status=answer.status, latency_ms=answer.latency_ms, body=body, cut=cut)

    def _judge(self, target: Target, answer: Answer, clock: _Clock, excerpts: Excerpts) -> tuple[str | None, bool]:
        """What is wrong with the answer, if anything, and whether that is only that it could not be judged in time."""

        def search(pattern: re.Pattern[str], text: str) -> bool:
            return self._matcher.search(pattern, text, clock.left())

        try:
            return mismatch(target.expect, answer, excerpts, search), False
        except (_OutOfTime, SlowMatch) as failure:
            return str(failure), True

    def _ask_following(self, target: Target, clock: _Clock, excerpts: Excerpts) -> Answer:
        for _redirect in range(MAX_REDIRECTS + 1):
            answer = self._ask(target, clock, excerpts)
            if not target.follow_redirects or answer.status not in REDIRECTS:
                return answer
            location = next((value for name, value in answer.headers if name.lower() == "location"), None)
            following = redirected(target, answer.status, location)
            if following is None:
                shown = excerpts.quoted(location or "")
                raise _TryFailed(f"answered {answer.status} and redirected to {shown}, which is not this server")
            target = following
        raise _TryFailed(f"redirected more than {MAX_REDIRECTS} times")

    def _ask(self, target: Target, clock: _Clock, excerpts: Excerpts) -> Answer:
        try:
            sock = self._connect(target, clock)
            try:
                clock.phase = "no TLS handshake"
                sock = self._encrypted(sock, target, clock)  # takes the plain one over
                clock.phase = "no answer"
                return self._exchange(_Stream(sock, clock), target, clock)
            finally:
                sock.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            # http.client lets a ValueError out for some malformed lengths.
            raise _told(error, clock, excerpts) from error

    def _connect(self, target: Target, clock: _Clock) -> socket.socket:
        if target.unix_socket is not None:
            return _connected(socket.AF_UNIX, target.unix_socket, clock.left())
        clock.phase = f"no address of {target.address}"
        addresses = self._resolver.addresses(target.address or "", target.port or 0, clock)
        clock.phase = "no connection"
        for place, (family, _kind, _protocol, _name, address) in enumerate(addresses):
            try:
                # An address that swallows packets must leave time for those after it.
                return _connected(family, address, clock.left() / (len(addresses) - place))
            except OSError:
                if place == len(addresses) - 1:
                    raise
        raise _TryFailed(f"has no address under the name {target.address}")

    def _encrypted(self, sock: socket.socket, target: Target, clock: _Clock) -> socket.socket:
        if target.scheme != "https" or self._context is None:
            return sock
        sock.settimeout(clock.left())
        return self._context.wrap_socket(sock, server_hostname=target.server_hostname)

    def _exchange(self, stream: _Stream, target: Target, clock: _Clock) -> Answer:
        _send_request(stream, target)
        response = _final_response(stream, target)
        clock.phase = "no complete answer"
        body = _read_body(response, self._max_body + 1)
        return Answer(
            status=response.status,
            headers=tuple(response.headers.items()),
            text=body[: self._max_body].decode("utf-8", errors="replace"),
            whole=len(body) <= self._max_body,
            latency_ms=clock.elapsed_ms(),
        )


def _connected(family: int, address: t.Any, seconds: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _send_request(stream: _Stream, target: Target) -> None:
    connection = http.client.HTTPConnection(target.host)
    connection.sock = stream
    given = {name.lower() for name, _value in target.headers}
    connection.putrequest(target.method, target.path, skip_host=True, skip_accept_encoding="accept-encoding" in given)
    own = {"Host": target.host, "User-Agent": USER_AGENT, "Accept": "*/*", "Connection": "close"}
    if target.body is not None:
        own["Content-Length"] = str(len(target.body))
    for name, value in [*((name, value) for name, value in own.items() if name.lower() not in given), *target.headers]:
        connection.putheader(name, value)
    connection.endheaders(target.body)


def _final_response(stream: _Stream, target: Target) -> http.client.HTTPResponse:
    while True:
        response = http.client.HTTPResponse(t.cast(socket.socket, stream), method=target.method)
        response.begin()
        # http.client passes over 100 only; 103 (early hints) comes before the answer too. 101 ends HTTP.
        if not 102 <= response.status <= 199:
            return response


def _read_body(response: http.client.HTTPResponse, most: int) -> bytes:
    body = b""
    while len(body) < most:
        chunk = response.read(min(CHUNK, most - len(body)))
        if not chunk:
            break
        body += chunk
    # Python only says so itself from 3.15 on.
    if len(body) < most and response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return body


def _told(error: Exception, clock: _Clock, excerpts: Excerpts) -> _TryFailed:
    """What went wrong, in words for a person."""
    if isinstance(error, socket.timeout) and error.errno is None:
        return clock.out_of_time()
    if isinstance(error, ssl.SSLCertVerificationError):
        return _TryFailed(f"has a certificate that is not accepted: {excerpts.plain(error.verify_message)}")
    if isinstance(error, ssl.SSLError):
        return _TryFailed(f"failed at TLS: {_ssl_reason(error)}")
    if isinstance(error, http.client.RemoteDisconnected):
        return _TryFailed("closed the connection without an answer")
    if isinstance(error, http.client.BadStatusLine):
        return _TryFailed(f"sent something that is not HTTP: {excerpts.quoted(str(error.args[0]))}")
    if isinstance(error, http.client.IncompleteRead):
        return _TryFailed("closed the connection in the middle of its answer")
    if isinstance(error, OSError):
        return _TryFailed(f"gave {clock.phase}: {error.strerror or error}")
    return _TryFailed(f"sent an answer that is not valid HTTP: {excerpts.plain(str(error))}")


def _ssl_reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


class _Resolver:
    """Looks names up, each in a thread of its own: a lookup cannot be given a time limit, only be left behind.

    Tries that come while a lookup is under way wait for that one, so that a dead DNS server costs one thread a name.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, int], _Lookup] = {}

    def addresses(self, name: str, port: int, clock: _Clock) -> t.Sequence[_Address]:
        """Addresses of the name. Raises OSError where there are none, _OutOfTime where DNS does not answer."""
        try:
            return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (socket.gaierror, UnicodeError):
            pass  # a name, which takes a lookup
        lookup = self._lookup((name, port))
        if not lookup.done.wait(clock.left()):
            raise clock.out_of_time()
        if lookup.error is not None:
            raise _TryFailed(f"has a name that cannot be resolved: {lookup.error.strerror or lookup.error}")
        return lookup.found

    def _lookup(self, key: tuple[str, int]) -> _Lookup:
        with self._lock:
            lookup = self._under_way.get(key)
            if lookup is None or lookup.done.is_set():
                lookup = self._under_way[key] = _Lookup(*key)
                threading.Thread(target=lookup.run, daemon=True).start()
            return lookup


class _Lookup:
    def __init__(self, name: str, port: int) -> None:
        self._name, self._port = name, port
        self.done = threading.Event()
        self.found: t.Sequence[_Address] = ()
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            self.found = socket.getaddrinfo(self._name, self._port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            self.error = OSError(str(error))
        except OSError as error:
            self.error = error
        finally:
            self.done.set()
