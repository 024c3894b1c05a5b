# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from demo.story import Story


def event(kind: str = "ok", **values: t.Any) -> dict[str, t.Any]:
    return {"event": kind, "task": "Do it", "action": "x.y.z", "host": "web1", "message": "", **values}


def test_only_what_the_rollout_tells_is_told() -> None:
    story = Story()
    assert story.lines(event(message="noise")) == []
    assert story.lines(event("ignored", message="noise")) == []
    assert story.lines(event(action="ansible.builtin.debug", message="12 s of 30 s")) == ["12 s of 30 s"]


def test_a_list_is_told_line_by_line() -> None:
    assert Story().lines(event(action="debug", message=["one", "two"])) == ["one", "two"]


def test_nothing_to_tell_is_no_line() -> None:
    assert Story().lines(event(action="debug", message="")) == []


def test_a_failure_names_its_host_and_all_lines_of_its_message() -> None:
    assert Story().lines(event("failed", message="no answer\nfrom it")) == ["! web1: no answer", "! from it"]
    assert Story().lines(event("unreachable", message="gone")) == ["! web1: gone"]


def test_a_failure_that_repeats_is_told_once() -> None:
    story = Story()
    assert story.lines(event("failed", message="no")) == ["! web1: no"]
    assert story.lines(event("failed", message="no", host="web2")) == []
    assert story.lines(event("failed", message="no", task="Do more")) == ["! web1: no"]


def test_a_failure_of_no_host_is_told() -> None:
    assert Story().lines(event("failed", host="", task="", message="no hosts matched")) == ["! no hosts matched"]


def test_the_end_brings_the_outcome() -> None:
    story = Story()
    assert story.lines({"event": "end", "outcome": "promoted"}) == []
    assert story.outcome == "promoted"
