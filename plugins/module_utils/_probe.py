# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What is probed, when a target is tried next, when it has risen, and what is told of it. Pure: no socket, no clock.

Times are seconds since the probe began. A target is `up` only after `rise` tries in a row were answered as expected.
"""

from __future__ import annotations

import math
import re
import typing as t
from dataclasses import dataclass, replace
from urllib.parse import quote, urljoin, urlsplit

from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import (
    Expectation,
    ProbeError,
    parse_expectation,
)

DEFAULT_PORTS = {"http": 80, "https": 443}
METHODS = ("GET", "HEAD", "OPTIONS", "POST")
MAX_REDIRECTS = 5
# Less would be a flood of tries rather than a probe.
SHORTEST_INTERVAL = 0.01
LONGEST_TIME = 86400.0
BODY_LIMITS = (1024, 16 * 1024 * 1024)
# sockaddr_un.sun_path of Linux, less its final null byte.
LONGEST_SOCKET_PATH = 107
NAMED_TARGETS = 10
SEEING_OTHER = (301, 302, 303)
REDIRECTS = (*SEEING_OTHER, 307, 308)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Target:
    """One server to be asked, and what it is asked."""

    name: str
    scheme: str
    address: str | None  # None with unix_socket
    port: int | None
    unix_socket: str | None
    path: str
    host: str  # the Host header
    server_hostname: str  # the name in SNI and in the certificate
    headers: Headers
    expect: Expectation
    method: str = "GET"
    body: bytes | None = None
    follow_redirects: bool = False

    @property
    def where(self) -> str:
        """The target as a person would write it."""
        if self.unix_socket is not None:
            return f"{self.scheme}+unix:{self.unix_socket}:{self.path}"
        return f"{self.scheme}://{authority(self.scheme, self.address or '', self.port)}{self.path}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What may be shown to nobody: headers are where credentials are."""
        return tuple(value for _name, value in self.headers)


@dataclass(frozen=True)
class Rules:
    """When a target has risen and how long is waited for it. Times in seconds."""

    rise: int
    fall: int  # failures in a row after which a target is given up; 0: none
    interval: float  # from the end of a try to the start of the next
    timeout: float  # of one try, from resolving the name to the last byte
    deadline: float  # since the start; infinite when the first failure is final


@dataclass(frozen=True)
class Try:
    """What came of one try. `body` is an excerpt that is fit to be shown."""

    reason: str | None = None  # None: answered as expected; else the end of a sentence about the target
    status: int | None = None
    latency_ms: float | None = None
    body: str | None = None
    cut: bool = False  # the deadline ended it, so that it says little about the target

    @property
    def ok(self) -> bool:
        return self.reason is None


@dataclass(frozen=True)
class Progress:
    """What is known of one target so far."""

    due: float | None = 0.0  # when the next try starts; None: settled
    risen: bool = False
    tries: int = 0
    row: int = 0  # successes in a row up to now
    longest_row: int = 0
    misses: int = 0  # failures in a row up to now
    elapsed: float = 0.0  # when the last try ended
    last: Try | None = None
    last_failure: Try | None = None

    @property
    def health(self) -> str:
        return "up" if self.risen else "down"


def advance(before: Progress, result: Try, ended: float, rules: Rules) -> Progress:
    """The progress of a target after one more try, which ended at `ended`."""
    if result.cut and before.tries:
        # The last full try tells more than one that was given no time.
        return replace(before, due=None, elapsed=ended)
    row = before.row + 1 if result.ok else 0
    misses = 0 if result.ok else before.misses + 1
    risen = row >= rules.rise
    given_up = 0 < rules.fall <= misses
    due = ended + rules.interval
    return Progress(
        due=None if risen or given_up or due >= rules.deadline else due,
        risen=risen,
        tries=before.tries + 1,
        row=row,
        longest_row=max(row, before.longest_row),
        misses=misses,
        elapsed=ended,
        last=result,
        last_failure=before.last_failure if result.ok else result,
    )


# What is told of the targets.


def report(target: Target, progress: Progress) -> dict[str, t.Any]:
    """One entry of the module's `targets`."""
    last = progress.last or Try()
    failure = progress.last_failure
    return {
        "name": target.name,
        "where": target.where,
        "health": progress.health,
        "successes": progress.longest_row,
        "tries": progress.tries,
        "elapsed": round(progress.elapsed, 3),
        "status": last.status,
        "latency_ms": None if last.latency_ms is None else round(last.latency_ms, 1),
        "last_failure": failure and {"reason": failure.reason, "status": failure.status, "body": failure.body},
    }


def failure_message(targets: t.Sequence[Target], progresses: t.Sequence[Progress], rules: Rules) -> str | None:
    """What is told when not every target has risen: each that has not, with its last failing answer."""
    down = [(target, progress) for target, progress in zip(targets, progresses) if not progress.risen]
    if not down:
        return None
    in_a_row = f" {rules.rise} times in a row" if rules.rise > 1 else ""
    within = f" within {rules.deadline:g} s" if math.isfinite(rules.deadline) else ""
    sentences = [f"{len(down)} of {_count(len(targets), 'target')} did not answer as expected{in_a_row}{within}."]
    sentences += [_target_failure(target, progress, rules) for target, progress in down[:NAMED_TARGETS]]
    if len(down) > NAMED_TARGETS:
        sentences.append(f"And {len(down) - NAMED_TARGETS} more, which `targets` of the result names.")
    sentences.append(
        "Look into what runs there" + (", or raise deadline if it only needs more time." if within else ".")
    )
    return " ".join(sentences)


def _target_failure(target: Target, progress: Progress, rules: Rules) -> str:
    row = f", at most {_count(progress.longest_row, 'success', 'successes')} in a row" if rules.rise > 1 else ""
    done = f"{_count(progress.tries, 'try', 'tries')} in {progress.elapsed:.1f} s{row}"
    return f"{target.name} ({target.where}) {_last_failure(progress)} ({done})."


def _last_failure(progress: Progress) -> str:
    failure = progress.last_failure
    if failure is None:
        return (
            "was not tried to the end"
            if progress.last is None
            else "answered as expected, but not often enough in time"
        )
    return f"{failure.reason}, body '{failure.body}'" if failure.body else str(failure.reason)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


# What is asked for.


def parse_rules(params: t.Mapping[str, t.Any]) -> Rules:
    """Read rise, fall, interval, timeout and deadline; with `deadline` 0 the first failure of a target is final."""
    for name in ("interval", "timeout", "deadline"):
        if not (math.isfinite(params[name]) and 0 <= params[name] <= LONGEST_TIME):
            raise ProbeError(f"{name} is {params[name]:g}: give seconds from 0 to {LONGEST_TIME:g}.")
    rise, fall, interval, deadline = params["rise"], params["fall"], params["interval"], params["deadline"]
    if rise < 1:
        raise ProbeError(f"rise is {rise}: a target must answer at least once, so give 1 or more.")
    if fall < 0:
        raise ProbeError(f"fall is {fall}: give 0 to try until the deadline, or a number of failures in a row.")
    if interval < SHORTEST_INTERVAL:
        raise ProbeError(f"interval is {interval:g}: give at least {SHORTEST_INTERVAL:g} s between two tries.")
    if params["timeout"] == 0:
        raise ProbeError("timeout is 0: no answer could be in time. Give a number of seconds above 0.")
    if deadline == 0:
        return Rules(rise=rise, fall=1, interval=interval, timeout=params["timeout"], deadline=math.inf)
    if (rise - 1) * interval >= deadline:
        raise ProbeError(
            f"deadline is {deadline:g}: {rise} successes with {interval:g} s between them take longer, "
            "so no target could rise. Raise deadline, or lower rise or interval."
        )
    return Rules(rise=rise, fall=fall, interval=interval, timeout=params["timeout"], deadline=deadline)


def parse_targets(params: t.Mapping[str, t.Any]) -> tuple[Target, ...]:
    """Read `targets` and the options that are the same for all of them; every error names its target."""
    if not params["targets"]:
        raise ProbeError("targets is empty: there is nothing to probe. Give at least one target.")
    if not BODY_LIMITS[0] <= params["max_body"] <= BODY_LIMITS[1]:
        raise ProbeError(f"max_body is {params['max_body']}: give bytes from {BODY_LIMITS[0]} to {BODY_LIMITS[1]}.")
    if params["body"] is not None and params["method"] != "POST":
        raise ProbeError(f"body is given together with method {params['method']}: only POST sends a body.")
    targets = tuple(_parse_target(wanted, params) for wanted in params["targets"])
    names = [target.name for target in targets]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise ProbeError(
            f"targets has the name {twice[0]!r} {names.count(twice[0])} times: give each target its own name."
        )
    return targets


def _parse_target(wanted: t.Mapping[str, t.Any], params: t.Mapping[str, t.Any]) -> Target:
    name = wanted["name"]
    if not name or not name.isprintable():
        raise ProbeError(f"targets has the name {name!r}: give a name that can be printed.")
    where = f"target {name}"
    place = _parse_place(wanted, params, where)
    headers = _parse_headers(_merged_headers(params.get("headers"), wanted.get("headers")), where)
    host = wanted.get("host") or params.get("host")
    expect = parse_expectation(_merged(params.get("expect"), wanted.get("expect")), f"expect (for {where})")
    if params["method"] == "HEAD" and expect.reads_body:
        raise ProbeError(f"{where} is expected to send a body, which no answer to HEAD has. Use method GET.")
    return Target(
        name=name,
        scheme=place.scheme,
        address=place.address,
        port=place.port,
        unix_socket=place.unix_socket,
        path=_parse_path(place.path, where),
        host=_parse_host(host, headers, where) or authority(place.scheme, place.address or "localhost", place.port),
        server_hostname=_server_hostname(
            wanted.get("server_hostname") or params.get("server_hostname"), host, place, where
        ),
        headers=headers,
        expect=expect,
        method=params["method"],
        body=None if params["body"] is None else params["body"].encode("utf-8"),
        follow_redirects=params["follow_redirects"],
    )


def _merged(common: t.Mapping[str, t.Any] | None, own: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """The options for all targets, with those a target gives itself in their place."""
    return {**(common or {}), **{name: value for name, value in (own or {}).items() if value is not None}}


def _merged_headers(common: t.Mapping[str, t.Any] | None, own: t.Mapping[str, t.Any] | None) -> dict[str, t.Any]:
    """As _merged, for names whose case does not matter. One that is given twice in the same option stays so."""
    replaced = {str(name).lower() for name, value in (own or {}).items() if value is not None}
    return _merged({name: value for name, value in (common or {}).items() if str(name).lower() not in replaced}, own)


@dataclass(frozen=True)
class _Place:
    scheme: str
    address: str | None
    port: int | None
    unix_socket: str | None
    path: str


def _parse_place(wanted: t.Mapping[str, t.Any], params: t.Mapping[str, t.Any], where: str) -> _Place:
    ways = [way for way in ("url", "address", "unix_socket") if wanted.get(way) is not None]
    if len(ways) != 1:
        raise ProbeError(
            f"{where} has {' and '.join(ways) or 'no place to ask'}: give one of url, address, unix_socket."
        )
    if ways == ["url"]:
        parts = [part for part in ("scheme", "port", "path") if wanted.get(part) is not None]
        if parts:
            raise ProbeError(f"{where} has url and {' and '.join(parts)}: write it into the url.")
        return _parse_url(wanted["url"], where)
    scheme = wanted.get("scheme") or params["scheme"]
    path = params["path"] if wanted.get("path") is None else wanted["path"]
    if ways == ["unix_socket"]:
        if wanted.get("port") is not None:
            raise ProbeError(f"{where} has unix_socket and port: a unix socket has no port.")
        return _Place(scheme, None, None, _parse_socket_path(wanted["unix_socket"], where), path)
    port = params.get("port") if wanted.get("port") is None else wanted["port"]
    port = DEFAULT_PORTS[scheme] if port is None else port
    if not 1 <= port <= 65535:
        raise ProbeError(f"{where} has port {port}: give 1 to 65535.")
    return _Place(scheme, _parse_address(wanted["address"], where), port, None, path)


def _parse_url(url: str, where: str) -> _Place:
    # First of all, because the other messages show the url.
    if "@" in re.split("[/?#]", url.split("//", 1)[-1], maxsplit=1)[0]:
        raise ProbeError(f"{where} has a url with a user or a password: give them in headers, which are never shown.")
    # With a user in an odd place, it may still be a password that makes the url unreadable.
    shown = f"the url {url!r}" if "@" not in url else "a url with an @, which is not shown"
    if not url.isprintable() or " " in url:
        raise ProbeError(f"{where} has {shown}: it holds spaces or control characters. Percent-encode them.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        why = f": {error}" if "@" not in url else ""
        raise ProbeError(f"{where} has {shown}, which cannot be read{why}.") from error
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ProbeError(f"{where} has {shown}: give http://HOST or https://HOST.")
    if port == 0:
        raise ProbeError(f"{where} has port 0 in its url: give 1 to 65535.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    address = _parse_address(parts.hostname, where)
    return _Place(parts.scheme, address, port or DEFAULT_PORTS[parts.scheme], None, path)


def _parse_address(address: str, where: str) -> str:
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    try:
        # A name in another script has its own form in DNS, in Host and in certificates. What has no such form, as a name
        # with an empty or a too long label, is refused only later by Python, in the middle of a TLS handshake.
        encoded = bare.encode("idna").decode("ascii")
    except UnicodeError:
        encoded = ""
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?", encoded):
        raise ProbeError(f"{where} has the address {address!r}: give a host name or an IP address.")
    return encoded


def _parse_socket_path(path: str, where: str) -> str:
    if not path.startswith("/") or not path.isprintable() or len(path.encode("utf-8")) > LONGEST_SOCKET_PATH:
        raise ProbeError(
            f"{where} has the unix_socket {path!r}: give an absolute path of at most {LONGEST_SOCKET_PATH} bytes."
        )
    return path


def _parse_path(path: str, where: str) -> str:
    if not path.startswith("/") or not path.isprintable() or " " in path:
        raise ProbeError(
            f"{where} has the path {path!r}: it must begin with / and hold no spaces or control characters. "
            "Percent-encode them."
        )
    # Only what has no place in a request line at all: an encoded path stays as it is.
    return quote(path.split("#", 1)[0], safe="/?:@!$&'()*+,;=%~-._[]|^`{}\"<>\\")


def _parse_headers(wanted: t.Mapping[str, t.Any], where: str) -> Headers:
    """The headers as text. No message here may show a value."""
    headers = tuple((str(name), _header_value(str(name), value, where)) for name, value in wanted.items())
    lowered = [name.lower() for name, _value in headers]
    for name in lowered:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name):
            raise ProbeError(f"{where} has the header {name!r}, which is not the name of a header.")
        if name in ("content-length", "transfer-encoding"):
            raise ProbeError(f"{where} has the header {name}: the probe sets it from body. Leave it out.")
        if lowered.count(name) > 1:
            raise ProbeError(f"{where} has the header {name} more than once: give it once.")
    return headers


def _header_value(name: str, value: t.Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ProbeError(f"{where} has the header {name!r} with a value that is not text: put it in quotes.")
    text = str(value)
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", text) or any(ord(character) > 255 for character in text):
        raise ProbeError(
            f"{where} has the header {name!r} with line breaks, control characters, or characters beyond Latin-1 "
            "in its value: a header cannot hold them."
        )
    return text


def _parse_host(host: str | None, headers: Headers, where: str) -> str | None:
    in_headers = any(name.lower() == "host" for name, _value in headers)
    if host and in_headers:
        raise ProbeError(f"{where} has host and a header Host: give one of them.")
    if host and not _is_authority(host):
        raise ProbeError(
            f"{where} has the host {host!r}: give a host name, with a port after a colon where it needs one."
        )
    return host


def _is_authority(host: str) -> bool:
    try:
        parts = urlsplit(f"//{host}")
        if not (re.fullmatch(r"[A-Za-z0-9._~:\[\]-]+", host) and parts.hostname and parts.port != 0):
            return False
        return bool(parts.hostname.encode("idna"))  # see _parse_address
    except ValueError:
        return False


def _server_hostname(wanted: str | None, host: str | None, place: _Place, where: str) -> str:
    """The name a certificate must have: as asked, else the one the server is spoken to by."""
    if wanted:
        return _parse_address(wanted, where)
    if host:
        return urlsplit(f"//{host}").hostname or host
    return (place.address or "localhost").split("%", 1)[0]


def authority(scheme: str, address: str, port: int | None) -> str:
    """HOST or HOST:PORT as in a URL and in the Host header, without the scope of a link-local address."""
    host = f"[{address.split('%', 1)[0]}]" if ":" in address else address
    return host if port is None or port == DEFAULT_PORTS[scheme] else f"{host}:{port}"


# Redirects.


def redirected(target: Target, status: int, location: str | None) -> Target | None:
    """The target to ask next, or None where the redirect leads away from this server.

    A probe asks one server: what another one answers says nothing about it, and it must not get this one's headers.
    """
    if not location or not location.isprintable():
        return None
    try:
        parts = urlsplit(urljoin(f"{target.scheme}://{target.host}{target.path}", location))
        same = parts.scheme == target.scheme and _origin(parts.scheme, parts.netloc) in _own_origins(target)
        path = _parse_path((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), target.name)
    except (ValueError, ProbeError):
        return None
    if not same:
        return None
    if status in SEEING_OTHER and target.method == "POST":
        return replace(target, path=path, method="GET", body=None)
    return replace(target, path=path)


def _own_origins(target: Target) -> tuple[tuple[str | None, int | None], ...]:
    own = authority(target.scheme, target.address or "localhost", target.port)
    return _origin(target.scheme, target.host), _origin(target.scheme, own)


def _origin(scheme: str, netloc: str) -> tuple[str | None, int | None]:
    parts = urlsplit(f"//{netloc}")
    return parts.hostname, parts.port or DEFAULT_PORTS.get(scheme)
