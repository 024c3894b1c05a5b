# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A thousand random change sets on a real HAProxy, watched over a second connection all the while."""

from __future__ import annotations

import socket
import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Wanted
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from e2e.lab import Lab

SERVERS = [f"web{i}" for i in range(1, 7)]
BACKUP = "spare"
# Checks fast enough for a thousand servers to leave maint in the time of a test; web6 has none.
BODY = (
    "backend shop\n    balance roundrobin\n    default-server check inter 20ms rise 1 fall 2 weight 10\n"
    + "".join(f"    server {name} {{host}}:8081\n" for name in SERVERS[:-1])
    + f"    server {SERVERS[-1]} {{host}}:8081 no-check\n    server {BACKUP} {{host}}:8081 backup\n"
)

one_change = st.builds(
    Wanted,
    st.sampled_from([*SERVERS, BACKUP]),
    st.one_of(st.none(), st.integers(0, 256), st.sampled_from([0, 1, 256])),
    st.sampled_from([None, "ready", "ready", "drain", "maint"]),
).filter(lambda wanted: wanted.weight is not None or wanted.state is not None)
good = st.lists(one_change, min_size=1, max_size=7, unique_by=lambda wanted: wanted.name)
# Half of each of these is right, and must not be applied either.
broken_half = st.sampled_from(
    [Wanted("nope", 5), Wanted("web1", 300), Wanted("web1; show info", 5), Wanted("web1", state="up")]
)
change_sets = st.one_of(good, good, good, st.builds(lambda right, wrong: [*right, wrong], good, broken_half))


class Watch(threading.Thread):
    """Asks HAProxy, as fast as it answers, how many active servers it could use and what their weights add up to."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        number = lab.ask("show servers state shop").splitlines()[2].split()[0]
        self._command = f"show stat {number} 2 -1\n".encode()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(lab.socket)
        self._ended = threading.Event()
        self.samples = 0
        self.lowest_weight = self.fewest_servers = 1 << 30
        self._ask(b"prompt\n")
        self.start()

    def run(self) -> None:
        while not self._ended.is_set():
            header, row = [line.split(",") for line in self._ask(self._command).decode().split("\n") if "," in line]
            header[0] = header[0][2:]
            total = dict(zip(header, row))
            self.lowest_weight = min(self.lowest_weight, int(total["weight"]))
            self.fewest_servers = min(self.fewest_servers, int(total["act"]))
            self.samples += 1

    def _ask(self, command: bytes) -> bytes:
        self._socket.sendall(command)
        reply = b""
        while not reply.endswith(b"\n> "):
            reply += self._socket.recv(65536)
        return reply

    def end(self) -> None:
        self._ended.set()
        self.join()
        self._socket.close()


@pytest.fixture(scope="module")
def lab() -> t.Iterator[Lab]:
    with Lab(BODY, apps=1) as started:
        started.wait_status("UP", *SERVERS[:-1], BACKUP)
        yield started


def expected(before: dict[str, tuple[int, int]], wanted: t.Sequence[Wanted]) -> dict[str, tuple[int, int]] | None:
    """Weights and admin bits that must be there afterwards, or None where the call must fail. All servers are healthy."""
    names = [item.name for item in wanted]
    if len(set(names)) < len(names) or any(
        item.name not in before or (item.weight is None and item.state is None) for item in wanted
    ):
        return None
    if any((item.weight or 0) > 256 or item.state == "up" for item in wanted):
        return None
    after = dict(before)
    for item in wanted:
        weight, admin = before[item.name]
        bits = {None: admin, "ready": 0, "drain": 8, "maint": 1}[item.state]
        after[item.name] = (weight if item.weight is None else item.weight, bits)
    changed = after != before
    if changed and not any(weight and not admin for name, (weight, admin) in after.items() if name != BACKUP):
        return None
    return after


def test_a_thousand_change_sets_end_as_wanted_or_change_nothing_and_never_leave_traffic_without_a_server(
    lab: Lab,
) -> None:
    tally = {"done": 0, "refused": 0}
    watch = Watch(lab)

    @settings(
        max_examples=1000,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # HAProxy remembers the example before: a smaller one would be another story
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(change_sets)
    def change(wanted: list[Wanted]) -> None:
        before = lab.raw()
        right = expected(before, wanted)
        problem = None
        try:
            lab.change(*wanted, allow_unchecked=True)
        except HaproxyError as exc:
            problem = exc
        if problem:
            tally["refused"] += 1
            assert right is None, f"refused although possible: {problem}"
            assert lab.raw() == before, f"failed and changed something: {problem}"
        else:
            tally["done"] += 1
            assert lab.raw() == right
            assert lab.rows()["BACKEND"]["status"] == "UP"

    change()
    watch.end()
    print(
        f"{tally['done']} change sets done, {tally['refused']} refused; {watch.samples} samples, lowest sum of weights {watch.lowest_weight}"
    )
    assert tally["done"] + tally["refused"] >= 1000
    assert min(tally.values()) > 100
    assert watch.samples > 1000
    assert watch.lowest_weight > 0
    assert watch.fewest_servers > 0, "backup servers took over"
