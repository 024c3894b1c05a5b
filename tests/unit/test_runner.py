"""`./test` itself: how it reads its command line, and that nothing it runs outlives it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local_fleet.polling import poll
from runner import cli, molecule, processes

ROOT = Path(__file__).resolve().parents[2]
ALL = ["lint", "sanity", "unit", "integration", "e2e", "faults", "molecule", "benchmarks"]


def names(arguments: list[str]) -> list[str]:
    stages, _options = cli.parse(arguments, ROOT)
    return [stage.name for stage in stages]


def test_unknown_stage_is_refused_with_the_known_ones() -> None:
    answer = subprocess.run([ROOT / "test", "nonsense"], capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "'nonsense'" in answer.stderr
    assert ", ".join(ALL) in answer.stderr


def test_no_argument_means_all_stages() -> None:
    assert names([]) == ALL


def test_all_alone_means_all_stages_and_their_long_tests() -> None:
    stages, options = cli.parse(["--all"], ROOT)
    assert [stage.name for stage in stages] == ALL
    assert options.long


def test_stages_run_in_the_order_given() -> None:
    assert names(["unit", "lint"]) == ["unit", "lint"]


@pytest.mark.parametrize(
    ("arguments", "passed_on"),
    [
        (["unit", "-k", "weights"], ["-k", "weights"]),
        (["unit", "--all", "-x"], ["-x"]),
        (["unit", "tests/unit/test_runner.py::test_x", "-q"], ["tests/unit/test_runner.py::test_x", "-q"]),
        (["integration", "--", "target"], ["target"]),
        (["molecule", "haproxy", "nginx", "-k", "unit"], ["haproxy", "nginx", "-k", "unit"]),
        (["unit"], []),
    ],
)
def test_the_rest_goes_to_the_stage(arguments: list[str], passed_on: list[str]) -> None:
    _stages, options = cli.parse(arguments, ROOT)
    assert options.arguments == passed_on


@pytest.mark.parametrize("arguments", [["-k", "weights"], ["lint", "-x"], ["unit", "e2ee"], ["unit", "haproxy"]])
def test_request_without_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(cli.UsageError):
        cli.parse(arguments, ROOT)


@pytest.mark.parametrize(
    ("words", "long", "pairs", "rest"),
    [
        ([], False, list(molecule.ON.items()), []),
        (["nginx", "-k", "unit"], False, [("nginx", "forky")], ["-k", "unit"]),
        (["nginx"], True, [("nginx", release) for release in molecule.RELEASES], []),
    ],
)
def test_scenarios_run_on_what_the_command_line_has_time_for(
    words: list[str], long: bool, pairs: list[tuple[str, str]], rest: list[str]
) -> None:
    assert molecule.chosen(ROOT, words, long) == (pairs, rest)


def test_all_scenarios_run_with_all() -> None:
    pairs, _rest = molecule.chosen(ROOT, [], long=True)
    assert {name for name, _release in pairs} == set(molecule.scenarios(ROOT)) >= set(molecule.ON)


def test_one_failed_stage_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [cli.Outcome("lint", 1.0, []), cli.Outcome("unit", 2.0, ["pytest: exit code 1"])]
    assert cli.report(outcomes) == 1
    assert "stages: 1 passed, 1 failed" in capsys.readouterr().out


def test_command_is_stopped_with_its_children_at_the_deadline(tmp_path: Path) -> None:
    command = ["bash", "-c", "sleep 600 & echo $! > child; wait"]
    with pytest.raises(processes.TimedOut):
        processes.run(command, env=os.environ, cwd=tmp_path, deadline=processes.Deadline(0.5))
    child = int((tmp_path / "child").read_text())
    assert ended(child)


def test_daemon_left_behind_is_stopped_and_named(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from runner import processes
processes.ORPHAN_GRACE = 0.1
processes.adopt_orphans()
leave = ["bash", "-c", "setsid sleep 600 & echo $! > child"]
processes.run(leave, env=os.environ, cwd=Path.cwd(), deadline=processes.Deadline(10))
print(processes.stop_orphans(keep=()))
"""
    command = [sys.executable, "-c", script]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    answer = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    child = int((tmp_path / "child").read_text())
    assert answer.stdout.strip() == f"['sleep (pid {child})']"
    assert ended(child)


def ended(pid: int) -> bool:
    """Whether a process is gone or a zombie, within five seconds."""

    def now() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
        except OSError:
            return True

    return poll(now, f"process {pid} has ended", 5)
