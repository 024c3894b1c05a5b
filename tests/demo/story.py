# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of Ansible says, as lines for a person. Pure."""

from __future__ import annotations

import typing as t

SPEAKING = ("ansible.builtin.debug", "debug")


class Story:
    """Takes the events of `callback_plugins/events.py` one by one; keeps the outcome and the causes of failures."""

    def __init__(self) -> None:
        self.outcome: str | None = None
        self._last_task = ""
        self._said: set[tuple[str, str]] = set()

    def lines(self, event: t.Mapping[str, t.Any]) -> list[str]:
        """The lines that an event is worth; none when it says nothing new."""
        if event["event"] == "end":
            self.outcome = event["outcome"]
            return []
        if event["event"] in ("failed", "unreachable"):
            return self._once(event, f"{event['host']}: {_text(event['message'])}".removeprefix(": "), "! ")
        lines = []
        if event["task"] != self._last_task:
            self._last_task = event["task"]
            lines.append(f"  {_task(event['task'])}")
        text = event["line"] or (event["message"] if event["action"] in SPEAKING else "")
        return lines + (self._once(event, _text(text), "> ") if text else [])

    def _once(self, event: t.Mapping[str, t.Any], text: str, mark: str) -> list[str]:
        """What several hosts say alike is told once."""
        key = (event["task"], text)
        if key in self._said:
            return []
        self._said.add(key)
        return [f"{mark}{line}" for line in text.splitlines()]


def _text(message: t.Any) -> str:
    return "\n".join(map(str, message)) if isinstance(message, list) else str(message)


def _task(name: str) -> str:
    """The task's name without the role's."""
    return name.rpartition(" : ")[2]
