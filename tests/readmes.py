# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of the READMEs, each with its place, so that tests can execute them as they stand.

    example_of("roles/rolling/README.md", "inventory").text

A test that executes an example gets it by `example_of`, with its path and kind written out. Nothing else need be done for a new
example: tests/unit/test_readmes.py fails as long as there is one that no test gets.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import typing as t

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
FENCE = re.compile(r" {0,3}(`{3,}|~{3,}) *([\w-]*)")
INDENTED = re.compile(r" {4,}\S")
GOES_ON = re.compile(r" {5,}\S")
SHELL = ("sh", "bash", "shell", "console")
YAML = ("", "yaml", "yml")
# The word after << of a here-document.
HERE_DOCUMENT = re.compile(r"<<-?\s*['\"]?(\w+)")


@dataclasses.dataclass(frozen=True)
class Example:
    """An example of a README. `kind` is commands, inventory, play, tasks or variables, or a language that is none of these."""

    path: str  # of the README, from the project's root
    line: int  # on which its text begins
    kind: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def readmes() -> list[str]:
    """The README of the project and those of its roles, from the project's root."""
    return [str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *sorted(ROOT.glob("roles/*/README.md"))]]


def example_of(path: str, kind: str, number: int = 0) -> Example:
    """An example of a README; `number` counts those of its kind. Raises LookupError."""
    found = [one for one in examples_in(path, (ROOT / path).read_text(encoding="utf-8")) if one.kind == kind]
    if number >= len(found):
        raise LookupError(f"{path} has {len(found)} examples of the kind {kind}, and number {number} is asked for")
    return found[number]


def examples_in(path: str, markdown: str) -> list[Example]:
    """All examples of a README, in their order.

    A fenced block is one. Of an indented block each paragraph is one, with what follows it indented further.
    """
    found = []
    for line, language, text in _blocks(markdown.splitlines()):
        kind = "commands" if language in SHELL else _kind(text) if language in YAML else language
        found.append(Example(path, line, kind, text))
    return found


def commands(text: str) -> list[str]:
    """The commands of a shell's text, each with the lines that go on with it and its here-document."""
    found: list[str] = []
    end, goes_on = "", False
    for line in text.splitlines():
        if end or goes_on:
            found[-1] += f"\n{line}"
        elif line.strip() and not line.startswith("#"):
            found.append(line)
        else:
            continue
        if end:
            end = "" if line == end else end
        else:
            here = HERE_DOCUMENT.search(line)
            end, goes_on = here[1] if here else "", line.endswith("\\")
    return found


def _blocks(lines: t.Sequence[str]) -> t.Iterator[tuple[int, str, str]]:
    """(number of the first line, language, text) of each block."""
    at = 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        if fence:
            end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == fence[1]), len(lines))
            yield at + 2, fence[2], _text(lines[at + 1 : end])
            at = end + 1
        elif INDENTED.match(lines[at]) and not (at and lines[at - 1].strip()):
            end = _end_of_paragraph(lines, at)
            yield at + 1, "", _text([line[4:] for line in lines[at:end]])
            at = end
        else:
            at += 1


def _end_of_paragraph(lines: t.Sequence[str], at: int) -> int:
    """Where an indented paragraph ends, with further ones that belong to it."""
    while at < len(lines) and INDENTED.match(lines[at]):
        at += 1
    following = next((n for n in range(at, len(lines)) if lines[n].strip()), len(lines))
    if following < len(lines) and GOES_ON.match(lines[following]):
        return _end_of_paragraph(lines, following)
    return at


def _text(lines: t.Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _kind(text: str) -> str:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return "commands"
    if isinstance(value, list):
        return "play" if any("hosts" in item for item in value if isinstance(item, dict)) else "tasks"
    if isinstance(value, dict):
        return "inventory" if any(_is_group(item) for item in value.values()) else "variables"
    return "commands"


def _is_group(value: t.Any) -> bool:
    return isinstance(value, dict) and not value.keys().isdisjoint(("hosts", "children"))
