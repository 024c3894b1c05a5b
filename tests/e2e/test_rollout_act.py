# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The acts of a rollout on a real HAProxy: who may change a backend, what is written down, and the way back."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _fence, _held
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._guard_service import Service
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_driver import HaproxyDriver
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_socket import lock_name
from ansible_collections.steady.rollout.plugins.module_utils._rollout_act import Act, perform, result
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError
from ansible_collections.steady.rollout.plugins.modules import haproxy_backend, rollout_info

from e2e.conftest import labs
from e2e.lab import Lab
from e2e.shop import ON_SYSTEM, SHOP
from local_fleet.polling import poll

READY, DRAIN, MAINT = 0, 8, 1
TWO = SHOP + SHOP.replace("backend shop", "backend api")
BLUE = {
    "web1": {"weight": 10, "state": "ready"},
    "web2": {"weight": 10, "state": "ready"},
    "web3": {"weight": 10, "state": "drain"},
}


@pytest.fixture(params=ON_SYSTEM)
def start(request: pytest.FixtureRequest) -> t.Iterator[t.Callable[..., Lab]]:
    """Start a lab, and stop it in the end."""
    yield from labs(request.param)


def run_command(command: list[str]) -> tuple[int, str, str]:
    """As a module's; but a test keeps away from its machine's units."""
    assert command[0] != "systemctl"
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stdout, done.stderr


class Controller:
    """Acts as the module does, without the seconds that Ansible takes around it."""

    def __init__(self, lab: Lab, rollout_id: str = "r1", backends: tuple[str, ...] = ("shop",)) -> None:
        self.lab = lab
        self.rollout_id = rollout_id
        self.backends = backends
        self.state_dir = str(lab.dir / "rollouts")

    def __call__(self, act: str, driver: t.Mapping[str, t.Any] | None = None, **options: t.Any) -> dict[str, t.Any]:
        check_mode = options.get("check_mode", False)
        settings = {"timeout": 5.0, "health_timeout": 5.0, "check_mode": check_mode, **(driver or {})}
        values = {"backends": self.backends, "state_dir": self.state_dir, "patience": 5.0, **options}
        reach = {"provider": "haproxy", "socket": self.lab.socket, "allow_remote_socket": False, "timeout": 5.0}
        reach.update({"health_timeout": 5.0, "state_file": "auto"})
        done = perform(
            Act(act=act, rollout_id=self.rollout_id, reach=reach, **values),
            HaproxyDriver(address=self.lab.socket, **settings),
            Service(self.state_dir, "process", run_command),
        )
        return {**result(done), "warnings": [text for one in done.backends.values() for text in one.warnings]}

    def records(self, backend: str = "shop") -> dict[str, t.Any]:
        return rollout_info.read_records(self.state_dir, backend)

    def files(self) -> dict[str, bytes]:
        found = pathlib.Path(self.state_dir)
        return {str(path.relative_to(found)): path.read_bytes() for path in found.rglob("*") if path.is_file()}

    def events(self, backend: str = "shop") -> list[tuple[str, t.Any]]:
        return [(event["event"], event.get("act")) for event in self.records(backend)["rollout"]["events"]]


@pytest.fixture
def rollout(shop: Lab) -> Controller:
    """A rollout that holds backend shop, where web1 and web2 are safe and web3 is drained."""
    controller = Controller(shop)
    controller("begin", safe={"shop": BLUE}, who={"user": "alice", "host": "ctl"}, record={"release": "2"})
    return controller


def by_hand(lab: Lab, **options: t.Any) -> dict[str, t.Any]:
    """A call of haproxy_backend that makes web1's weight 20."""
    params: dict[str, t.Any] = {name: option.get("default") for name, option in haproxy_backend.OPTIONS.items()}
    servers = [{"name": "web1", "weight": 20, "state": None}]
    params.update({"socket": lab.socket, "backend": "shop", "servers": servers, "health_timeout": 5.0, **options})
    outcome = haproxy_backend.change(haproxy_backend.request(params, False), params["fence"])
    return haproxy_backend.result(outcome, {"web1"})


def fence(controller: Controller) -> dict[str, str]:
    return {"state_dir": controller.state_dir, "rollout_id": controller.rollout_id}


def test_the_journal_keeps_the_last_rollouts(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fence, "ROLLOUTS", 3)
    for number in range(6):
        controller = Controller(shop, f"r{number}")
        controller("begin", safe={"shop": BLUE})
        controller("end", outcome="promoted")
    path = pathlib.Path(controller.state_dir) / "shop/journal.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["rollout"], line["seq"]) for line in lines if line["event"] == "begin"] == [
        ("r3", 7),
        ("r4", 9),
        ("r5", 11),
    ]


# Waiting for others


def test_a_rollout_is_waited_for_while_it_is_at_work(rollout: Controller) -> None:
    assert rollout_info.is_at_work(rollout.state_dir, "shop")
    threading.Timer(0.5, lambda: rollout("end", outcome="promoted")).start()
    began = time.monotonic()
    rollout_info.await_free(rollout.state_dir, ["shop"], 20.0)
    assert 0.5 <= time.monotonic() - began < 10
    assert rollout.records()["lock"] is None


def test_a_rollout_that_nobody_works_on_is_not_waited_for(rollout: Controller) -> None:
    with _fence.fenced_as_found(rollout.state_dir, "shop", 5.0) as records:
        assert records is not None
        records.abandon("its lease expired")
    assert not rollout_info.is_at_work(rollout.state_dir, "shop")


def test_nothing_is_waited_for_where_nothing_is_recorded(shop: Lab) -> None:
    assert not rollout_info.is_at_work(str(shop.dir / "nothing"), "shop")


# The lock


def test_begin_takes_the_lock_and_tells_who_has_it(rollout: Controller) -> None:
    lock = rollout.records()["lock"]
    assert (lock["rollout_id"], lock["who"]) == ("r1", {"user": "alice", "host": "ctl"})
    begun = rollout.records()["rollout"]
    assert (begun["rollout_id"], begun["begin"]["release"], begun["ended"]) == ("r1", "2", False)


def test_begin_again_changes_nothing(rollout: Controller) -> None:
    before = rollout.files()
    assert not rollout("begin")["changed"]
    assert rollout.files() == before


def test_a_second_rollout_is_refused_and_told_who_holds_the_backend(rollout: Controller) -> None:
    before = rollout.files()
    said = r"rollout r1 \(user alice, host ctl, since 2.*Z\) holds backend shop on this load balancer"
    with pytest.raises(StateError, match=said):
        Controller(rollout.lab, "r2")("begin", safe={"shop": {}})
    assert rollout.files() == before


def test_a_rollout_that_keeps_its_records_elsewhere_is_refused(rollout: Controller) -> None:
    with pytest.raises(StateError, match=r"rollout r1 .* holds backend shop"):
        Controller(rollout.lab, "r2")("begin", state_dir=str(rollout.lab.dir / "elsewhere"))


def test_all_backends_are_taken_or_none(start: t.Callable[..., Lab]) -> None:
    lab = start(TWO)
    Controller(lab, "r1", ("shop",))("begin")
    both = Controller(lab, "r2", ("shop", "api"))
    with pytest.raises(StateError, match=r"rollout r1 .* holds backend shop"):
        both("begin")
    assert both.records("api")["lock"] is None
    Controller(lab, "r3", ("api",))("begin")


def test_a_lock_that_cannot_be_written_gives_the_others_back(start: t.Callable[..., Lab]) -> None:
    lab = start(TWO)
    both = Controller(lab, "r1", ("api", "shop"))
    (lab.dir / "rollouts/shop/journal.jsonl").mkdir(parents=True, mode=0o700)
    with pytest.raises(StateError, match=r"shop/journal.jsonl is not a plain file"):
        both("begin")
    assert both.records("api")["lock"] is None
    by_hand(lab)


def test_a_take_over_must_name_the_rollout_that_holds_the_backend(rollout: Controller) -> None:
    with pytest.raises(StateError, match=r"rollout r1 .* holds backend shop"):
        Controller(rollout.lab, "r2")("begin", take_over=["r0"])


def test_a_take_over_that_is_refused_elsewhere_hands_the_lock_back(rollout: Controller) -> None:
    rollout("note", lease=600)
    before = rollout.records()
    second = Controller(rollout.lab, "r2")
    second("begin", take_over=["r1"], reason="it hangs", lease=60, safe={"shop": {"web1": BLUE["web1"]}})
    second("end", outcome="refused")
    found = rollout.records()
    assert (found["lock"]["rollout_id"], found["rollout"]["rollout_id"]) == ("r1", "r1")
    assert (found["lease"]["rollout_id"], found["lease"]["seconds"]) == ("r1", 600)
    assert found["safe"] == before["safe"]
    rollout("note")


def test_a_take_over_is_written_down(rollout: Controller) -> None:
    second = Controller(rollout.lab, "r2")
    second("begin", take_over=["r1"], who={"user": "bob"})
    found = second.records()
    assert (found["lock"]["rollout_id"], found["lock"]["who"]) == ("r2", {"user": "bob"})
    assert found["rollout"]["begin"]["took_over"]["rollout_id"] == "r1"
    assert found["safe"]["servers"] == BLUE


def test_the_end_frees_the_backend(rollout: Controller) -> None:
    rollout("end", outcome="promoted")
    found = rollout.records()
    assert (found["lock"], found["rollout"]["outcome"], found["rollout"]["ended"]) == (None, "promoted", True)
    Controller(rollout.lab, "r2")("begin")


def test_the_end_can_be_told_twice(rollout: Controller) -> None:
    rollout("end", outcome="promoted")
    before = rollout.files()
    assert not rollout("end", outcome="promoted")["changed"]
    assert rollout.files() == before


def test_the_end_can_keep_the_lock(rollout: Controller) -> None:
    rollout("end", outcome="paused", keep_lock=True)
    assert rollout.records()["lock"]["rollout_id"] == "r1"
    assert rollout.records()["rollout"]["outcome"] == "paused"
    with pytest.raises(StateError, match="force: true"):
        by_hand(rollout.lab)


# The fence


def test_a_shift_is_made_and_written_down(rollout: Controller) -> None:
    done = rollout("shift", servers={"shop": [{"name": "web3", "state": "drain"}]}, record={"step": 2})
    assert done["changed"]
    assert rollout.lab.raw()["web3"] == (10, DRAIN)
    assert [one["name"] for one in done["after"]["shop"]] == ["web3"]
    assert rollout.events() == [("intent", "shift"), ("result", "shift")]
    assert rollout.records()["rollout"]["step"] == 2


@pytest.mark.parametrize("act", ["note", "shift", "restore", "end"])
def test_a_rollout_that_lost_its_lock_changes_nothing(rollout: Controller, act: str) -> None:
    Controller(rollout.lab, "r2")("begin", take_over=["r1"], who={"user": "bob"})
    servers, files = rollout.lab.raw(), rollout.files()
    said = r"rollout r1 no longer holds backend shop on this load balancer: r2 does \(user bob, since .*\)\. Nothing"
    with pytest.raises(StateError, match=said):
        rollout(act, servers={"shop": [{"name": "web1", "weight": 0}]}, safe={"shop": {}}, outcome="x")
    assert (rollout.lab.raw(), rollout.files()) == (servers, files)


def test_a_rollout_that_never_began_changes_nothing(shop: Lab) -> None:
    with pytest.raises(StateError, match="no longer holds backend shop on this load balancer: nobody does"):
        Controller(shop)("shift", servers={"shop": [{"name": "web1", "weight": 0}]})
    assert not (shop.dir / "rollouts").exists()


def test_a_fenced_call_of_haproxy_backend_is_let_through(rollout: Controller) -> None:
    assert by_hand(rollout.lab, fence=fence(rollout))["changed"]


def test_a_stale_fence_is_refused_and_nothing_changes(rollout: Controller) -> None:
    Controller(rollout.lab, "r2")("begin", take_over=["r1"])
    before = rollout.lab.raw()
    with pytest.raises(StateError, match="rollout r1 no longer holds backend shop"):
        by_hand(rollout.lab, fence=fence(rollout))
    assert rollout.lab.raw() == before


def test_a_call_without_a_fence_is_refused_while_the_backend_is_held(rollout: Controller) -> None:
    before = rollout.lab.raw()
    with pytest.raises(StateError, match=r"rollout r1 .* holds backend shop .* force: true"):
        by_hand(rollout.lab)
    assert rollout.lab.raw() == before


def test_a_call_without_a_fence_can_be_forced(rollout: Controller) -> None:
    assert by_hand(rollout.lab, force=True)["changed"]


def test_a_call_without_a_fence_is_free_again_after_the_end(rollout: Controller) -> None:
    rollout("end", outcome="promoted")
    assert by_hand(rollout.lab)["changed"]


def test_the_backend_is_still_held_after_a_reboot(rollout: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    """/run is empty then; the records are where they are kept by default."""
    monkeypatch.setattr(f"{_held.__name__}.DEFAULT_STATE_DIR", rollout.state_dir)
    _held.unpoint(lock_name(rollout.lab.socket, "shop"))
    with pytest.raises(StateError, match=r"rollout r1 .* holds backend shop .* force: true"):
        by_hand(rollout.lab)


def test_another_haproxy_of_the_host_is_not_held(rollout: Controller, start: t.Callable[..., Lab]) -> None:
    other = start()
    other.wait_status("UP", "web1", "web2", "web3")
    assert by_hand(other)["changed"]


def test_records_that_are_gone_hold_nothing(rollout: Controller) -> None:
    os.rename(rollout.state_dir, f"{rollout.state_dir}.gone")
    assert by_hand(rollout.lab)["changed"]


def test_the_lock_does_not_change_hands_during_a_shift(rollout: Controller) -> None:
    lab = rollout.lab
    lab.apps[2].healthy = False
    lab.ask("set server shop/web3 state maint")
    thread = threading.Thread(
        target=functools.partial(rollout, "shift", servers={"shop": [{"name": "web3", "state": "ready"}]})
    )
    thread.start()
    poll(lambda: ("intent", "shift") in rollout.events(), "the shift has begun")
    with pytest.raises(StateError, match=r"fence of backend shop is not to be had: another call holds it, process"):
        Controller(lab, "r2")("begin", take_over=["r1"], patience=0.2)
    lab.apps[2].healthy = True
    thread.join(20)
    assert lab.raw()["web3"] == (10, READY)
    Controller(lab, "r2")("begin", take_over=["r1"])


# Writing down


def test_a_failed_shift_is_written_down_with_its_reason(rollout: Controller) -> None:
    with pytest.raises(LoadBalancerError, match="has no server nope"):
        rollout("shift", servers={"shop": [{"name": "nope", "weight": 1}]})
    last = rollout.records()["rollout"]["events"][-1]
    assert (last["event"], last["ok"]) == ("result", False)
    assert "has no server nope" in last["error"]


def test_notes_and_releases_are_kept(rollout: Controller) -> None:
    rollout("note", event="intent", record={"step": 1, "kind": "deploy"})
    assert rollout("note", event="result", record={"step": 1}, releases={"shop": {"web3": {"a": "2"}}})["changed"]
    assert not rollout("note", releases={"shop": {"web3": {"a": "2"}}})["changed"]
    rollout("note", record={"step": 2}, releases={"shop": {"web3": {"b": "1"}, "web1": {"a": "1"}}})
    assert rollout.records()["releases"] == {"web3": {"a": "2", "b": "1"}, "web1": {"a": "1"}}
    assert [event for event, _act in rollout.events()] == ["intent", "result", "note", "note"]
    assert rollout.records()["rollout"]["events"][0]["kind"] == "deploy"


def test_a_torn_line_is_cut_before_the_next_one(rollout: Controller) -> None:
    path = pathlib.Path(rollout.state_dir) / "shop/journal.jsonl"
    path.write_bytes(path.read_bytes() + b'{"seq": 2, "rol')
    rollout("note", record={"step": 1})
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [(line["seq"], line["event"]) for line in lines] == [(1, "begin"), (2, "note")]


def test_both_backends_change_in_one_call(start: t.Callable[..., Lab]) -> None:
    lab = start(TWO)
    for backend in ("shop", "api"):
        lab.wait_status("UP", "web1", "web2", "web3", backend=backend)
    both = Controller(lab, "r1", ("shop", "api"))
    both("begin")
    done = both("shift", servers={name: [{"name": "web1", "weight": 1}] for name in ("shop", "api")})
    assert [lab.raw(name)["web1"] for name in ("shop", "api")] == [(1, READY)] * 2
    assert set(done["after"]) == {"shop", "api"}
    assert both.events("shop") == both.events("api") == [("intent", "shift"), ("result", "shift")]


def test_a_shift_that_fails_half_way_names_what_it_has_changed(start: t.Callable[..., Lab]) -> None:
    lab = start(TWO)
    for backend in ("shop", "api"):
        lab.wait_status("UP", "web1", "web2", "web3", backend=backend)
    both = Controller(lab, "r1", ("shop", "api"))
    both("begin")
    with pytest.raises(LoadBalancerError, match=r"no server nope.* Backend api was changed before that"):
        both("shift", servers={"api": [{"name": "web1", "weight": 1}], "shop": [{"name": "nope", "weight": 1}]})
    ends = [both.records(name)["rollout"]["events"][-1]["ok"] for name in ("api", "shop")]
    assert ends == [True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"servers": {}}, "servers is empty"),
        (
            {"servers": {"api": [{"name": "web1", "weight": 1}]}},
            "servers names backend api, which is not among backends",
        ),
        ({"servers": {"shop": [{"name": "web1", "weight": 300}]}}, "weight 300 is outside"),
        ({"servers": {"shop": [{"name": "web1", "state": "gone"}]}}, "state 'gone' is not one of"),
        ({"safe": {"shop": {"web1": {"weight": 10}}}, "servers": {"shop": []}}, "the safe state of server web1"),
        ({"backends": (), "servers": {}}, "backends is empty"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(rollout: Controller, options: dict[str, t.Any], said: str) -> None:
    servers, files = rollout.lab.raw(), rollout.files()
    with pytest.raises((StateError, LoadBalancerError), match=said):
        rollout("shift", **options)
    assert (rollout.lab.raw(), rollout.files()) == (servers, files)


def test_a_rollout_id_that_is_none_is_refused(shop: Lab) -> None:
    with pytest.raises(StateError, match="rollout_id 'a b' must be"):
        Controller(shop, "a b")("begin")


def test_a_killed_shift_leaves_an_intent_and_no_fence(rollout: Controller) -> None:
    lab = rollout.lab
    lab.apps[2].healthy = False
    lab.ask("set server shop/web3 state maint")
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            rollout("shift", servers={"shop": [{"name": "web3", "state": "ready"}]}, record={"step": 4})
        os._exit(0)
    try:
        poll(lambda: lab.raw()["web3"][1] == DRAIN, "the shift has begun")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    found = rollout.records()["rollout"]
    assert (found["step"], rollout.events()) == (4, [("intent", "shift")])
    second = Controller(lab, "r2")
    second("begin", take_over=["r1"])
    assert second("restore")["out"] == {}
    assert lab.raw() == {"web1": (10, READY), "web2": (10, READY), "web3": (10, DRAIN)}


# The way back


def test_restore_swaps_back(rollout: Controller) -> None:
    lab = rollout.lab
    for command in ("web1 state drain", "web2 state drain", "web3 weight 256"):
        lab.ask(f"set server shop/{command}")
    done = rollout("restore")
    assert lab.raw() == {"web1": (10, READY), "web2": (10, READY), "web3": (10, DRAIN)}
    assert (done["changed"], done["out"]) == (True, {})
    assert rollout.events() == [("intent", "restore"), ("result", "restore")]


def test_restore_again_changes_nothing(rollout: Controller) -> None:
    rollout("restore")
    before = rollout.lab.raw()
    again = rollout("restore")
    assert (again["changed"], again["out"], again["warnings"]) == (False, {}, [])
    assert rollout.lab.raw() == before


def test_a_server_in_maint_gets_no_request_before_checks_passed(rollout: Controller) -> None:
    lab = rollout.lab
    lab.ask("set server shop/web1 state maint")
    lab.apps[0].healthy = False
    lab.apps[0].broken = True
    statuses: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(KeyError):
                statuses.append(lab.rows()["web1"]["status"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    restoring = threading.Thread(target=functools.partial(rollout, "restore"))
    restoring.start()
    asked = lab.apps[0].asked
    poll(lambda: lab.apps[0].asked > asked + 3, "checks of web1")
    assert lab.raw()["web1"][1] == DRAIN
    before = int(lab.rows()["web1"]["stot"])
    lab.apps[0].healthy, lab.apps[0].broken = True, False
    restoring.join(20)
    over.set()
    watcher.join(10)
    assert before == 0
    assert lab.raw()["web1"] == (10, READY)
    assert not [status for status in statuses if status.startswith("UP") and status != "UP"]


def test_what_does_not_come_up_stays_out_and_is_told(rollout: Controller) -> None:
    lab = rollout.lab
    lab.ask("set server shop/web1 state maint")
    lab.apps[0].healthy = False
    done = rollout("restore", driver={"health_timeout": 1.0})
    assert lab.raw() == {"web1": (10, DRAIN), "web2": (10, READY), "web3": (10, DRAIN)}
    assert list(done["out"]["shop"]) == ["web1"]
    assert "web1 is not UP" in done["out"]["shop"]["web1"]
    lab.apps[0].healthy = True
    assert rollout("restore")["out"] == {}
    assert lab.raw()["web1"] == (10, READY)


def test_nothing_is_taken_out_while_nothing_safe_takes_traffic(rollout: Controller) -> None:
    lab = rollout.lab
    for name in ("web1", "web2"):
        lab.ask(f"set server shop/{name} state maint")
    lab.apps[0].healthy = lab.apps[1].healthy = False
    done = rollout("restore", driver={"health_timeout": 1.0})
    assert lab.raw() == {"web1": (10, DRAIN), "web2": (10, DRAIN), "web3": (10, READY)}
    assert set(done["out"]["shop"]) == {"web1", "web2", "web3"}
    assert "still carries" in done["out"]["shop"]["web3"]
    assert "none of its safe servers takes traffic, so web3 was left" in done["warnings"][-1]


def test_what_is_up_comes_back_before_the_rest_is_waited_for(rollout: Controller) -> None:
    lab = rollout.lab
    lab.apps[1].healthy = False
    lab.wait_down("web2")
    for name in ("web1", "web2"):
        lab.ask(f"set server shop/{name} state drain")
    restoring = threading.Thread(target=functools.partial(rollout, "restore", driver={"health_timeout": 20.0}))
    restoring.start()
    poll(lambda: lab.raw()["web1"] == (10, READY), "web1 is back")
    assert lab.raw()["web2"][1] == DRAIN
    lab.apps[1].healthy = True
    restoring.join(20)
    assert lab.raw() == {"web1": (10, READY), "web2": (10, READY), "web3": (10, DRAIN)}


def test_a_ready_server_that_is_down_gets_its_weight_back(rollout: Controller) -> None:
    lab = rollout.lab
    lab.ask("set server shop/web1 weight 200")
    lab.apps[0].healthy = False
    lab.wait_down("web1")
    done = rollout("restore", driver={"health_timeout": 0.5})
    assert lab.raw()["web1"] == (10, READY)
    assert list(done["out"]["shop"]) == ["web1"]


def test_servers_without_checks_come_back(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace("default-server check", "default-server"))
    rollout = Controller(lab)
    rollout("begin", safe={"shop": BLUE})
    lab.ask("set server shop/web1 state maint")
    assert rollout("restore")["out"] == {}
    assert lab.raw() == {"web1": (10, READY), "web2": (10, READY), "web3": (10, DRAIN)}


def test_sessions_on_what_is_taken_out_end_by_themselves(rollout: Controller) -> None:
    lab = rollout.lab
    for name in ("web1", "web2"):
        lab.ask(f"set server shop/{name} state drain")
    (client,) = lab.hold(1, lab.apps[2])
    rollout("restore")
    assert lab.raw()["web3"] == (10, DRAIN)
    lab.apps[2].held.release()
    assert client.answer() == 200


def test_servers_that_the_safe_state_does_not_name_are_left_alone(rollout: Controller) -> None:
    rollout("note", safe={"shop": {"web1": {"weight": 10, "state": "ready"}}})
    rollout.lab.ask("set server shop/web3 weight 77")
    rollout("restore")
    assert rollout.lab.raw()["web3"] == (77, READY)


def test_a_server_that_is_gone_keeps_no_other_from_coming_back(rollout: Controller) -> None:
    rollout("note", safe={"shop": {**BLUE, "gone": {"weight": 1, "state": "ready"}}})
    rollout.lab.ask("set server shop/web1 state drain")
    done = rollout("restore")
    assert list(done["out"]["shop"]) == ["gone"]
    assert rollout.lab.raw()["web1"] == (10, READY)


def test_a_restore_without_a_safe_state_is_refused(shop: Lab) -> None:
    rollout = Controller(shop)
    rollout("begin")
    with pytest.raises(LoadBalancerError, match="no safe state was recorded for backend shop"):
        rollout("restore")


def test_a_backend_that_cannot_be_restored_keeps_no_other_from_it(start: t.Callable[..., Lab]) -> None:
    lab = start(TWO)
    for backend in ("shop", "api"):
        lab.wait_status("UP", "web1", "web2", "web3", backend=backend)
    both = Controller(lab, "r1", ("api", "shop"))
    both("begin", safe={"shop": BLUE})
    lab.ask("set server shop/web1 state drain")
    with pytest.raises(
        LoadBalancerError, match=r"not restored: backend api: no safe state .* Backend shop was changed"
    ):
        both("restore")
    assert lab.raw()["web1"] == (10, READY)


# Check mode


def test_check_mode_foresees_every_act_and_changes_nothing(shop: Lab) -> None:
    rollout = Controller(shop)
    before = shop.raw()
    act = functools.partial(rollout, check_mode=True)
    assert act("begin", safe={"shop": BLUE})["changed"]
    shift = act("shift", servers={"shop": [{"name": "web1", "weight": 0}]})
    assert (shift["changed"], shift["after"]["shop"][0]["weight"]) == (True, 0)
    restore = act("restore", safe={"shop": BLUE})
    assert (restore["changed"], restore["after"]["shop"][2]["state"]) == (True, "drain")
    assert "shop/web3: weight 10, drain" in restore["diff"]["after"]
    act("note")
    act("end", outcome="promoted")
    assert shop.raw() == before
    assert not (shop.dir / "rollouts").exists()


def test_check_mode_foresees_that_another_rollout_holds_the_backend(rollout: Controller) -> None:
    second = functools.partial(Controller(rollout.lab, "r2"), check_mode=True)
    before = rollout.files()
    with pytest.raises(StateError, match=r"rollout r1 .* holds backend shop"):
        second("begin")
    with pytest.raises(StateError, match="rollout r2 no longer holds backend shop"):
        second("shift", servers={"shop": [{"name": "web1", "weight": 0}]})
    assert rollout.files() == before


# The modules


def test_the_modules_act_and_tell(shop: Lab, tmp_path: pathlib.Path) -> None:
    common = {"socket": shop.socket, "state_dir": str(shop.dir / "rollouts"), "backends": ["shop"]}
    acts: list[dict[str, t.Any]] = [
        {"act": "begin", "safe": {"shop": BLUE}, "who": {"user": "alice"}},
        {"act": "shift", "servers": {"shop": [{"name": "web1", "weight": "{{ 5 }}"}]}, "record": {"step": 1}},
        {"act": "restore"},
        {"act": "end", "outcome": "rolled_back"},
    ]
    tasks: list[dict[str, t.Any]] = [
        {"steady.rollout.rollout_act": {**common, "rollout_id": "r1", **act}, "register": "act"} for act in acts
    ]
    tasks.insert(2, {"ansible.builtin.assert": {"that": ["act is changed", "act.after.shop[0].weight == 5"]}})
    tasks += [
        {"steady.rollout.rollout_info": common, "register": "found"},
        {
            "ansible.builtin.copy": {"content": "{{ found | to_json }}", "dest": str(tmp_path / "found.json")},
        },
    ]
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    command = [
        program,
        "-i",
        "localhost,",
        "-c",
        "local",
        "-e",
        "ansible_python_interpreter={{ ansible_playbook_python }}",
    ]
    ran = subprocess.run(
        [*command, str(tmp_path / "play.yml"), "--diff"], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["process"]["pid"] == shop.pid()
    assert found["admin"] is True
    servers = {one["name"]: one for one in found["backends"]["shop"]["servers"]}
    assert (servers["web3"]["own_state"], servers["web1"]["settled"]) == ("drain", True)
    assert found["records"]["shop"]["rollout"]["outcome"] == "rolled_back"
    assert found["records"]["shop"]["problem"] is None


def test_a_missing_backend_is_told(shop: Lab) -> None:
    with pytest.raises(LoadBalancerError, match="has no backend nope"):
        HaproxyDriver(address=shop.socket).read(["shop", "nope"])


def test_limits_and_rights_are_read(start: t.Callable[..., Lab]) -> None:
    lab = start(SHOP.replace(":8081", ":8081 maxconn 50"))
    reading = HaproxyDriver(address=str(lab.dir / "operator.sock")).read_with_survival(["shop"])
    assert not reading.admin
    assert [one["max_sessions"] for one in reading.backends["shop"]["servers"]] == [50, None, None]
    assert reading.survives_reload


def test_records_that_cannot_be_trusted_are_a_problem(rollout: Controller) -> None:
    os.chmod(rollout.state_dir, 0o777)
    found = rollout.records()
    assert "can be written by others" in found["problem"]
    assert found["lock"] is None


def test_a_policy_is_kept_to(rollout: Controller) -> None:
    going = [{"name": f"web{i}", "state": "drain"} for i in (1, 2, 3)]
    with pytest.raises(LoadBalancerError, match="without any usable server"):
        rollout("shift", servers={"shop": going})
    rollout("shift", servers={"shop": going}, driver={"policy": {"allow_empty": True}})
    assert {admin for _weight, admin in rollout.lab.raw().values()} == {DRAIN}
