# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the options in module_utils/_nginx_module.py."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  config:
    description:
      - The configuration that the running NGINX was started with.
    type: path
    default: /etc/nginx/nginx.conf
  timeout:
    description:
      - Seconds in which new workers must have started after a reload.
    type: float
    default: 30.0
requirements:
  - NGINX 1.18 or newer
  - Python 3.9 or newer on the host of NGINX
"""
