# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What HAProxy says about a backend, as typed data. Parsing only: no socket, no decision.

Columns are found by name, never by position (HAProxy 3.0 inserted one in the middle), and what HAProxy does not tell
is None, never 0.
"""

from __future__ import annotations

import typing as t
from itertools import repeat
from operator import itemgetter

from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError

# Bits of srv_admin_state (SRV_ADMF_* in HAProxy's server-t.h), a decimal number. 0x04 (`disabled` in the
# configuration) and 0x40 (FQDN changed) do not by themselves keep traffic away.
FORCED_MAINT, INHERITED_MAINT, FORCED_DRAIN, INHERITED_DRAIN, DNS_MAINT = 0x01, 0x02, 0x08, 0x10, 0x20
CONFIGURED_MAINT = 0x04
MAINT = FORCED_MAINT | INHERITED_MAINT | DNS_MAINT
DRAIN = FORCED_DRAIN | INHERITED_DRAIN
# srv_op_state: starting (slowstart ramps it up) and running take traffic; stopped and stopping (disable-on-404) do not.
STARTING, RUNNING = 1, 2
# Bits of srv_check_state and srv_agent_state: configured and enabled.
CONFIGURED, ENABLED = 0x02, 0x04
_IN_USE = CONFIGURED | ENABLED
_AGENTS = {0: None, ENABLED: None, CONFIGURED: "disabled", CONFIGURED | ENABLED: "enabled"}

# With these, HAProxy takes only the weights 0 and 100 % of the configured one.
STATIC_ALGORITHMS = frozenset({"static-rr"})
# With these it depends on hash-type: map-based (the default) is static, consistent is not.
HASH_ALGORITHMS = frozenset({"source", "uri", "url_param", "hdr", "rdp-cookie", "hash"})
# With these, weights are not shares of the traffic.
UNSHARED_ALGORITHMS = frozenset({"leastconn", "first"})


class Process(t.NamedTuple):
    """The HAProxy process that answered."""

    pid: int
    version: str
    uptime: int  # seconds
    stopping: bool  # an old worker after a reload: it serves its last connections and takes no changes


class Server(t.NamedTuple):
    """A server line of a backend as HAProxy sees it now. Weights are 0-256."""

    name: str
    address: str | None
    port: int | None
    weight: int  # the wanted weight, not scaled by slowstart
    initial_weight: int
    admin: int
    running: bool
    checked: bool
    check_health: int
    agent: str | None  # enabled | disabled | None where there is no agent-check
    # The rest comes from `show stat`.
    backup: bool = False
    tracks: str | None = None
    status: str = ""
    last_check: str | None = None  # such as "L7STS 503"
    effective_weight: int | None = None
    throttle: int | None = None  # percent of the weight in use while slowstart ramps it up
    check_rise: int | None = None
    check_fall: int | None = None
    sessions: int = 0
    queued: int = 0
    connections: int | None = None
    requests: int | None = None  # connections in TCP mode
    http_4xx: int | None = None
    http_5xx: int | None = None
    connect_errors: int | None = None
    response_errors: int | None = None
    retries: int | None = None
    redispatches: int | None = None
    server_aborts: int | None = None
    max_sessions: int | None = None  # `maxconn` of its line; None where there is no limit
    response_time: int | None = None  # ms, mean of the last 1024 requests; None in TCP mode
    total_time: int | None = None

    @property
    def own_state(self) -> str:
        """What the server itself was told to be, whatever it inherits from a tracked server or from DNS."""
        if self.admin & FORCED_MAINT:
            return "maint"
        return "drain" if self.admin & FORCED_DRAIN else "ready"

    @property
    def state(self) -> str:
        """What it is, for whatever reason."""
        if self.admin & MAINT:
            return "maint"
        return "drain" if self.admin & DRAIN else "ready"

    @property
    def health(self) -> str:
        """``up``, ``down``, or ``unchecked`` where nothing looks. In maint HAProxy does not look either: down."""
        if not self.checked and not self.tracks:
            return "unchecked"
        return "up" if self.running else "down"

    @property
    def settled(self) -> bool:
        """UP and nothing else: not `UP 1/3`, where one more failure, or a first success, is still to come."""
        if not self.running or self.health != "up":
            return False
        if self.tracks or self.check_rise is None or self.check_fall is None:
            return self.status in ("", "UP", "DRAIN") or self.status.startswith("DRAIN ")
        return self.check_health >= self.check_rise + self.check_fall - 1

    @property
    def usable(self) -> bool:
        """Whether HAProxy may send it new traffic now."""
        return self.state == "ready" and self.running and self.weight > 0


class Backend(t.NamedTuple):
    name: str
    id: int
    servers: tuple[Server, ...]
    algorithm: str | None = None
    mode: str | None = None

    def server(self, name: str) -> Server:
        """Raises HaproxyError when it is not there: a server can be deleted at run time."""
        for server in self.servers:
            if server.name == name:
                return server
        raise HaproxyError(f"backend {self.name} has no server {name} any more")

    def several(self, names: t.Collection[str]) -> list[Server]:
        """The servers of these names, in their order. Raises HaproxyError."""
        known = self.by_name()
        gone = [name for name in names if name not in known]
        if gone:
            raise HaproxyError(f"backend {self.name} has no server {', '.join(gone)} any more")
        return [known[name] for name in names]

    def by_name(self) -> dict[str, Server]:
        return {server.name: server for server in self.servers}


def parse_process(text: str) -> Process:
    """From `show info`."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    try:
        return Process(
            int(fields["Pid"]), fields["Version"], int(fields["Uptime_sec"]), fields.get("Stopping", "0") != "0"
        )
    except (KeyError, ValueError) as exc:
        raise HaproxyError(f"`show info` was not answered as HAProxy answers it: {text[:120]!r}") from exc


def parse_servers_state(name: str, text: str) -> Backend:
    """From `show servers state BACKEND`, format version 1."""
    lines = text.splitlines()
    if len(lines) < 2 or lines[0].strip() != "1" or not lines[1].startswith("# "):
        raise HaproxyError(f"`show servers state {name}` was not answered as HAProxy answers it: {text[:120]!r}")
    names = lines[1][2:].split()
    try:
        pick = itemgetter(*(names.index(column) for column in _STATE_COLUMNS))
        rows = [pick(line.split(" ")) for line in lines[2:] if line]
        servers = _servers(rows) if rows else ()
    except (ValueError, IndexError) as exc:
        raise HaproxyError(f"`show servers state {name}` cannot be read: {exc} after {lines[1][:200]!r}") from exc
    if not rows:
        raise HaproxyError(f"backend {name} has no servers")
    return Backend(name, int(rows[0][0]), servers)


# Columns of `show servers state`, in the order in which _server takes them.
_STATE_COLUMNS = (
    "be_id",
    "srv_name",
    "srv_addr",
    "srv_port",
    "srv_uweight",
    "srv_iweight",
    "srv_admin_state",
    "srv_op_state",
    "srv_check_state",
    "srv_check_health",
    "srv_agent_state",
)


def _servers(rows: t.Sequence[t.Sequence[str]]) -> tuple[Server, ...]:
    """Column by column, which for a thousand servers takes half the time of row by row."""
    _backend, names, addresses, ports, weights, initials, admins, operations, checks, healths, agents = zip(*rows)
    columns: list[t.Iterable[t.Any]] = [
        names,
        [None if address == "-" else address for address in addresses],
        [int(port) if port not in ("-", "0") else None for port in ports],
        map(int, weights),
        map(int, initials),
        map(int, admins),
        [int(operation) in (STARTING, RUNNING) for operation in operations],
        [int(check) & _IN_USE == _IN_USE for check in checks],
        map(int, healths),
        [_AGENTS[int(agent) & _IN_USE] for agent in agents],
    ]
    not_told = [repeat(value) for value in Server._field_defaults.values()]
    return tuple(map(_make, zip(*columns, *not_told)))


def _make(values: tuple[t.Any, ...]) -> Server:
    return tuple.__new__(Server, values)


def with_stat(backend: Backend, text: str) -> Backend:
    """Add what `show stat ID 6 -1` (backend and servers) knows: health in words, sessions, queue and counters."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("# "):
        raise HaproxyError(f"`show stat` was not answered as HAProxy answers it: {text[:120]!r}")
    names = lines[0][2:].split(",")
    # Rows are long (up to 206 columns for each of a thousand servers): what lies behind the last column needed stays uncut.
    columns = {
        column: names.index(column)
        for column in (*_WORDS, *_NUMBERS, "mode", "algo", "svname", "type")
        if column in names
    }
    missing = [column for column in (*_WORDS, *_NUMBERS, "svname", "type") if column not in columns]
    if missing:
        raise HaproxyError(f"`show stat` lacks the columns {', '.join(missing)}; HAProxy 2.2 or newer is needed")
    try:
        lines_cut = _cut_rows(text, max(columns.values()) + 1)
        rows = {row[columns["svname"]]: row for row in lines_cut if row[columns["type"]] == SERVER_ROW}
        total = next((row for row in lines_cut if row[columns["type"]] == BACKEND_ROW), None)
        pick = itemgetter(*(columns[column] for column in (*_WORDS, *_NUMBERS)))
        servers = _with_rows(backend.servers, [pick(rows[server.name]) for server in backend.servers])
    except (ValueError, IndexError, KeyError) as exc:
        raise HaproxyError(
            f"`show stat` for backend {backend.name} cannot be read: {type(exc).__name__} {exc}"
        ) from exc
    algorithm, mode = (total[columns[name]] or None if total and name in columns else None for name in ("algo", "mode"))
    if mode == "tcp":
        servers = tuple(
            server._replace(
                requests=server.connections, http_4xx=None, http_5xx=None, response_time=None, total_time=None
            )
            for server in servers
        )
    return backend._replace(servers=servers, algorithm=algorithm, mode=mode)


def _cut_rows(text: str, cuts: int) -> list[list[str]]:
    """The rows below the header, cut at the first ``cuts`` commas.

    What apps and agents answer is quoted there, with commas and even line ends in it; the reader for that is slower.
    """
    if '"' in text:
        import csv  # only here: that is rare, and a module call imports everything anew
        import io

        return [row for row in list(csv.reader(io.StringIO(text)))[1:] if row]
    return [line.split(",", cuts) for line in text.splitlines()[1:] if line]


# Values of the column `type`.
BACKEND_ROW, SERVER_ROW = "1", "2"
# How many fields of Server come from `show servers state`.
_OF_STATE = Server._fields.index("backup")
_STATUS = Server._fields.index("status")  # followed by last_check and effective_weight
# Columns of `show stat`, in the order in which _with_row takes them.
_WORDS = ("tracked", "status", "check_status", "check_code")
_NUMBERS = (
    "bck",
    "weight",
    "throttle",
    "check_rise",
    "check_fall",
    "scur",
    "qcur",
    "stot",
    "req_tot",
    "hrsp_4xx",
    "hrsp_5xx",
    "econ",
    "eresp",
    "wretr",
    "wredis",
    "srv_abrt",
    "slim",
    "rtime",
    "ttime",
)


def _with_rows(servers: t.Sequence[Server], rows: t.Sequence[t.Sequence[str]]) -> tuple[Server, ...]:
    tracks, status, check_status, check_code, backup, *numbers = zip(*rows)
    columns: list[t.Iterable[t.Any]] = [
        [flag == "1" for flag in backup],
        [tracked or None for tracked in tracks],
        status,
        map(_last_check, check_status, check_code),
        *[[int(number) if number else None for number in column] for column in numbers],
    ]
    return tuple(_make(server[:_OF_STATE] + told) for server, told in zip(servers, zip(*columns)))


def refreshed(known: Backend, now: Backend) -> Backend:
    """``known`` with the weights, states and health of ``now``, a reading without `show stat`, which is the slow half."""
    if [server.name for server in known.servers] != [server.name for server in now.servers]:
        raise HaproxyError(f"the servers of backend {known.name} changed during this call")
    return known._replace(servers=tuple(map(_refreshed, known.servers, now.servers)))


def _refreshed(known: Server, now: Server) -> Server:
    # The words and the weight in use are not known any more, and never to be mistaken for a fresh reading.
    return _make(
        now[:_OF_STATE] + known[_OF_STATE:_STATUS] + ("", known.last_check, None) + known[_STATUS + 3 :],
    )


def _last_check(status: str, code: str) -> str | None:
    if not status:
        return None
    # A leading "* " means that the next check is under way.
    result = status[2:] if status.startswith("* ") else status
    return f"{result} {code}" if code else result


def shares(backend: Backend) -> dict[str, float | None]:
    """Percent of new, non-persistent traffic per server by the weights in use now; None where weights do not tell.

    While any other server is usable a backup one gets nothing. When only backups are left, which of them carry
    depends on `option allbackups`, which the Runtime API does not show.
    """
    if backend.algorithm in UNSHARED_ALGORITHMS:
        return {server.name: None for server in backend.servers}
    active = {server.name: _in_use(server) for server in backend.servers if not server.backup}
    total = sum(active.values())
    if total:
        return {server.name: round(100.0 * active.get(server.name, 0) / total, 4) for server in backend.servers}
    return {server.name: None if server.backup and server.usable else 0.0 for server in backend.servers}


def _in_use(server: Server) -> int:
    if not server.usable:
        return 0
    return server.weight if server.effective_weight is None else server.effective_weight


def as_dicts(backend: Backend, names: t.Collection[str] | None = None) -> list[dict[str, t.Any]]:
    """The servers as the modules return them, all or those in ``names``; what is not known is None."""
    share = shares(backend)
    return [_as_dict(server, share[server.name]) for server in backend.servers if names is None or server.name in names]


def _as_dict(server: Server, share: float | None) -> dict[str, t.Any]:
    return {
        "name": server.name,
        "address": server.address,
        "port": server.port,
        "weight": server.weight,
        "state": server.state,
        "own_state": server.own_state,
        "health": server.health,
        "settled": server.settled,
        "share": share,
        "sessions": server.sessions,
        "max_sessions": server.max_sessions,
        "queued": server.queued,
        "requests": server.requests,
        "errors": {
            "http_5xx": server.http_5xx,
            "http_4xx": server.http_4xx,
            "connect": server.connect_errors,
            "response": server.response_errors,
        },
        "times": {"response": server.response_time, "total": server.total_time},
        "retries": server.retries,
        "redispatches": server.redispatches,
        "server_aborts": server.server_aborts,
        "status": server.status or None,
        "last_check": server.last_check,
        "initial_weight": server.initial_weight,
        "effective_weight": server.effective_weight,
        "throttle": server.throttle,
        "backup": server.backup,
        "agent": server.agent,
        "tracks": server.tracks,
    }


def process_as_dict(process: Process) -> dict[str, t.Any]:
    return {"pid": process.pid, "version": process.version, "uptime": process.uptime}
