# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`./demo` as a person runs it: what it says in the end, its exit code, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import typing as t
import uuid

import pytest

from local_fleet.polling import poll
from local_fleet.supervisor import is_running

pytestmark = pytest.mark.alone

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 300.0  # after the set-up
LONG_SECONDS = 480.0
SET_UP_SECONDS = 100.0
END_SECONDS = 30.0
SUMMARY = re.compile(r"^requests: (\d+) sent, (\d+) lost, (\d+) harmed$")


class Demo:
    """A run of ./demo; all that it starts carries a mark in its environment."""

    def __init__(self, folder: pathlib.Path, *arguments: str) -> None:
        self._mark = f"STEADY_DEMO={uuid.uuid4()}"
        self._folder = folder
        self._output = folder / "output"
        # Sockets want short paths.
        self.temporary = pathlib.Path(tempfile.mkdtemp(prefix="d"))
        name, value = self._mark.split("=")
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [ROOT / "demo", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self.temporary), name: value},
            )

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until it has said something."""

        def said() -> bool:
            assert text in self.output or self.process.poll() is None, self.output
            return text in self.output

        poll(said, f"the demo says {text!r}", seconds)

    def end(self, seconds: float) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the demo did not end in {seconds:g} s:\n{self.output}") from None

    def running(self) -> dict[int, str]:
        """{pid: command} of all that it started and that still runs."""
        return _processes(self._mark.encode())

    def left(self) -> list[str]:
        """What still runs of all that it started, and the files it left."""
        return [*self.running().values(), *map(str, self.temporary.iterdir())]

    def clean_up(self) -> None:
        """For a test that failed."""
        for pid in self.running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


def _processes(mark: bytes) -> dict[int, str]:
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if is_running(int(entry.name)):
                    found[int(entry.name)] = command
    return found


@pytest.fixture
def start_demo(tmp_path: pathlib.Path) -> t.Iterator[t.Callable[..., Demo]]:
    """Start a demo; whatever is left of it at the end of the test is stopped."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> Demo:
            demo = Demo(tmp_path, *arguments)
            stack.callback(demo.clean_up)
            return demo

        yield start


PROMOTED, ROLLED_BACK = "release 2.0.0: promoted", "release 2.1.0: rolled back"


@pytest.mark.parametrize(
    ("arguments", "releases"),
    [
        (["--bad"], [ROLLED_BACK]),
        pytest.param([], [PROMOTED, ROLLED_BACK], marks=pytest.mark.long),
        pytest.param(["--strategy", "blue_green"], [PROMOTED], marks=pytest.mark.long),
        pytest.param(["--strategy", "rolling"], [PROMOTED], marks=pytest.mark.long),
        pytest.param(["--strategy", "rolling", "--bad"], [ROLLED_BACK], marks=pytest.mark.long),
    ],
)
def test_releases_lose_no_request_and_end_as_they_should(
    start_demo: t.Callable[..., Demo], arguments: list[str], releases: list[str]
) -> None:
    demo = start_demo(*arguments)
    demo.wait_for("the fleet runs", SET_UP_SECONDS)
    assert demo.end(LONG_SECONDS if not arguments else SECONDS) == 0, demo.output
    *told, summary = demo.output.splitlines()[-len(releases) - 1 :]
    assert told == releases, demo.output
    found = SUMMARY.match(summary)
    assert found is not None, demo.output
    sent, lost, harmed = map(int, found.groups())
    assert sent > 1000
    assert lost == 0, demo.output
    assert bool(harmed) == (ROLLED_BACK in releases), demo.output
    assert demo.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_ends_it_and_nothing_is_left(start_demo: t.Callable[..., Demo], number: signal.Signals) -> None:
    demo = start_demo("--strategy", "rolling")
    demo.wait_for("Step 2 of", SET_UP_SECONDS)
    demo.process.send_signal(number)
    assert demo.end(END_SECONDS) == 130, demo.output
    assert "interrupted" in demo.output
    assert demo.left() == []


@pytest.mark.long
def test_no_process_is_left_even_when_it_is_killed(start_demo: t.Callable[..., Demo]) -> None:
    demo = start_demo("--strategy", "rolling")
    demo.wait_for("in rotation]", SET_UP_SECONDS)
    demo.process.kill()
    poll(lambda: not demo.running(), "all its processes end", END_SECONDS)


@pytest.mark.long
@pytest.mark.parametrize("fault", ["crash", "slow", "unhealthy", "late"])
def test_a_release_that_is_broken_in_another_way_is_taken_back(start_demo: t.Callable[..., Demo], fault: str) -> None:
    demo = start_demo("--bad", "--fault", fault)
    demo.wait_for("the fleet runs", SET_UP_SECONDS)
    assert demo.end(LONG_SECONDS) == 0, demo.output
    *_before, harm, release, summary = demo.output.splitlines()
    assert release == ROLLED_BACK, demo.output
    found = SUMMARY.match(summary)
    assert found is not None, demo.output
    assert int(found[2]) == 0, demo.output
    # A slow answer is a good one to the load, as long as it is not too slow.
    assert harm.startswith("release 2.1.0 harmed no request") == (fault in ("slow", "unhealthy")), demo.output
