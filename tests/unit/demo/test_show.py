# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest

from demo.cli import parse
from demo.show import verdict

GOOD, BAD = parse([])


def test_the_last_lines_name_each_release_and_its_outcome() -> None:
    lines, code = verdict([GOOD, BAD], ["promoted", "rolled_back"], 0)
    assert lines == ["release 2.0.0: promoted", "release 2.1.0: rolled back"]
    assert code == 0


@pytest.mark.parametrize(
    ("outcomes", "lost"),
    [
        (["promoted", "rolled_back"], 1),
        (["rolled_back", "rolled_back"], 0),
        (["promoted", "promoted"], 0),
        (["promoted", "rollback_failed"], 0),
        (["promoted", None], 0),
        (["promoted"], 0),
        ([], 0),
    ],
)
def test_what_should_not_be_makes_the_demo_fail(outcomes: list[str | None], lost: int) -> None:
    assert verdict([GOOD, BAD], outcomes, lost)[1] == 1
