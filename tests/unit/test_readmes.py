# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Examples of the READMEs are found, whatever they are, and none is without a test that executes it."""

from __future__ import annotations

import ast
import typing as t

import pytest

from readmes import ROOT, Example, commands, example_of, examples_in, readmes


def found(markdown: str) -> list[tuple[int, str, str]]:
    """(line, kind, text) of each example."""
    return [(one.line, one.kind, one.text) for one in examples_in("README.md", markdown)]


def test_a_fenced_block_is_one_example_with_its_blank_lines() -> None:
    text = "- hosts: web\n\n- hosts: lb\n"
    assert found(f"Text\n\n```yaml\n{text}```\n\nmore\n") == [(4, "play", text)]


def test_a_fence_that_is_not_closed_goes_to_the_end() -> None:
    assert found("```sh\n./demo\n") == [(2, "commands", "./demo\n")]


def test_paragraphs_of_an_indented_block_are_examples() -> None:
    markdown = (
        "Text\n\n    web:\n      hosts: {web1: }\n\n    ansible-playbook -i inventory.yml x  # a comment\n    ./demo\n"
    )
    assert found(markdown) == [
        (3, "inventory", "web:\n  hosts: {web1: }\n"),
        (6, "commands", "ansible-playbook -i inventory.yml x  # a comment\n./demo\n"),
    ]


def test_what_is_indented_further_belongs_to_the_paragraph_before() -> None:
    assert found("    - hosts: web\n\n      tasks: []\n") == [(1, "play", "- hosts: web\n\n  tasks: []\n")]


def test_lines_of_a_list_that_are_indented_are_no_examples() -> None:
    assert found("- one\n    and on\n1. two\n   and on\n") == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ansible-playbook -i inventory.yml steady.rollout.canary", "commands"),
        ("a: {hosts: {}}", "inventory"),
        ("a: {children: {}}", "inventory"),
        ("- hosts: web", "play"),
        ("- name: Do it", "tasks"),
        ("rollout_tracks: {blue: {}}", "variables"),
    ],
)
def test_the_kind_of_an_example_is_seen_by_what_it_holds(text: str, kind: str) -> None:
    assert found(f"    {text}\n") == [(1, kind, f"{text}\n")]


def test_another_language_is_a_kind_of_its_own() -> None:
    assert found("```json\n{}\n```\n") == [(2, "json", "{}\n")]


def test_commands_keep_their_here_documents_and_further_lines() -> None:
    here = "cat > file <<'END'\na # b\n\n# c\nEND"
    assert commands(f"# how\n{here}\n\n./demo \\\n  --bad\n./test\n") == [here, "./demo \\\n  --bad", "./test"]


def test_an_example_that_is_not_there_is_told() -> None:
    with pytest.raises(LookupError, match=r"README\.md has 0 examples of the kind nonsense"):
        example_of("README.md", "nonsense")


# --- The READMEs as they are


def all_examples() -> dict[tuple[str, str, int], Example]:
    """Every example of every README, by what `example_of` gets it with."""
    named: dict[tuple[str, str, int], Example] = {}
    for path in readmes():
        for one in examples_in(path, (ROOT / path).read_text(encoding="utf-8")):
            number = sum(name[:2] == (path, one.kind) for name in named)
            named[path, one.kind, number] = one
    return named


def claimed(source: str) -> set[tuple[t.Any, ...]]:
    """The arguments of each call of `example_of` in a test's source."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    mine = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "example_of"]
    given = [[argument.value for argument in call.args if isinstance(argument, ast.Constant)] for call in mine]
    return {(*arguments, 0)[:3] for arguments in given}


def test_a_claim_is_seen_in_the_source_of_a_test() -> None:
    source = 'example_of("README.md", "play", 1)\nx = example_of("README.md", "play").text\nexamples_in("a", "b")\n'
    assert claimed(source) == {("README.md", "play", 1), ("README.md", "play", 0)}


def test_every_example_is_executed_by_a_test() -> None:
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "e2e").glob("test_*.py")]
    claims = set().union(*map(claimed, tests))
    examples = all_examples()
    unclaimed = [f"{examples[name].place} ({name[1]})" for name in examples if name not in claims]
    assert not unclaimed, f"no test in tests/e2e gets by readmes.example_of: {', '.join(unclaimed)}"
    assert claims <= examples.keys()
