# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the doctor says of all that was read, and what may be repaired; after a repair, what became of it."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils import _doctor
from ansible_collections.steady.rollout.plugins.module_utils._conclusion import bad, why
from ansible_collections.steady.rollout.plugins.module_utils._executor import LoadBalancer, how_to_reach
from ansible_collections.steady.rollout.plugins.module_utils._finding import Finding, Needs, Seen
from ansible_collections.steady.rollout.plugins.module_utils._targets import Targets
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction

Results = t.Sequence[t.Mapping[str, t.Any]]


class ActionModule(RolloutAction):
    OPTIONS: t.ClassVar[dict[str, dict[str, t.Any]]] = {
        "targets": {"type": "dict", "required": True},
        "answers": {"type": "list", "elements": "dict", "required": True},
        "configurations": {"type": "list", "elements": "dict", "required": True},
        "before": {"type": "list", "elements": "dict", "default": []},
        "repairs": {"type": "list", "elements": "dict", "default": []},
    }

    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        targets = Targets.from_dict(options["targets"])
        answers, configurations = _by_lb(options["answers"]), _by_lb(options["configurations"])
        fleet = _doctor.Fleet(
            lbs=tuple(_seen(lb, targets, answers.get(lb.name), configurations.get(lb.name)) for lb in targets.lbs),
            backends=targets.backends,
            needs=_needs(targets),
            silent_hosts=self._silent_hosts(task_vars),
            absent=targets.absent,
        )
        now = _doctor.judge(fleet)
        before = [Finding.from_dict(one) for one in options["before"]]
        findings = _doctor.with_repaired(before, now, _failures(options["repairs"])) if before else now
        return {
            "findings": [finding.as_dict() for finding in findings],
            "lines": [finding.words() for finding in findings] or ["Nothing was found"],
            "ok": _doctor.is_well(findings),
            "summary": _summary(findings),
            "repairs": _repairs(now, targets),
        }

    def _silent_hosts(self, task_vars: t.Mapping[str, t.Any]) -> dict[str, str]:
        told = {
            host: task_vars["hostvars"][host].get("__rollout_ping") or {}
            for host in task_vars["ansible_play_hosts_all"]
        }
        return {host: why(answer or None) for host, answer in told.items() if not answer or bad(answer)}


def _by_lb(results: Results) -> dict[str, t.Mapping[str, t.Any]]:
    return {answer["item"]["lb"]: answer for answer in results if "item" in answer}


def _seen(
    lb: LoadBalancer,
    targets: Targets,
    answer: t.Mapping[str, t.Any] | None,
    configuration: t.Mapping[str, t.Any] | None,
) -> Seen:
    answers = answer is not None and not bad(answer) and "backends" in answer
    reads = configuration is not None and not bad(configuration)
    return Seen(
        name=lb.name,
        socket=lb.socket,
        state_dir=lb.state_dir,
        reading=answer if answers else None,
        configuration=configuration if reads else None,
        problem="" if answers else why(answer),
        configuration_problem="" if reads else why(configuration),
        backends=targets.backends,
        provider=lb.provider,
    )


def _needs(targets: Targets) -> Needs:
    settings = targets.settings
    return Needs(
        drain_timeout=settings.drain_timeout,
        on_drain_timeout=settings.on_drain_timeout,
        health_timeout=settings.health_timeout,
        interval=settings.interval,
        allow_unchecked=settings.allow_unchecked,
        unpersisted=bool(targets.control["unpersisted"]),
    )


def _repairs(findings: t.Sequence[Finding], targets: Targets) -> dict[str, list[dict[str, t.Any]]]:
    """What to tell which load balancer, by kind. Locks are freed first: they keep other calls out."""
    lbs = {lb.name: lb for lb in targets.lbs}
    found: dict[str, list[dict[str, t.Any]]] = {"release": [], "change": []}
    for finding in findings:
        if not finding.repair:
            continue
        lb = lbs[str(finding.lb)]
        found[finding.repair["kind"]].append(
            {
                **finding.repair,
                **how_to_reach(lb),
                "backend": finding.backend,
                "drain_timeout": 0,
                "on_drain_timeout": "continue",
                "health_timeout": targets.settings.health_timeout,
                "allow_unchecked": targets.settings.allow_unchecked,
                "timeout": int(targets.settings.health_timeout + targets.settings.lb_timeout),
            }
        )
    return found


def _failures(repairs: Results) -> dict[tuple[str, str], str]:
    return {
        (answer["item"]["lb"], answer["item"]["backend"]): why(answer)
        for answer in repairs
        if "item" in answer and bad(answer)
    }


def _summary(findings: t.Sequence[Finding]) -> str:
    def count(severity: str) -> int:
        return sum(finding.severity == severity and not finding.repaired for finding in findings)

    repaired = sum(finding.repaired for finding in findings)
    counted = ", ".join(
        f"{count(severity)} {severity}{'' if count(severity) == 1 else 's'}"
        for severity in ("error", "warning", "note")
    )
    return f"{counted}, {repaired} repaired"
