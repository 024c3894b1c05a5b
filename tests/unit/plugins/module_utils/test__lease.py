# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._lease import LONGEST, SHORTEST, Lease, granted, problem
from hypothesis import given
from hypothesis import strategies as st

times = st.floats(0, 1e9)
lengths = st.floats(SHORTEST, LONGEST)


@given(times, lengths, times)
def test_a_lease_runs_for_its_seconds_in_the_boot_that_granted_it(now: float, seconds: float, passed: float) -> None:
    left = granted("r1", "boot-1", now, seconds, {}).left("boot-1", now + passed)
    assert left == pytest.approx(seconds - passed, abs=1e-3)


@given(times, lengths, times)
def test_what_another_boot_granted_has_expired(now: float, seconds: float, then: float) -> None:
    assert granted("r1", "boot-1", now, seconds, {}).left("boot-2", then) < 0


@given(times, lengths)
def test_a_lease_is_the_same_after_it_was_written_and_read(now: float, seconds: float) -> None:
    lease = granted("r1", "boot-1", now, seconds, {"provider": "haproxy", "socket": "/run/a.sock"})
    assert Lease.from_dict(json.loads(json.dumps(lease.as_dict()))) == lease


@pytest.mark.parametrize("damaged", [{}, {"rollout_id": "r1"}, {"until": "soon"}])
def test_what_is_no_lease_is_an_error(damaged: dict[str, t.Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Lease.from_dict(damaged)


@pytest.mark.parametrize(("seconds", "good"), [(4.9, False), (5, True), (LONGEST, True), (LONGEST + 1, False)])
def test_a_lease_is_neither_too_short_for_an_act_nor_endless(seconds: float, good: bool) -> None:
    assert (problem(seconds) == "") is good
