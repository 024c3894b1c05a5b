# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The guard as a process beside a real HAProxy: when it acts, what it does then, and what it must not do."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import time
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._guard_lock import is_running
from ansible_collections.steady.rollout.plugins.module_utils._state import StateError

from e2e.lab import Lab
from e2e.shop import SHOP
from e2e.test_rollout_act import BLUE, Controller
from local_fleet.polling import poll

LEASE = 5.0  # the shortest there is
NOTICED = 5.0  # seconds from its end to the traffic being back, at most

DRAIN_WEB1 = {"shop": [{"name": "web3", "weight": 10, "state": "ready"}, {"name": "web1", "state": "drain"}]}


@pytest.fixture
def rollout() -> t.Iterator[Controller]:
    """A rollout under a lease, which has moved traffic from web1 to web3."""
    with Lab(SHOP) as lab:
        lab.wait_status("UP", "web1", "web2", "web3")
        controller = Controller(lab)
        controller("begin", safe={"shop": BLUE}, lease=LEASE)
        controller("shift", servers=DRAIN_WEB1, lease=LEASE)
        yield controller
        for pid in guards(controller):
            os.kill(pid, signal.SIGKILL)


def guards(controller: Controller) -> list[int]:
    """The guards of a state directory."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if controller.state_dir.encode() in words and any(word.endswith(b"@guard.pyz") for word in words):
            found.append(int(path.parent.name))
    return found


def weights(lab: Lab) -> dict[str, tuple[str, str]]:
    return {name: (row["status"], row["weight"]) for name, row in lab.rows().items() if name.startswith("web")}


def is_safe(lab: Lab) -> bool:
    """Whether web1 and web2 carry again, and web3 does not."""
    found = {name: status.split()[0] for name, (status, _weight) in weights(lab).items()}
    return found == {"web1": "UP", "web2": "UP", "web3": "DRAIN"}


def expect_safe(lab: Lab, seconds: float = LEASE + NOTICED) -> None:
    poll(lambda: is_safe(lab), "the traffic is back to what was safe", seconds)


def guard_lines(controller: Controller) -> list[dict[str, t.Any]]:
    """What the guard wrote into the journal."""
    return [event for event in controller.records()["rollout"]["events"] if event.get("by") == "guard"]


def alter_lease(controller: Controller, **values: t.Any) -> None:
    path = pathlib.Path(controller.state_dir, "shop", "lease")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_act_in_time_keeps_the_guard_from_acting(rollout: Controller) -> None:
    before = weights(rollout.lab)
    end = time.monotonic() + 2 * LEASE
    poll(lambda: rollout("look", lease=LEASE) and time.monotonic() > end, "two leases are over", 3 * LEASE)
    assert weights(rollout.lab) == before
    assert not guard_lines(rollout)


def test_when_no_act_comes_the_guard_returns_the_traffic_and_writes_that_down(rollout: Controller) -> None:
    expect_safe(rollout.lab)
    poll(lambda: len(guard_lines(rollout)) == 2, "both lines are written", 5)
    assert [(line["event"], line["act"], line.get("ok")) for line in guard_lines(rollout)] == [
        ("intent", "restore", None),
        ("result", "restore", True),
    ]


def test_after_that_the_controller_may_act_no_more(rollout: Controller) -> None:
    expect_safe(rollout.lab)
    for act in ("note", "look", "restore", "end"):
        with pytest.raises(StateError, match=r"its lease of 5 s expired, and at 2.*Z the guard began"):
            rollout(act, lease=LEASE)
    with pytest.raises(StateError, match="Nothing was changed"):
        rollout("shift", servers=DRAIN_WEB1, lease=LEASE)
    assert is_safe(rollout.lab)


def test_after_that_the_controller_may_still_say_what_it_did(rollout: Controller) -> None:
    expect_safe(rollout.lab)
    told = {"forward_only": ["the migration of 2.0.0"]}
    rollout("note", record=told)
    assert rollout.records()["rollout"]["events"][-1]["forward_only"] == told["forward_only"]
    kept: list[dict[str, t.Any]] = [
        {"event": "intent"},
        {"results": [{"act": "shift", "ok": True}]},
        {"safe": {"shop": BLUE}},
        {"releases": {"shop": {"web1": {"d": "2.0.0"}}}},
    ]
    for more in kept:
        with pytest.raises(StateError, match="Nothing was changed"):
            rollout("note", record=told, **more)
    assert rollout.records()["lock"]["abandoned"]


def test_after_that_nobody_else_begins_and_a_rollback_takes_over(rollout: Controller) -> None:
    expect_safe(rollout.lab)
    with pytest.raises(StateError, match="r1"):
        Controller(rollout.lab, "r2")("begin", safe={"shop": BLUE})
    back = Controller(rollout.lab, "r3")
    back("begin", take_over=["r1"], lease=LEASE)
    back("restore", lease=LEASE)
    back("end", outcome="rolled_back")
    assert back.records()["lock"] is None
    assert back.records()["lease"] is None


def test_a_rollout_at_work_is_not_taken_over_without_a_reason(rollout: Controller) -> None:
    with pytest.raises(StateError, match=r"seems to be at work: the lease of its last act runs for another \d s"):
        Controller(rollout.lab, "r2")("begin", take_over=["r1"])
    back = Controller(rollout.lab, "r3")
    back("begin", take_over=["r1"], reason="its controller is gone")
    assert back.records()["rollout"]["begin"]["took_over"]["reason"] == "its controller is gone"


def test_the_guard_ends_when_nothing_is_left_to_watch(rollout: Controller) -> None:
    assert is_running(rollout.state_dir)
    rollout("end", outcome="promoted")
    poll(lambda: not is_running(rollout.state_dir), "the guard has ended", 10)
    assert not is_safe(rollout.lab)


def test_a_lease_of_another_boot_has_expired(rollout: Controller) -> None:
    alter_lease(rollout, boot="another", until=10**9)
    expect_safe(rollout.lab, NOTICED)


def test_a_killed_guard_is_started_by_the_next_act(rollout: Controller) -> None:
    (first,) = guards(rollout)
    os.kill(first, signal.SIGKILL)
    poll(lambda: not is_running(rollout.state_dir), "the guard is dead", 5)
    rollout("note", lease=LEASE)
    assert is_running(rollout.state_dir)
    expect_safe(rollout.lab)


def test_a_guard_finishes_what_another_had_begun_when_it_was_killed(rollout: Controller) -> None:
    """web1 is down, so that the first one does not come to its end."""
    rollout.lab.apps[0].healthy = False
    rollout.lab.wait_status("DOWN", "web1")
    poll(lambda: rollout.records()["lock"]["abandoned"], "the guard has begun", LEASE + NOTICED)
    poll(lambda: guard_lines(rollout), "it has restored what it could", 10)
    for pid in guards(rollout):
        os.kill(pid, signal.SIGKILL)
    rollout.lab.apps[0].healthy = True
    from_start = Controller(rollout.lab, "other", ("api",))
    from_start("begin", safe={"api": {}}, lease=60)  # whatever starts a guard there
    expect_safe(rollout.lab, 15)


def test_a_load_balancer_that_is_down_is_restored_when_it_is_back(rollout: Controller) -> None:
    rollout.lab.kill()
    poll(lambda: rollout.records()["lock"]["abandoned"], "the guard has begun", LEASE + NOTICED)
    assert not guard_lines(rollout)  # it asks again and again, and writes nothing of that
    rollout.lab.start()
    expect_safe(rollout.lab, 15)


@pytest.mark.long
def test_what_stays_out_is_asked_about_without_filling_the_journal(rollout: Controller) -> None:
    for app in rollout.lab.apps[:2]:
        app.healthy = False
    rollout.lab.wait_status("DOWN", "web2")
    poll(lambda: guard_lines(rollout), "the guard has begun", LEASE + NOTICED)
    began = time.monotonic()
    poll(lambda: time.monotonic() > began + 12, "it had time for many restores", 20)
    assert len(guard_lines(rollout)) <= 8
    for app in rollout.lab.apps[:2]:
        app.healthy = True
    expect_safe(rollout.lab, 15)
