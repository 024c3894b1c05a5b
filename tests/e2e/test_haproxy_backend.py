# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""haproxy_backend's code against real HAProxy processes of the oldest, the system's and the newest version."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import HaproxyError, parse_address
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_wanted import Refused, Wanted

from e2e import lab as haproxy_lab
from e2e.lab import Lab
from e2e.shop import SHOP, Running
from local_fleet.polling import poll

# What is asked for is what is there


def test_weights_and_states_are_as_wanted(shop: Lab) -> None:
    outcome = shop.change(Wanted("web1", 256), Wanted("web2", 0), Wanted("web3", 7, "drain"))
    assert outcome.changed
    assert shop.raw() == {"web1": (256, 0), "web2": (0, 0), "web3": (7, 8)}


def test_a_second_call_changes_nothing(shop: Lab) -> None:
    wanted = (Wanted("web1", 20), Wanted("web2", state="drain"), Wanted("web3", 3, "ready"))
    assert shop.change(*wanted).changed
    before = shop.raw()
    again = shop.change(*wanted)
    assert not again.changed
    assert again.warnings == []
    assert shop.raw() == before


def test_check_mode_changes_nothing_and_foretells_what_a_real_run_does(shop: Lab) -> None:
    wanted = (Wanted("web1", 20), Wanted("web2", state="maint"))
    before = shop.raw()
    foretold = shop.change(*wanted, check_mode=True)
    assert shop.raw() == before
    assert not (shop.dir / "state").exists()
    real = shop.change(*wanted)
    assert foretold.changed
    assert real.changed
    facts = [
        [(server.name, server.weight, server.state) for server in outcome.after.servers] for outcome in (foretold, real)
    ]
    assert facts[0] == facts[1]


def test_servers_that_are_not_listed_are_left_alone(shop: Lab) -> None:
    shop.ask("set server shop/web3 weight 77")
    shop.change(Wanted("web1", 20))
    assert shop.raw()["web3"] == (77, 0)


def test_a_hundred_servers_change_over_one_connection(start: t.Callable[..., Lab]) -> None:
    servers = "".join(f"    server s{i} {{host}}:8081 weight 10\n" for i in range(100))
    lab = start(f"backend shop\n{servers}", apps=1)
    before = int(lab.ask("show info").split("CumConns: ")[1].split()[0])
    lab.change(*[Wanted(f"s{i}", i + 1) for i in range(100)], allow_unchecked=True)
    after = int(lab.ask("show info").split("CumConns: ")[1].split()[0])
    assert {name: weight for name, (weight, _admin) in lab.raw().items()} == {f"s{i}": i + 1 for i in range(100)}
    assert after - before - 1 == 1, "connections used by the call"


def test_a_frontend_of_the_same_name_is_not_taken_for_the_backend(shop: Lab) -> None:
    assert [server.name for server in shop.read().servers] == ["web1", "web2", "web3"]
    assert shop.read().algorithm == "roundrobin"


# Bad input changes nothing and is told in one sentence


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([Wanted("web1", 257)], "server web1: weight 257 is outside HAProxy's range 0 to 256"),
        ([Wanted("web1", -1)], "server web1: weight -1 is outside"),
        ([Wanted("web1", 20), Wanted("nope", 20)], "backend shop has no server nope; it has web1, web2, web3"),
        ([Wanted("web1", 20), Wanted("web1", 30)], "server web1 is listed twice"),
        ([Wanted("web2", 20), Wanted("web1; disable server shop/web2", 20)], "is not valid: HAProxy's names hold only"),
        ([Wanted("web2", 20), Wanted("web1\nshutdown sessions", 20)], "is not valid: HAProxy's names hold only"),
        ([Wanted("web2", 20), Wanted("web1 <<", 20)], "is not valid: HAProxy's names hold only"),
        ([Wanted("web1", 20), Wanted("web2")], "server web2 has neither weight nor state"),
        ([Wanted("web1", state="gone")], "state 'gone' is not one of ready, drain, maint"),
        ([], "servers is empty"),
        ([Wanted(f"web{i}", 0) for i in (1, 2, 3)], "would be left without any usable server"),
        ([Wanted(f"web{i}", state="maint") for i in (1, 2, 3)], "would be left without any usable server"),
    ],
)
def test_bad_servers_are_refused_and_nothing_changes(shop: Lab, wanted: list[Wanted], said: str) -> None:
    before = shop.raw()
    with pytest.raises(HaproxyError, match=said):
        shop.change(*wanted)
    assert shop.raw() == before


@pytest.mark.parametrize(
    ("backend", "said"),
    [("nope", "has no backend nope"), ("shop; show info", "backend name 'shop; show info' is not valid")],
)
def test_bad_backends_are_refused(shop: Lab, backend: str, said: str) -> None:
    with pytest.raises(HaproxyError, match=said):
        shop.change(Wanted("web1", 20), backend=backend)


def test_an_empty_end_state_needs_allow_empty(shop: Lab) -> None:
    shop.change(*[Wanted(f"web{i}", state="maint") for i in (1, 2, 3)], allow_empty=True)
    assert {admin for _weight, admin in shop.raw().values()} == {1}


def test_the_last_healthy_server_cannot_leave_while_the_others_are_down(shop: Lab) -> None:
    shop.apps[1].healthy = shop.apps[2].healthy = False
    shop.wait_status("DOWN", "web2", "web3")
    with pytest.raises(Refused, match="without any usable server after: web1 drain"):
        shop.change(Wanted("web1", state="drain"))


@pytest.mark.long
def test_a_server_on_its_way_down_is_not_what_may_be_left(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("fall 3", "fall 100"))
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.apps[1].healthy = lab.apps[2].healthy = False
    poll(lambda: all(lab.rows()[name]["status"].startswith("UP ") for name in ("web2", "web3")), "going down")
    with pytest.raises(Refused, match="without any usable server"):
        lab.change(Wanted("web1", state="drain"))


def test_backup_servers_do_not_take_over_unasked(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("{host}:8083", "{host}:8083 backup"))
    lab.wait_status("UP", "web1", "web2", "web3")
    wanted = (Wanted("web1", state="maint"), Wanted("web2", 0))
    with pytest.raises(Refused, match=r"left to its backup servers \(web3\)"):
        lab.change(*wanted)
    lab.change(*wanted, allow_backup=True)
    assert lab.raw() == {"web1": (10, 1), "web2": (0, 0), "web3": (10, 0)}


# Bad environments


def test_an_operator_socket_is_refused(shop: Lab) -> None:
    with pytest.raises(HaproxyError, match="socket of level 'operator', which may not change servers"):
        shop.change(Wanted("web1", 20), address=str(shop.dir / "operator.sock"))


@pytest.mark.parametrize("level", ["operator", "user"])
def test_sockets_below_admin_can_be_read(shop: Lab, level: str) -> None:
    from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backend

    _process, backend = read_backend(str(shop.dir / f"{level}.sock"), "shop", 5.0)
    assert [server.weight for server in backend.servers] == [10, 10, 10]


def test_the_master_cli_is_told_from_a_stats_socket(shop: Lab) -> None:
    with pytest.raises(HaproxyError, match="is HAProxy's master CLI"):
        shop.change(Wanted("web1", 20), address=str(shop.dir / "master.sock"))


def test_a_tcp_socket_works(shop: Lab) -> None:
    shop.change(Wanted("web1", 20), address=parse_address(f"{shop.host}:9999"))
    assert shop.raw()["web1"] == (20, 0)


def test_an_ipv6_socket_and_ipv6_servers_work(start: t.Callable[..., Lab]) -> None:
    with socket.socket(socket.AF_INET6) as free:
        free.bind(("::1", 0))
        port = free.getsockname()[1]
    lab = start(
        SHOP + "    server six [::1]:8081 no-check\n",
        top=f"stats socket ipv6@[::1]:{port} level admin",
    )
    lab.change(Wanted("six", 20), address=parse_address(f"[::1]:{port}"), allow_unchecked=True)
    assert lab.raw()["six"] == (20, 0)
    assert (lab.read().server("six").address, lab.read().server("six").port) == ("::1", 8081)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("192.0.2.1:9999", "is not on a loopback address"),
        ("0.0.0.0:9999", "is not on a loopback address"),
        ("run/admin.sock", "is neither an absolute path nor host:port"),
        ("::1:9999", "an IPv6 host goes in brackets"),
        ("localhost:99999", "is neither"),
        (":9999", "is neither"),
        ("", "is neither"),
    ],
)
def test_bad_socket_addresses_are_refused(text: str, said: str) -> None:
    with pytest.raises(HaproxyError, match=said):
        parse_address(text)


def test_a_remote_socket_is_taken_when_allowed() -> None:
    assert parse_address("192.0.2.1:9999", allow_remote=True) == ("192.0.2.1", 9999)


def test_a_socket_that_is_not_there_is_told(shop: Lab) -> None:
    with pytest.raises(HaproxyError, match=r"No such file or directory. Is HAProxy running"):
        shop.change(Wanted("web1", 20), address="/nonexistent/admin.sock")


def test_a_file_that_is_no_socket_is_told(shop: Lab) -> None:
    with pytest.raises(HaproxyError, match="the path is not a socket"):
        shop.change(Wanted("web1", 20), address=str(shop.dir / "haproxy.cfg"))


def test_a_socket_nobody_listens_on_is_told(tmp_path: pathlib.Path) -> None:
    from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backend

    path = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(HaproxyError, match="HAProxy is not running, or does not listen there"):
        read_backend(path, "shop", 2.0)


def test_a_socket_without_permission_is_told(shop: Lab) -> None:
    os.chmod(shop.dir, 0o755)
    answer = _as_nobody(lambda: shop.change(Wanted("web1", 20)))
    assert "Permission denied. Run the task with become: true" in answer


def _as_nobody(call: t.Callable[[], object]) -> str:
    """What ``call`` fails with in a process of user nobody."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            call()
            text = "no error"
        except Exception as exc:
            text = str(exc)
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(child, 0)
    return text


def test_a_socket_that_never_answers_fails_in_time(tmp_path: pathlib.Path) -> None:
    from ansible_collections.steady.rollout.plugins.module_utils._haproxy_runtime import read_backend

    path = str(tmp_path / "silent.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(HaproxyError, match=r"did not answer 'prompt' within 0.5 s.*stats maxconn"):
            read_backend(path, "shop", 0.5)


def test_when_stats_maxconn_is_reached_it_says_so(start: t.Callable[..., Lab]) -> None:
    lab = start(top="stats maxconn 3")
    with contextlib.ExitStack() as stack:
        for _i in range(3):
            conn = stack.enter_context(socket.socket(socket.AF_UNIX))
            conn.connect(lab.socket)
            conn.sendall(b"prompt\n")
            conn.recv(10)
        with pytest.raises(
            HaproxyError, match=r"did not answer .* within 1 s.*all connections that `stats maxconn` allows"
        ):
            lab.change(Wanted("web1", 20), timeout=1.0)


# Algorithms


def test_static_rr_takes_only_zero_and_the_configured_weight(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("roundrobin", "static-rr"))
    lab.wait_status("UP", "web1", "web2", "web3")
    with pytest.raises(
        Refused, match=r"static algorithm \(static-rr\), which takes only 0 or the configured weight 10"
    ):
        lab.change(Wanted("web1", 0), Wanted("web2", 5))
    assert {weight for weight, _admin in lab.raw().values()} == {10}
    lab.change(Wanted("web1", 0), Wanted("web2", 10))
    assert lab.raw()["web1"] == (0, 0)
    lab.change(Wanted("web1", 10))
    assert lab.raw()["web1"] == (10, 0)


def test_a_map_based_hash_refuses_other_weights_and_nothing_stays_changed(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("roundrobin", "uri"))
    lab.wait_status("UP", "web1", "web2", "web3")
    with pytest.raises(HaproxyError, match="static"):
        lab.change(Wanted("web1", state="drain"), Wanted("web2", 11))
    assert lab.raw() == dict.fromkeys(("web1", "web2", "web3"), (10, 0))


def test_a_consistent_hash_takes_any_weight(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("roundrobin", "uri\n    hash-type consistent"))
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web2", 11))
    assert lab.raw()["web2"] == (11, 0)


def test_leastconn_is_warned_about(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("roundrobin", "leastconn"))
    lab.wait_status("UP", "web1", "web2", "web3")
    outcome = lab.change(Wanted("web2", 11))
    assert ["leastconn: its weights are not shares" in warning for warning in outcome.warnings] == [True]


def test_servers_of_a_template_are_changed_by_their_names(start: t.Callable[..., Lab]) -> None:
    body = "backend shop\n    balance roundrobin\n    server-template web 3 {host}:8081 check inter 100ms\n"
    lab = start(body, apps=1)
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web2", 11), Wanted("web3", state="maint"))
    assert lab.raw() == {"web1": (1, 0), "web2": (11, 0), "web3": (1, 1)}


# Health


def test_a_down_server_gets_no_traffic(shop: Lab) -> None:
    shop.apps[1].healthy = False
    shop.wait_status("DOWN", "web2")
    with pytest.raises(
        HaproxyError, match=r"web2 is not UP \(status DOWN, last check L7STS \d+\) after 0.3 s, so no traffic was moved"
    ):
        shop.change(Wanted("web1", 5), Wanted("web2", 50), health_timeout=0.3)
    assert shop.raw() == dict.fromkeys(("web1", "web2", "web3"), (10, 0))


def test_a_server_that_gains_traffic_is_waited_for(shop: Lab) -> None:
    shop.change(Wanted("web2", state="drain"))
    shop.apps[1].healthy = False
    poll(
        lambda: shop.rows()["web2"]["check_status"] == "L7STS" and shop.rows()["web2"]["check_health"] == "0",
        "web2 down",
    )
    call = Running(lambda: shop.change(Wanted("web1", 20), Wanted("web2", state="ready"), health_timeout=20))
    checks = shop.apps[1].asked
    poll(lambda: shop.apps[1].asked > checks + 2, "more checks")
    assert shop.raw()["web2"] == (10, 8)
    shop.apps[1].healthy = True
    assert call.outcome().after.server("web2").settled


def test_a_dead_server_does_not_get_from_maint_to_ready(shop: Lab) -> None:
    shop.change(Wanted("web2", state="maint"))
    shop.apps[1].healthy = False
    with pytest.raises(
        HaproxyError, match=r"web2 is not UP .* so no traffic was moved.* Everything was put back as it was"
    ):
        shop.change(Wanted("web2", state="ready"), health_timeout=1.5)
    assert shop.raw()["web2"] == (10, 1)
    assert shop.rows()["web2"]["stot"] == "0"


def test_with_fall_one_leaving_maint_still_waits_for_checks(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("rise 2 fall 3", "rise 1 fall 1"))
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web2", state="maint"))
    lab.apps[1].healthy = False
    with pytest.raises(HaproxyError, match="web2 is not UP"):
        lab.change(Wanted("web2", state="ready"), health_timeout=1.0)
    lab.apps[1].healthy = True
    assert lab.change(Wanted("web2", state="ready")).after.server("web2").settled


def test_a_server_leaves_maint_when_its_checks_pass(shop: Lab) -> None:
    shop.change(Wanted("web2", state="maint"))
    outcome = shop.change(Wanted("web2", 30, "ready"))
    assert shop.raw()["web2"] == (30, 0)
    assert outcome.after.server("web2").status == "UP"


def test_a_server_without_checks_gains_no_traffic_unasked(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP + "    server web4 {host}:8081 no-check\n")
    lab.wait_status("UP", "web1", "web2", "web3")
    with pytest.raises(Refused, match="server shop/web4 would gain traffic but has no health check"):
        lab.change(Wanted("web4", 20))
    lab.change(Wanted("web4", 20), allow_unchecked=True)
    assert lab.raw()["web4"] == (20, 0)
    assert lab.read().server("web4").health == "unchecked"


def test_a_server_that_follows_another_into_maint_is_not_fought_over(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP + "    server web4 {host}:8081 no-check track shop/web1\n")
    lab.wait_status("UP", "web1", "web2", "web3", "web4")
    lab.change(Wanted("web1", state="maint"))
    with pytest.raises(Refused, match="server shop/web4 takes its state maint from shop/web1; change that one"):
        lab.change(Wanted("web4", state="ready"))


def test_require_healthy_false_does_not_wait(shop: Lab) -> None:
    shop.apps[1].healthy = False
    shop.wait_status("DOWN", "web2")
    shop.change(Wanted("web2", 50), require_healthy=False)
    assert shop.raw()["web2"] == (50, 0)


def test_slowstart_is_told_and_the_wanted_weight_compared(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("weight 10", "weight 100 slowstart 30s"))
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.change(Wanted("web2", state="maint"))
    outcome = lab.change(Wanted("web2", 90, "ready"))
    server = outcome.after.server("web2")
    assert server.weight == 90
    assert server.effective_weight is not None
    assert server.effective_weight < 90
    assert any("web2 is in slowstart at weight" in warning for warning in outcome.warnings)
    assert not lab.change(Wanted("web2", 90, "ready")).changed


# Agents


class Agent(threading.Thread):
    """An agent-check: tells every caller ``word``."""

    def __init__(self, host: str, port: int, word: str) -> None:
        super().__init__(daemon=True)
        self.word = word
        self.asked = 0
        self._server = socket.create_server((host, port))
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _peer = self._server.accept()
                with conn, contextlib.suppress(OSError):
                    conn.sendall(self.word.encode() + b"\n")
                self.asked += 1

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def steered(start: t.Callable[..., Lab]) -> t.Iterator[tuple[Lab, Agent, Agent]]:
    """web1 is steered by an agent that says 50 %; web2's agent says nothing new, and shows how time goes."""
    check = "agent-check agent-port {port} agent-inter 300ms"
    body = SHOP
    for app, port in (("8081", "9555"), ("8082", "9556")):
        body = body.replace(f"{{host}}:{app}", f"{{host}}:{app} {check.replace('{port}', port)}")
    lab = start(body)
    agent, clock = Agent(lab.host, 9555, "50%"), Agent(lab.host, 9556, "100%")
    lab.wait_status("UP", "web1", "web2", "web3")
    poll(lambda: lab.raw()["web1"] == (5, 0), "the agent sets the weight")
    try:
        yield lab, agent, clock
    finally:
        agent.close()
        clock.close()


def test_an_agent_does_not_overwrite_a_weight(steered: tuple[Lab, Agent, Agent]) -> None:
    lab, _agent, clock = steered
    outcome = lab.change(Wanted("web1", 77))
    # The agent of web2 is asked as often as that of web1 would be.
    asked = clock.asked
    poll(lambda: clock.asked >= asked + 3, "three reports")
    assert lab.raw()["web1"] == (77, 0)
    assert lab.read().server("web1").agent == "disabled"
    assert any("the agent-check of web1 is off" in warning for warning in outcome.warnings)


def test_the_agent_is_given_back_with_the_configured_weight(steered: tuple[Lab, Agent, Agent]) -> None:
    lab, _agent, _clock = steered
    lab.change(Wanted("web1", 77, "drain"))
    lab.change(Wanted("web1", 10, "ready"))
    poll(lambda: lab.raw()["web1"] == (5, 0), "the agent sets the weight again")


def test_a_drain_outlives_an_agent_that_says_ready(steered: tuple[Lab, Agent, Agent]) -> None:
    lab, agent, clock = steered
    agent.word = "up ready 50%"
    lab.change(Wanted("web1", state="drain"))
    asked = clock.asked
    poll(lambda: clock.asked >= asked + 3, "three reports")
    assert lab.raw()["web1"][1] == 8


def test_the_configured_weight_is_what_the_agent_makes_of_it(steered: tuple[Lab, Agent, Agent]) -> None:
    lab, _agent, _clock = steered
    assert not lab.change(Wanted("web1", 10, "ready")).changed


def test_an_agent_goes_on_when_the_call_fails(steered: tuple[Lab, Agent, Agent]) -> None:
    lab, _agent, _clock = steered
    lab.apps[1].healthy = False
    lab.wait_status("DOWN", "web2")
    with pytest.raises(HaproxyError, match="web2 is not UP"):
        lab.change(Wanted("web1", 20), Wanted("web2", 20), health_timeout=0.2)
    assert lab.read().server("web1").agent == "enabled"


# Drain


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_a_drain_waits_for_the_last_session(busy: Lab, state: str) -> None:
    call = Running(lambda: busy.change(Wanted("web1", state=state)))
    poll(lambda: busy.raw()["web1"] == (10, 8), "drain begins")
    busy.apps[0].held.release()
    poll(lambda: busy.rows()["web1"]["scur"] == "1", "one session left")
    assert call.is_alive()
    assert busy.raw()["web1"] == (10, 8)
    busy.apps[0].held.release()
    assert call.outcome().after.server("web1").sessions == 0
    assert busy.raw()["web1"] == (10, 8 if state == "drain" else 1)


def test_a_drain_waits_for_the_queue(start: t.Callable[..., Lab]) -> None:
    # Requests bound to web1 by a cookie stay in its queue while it drains, as nothing may redispatch them.
    body = (
        SHOP.replace("{host}:8081", "{host}:8081 maxconn 1 cookie one")
        + "    cookie S insert\n    no option redispatch\n"
    )
    lab = start(body)
    lab.wait_status("UP", "web1", "web2", "web3")
    bound = {"Cookie": "S=one"}
    clients = [lab.client(bound), lab.client(bound)]
    poll(lambda: (lab.rows()["web1"]["scur"], lab.rows()["web1"]["qcur"]) == ("1", "1"), "one in flight, one queued")
    with pytest.raises(HaproxyError, match="web1 still has 1 sessions and 1 queued requests"):
        lab.change(Wanted("web1", state="drain"), drain_timeout=0.2)
    call = Running(lambda: lab.change(Wanted("web1", state="drain")))
    poll(lambda: lab.raw()["web1"] == (10, 8), "drain begins")
    lab.apps[0].held.release(2)
    after = call.outcome().after.server("web1")
    assert (after.sessions, after.queued) == (0, 0)
    assert [client.answer() for client in clients] == [200, 200]


def test_a_drain_that_times_out_is_taken_back(busy: Lab) -> None:
    with pytest.raises(
        HaproxyError, match=r"web1 still has 2 sessions and 0 queued requests after 0.3 s of drain.*put back"
    ):
        busy.change(Wanted("web1", state="maint"), Wanted("web2", 33), drain_timeout=0.3)
    assert busy.raw() == dict.fromkeys(("web1", "web2", "web3"), (10, 0))


def test_a_drain_that_times_out_can_leave_the_sessions(busy: Lab) -> None:
    outcome = busy.change(Wanted("web1", state="drain"), drain_timeout=0.3, on_drain_timeout="continue")
    assert outcome.cut == {}
    assert outcome.after.server("web1").sessions == 2
    assert any("web1 still has 2 sessions" in warning for warning in outcome.warnings)


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_a_drain_that_times_out_can_cut_the_sessions_and_counts_them(busy: Lab, state: str) -> None:
    outcome = busy.change(Wanted("web1", state=state), drain_timeout=0.3, on_drain_timeout="cut")
    assert outcome.cut == {"web1": 2}
    assert outcome.after.server("web1").sessions == 0
    assert any("2 sessions of web1" in warning for warning in outcome.warnings)


def test_a_second_drain_waits_as_well(busy: Lab) -> None:
    busy.change(Wanted("web1", state="drain"), drain_timeout=0.1, on_drain_timeout="continue")
    with pytest.raises(HaproxyError, match="web1 still has 2 sessions"):
        busy.change(Wanted("web1", state="drain"), drain_timeout=0.1)
    assert busy.raw()["web1"] == (10, 8)


# Reloads


def test_a_change_outlives_a_reload(shop: Lab) -> None:
    outcome = shop.change(Wanted("web1", 33), Wanted("web2", state="drain"), Wanted("web3", 7))
    assert (outcome.survival.survives, outcome.survival.path) == (True, str(shop.dir / "state"))
    shop.reload()
    assert shop.raw() == {"web1": (33, 0), "web2": (10, 8), "web3": (7, 0)}
    assert not shop.change(Wanted("web1", 33), Wanted("web2", state="drain")).changed


def test_a_local_state_file_is_found_too(start: t.Callable[..., Lab]) -> None:
    lab = start(
        SHOP + "    server-state-file-name shop.state\n",
        top="server-state-base {dir}",
        defaults="load-server-state-from-file local",
    )
    lab.wait_status("UP", "web1", "web2", "web3")
    outcome = lab.change(Wanted("web1", 33))
    assert (outcome.survival.survives, outcome.survival.path) == (True, str(lab.dir / "shop.state"))
    lab.reload()
    assert lab.raw()["web1"] == (33, 0)


@pytest.mark.parametrize(
    ("top", "defaults", "said"),
    [
        ("", haproxy_lab.LOAD_STATE, "no `server-state-file PATH`"),
        (haproxy_lab.STATE_FILE, "", "has no `load-server-state-from-file global`"),
    ],
)
def test_a_change_that_a_reload_would_lose_is_told(
    start: t.Callable[..., Lab], top: str, defaults: str, said: str
) -> None:
    lab = start(top=top, defaults=defaults)
    lab.wait_status("UP", "web1", "web2", "web3")
    survival = lab.change(Wanted("web1", 33)).survival
    assert survival.survives is False
    assert said in survival.reason


def test_a_state_file_that_cannot_be_written_is_told(start: t.Callable[..., Lab]) -> None:
    lab = start(top="server-state-file {dir}/missing/state")
    lab.wait_status("UP", "web1", "web2", "web3")
    survival = lab.change(Wanted("web1", 33)).survival
    assert survival.survives is False
    assert "cannot write the server-state file" in survival.reason


def test_a_state_file_that_fell_behind_is_written_again(shop: Lab) -> None:
    shop.change(Wanted("web1", 33))
    (shop.dir / "state").unlink()
    again = shop.change(Wanted("web1", 33))
    assert again.changed
    assert again.file_lagged
    assert (shop.dir / "state").exists()


def test_an_existing_state_file_keeps_its_mode(shop: Lab) -> None:
    (shop.dir / "state").touch(0o600)
    (shop.dir / "state").chmod(0o600)
    shop.change(Wanted("web1", 33))
    assert (shop.dir / "state").stat().st_mode & 0o777 == 0o600


def test_a_reload_while_health_is_waited_for_is_followed(start: t.Callable[..., Lab]) -> None:
    lab = start(top="", defaults="")
    lab.wait_status("UP", "web1", "web2", "web3")
    lab.apps[1].healthy = False
    lab.wait_status("DOWN", "web2")
    lab.change(Wanted("web3", state="maint"))
    wanted = [Wanted("web1", 5), Wanted("web2", 50), Wanted("web3", 20, "ready")]
    call = Running(lambda: lab.change(*wanted, health_timeout=20))
    poll(lambda: lab.raw()["web3"] == (10, 8), "the call waits, web3 being out of maint")
    lab.reload()
    lab.apps[1].healthy = True
    outcome = call.outcome()
    assert lab.raw() == {"web1": (5, 0), "web2": (50, 0), "web3": (20, 0)}
    assert outcome.process.pid == lab.pid()
    assert any("done again on the new process" in warning for warning in outcome.warnings)


def test_a_drain_counts_the_sessions_of_a_worker_replaced_meanwhile(busy: Lab) -> None:
    call = Running(lambda: busy.change(Wanted("web1", state="maint"), drain_timeout=20))
    poll(lambda: busy.raw()["web1"] == (10, 8), "drain begins")
    busy.reload()
    poll(lambda: busy.raw()["web1"][1] & 8, "drain again, on the new worker")
    assert busy.rows()["web1"]["scur"] == "0"
    busy.apps[0].held.release()
    poll(lambda: busy.apps[0].holding == 1, "one request left")
    assert call.is_alive(), "the old worker still serves one request of web1"
    busy.apps[0].held.release()
    outcome = call.outcome()
    assert busy.raw()["web1"] == (10, 1)
    assert any("reloaded" in warning for warning in outcome.warnings)


def test_without_a_process_that_can_be_read_survival_is_unknown_not_true(shop: Lab) -> None:
    from ansible_collections.steady.rollout.plugins.module_utils._haproxy_state_file import find_restoration, survival

    assert find_restoration(os.getpid(), "shop") is None
    assert survival(None, "auto", 1, {"web1"}).survives is None
    assert survival(None, "/x", 1, {"web1"}).survives is None
