# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What the variables of a rollout say, and whether that makes sense: all that can be refused before a load balancer is asked. Pure.

``Refused`` carries one clear sentence: what was given, what is wrong with it, what to do.
"""

from __future__ import annotations

import typing as t
from dataclasses import asdict, dataclass, field

from ansible_collections.steady.rollout.plugins.module_utils._canary import (
    Ramp,
    read_stages,
)
from ansible_collections.steady.rollout.plugins.module_utils._duration import duration
from ansible_collections.steady.rollout.plugins.module_utils._executor import (
    LoadBalancer,
    Settings,
)
from ansible_collections.steady.rollout.plugins.module_utils._judge import JudgeError
from ansible_collections.steady.rollout.plugins.module_utils._judge_input import settings_of
from ansible_collections.steady.rollout.plugins.module_utils._lease import problem as _lease_problem
from ansible_collections.steady.rollout.plugins.module_utils._nginx_servers import canonical
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError

PROVIDERS = ("haproxy", "nginx", "nginx_lua")
# Whose servers are named by their addresses.
BY_ADDRESS = ("nginx", "nginx_lua")
# What a rollout must not inherit, and what it would do.
INHERITED = {
    "any_errors_fatal": "which the rescue would inherit: one bad host would stop the undo on all",
    "ignore_errors": "so that a failing release would not be taken back, but promoted",
    "ignore_unreachable": "so that a dead host would go on with its next task, and count as deployed",
}
STRATEGIES = ("blue_green", "canary", "rolling", "custom")
INCONCLUSIVE = ("hold", "continue", "rollback")
PAUSES = ("rollback", "hold")
# What rollout_analysis hands to the judge, with its defaults.
JUDGE: dict[str, t.Any] = {"tolerance": {}, "alpha": 0.01, "beta": 0.05, "horizon": 0, "absolute_max": 0.5}
GUARDS = ("auto", "systemd", "process", "off")
# drain and admit are no rollouts: hosts out of rotation and in, around tasks of the user's own. status and doctor look.
ACTIONS = ("run", "promote", "resume", "rollback", "drain", "admit", "status", "doctor")
ROLLS_OUT = ("run", "promote", "resume")
# Set by the executor for the user's role, the last one by the role for the executor. Given as an extra var they would beat it: an
# undo would install the new release once more, what is to be done on one host be done on all, or a rollout be held for nothing.
SET_BY_EXECUTOR = (
    "rollout_deploy_release",
    "rollout_deploy_previous",
    "rollout_deploy_action",
    "rollout_deploy_track",
    "rollout_deploy_first",
    "rollout_deploy_forward_only",
)
PROBE_OPTIONS = (
    "path",
    "port",
    "scheme",
    "host",
    "headers",
    "expect",
    "interval",
    "timeout",
    "rise",
    "follow_redirects",
    "validate_certs",
    "ca_path",
    "server_hostname",
)


class Refused(Exception):
    """The rollout may not start; nothing was changed."""


@dataclass(frozen=True)
class Play:
    """What is known of the play: ``hosts`` are all of it, ``alive`` those that answered."""

    hosts: tuple[str, ...]
    alive: tuple[str, ...]
    batch: tuple[str, ...]
    strategy: str
    inherited: tuple[str, ...]
    limit: str | None
    extra_vars: t.Collection[str]
    inventory: t.Collection[str]
    check_mode: bool


@dataclass(frozen=True)
class Targets:
    """What the variables say, once they are known to make sense."""

    action: str
    release: str
    backends: tuple[str, ...]
    lbs: tuple[LoadBalancer, ...]
    absent: tuple[str, ...]
    settings: Settings
    control: t.Mapping[str, t.Any]
    own: t.Mapping[str, t.Mapping[str, t.Any]]
    deploy_key: str
    warnings: tuple[str, ...] = field(default=())

    def as_dict(self) -> dict[str, t.Any]:
        return {
            **{name: getattr(self, name) for name in ("action", "release", "deploy_key")},
            **{name: list(getattr(self, name)) for name in ("backends", "absent", "warnings")},
            "lbs": [asdict(lb) for lb in self.lbs],
            "settings": asdict(self.settings),
            "control": dict(self.control),
            "own": {host: dict(given) for host, given in self.own.items()},
        }

    @classmethod
    def from_dict(cls, data: t.Mapping[str, t.Any]) -> Targets:
        plain = {name: data[name] for name in ("action", "release", "deploy_key", "control", "own")}
        lists: dict[str, t.Any] = {name: tuple(data[name]) for name in ("backends", "absent", "warnings")}
        return cls(
            **plain,
            **lists,
            lbs=tuple(LoadBalancer(**lb) for lb in data["lbs"]),
            settings=Settings(**data["settings"]),
        )


def check_play(play: Play, action: str) -> None:
    """Refuse plays in which a rescue would not run as it must."""
    if play.strategy != "linear":
        raise Refused(
            f"the play uses strategy {play.strategy}, in which steps do not wait for each other; use strategy: linear"
        )
    if action in ("drain", "admit", "status", "doctor"):
        return
    if set(play.batch) != set(play.hosts):
        raise Refused(
            "the play uses serial, so that a rollout would see a part of the fleet only, and never take back an earlier "
            "batch; remove serial, and use rolling_batches"
        )
    for name in play.inherited:
        raise Refused(f"the play, or a block or role around the rollout, sets {name}, {INHERITED[name]}; remove it")
    forbidden = [name for name in SET_BY_EXECUTOR if name in play.extra_vars]
    if forbidden:
        instead = "an undo would install the new release again; give rollout_release instead"
        if set(forbidden) <= {"rollout_deploy_first", "rollout_deploy_forward_only"}:
            instead = "it would say the same of every host and of every rollout; leave it out"
        raise Refused(
            f"{', '.join(forbidden)} was given as extra var, which would beat what the rollout sets: {instead}"
        )
    dead = [host for host in play.hosts if host not in play.alive]
    if dead and action in ROLLS_OUT:
        raise Refused(
            f"{some(dead)} did not answer or failed earlier in the play, and a rollout needs the whole fleet; mend or remove "
            f"{'it' if len(dead) == 1 else 'them'} first"
        )


def control_of(own: t.Mapping[str, t.Mapping[str, t.Any]]) -> dict[str, t.Any]:
    """The control variables, which must be the same on all hosts. ``own``: {host: {name: value}}."""
    hosts = list(own)
    for name in own[hosts[0]]:
        odd = [host for host in hosts if own[host].get(name) != own[hosts[0]][name]]
        if odd:
            variable, one, other = _difference(name, own[hosts[0]][name], own[odd[0]].get(name))
            raise Refused(
                f"{variable} differs between hosts: {hosts[0]} has {short(one)}, {odd[0]} has {short(other)}; it must be the same "
                "on the whole fleet"
            )
    return dict(own[hosts[0]])


def make_targets(
    play: Play,
    control: t.Mapping[str, t.Any],
    own: t.Mapping[str, t.Mapping[str, t.Any]],
    reach: t.Mapping[str, t.Mapping[str, t.Any]],
) -> Targets:
    """Check what the variables say. ``reach``: {lb: {provider, socket, config, state_dir}}, for hosts of the inventory.

    ``own``: also ``host``, the address by which Ansible reaches it.
    """
    action = str(control["action"])
    if action not in ACTIONS:
        raise Refused(f"rollout_action is {action!r}; it can be run, promote, resume or rollback")
    check_play(play, action)
    release = "" if control["release"] is None else str(control["release"])
    if action in ROLLS_OUT and not release.strip():
        raise Refused("rollout_release is not set: say what to roll out, for example -e rollout_release=1.4.2")
    names = _names(control["load_balancers"], "rollout_load_balancers", "the inventory hosts of the load balancers")
    absent = _names(control["absent_lbs"], "rollout_absent_lbs", "load balancers", may_be_empty=True)
    backends = _names(control["backend"], "rollout_backend", "the backends that the fleet serves")
    strange = [name for name in absent if name not in names]
    if strange:
        raise Refused(f"rollout_absent_lbs names {some(strange)}, which is not in rollout_load_balancers")
    present = sorted(name for name in names if name not in absent)
    if not present:
        raise Refused("all load balancers are in rollout_absent_lbs; at least one must take part")
    _check_reach(play, present, reach)
    try:
        settings = _settings(control)
        lock_wait(action, control)
        if action in ROLLS_OUT:
            _check_strategy(control)
    except PlanError as exc:
        raise Refused(lowered(exc)) from exc
    lbs = tuple(_reached(name, reach[name]) for name in present)
    if lbs[0].provider in BY_ADDRESS:
        own = {host: _named_by_address(host, given) for host, given in own.items()}
    return Targets(
        action,
        release,
        tuple(sorted(backends)),
        lbs,
        tuple(absent),
        settings,
        control,
        own,
        _deploy_key(control["deploy"]),
    )


def _named_by_address(host: str, given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The variables of a host with its servers named, where the user named none."""
    address = str(given.get("address") or given.get("host") or host)
    address = f"[{address}]" if address.count(":") > 1 and not address.startswith("[") else address
    tracks = given.get("tracks")
    if tracks and isinstance(tracks, t.Mapping):
        named = {
            track: {"server": canonical(f"{address}:{slot['port']}"), **slot}
            if isinstance(slot, t.Mapping) and slot.get("port")
            else slot
            for track, slot in tracks.items()
        }
        return {**given, "tracks": named}
    server = given.get("server")
    if isinstance(server, t.Mapping):
        return {**given, "server": {backend: canonical(str(name)) for backend, name in server.items() if name}}
    if server:
        return {**given, "server": canonical(str(server))}
    if not given.get("port"):
        raise Refused(
            f"{host}: NGINX names its servers by address and port; set rollout_port, or rollout_server to such as {address}:8080"
        )
    return {**given, "server": canonical(f"{address}:{given['port']}")}


def _reached(name: str, reach: t.Mapping[str, t.Any]) -> LoadBalancer:
    return LoadBalancer(
        name, str(reach["provider"]), str(reach["socket"]), str(reach["config"]), str(reach["state_dir"])
    )


def _check_reach(play: Play, names: t.Sequence[str], reach: t.Mapping[str, t.Mapping[str, t.Any]]) -> None:
    unknown = [name for name in names if name not in play.inventory]
    if unknown:
        raise Refused(f"rollout_load_balancers names {some(unknown)}, which is no host of the inventory")
    providers = {name: reach[name]["provider"] for name in names}
    odd = {name: provider for name, provider in providers.items() if provider not in PROVIDERS}
    if odd:
        name, provider = next(iter(odd.items()))
        raise Refused(f"rollout_provider of {name} is {provider!r}; this version knows {', '.join(PROVIDERS)}")
    if len(set(providers.values())) > 1:
        told = ", ".join(f"{name} is {provider}" for name, provider in providers.items())
        raise Refused(f"the load balancers of a rollout must all be of one make, and these are not: {told}")


def _check_strategy(control: t.Mapping[str, t.Any]) -> None:
    strategy = control["strategy"]
    if not isinstance(strategy, t.Mapping) or strategy.get("name") not in STRATEGIES:
        raise Refused(f"rollout_strategy must name one of {', '.join(STRATEGIES)}, not {short(strategy)}")
    if strategy["name"] == "custom" and not control["steps"]:
        raise Refused(
            "there is no plan: set rollout_steps, or use the role steady.rollout.blue_green, steady.rollout.canary or "
            "steady.rollout.rolling"
        )
    if strategy["name"] == "canary":
        ramp_of(strategy)
        if strategy.get("inconclusive", "hold") not in INCONCLUSIVE:
            raise Refused(f"canary_inconclusive is {strategy['inconclusive']!r}; it can be {', '.join(INCONCLUSIVE)}")
    if strategy.get("on_failure", "rollback") not in ("rollback", "hold"):
        raise Refused(f"rolling_on_failure is {strategy['on_failure']!r}; it can be rollback or hold")


def _settings(control: t.Mapping[str, t.Any]) -> Settings:
    analysis = control["analysis"] or {}
    if not isinstance(analysis, t.Mapping):
        raise Refused(f"rollout_analysis must be a map such as {{max_error_rate: 5}}, not {short(analysis)}")
    known = {"interval": 10, "max_error_rate": 5.0, "min_requests": 50, "inconclusive": "rollback"}
    strange = [name for name in analysis if name not in (*known, *JUDGE)]
    if strange:
        knows = ", ".join((*known, *JUDGE))
        raise Refused(f"rollout_analysis has {some(strange)}, which it does not know; it knows {knows}")
    given = {**known, **analysis}
    if given["inconclusive"] not in INCONCLUSIVE:
        raise Refused(
            f"rollout_analysis.inconclusive is {given['inconclusive']!r}; it can be {', '.join(INCONCLUSIVE)}"
        )
    if control["on_drain_timeout"] not in ("fail", "continue", "cut"):
        raise Refused(f"rollout_on_drain_timeout is {control['on_drain_timeout']!r}; it can be fail, continue or cut")
    if control["on_restart"] not in ("reassert", "rollback"):
        raise Refused(f"rollout_on_restart is {control['on_restart']!r}; it can be reassert or rollback")
    if control["guard"] not in GUARDS:
        raise Refused(f"rollout_guard is {control['guard']!r}; it can be {', '.join(GUARDS)}")
    probe = control["probe"] or {}
    if not isinstance(probe, t.Mapping):
        raise Refused(f"rollout_probe must be a map such as {{path: /health}}, not {short(probe)}")
    strange = [name for name in probe if name not in PROBE_OPTIONS]
    if strange:
        raise Refused(f"rollout_probe has {some(strange)}, which it does not know; it knows {', '.join(PROBE_OPTIONS)}")
    strategy = control["strategy"] if isinstance(control["strategy"], t.Mapping) else {}
    return Settings(
        drain_timeout=duration(control["drain_timeout"]),
        on_drain_timeout=control["on_drain_timeout"],
        on_restart=control["on_restart"],
        health_timeout=duration(control["health_timeout"]),
        healthy_deadline=duration(strategy.get("healthy_deadline", control["healthy_deadline"])),
        progress_deadline=duration(strategy.get("progress_deadline", 0)),
        allow_unchecked=bool(control["allow_unchecked"]),
        min_capacity=_percent(control["min_capacity"], "rollout_min_capacity"),
        headroom=_percent(control["headroom"], "rollout_headroom"),
        share_tolerance=_percent(control["share_tolerance"], "rollout_share_tolerance"),
        lb_timeout=max(1.0, duration(control["lb_timeout"])),
        lease=_lease(control["lease_seconds"], "rollout_lease_seconds"),
        deploy_lease=_lease(control["deploy_timeout"], "rollout_deploy_timeout"),
        guard=control["guard"],
        interval=max(0.2, duration(given["interval"])),
        max_error_rate=_percent(given["max_error_rate"], "rollout_analysis.max_error_rate"),
        limits_canary="max_error_rate" in analysis,
        min_requests=_count(given["min_requests"], "rollout_analysis.min_requests"),
        inconclusive=_inconclusive(strategy, given),
        judge=_judge_options(given),
        pause_lease=_pause_lease(control),
        probe=dict(probe),
    )


def _inconclusive(strategy: t.Mapping[str, t.Any], analysis: t.Mapping[str, t.Any]) -> str:
    return str(strategy.get("inconclusive", "hold") if strategy.get("name") == "canary" else analysis["inconclusive"])


def _judge_options(analysis: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """The options of canary_analysis, those that were given and the defaults of the others."""
    options = {**JUDGE, **{name: analysis[name] for name in JUDGE if name in analysis}}
    options.update(further={}, min_requests=_count(analysis["min_requests"], "rollout_analysis.min_requests"))
    # 0: as many polls as the plan has.
    options["horizon"] = _count(options["horizon"], "rollout_analysis.horizon")
    try:
        settings_of({**options, "horizon": options["horizon"] or 2})
    except JudgeError as exc:
        raise Refused(f"rollout_analysis: {exc}") from exc
    return options


def _pause_lease(control: t.Mapping[str, t.Any]) -> float | None:
    """For how long a pause is trusted before the guard returns the traffic; None where it is held for as long as it takes."""
    policy = control["pause_policy"]
    if policy not in PAUSES:
        raise Refused(f"rollout_pause_policy is {policy!r}; it can be {' or '.join(PAUSES)}")
    seconds = _lease(control["pause_timeout"], "rollout_pause_timeout")
    return seconds if policy == "rollback" else None


def ramp_of(strategy: t.Mapping[str, t.Any]) -> Ramp:
    """What the variables of the role canary say. Raises PlanError."""
    seconds = duration(strategy.get("step_for", 300))
    if not seconds:
        raise PlanError("canary_step_for is no time at all, so that nothing would be judged; write a time, such as 5m.")
    return Ramp(
        read_stages(strategy.get("steps", [5, 25, 50])),
        seconds,
        duration(strategy.get("step_max", 1800)),
        strategy.get("batches", "25%"),
        strategy.get("max_unavailable", "25%"),
        duration(strategy.get("min_healthy_time", 10)),
    )


def lock_wait(action: str, control: t.Mapping[str, t.Any]) -> float:
    """Seconds to wait for another rollout to end; a rollback is for the one that is there. Raises PlanError."""
    return duration(control["lock_wait"]) if action == "run" else 0.0


def _lease(value: t.Any, variable: str) -> float:
    seconds = duration(value)
    if _lease_problem(seconds):
        raise Refused(f"{variable}: {_lease_problem(seconds)}")
    return seconds


def _deploy_key(deploy: t.Any) -> str:
    """What releases are remembered under: the release of a kernel is no release of the application."""
    if isinstance(deploy, t.Mapping) and len(deploy) == 1:
        kind, value = next(iter(deploy.items()))
        if kind in ("role", "tasks") and isinstance(value, str) and value:
            return f"{kind}:{value.rsplit('/', 1)[-1] if kind == 'tasks' else value}"
    raise Refused(f"rollout_deploy must be {{role: NAME}} or {{tasks: PATH}}, not {short(deploy)}")


def _names(value: t.Any, variable: str, what: str, may_be_empty: bool = False) -> list[str]:
    names = [value] if isinstance(value, str) and value else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise Refused(f"{variable} must be a list of names, {what}; it is {short(value)}")
    if not names and not may_be_empty:
        raise Refused(f"{variable} is empty; list {what}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refused(f"{variable} lists {some(twice)} more than once")
    return list(names)


def _percent(value: t.Any, variable: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 100:
        raise Refused(f"{variable} must be a number from 0 to 100 (percent), not {short(value)}")
    return number


def _count(value: t.Any, variable: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdigit() or len(text) > 9:
        raise Refused(f"{variable} must be a whole number from 0, not {short(value)}")
    return int(text)


def _difference(name: str, one: t.Any, other: t.Any) -> tuple[str, t.Any, t.Any]:
    """The variable of the user that differs, and its two values."""
    if name == "strategy" and isinstance(one, t.Mapping) and isinstance(other, t.Mapping):
        for key in one:
            if one[key] != other.get(key) and key != "name":
                return f"{one.get('name')}_{key}", one[key], other.get(key)
    return f"rollout_{name}", one, other


def lowered(exc: Exception) -> str:
    return str(exc).rstrip(".")


def short(value: t.Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def some(names: t.Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
