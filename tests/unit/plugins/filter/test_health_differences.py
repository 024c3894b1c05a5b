# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.steady.rollout.plugins.filter.health_differences import FilterModule

health_differences = FilterModule().filters()["health_differences"]


def test_differences_are_returned() -> None:
    assert health_differences([{"name": "web1", "health": "up"}], []) == [{"name": "web1", "probe": "up", "lb": None}]


def test_wrong_input_is_told_with_the_name_of_the_filter() -> None:
    with pytest.raises(AnsibleFilterError, match=r"steady\.rollout\.health_differences: The servers"):
        health_differences([], "web1")
