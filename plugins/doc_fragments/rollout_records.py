# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options in module_utils/_rollout_module.py."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  provider:
    description:
      - What the load balancer runs.
    type: str
    choices: [haproxy, nginx, nginx_lua]
    default: haproxy
  config:
    description:
      - With NGINX, the configuration that it was started with.
    type: path
    default: /etc/nginx/nginx.conf
  backends:
    description:
      - The backends of the rollout.
    type: list
    elements: str
    required: true
  state_dir:
    description:
      - Where rollouts keep their records on this host, a folder for each backend. Folders are made with mode 0700 where they are missing.
      - It must belong to root or to the user of the task, nobody else may write there, and no part of the path may be a symbolic link.
    type: path
    default: /var/lib/steady-rollout
"""
