# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of all scenarios have."""

from __future__ import annotations

import typing as t

import pytest

from molecule_fleet import Machines


@pytest.fixture
def machines() -> t.Iterator[Machines]:
    """The scenario's machines, and port 80 of its load balancers."""
    fleet = Machines()
    yield fleet
    fleet.stop()
