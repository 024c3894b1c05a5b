# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of Ansible says, as lines for a person. Pure."""

from __future__ import annotations

import typing as t

SPEAKING = ("ansible.builtin.debug", "debug")


class Story:
    """Takes the events of `callback_plugins/events.py` one by one, and keeps the outcome."""

    def __init__(self) -> None:
        self.outcome: str | None = None
        self._failures: set[tuple[str, str]] = set()

    def lines(self, event: t.Mapping[str, t.Any]) -> list[str]:
        """The lines that an event is worth: what the rollout tells, and failures; none for all else."""
        if event["event"] == "end":
            self.outcome = event["outcome"]
            return []
        text = _text(event["message"])
        if event["event"] in ("failed", "unreachable"):
            return self._failure(event, text)
        return text.splitlines() if event["action"] in SPEAKING else []

    def _failure(self, event: t.Mapping[str, t.Any], text: str) -> list[str]:
        """What several hosts say alike is told once."""
        key = (event["task"], text)
        if key in self._failures:
            return []
        self._failures.add(key)
        host = f"{event['host']}: " if event["host"] else ""
        return [f"! {line}" for line in f"{host}{text}".splitlines()]


def _text(message: t.Any) -> str:
    return "\n".join(map(str, message)) if isinstance(message, list) else str(message)
