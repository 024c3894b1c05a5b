"""The command line of `./test`: which stages to run, how they went, and how long they took."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
import typing as t
from dataclasses import dataclass
from pathlib import Path

from runner import processes
from runner.errors import SetupError
from runner.stages import LONG_FACTOR, STAGES, Options, Run, Stage

USAGE = f"""\
usage: ./test [STAGE ...] [--all] [--] [ARGUMENTS]

Without a stage, all of them run: {", ".join(STAGES)}.
--all takes the long tests in. ARGUMENTS, from the first option or path on, go to the stage's own tool:

  ./test unit -k weights          ./test e2e -x -k NAME          ./test unit tests/unit/test_collection.py
  ./test sanity --test pylint     ./test integration -- TARGET   ./test molecule haproxy nginx

What is missing is installed: system packages by apt-get, Python packages in a cache of virtual environments."""


class UsageError(Exception):
    """The command line asks for something that does not exist; the message says what does."""


@dataclass
class Outcome:
    """How a stage ended."""

    name: str
    seconds: float
    failures: list[str]


def main() -> int:
    """Run the stages that were asked for; 0 when all passed, 1 when one failed, 2 when the request makes no sense."""
    arguments = sys.argv[1:]
    if "-h" in arguments or "--help" in arguments:
        print(USAGE)
        return 0
    try:
        stages, options = parse(arguments, Path.cwd())
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    # A terminated run cleans up like an interrupted one.
    signal.signal(signal.SIGTERM, _interrupt)
    processes.adopt_orphans()
    outcomes: list[Outcome] = []
    try:
        for stage in stages:
            outcomes.append(_run(stage, options))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    finally:
        processes.stop_orphans(keep=())
    return report(outcomes)


def parse(arguments: t.Sequence[str], root: Path) -> tuple[list[Stage], Options]:
    """Split a command line into stages and the arguments of their tools."""
    words = [word for word in arguments if word != "--all"]
    stages: list[Stage] = []
    while words and words[0] in STAGES:
        stages.append(STAGES[words.pop(0)])
    rest = words[1:] if words[:1] == ["--"] else words
    if words and not _is_argument(words[0], stages, root):
        raise UsageError(f"There is no stage {words[0]!r}. The stages are: {', '.join(STAGES)}.")
    if rest and not stages:
        raise UsageError(f"Name the stage that {' '.join(rest)!r} is for, such as: ./test unit {' '.join(rest)}")
    if rest and any(not stage.takes_arguments for stage in stages):
        raise UsageError(f"lint takes no arguments, but was given {' '.join(rest)!r}.")
    return stages or list(STAGES.values()), Options(root, "--all" in arguments, rest)


def _is_argument(word: str, stages: t.Sequence[Stage], root: Path) -> bool:
    """Whether a word is for a stage's tool: an option, a path, or a name that every stage knows."""
    if word.startswith("-") or (root / word.partition("::")[0]).exists():
        return True
    return bool(stages) and all(word in stage.names(root) for stage in stages)


def report(outcomes: t.Sequence[Outcome]) -> int:
    """Print the table of what passed and failed; return the exit code."""
    print("\n== summary")
    for outcome in outcomes:
        print(f"{outcome.name:<12} {'FAILED' if outcome.failures else 'passed'}  {outcome.seconds:7.1f} s")
        for failure in outcome.failures:
            print(f"             {failure}")
    failed = sum(1 for outcome in outcomes if outcome.failures)
    print(f"stages: {len(outcomes) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def _run(stage: Stage, options: Options) -> Outcome:
    print(f"\n== {stage.name}", flush=True)
    start = time.monotonic()
    # Short: the paths of Unix sockets below it may hold 107 bytes.
    workspace = Path(tempfile.mkdtemp(prefix="steady-"))
    # Workers of a load balancer that root started are another user: they come to their files, and see no list of others'.
    workspace.chmod(0o711)
    limit = stage.limit * (LONG_FACTOR if options.long else 1)
    run = Run(options, workspace, processes.Deadline(limit))
    try:
        stage.work(run)
    except (SetupError, processes.TimedOut) as error:
        run.failures.append(str(error))
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    seconds = time.monotonic() - start
    print(f"== {stage.name} {'FAILED' if run.failures else 'passed'} in {seconds:.1f} s", flush=True)
    return Outcome(stage.name, seconds, run.failures)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
