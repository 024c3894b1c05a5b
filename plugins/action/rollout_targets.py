# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks all that can be checked before a load balancer is asked; tells which ones to ask."""

from __future__ import annotations

import os
import typing as t

from ansible import context
from ansible.errors import AnsibleError
from ansible.playbook.role.definition import RoleDefinition
from ansible.utils.vars import load_extra_vars
from ansible_collections.steady.rollout.plugins.module_utils import _targets
from ansible_collections.steady.rollout.plugins.module_utils._executor import how_to_reach
from ansible_collections.steady.rollout.plugins.module_utils._targets import Play, Refused
from ansible_collections.steady.rollout.plugins.plugin_utils._rollout_action import RolloutAction

READ_SECONDS = 30  # that a load balancer may take to be read
REACH = {
    "provider": ("rollout_provider", "haproxy"),
    "socket": ("rollout_haproxy_socket", "/run/haproxy/admin.sock"),
    "config": ("rollout_nginx_config", "/etc/nginx/nginx.conf"),
    "state_dir": ("rollout_state_dir", "/var/lib/steady-rollout"),
}
# The same for a load balancer whose reload-free driver is used.
LUA_SOCKET = ("rollout_nginx_socket", "/run/steady-rollout-nginx/api.sock")


class ActionModule(RolloutAction):
    def decide(self, options: dict[str, t.Any], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        try:
            return self._targets(task_vars)
        except Refused as exc:
            return {"refused": str(exc), "lbs": [], "targets": None}

    def _targets(self, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        play = self._play(task_vars)
        hostvars = task_vars["hostvars"]
        told = {host: hostvars[host].get("__rollout_host") or {} for host in play.batch}
        self._refuse_unheard(play, told)
        answered = {host: given for host, given in told.items() if "control" in given}
        if not answered:
            raise Refused("no host of the play told its variables")
        control = _targets.control_of({host: given["control"] for host, given in answered.items()})
        control["limit"] = play.limit
        # A host that does not answer still has its place on the load balancers, by what the inventory says of it.
        own = {
            host: {
                **(given.get("own") or self._from_inventory(hostvars[host])),
                "host": hostvars[host].get("ansible_host"),
            }
            for host, given in told.items()
        }
        names = control["load_balancers"] if isinstance(control["load_balancers"], (list, tuple)) else []
        reach = {str(name): self._reach(hostvars, str(name), task_vars) for name in names if name in hostvars}
        targets = _targets.make_targets(play, control, own, reach)
        rolls = targets.action in (*_targets.ROLLS_OUT, "rollback")
        wait = _targets.lock_wait(targets.action, control)
        deploy, tasks_file = self._find_deploy(control["deploy"], task_vars) if rolls else (None, None)
        return {
            "targets": targets.as_dict(),
            "lbs": [
                {
                    **how_to_reach(lb),
                    "backends": list(targets.backends),
                    "await_free": wait,
                    "timeout": int(wait + READ_SECONDS),
                }
                for lb in targets.lbs
            ],
            "deploy_role": deploy,
            "deploy_tasks": tasks_file,
        }

    def _refuse_unheard(self, play: Play, told: dict[str, t.Any]) -> None:
        """A host that answers, but could not say what it is given, would fail in the middle."""
        for host, given in told.items():
            if host in play.alive and given.get("failed"):
                raise Refused(f"{host} could not be asked: {given.get('msg') or 'it failed without a message'}")

    def _play(self, task_vars: dict[str, t.Any]) -> Play:
        play = self._play_of_task()
        return Play(
            hosts=tuple(task_vars["ansible_play_hosts_all"]),
            alive=tuple(task_vars["ansible_play_hosts"]),
            batch=tuple(dict.fromkeys([*task_vars["ansible_play_batch"], *self._lost(task_vars)])),
            strategy=str(play.strategy if play else "linear").rpartition(".")[2],
            # As this task has them, so what roles and blocks around it set counts too.
            inherited=tuple(
                name
                for name in ("any_errors_fatal", "ignore_errors", "ignore_unreachable")
                if getattr(self._task, name, None) is True
            ),
            limit=context.CLIARGS.get("subset") or None,
            extra_vars=frozenset(load_extra_vars(self._loader)),
            inventory=frozenset(task_vars["hostvars"]),
            check_mode=self._task.check_mode,
        )

    def _lost(self, task_vars: dict[str, t.Any]) -> list[str]:
        """Hosts that left the play are in no batch any more; that is no serial."""
        play = self._play_of_task()
        return [] if play is not None and play.serial else list(task_vars["ansible_play_hosts_all"])

    def _play_of_task(self) -> t.Any:
        # Neither the strategy nor any_errors_fatal of the play is told to tasks in any other way.
        parent: t.Any = self._task
        while parent is not None:
            if getattr(parent, "_play", None) is not None:
                return parent._play
            parent = getattr(parent, "_parent", None)
        return None

    def _from_inventory(self, variables: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
        names = ("server", "address", "port", "track", "tracks", "previous")
        return {name: variables.get(f"rollout_{name}") for name in names}

    def _reach(self, hostvars: t.Any, name: str, task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """The load balancer's own variables first, then the fleet's."""
        found = {}
        for key, (variable, default) in REACH.items():
            found[key] = self._own_or_fleet(hostvars[name], task_vars, variable, default)
        if found["provider"] == "nginx_lua":
            found["socket"] = self._own_or_fleet(hostvars[name], task_vars, *LUA_SOCKET)
        return found

    def _own_or_fleet(self, own: t.Any, task_vars: dict[str, t.Any], variable: str, default: str) -> t.Any:
        fleet = self._templar.template(task_vars[variable]) if variable in task_vars else None
        return own.get(variable) or fleet or default

    def _find_deploy(self, deploy: dict[str, t.Any], task_vars: dict[str, t.Any]) -> tuple[str | None, str | None]:
        """The role, or the absolute path of the tasks file; refused when it is not there."""
        if "role" in deploy:
            try:
                definition = RoleDefinition(play=self._play_of_task(), loader=self._loader)
                definition._ds = deploy["role"]  # what its error points at
                definition._load_role_path(deploy["role"])
            except AnsibleError as exc:
                raise Refused(
                    f"rollout_deploy names the role {deploy['role']}, which cannot be found; install it, or give its full name "
                    "NAMESPACE.COLLECTION.ROLE"
                ) from exc
            return str(deploy["role"]), None
        folder = task_vars.get("inventory_dir") or os.getcwd()
        path = os.path.normpath(os.path.join(str(folder), os.path.expanduser(str(deploy["tasks"]))))
        if not os.path.isfile(path):
            raise Refused(f"rollout_deploy names the tasks file {path}, which does not exist")
        return None, path
