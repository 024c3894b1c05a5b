# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_backend when something else goes wrong at the same time, on every version of HAProxy under test."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _haproxy_backend
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Refused, Wanted

from e2e.lab import Client, Lab
from e2e.shop import SHOP, Running
from local_fleet.polling import poll

TWO = SHOP.replace("    server web3 {host}:8083\n", "")
COOKIES = "    cookie S insert indirect\n"
START = t.Callable[..., Lab]


def with_cookies(body: str) -> str:
    for name, app in (("one", "8081"), ("two", "8082"), ("three", "8083")):
        body = body.replace(f"{{host}}:{app}", f"{{host}}:{app} cookie {name}")
    return body + COOKIES


class Visitors(threading.Thread):
    """Asks the frontend over and over, one request after another, and keeps what comes back."""

    def __init__(self, lab: Lab, headers: dict[str, str] | None = None) -> None:
        super().__init__(daemon=True)
        self._lab, self._headers = lab, headers or {}
        self._ended = threading.Event()
        self.statuses: list[int] = []
        self.start()

    def run(self) -> None:
        while not self._ended.is_set():
            self.statuses.append(Client(self._lab.host, self._headers, "/").answer())

    def end(self) -> list[int]:
        self._ended.set()
        self.join(30)
        return self.statuses


def drain_under_way(lab: Lab, *wanted: Wanted, **options: t.Any) -> Running:
    """A call that waits for the one request in flight on web1, which its own order has put in drain."""
    lab.hold(1)
    call = Running(lambda: lab.change(*wanted, **options))
    poll(lambda: lab.raw()["web1"][1] == 8, "drain begins")
    return call


# The undo


def test_an_undo_keeps_the_new_side_when_the_old_one_has_died(start: START) -> None:
    lab = start(TWO, apps=2)
    lab.wait_status("UP", "web1", "web2")
    lab.change(Wanted("web2", state="drain"))
    call = drain_under_way(lab, Wanted("web1", state="drain"), Wanted("web2", state="ready"), drain_timeout=2)
    visitors = Visitors(lab)
    lab.apps[0].healthy = False
    poll(lambda: lab.rows()["web1"]["check_health"] == "0", "web1 dies")
    with pytest.raises(
        HaproxyError, match="NOT all put back, as that would leave nothing to take traffic: kept is web2 ready"
    ):
        call.outcome()
    assert lab.rows()["BACKEND"]["status"] == "UP"
    assert set(visitors.end()) == {200}


def test_after_a_reload_an_undo_restores_what_was_there_before_the_call(shop: Lab) -> None:
    shop.change(Wanted("web2", 0), Wanted("web3", 0))
    shop.hold(1)
    shop.change(Wanted("web2", 10), Wanted("web3", 10))
    before = shop.raw()
    call = Running(lambda: shop.change(Wanted("web1", state="drain"), Wanted("web2", 33), drain_timeout=2))
    poll(lambda: shop.raw()["web1"][1] == 8, "drain begins")
    (shop.dir / "state").write_text(shop.ask("show servers state"))
    shop.reload()
    with pytest.raises(HaproxyError, match="Everything was put back as it was"):
        call.outcome()
    assert shop.raw() == before


def test_a_haproxy_that_freezes_in_the_middle_is_undone_once_it_answers_again(shop: Lab) -> None:
    shop.change(Wanted("web2", 0), Wanted("web3", 0))
    shop.hold(1)
    shop.change(Wanted("web2", 10), Wanted("web3", 10))
    before, pid = shop.raw(), shop.pid()
    call = Running(lambda: shop.change(Wanted("web1", state="drain"), Wanted("web2", 33), timeout=1.0))
    poll(lambda: shop.raw()["web1"][1] == 8, "drain begins")
    os.kill(pid, signal.SIGSTOP)
    # Longer than the call waits for an answer, shorter than its undo waits for the connection.
    call.join(1.6)
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(HaproxyError, match=r"did not answer .* within 1 s.*Everything was put back as it was"):
        call.outcome()
    assert shop.raw() == before


def test_a_restart_in_the_middle_is_followed(start: START) -> None:
    lab = start(SHOP)
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web2", 0), Wanted("web3", 0))
    call = drain_under_way(lab, Wanted("web1", 0, "maint"), Wanted("web2", 10))
    lab.restart()
    outcome = call.outcome()
    assert lab.raw()["web1"] == (0, 1)
    assert any("reloaded or restarted" in warning for warning in outcome.warnings)


def test_what_does_not_come_back_up_stays_in_drain_and_is_named(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    confirm = _haproxy_backend._confirm

    def dies(*arguments: t.Any) -> None:
        monkeypatch.setattr(_haproxy_backend, "_confirm", confirm)
        shop.apps[0].healthy = False
        raise HaproxyError("somebody pulled a plug")

    monkeypatch.setattr(_haproxy_backend, "_confirm", dies)
    with pytest.raises(
        HaproxyError, match=r"somebody pulled a plug. All but web1 was put back: not UP, so left in drain"
    ):
        shop.change(Wanted("web1", state="maint"), Wanted("web2", 20), health_timeout=1.5)
    assert shop.raw() == {"web1": (10, 8), "web2": (10, 0), "web3": (10, 0)}


def test_what_was_not_read_back_as_wanted_fails(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    read_back = _haproxy_backend._read_back

    def meddled(*arguments: t.Any) -> t.Any:
        shop.ask("set server shop/web2 weight 99")
        return read_back(*arguments)

    monkeypatch.setattr(_haproxy_backend, "_read_back", meddled)
    with pytest.raises(HaproxyError, match="web2 is ready with weight 99 instead of ready with weight 20"):
        shop.change(Wanted("web1", 30), Wanted("web2", 20))


def test_when_the_new_side_dies_as_it_is_let_in_the_old_one_is_not_lowered(
    start: START, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = start(TWO, apps=2)
    lab.wait_status("UP", "web1", "web2")
    lab.change(Wanted("web2", state="drain"))
    change = _haproxy_backend.Runtime.change

    def dies_when_let_in(runtime: t.Any, commands: t.Sequence[str]) -> None:
        assert not any("web1 state drain" in command for command in commands), "the old side was lowered"
        change(runtime, commands)
        if any("web2 state ready" in command for command in commands):
            lab.apps[1].healthy = False
            lab.wait_status("DOWN", "web2")

    monkeypatch.setattr(_haproxy_backend.Runtime, "change", dies_when_let_in)
    with pytest.raises(HaproxyError, match="web2 went down right after it was let in, so nothing was taken out"):
        lab.change(Wanted("web1", state="drain"), Wanted("web2", state="ready"))
    assert lab.raw() == {"web1": (10, 0), "web2": (10, 8)}


@pytest.mark.long
def test_a_server_deleted_in_the_middle_is_told(start: START) -> None:
    lab = start(SHOP)
    lab.wait_status("UP", "web1", "web2", "web3")
    if "experimental" in lab.ask("add server shop/dyn x") or "Unknown command" in lab.ask("add server shop/dyn x"):
        return  # HAProxy 2.2 has no servers that can be deleted
    lab.ask(f"add server shop/dyn {lab.host}:8081")
    lab.change(Wanted("web2", 0), Wanted("web3", 0))
    call = drain_under_way(lab, Wanted("web1", state="drain"), Wanted("dyn", 5), Wanted("web2", 10))
    lab.ask("set server shop/dyn state maint")
    assert "deleted" in lab.ask("del server shop/dyn")
    with pytest.raises(HaproxyError, match="has no server dyn any more"):
        call.outcome()
    assert lab.raw()["web1"] == (10, 0)


# Others


def test_two_calls_at_once_do_not_take_the_last_server_together(start: START) -> None:
    lab = start(TWO, apps=2)
    lab.wait_status("UP", "web1", "web2")
    for _round in range(5):
        calls = [Running(lambda name=name: lab.change(Wanted(name, state="drain"))) for name in ("web1", "web2")]  # type: ignore[misc]
        refused = 0
        for call in calls:
            try:
                call.outcome()
            except Refused:
                refused += 1
        assert refused == 1
        assert lab.rows()["BACKEND"]["status"] == "UP"
        lab.change(Wanted("web1", state="ready"), Wanted("web2", state="ready"))


def test_a_call_that_waits_in_vain_for_another_says_so(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.change(Wanted("web2", 0), Wanted("web3", 0))
    shop.hold(1)
    shop.change(Wanted("web2", 10), Wanted("web3", 10))
    other = Running(lambda: shop.change(Wanted("web1", state="drain")))
    poll(lambda: shop.raw()["web1"][1] == 8, "drain begins")
    with pytest.raises(HaproxyError, match="cannot lock backend shop: another call holds it, process"):
        shop.change(Wanted("web2", 20), timeout=0.2, health_timeout=0, drain_timeout=0)
    shop.apps[0].held.release()
    other.outcome()


def test_servers_that_track_one_that_leaves_do_not_count_as_left(start: START) -> None:
    lab = start(TWO + "    server follower {host}:8081 no-check track shop/web1\n", apps=2)
    lab.wait_status("UP", "web1", "web2", "follower")
    lab.change(Wanted("web2", state="maint"))
    before = lab.raw()
    with pytest.raises(Refused, match="without any usable server"):
        lab.change(Wanted("web1", state="drain"))
    assert lab.raw() == before


def test_an_inherited_maint_is_made_the_servers_own(start: START) -> None:
    lab = start(SHOP + "    server follower {host}:8081 no-check track shop/web1\n")
    lab.wait_status("UP", "web1", "web2", "web3", "follower")
    lab.change(Wanted("web1", state="maint"))
    assert lab.change(Wanted("follower", state="maint")).changed
    lab.change(Wanted("web1", state="ready"))
    assert lab.raw()["follower"][1] == 1


@pytest.mark.parametrize("text", ["Not, Well, Today", 'Say "down", and stay'])
def test_what_an_unhealthy_app_says_does_not_confuse_the_reading(shop: Lab, text: str) -> None:
    shop.apps[1].reason = text
    shop.apps[1].healthy = False
    shop.wait_down("web2")
    shop.change(Wanted("web1", 5))
    assert shop.raw()["web1"] == (5, 0)
    assert shop.read().algorithm == "roundrobin"


# Persistence


def test_requests_bound_by_a_cookie_do_not_reach_a_server_that_leaves_maint_unproved(start: START) -> None:
    lab = start(with_cookies(SHOP).replace("inter 100ms", "inter 1s"))
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web1", state="maint"))
    lab.apps[0].healthy = False
    lab.apps[0].broken = True
    call = Running(lambda: lab.change(Wanted("web1", 0, "ready"), health_timeout=3))
    # Between the two commands a request may still pass: HAProxy cannot be told both at once.
    poll(lambda: lab.raw()["web1"][1] == 8 and not lab.read().server("web1").running, "drain, and down")
    visitors = Visitors(lab, {"Cookie": "S=one"})
    with pytest.raises(HaproxyError, match="web1 is not UP"):
        call.outcome()
    statuses = visitors.end()
    assert len(statuses) > 10
    assert set(statuses) == {200}


def test_a_late_request_bound_by_a_cookie_is_waited_for_in_maint(start: START, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = start(with_cookies(SHOP))
    lab.wait_status("UP", "web1", "web2", "web3")
    change = _haproxy_backend.Runtime.change
    late: list[Client] = []

    def slip_in(runtime: t.Any, commands: t.Sequence[str]) -> None:
        if any(command.endswith("state maint") for command in commands) and not late:
            late.append(lab.client({"Cookie": "S=one"}))
            poll(lambda: lab.apps[0].holding == 1, "a late request")
        change(runtime, commands)

    monkeypatch.setattr(_haproxy_backend.Runtime, "change", slip_in)
    call = Running(lambda: lab.change(Wanted("web1", state="maint")))
    poll(lambda: lab.raw()["web1"][1] & 1, "maint")
    poll(lambda: lab.rows()["web1"]["scur"] == "1", "the late request is in flight")
    assert call.is_alive()
    lab.apps[0].held.release()
    assert call.outcome().after.server("web1").sessions == 0
    assert late[0].answer() == 200


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_a_cut_takes_the_queue_too(start: START, state: str) -> None:
    lab = start(with_cookies(SHOP).replace("{host}:8081", "{host}:8081 maxconn 1") + "    no option redispatch\n")
    lab.wait_status("UP", "web1", "web2", "web3")
    clients = [lab.client({"Cookie": "S=one"}) for _i in range(3)]
    poll(lambda: (lab.rows()["web1"]["scur"], lab.rows()["web1"]["qcur"]) == ("1", "2"), "one in flight, two queued")
    outcome = lab.change(Wanted("web1", state=state), drain_timeout=0.2, on_drain_timeout="cut")
    assert (lab.rows()["web1"]["scur"], lab.rows()["web1"]["qcur"]) == ("0", "0")
    assert 200 not in [client.answer() for client in clients]
    assert outcome.cut == {"web1": 3}


def test_sessions_of_a_replaced_worker_are_never_said_to_be_cut(busy: Lab) -> None:
    call = Running(lambda: busy.change(Wanted("web1", state="drain"), drain_timeout=4, on_drain_timeout="cut"))
    poll(lambda: busy.raw()["web1"] == (10, 8), "drain begins")
    busy.reload()
    with pytest.raises(HaproxyError, match="2 sessions of web1 are served by a worker from before a reload"):
        call.outcome()
    assert busy.raw()["web1"] == (10, 0)


def test_sessions_that_haproxy_ends_at_maint_are_counted(start: START) -> None:
    lab = start(SHOP.replace("weight 10", "weight 10 on-marked-down shutdown-sessions"))
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web2", 0), Wanted("web3", 0))
    clients = lab.hold(2)
    wanted = [Wanted("web1", state="maint"), Wanted("web2", 10)]
    outcome = lab.change(*wanted, drain_timeout=0.2, on_drain_timeout="continue")
    assert outcome.cut == {"web1": 2}
    assert any("on-marked-down shutdown-sessions" in warning for warning in outcome.warnings)
    assert 200 not in [client.answer() for client in clients]


# What survives a reload


def test_a_server_disabled_in_the_configuration_stays_ready_over_a_reload(start: START) -> None:
    lab = start(SHOP.replace("{host}:8083", "{host}:8083 disabled"))
    lab.wait_status("UP", "web1", "web2")
    assert lab.change(Wanted("web3", state="ready")).survival.survives is True
    lab.reload()
    assert lab.read().server("web3").state == "ready"


def test_a_server_added_at_run_time_is_not_said_to_survive(start: START) -> None:
    lab = start(SHOP)
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.ask(f"add server shop/dyn {lab.host}:8081")
    if "dyn" not in lab.raw():
        return  # HAProxy 2.2 cannot add servers
    survival = lab.change(Wanted("dyn", 5, "ready"), allow_unchecked=True).survival
    assert survival.survives is False
    assert "dyn was added at run time" in survival.reason


def test_check_mode_knows_that_the_state_file_cannot_be_written(start: START) -> None:
    lab = start(top="server-state-file {dir}/missing/state")
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web1", 33))
    for check_mode in (True, False):
        outcome = lab.change(Wanted("web1", 33), check_mode=check_mode)
        assert (outcome.changed, outcome.survival.survives) == (False, False)


def test_right_after_a_reload_servers_are_waited_for_before_a_drain_is_refused(start: START) -> None:
    lab = start(SHOP.replace("inter 100ms", "inter 1s"))
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.reload()
    assert any(lab.rows()[name]["status"] != "UP" for name in ("web2", "web3"))
    lab.change(Wanted("web1", state="drain"))
    assert lab.raw()["web1"] == (10, 8)


# Other kinds of backends


def test_a_tcp_backend_is_drained_and_cut(start: START) -> None:
    body = (
        "listen tcp\n    mode tcp\n    bind {host}:8001\n    server web1 {host}:8081 check inter 100ms\n"
        "    server web2 {host}:8082 check inter 100ms\n" + SHOP
    )
    lab = start(body)
    lab.wait_status("UP", "web1", "web2", backend="tcp")
    lab.change(Wanted("web2", 0), backend="tcp")
    with contextlib.closing(lab.connect(8001)):
        poll(lambda: lab.rows("tcp")["web1"]["scur"] == "1", "a connection")
        wanted = [Wanted("web1", state="maint"), Wanted("web2", 1)]
        outcome = lab.change(*wanted, backend="tcp", drain_timeout=0.2, on_drain_timeout="cut")
    server = outcome.after.server("web1")
    assert outcome.cut == {"web1": 1}
    assert (server.http_5xx, server.http_4xx, server.requests) == (None, None, 1)


def test_weights_of_a_backend_that_is_out_altogether_can_be_prepared(start: START) -> None:
    lab = start(SHOP.replace("weight 10", "weight 10 disabled"))
    lab.change(Wanted("web1", 20))
    assert lab.raw()["web1"] == (20, 5)
