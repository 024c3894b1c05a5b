# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""Whether servers are good for traffic, seen from one load balancer: they answer a probe, and it sees them healthy itself."""

from __future__ import annotations

import time
import typing as t

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.steady.rollout.plugins.module_utils._driver import Driver, LoadBalancerError, Reading

POLL_SECONDS = 0.1


def prove(
    driver: Driver,
    backends: t.Sequence[str],
    probe: t.Mapping[str, t.Any] | None,
    settle: t.Sequence[t.Sequence[str]],
    settle_timeout: float,
) -> dict[str, t.Any]:
    """{ok, msg, targets}. ``probe``: options of http_probe; ``settle``: [[backend, server], ...] that must be healthy beyond doubt."""
    problem, targets = probed(probe) if probe else ("", [])
    if not problem and settle:
        problem = _await_settled(driver, backends, settle, settle_timeout)
    return {"ok": not problem, "msg": problem, "targets": targets}


def probed(probe: t.Mapping[str, t.Any]) -> tuple[str, list[dict[str, t.Any]]]:
    """(why not all targets answered as asked, or "", what was seen of each). ``probe``: options of http_probe."""
    # Not every call probes, and Python compiles anew at each call what a module imports.
    from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import ProbeError
    from ansible_collections.steady.rollout.plugins.module_utils._probe_module import OPTIONS, carry_out

    checked = ArgumentSpecValidator(OPTIONS).validate(dict(probe))
    if checked.error_messages:
        return f"the probe: {'; '.join(checked.error_messages)}", []
    try:
        problem, found = carry_out(checked.validated_parameters)
    except ProbeError as exc:
        return str(exc), []
    return problem, found["targets"]


def _await_settled(
    driver: Driver, backends: t.Sequence[str], awaited: t.Sequence[t.Sequence[str]], seconds: float
) -> str:
    deadline = time.monotonic() + seconds
    while True:
        try:
            late = unsettled(driver.read(backends), awaited)
        except LoadBalancerError as exc:
            return str(exc)
        if not late:
            return ""
        if time.monotonic() >= deadline:
            return f"not healthy after {seconds:g} s: {', '.join(late)}"
        time.sleep(POLL_SECONDS)


def unsettled(reading: Reading, awaited: t.Sequence[t.Sequence[str]]) -> list[str]:
    """How those of the awaited servers look that are not healthy beyond doubt."""
    known = {(name, server["name"]): server for name, told in reading.backends.items() for server in told["servers"]}
    late = []
    for backend, name in awaited:
        place = (backend, name)
        server = known.get(place)
        if server is None:
            late.append(f"{'/'.join(place)} is not there")
        elif not server["settled"] and server["health"] != "unchecked":
            late.append(
                f"{'/'.join(place)} is {server['status'] or server['health']}, last check {server['last_check']}"
            )
    return late
