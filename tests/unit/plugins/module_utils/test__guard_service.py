# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.steady.rollout.plugins.module_utils import _guard_service as service


def test_each_state_directory_has_a_unit_of_its_own() -> None:
    assert service.unit_name("/var/lib/steady-rollout") == "steady-rollout-guard.service"
    assert service.unit_name("/srv/a") != service.unit_name("/srv/b")


def test_a_path_cannot_add_anything_to_the_unit() -> None:
    text = service.unit_text('/srv/a" b%c$d', "/srv/p", "/usr/bin/python3")
    assert 'ExecStart="/usr/bin/python3" -I "/srv/p" "/srv/a\\" b%%c$$d"\n' in text
