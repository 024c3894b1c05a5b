"""dockerd, started in the background when a run needs it and nothing else has started it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
import typing as t
from pathlib import Path

from runner import environments, processes, system
from runner.errors import SetupError

START_TIMEOUT = 60
POLL_INTERVAL = 0.5
CONTAINERD_PID = Path("/run/docker/containerd/containerd.pid")


@contextlib.contextmanager
def running() -> t.Iterator[int | None]:
    """Docker that answers; yields the process id of our dockerd, None when it was running already."""
    system.need(["docker", "dockerd"])
    cache = environments.cache_dir()
    with contextlib.ExitStack() as stack:
        # Runs side by side share the dockerd that one of them started; that one stops it when the last is done.
        with environments.locked(cache / "docker.lock"):
            daemon = None if _answers() else _start()
            users = stack.enter_context((cache / "docker.users").open("a"))
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield None if daemon is None else daemon.pid
        finally:
            if daemon is not None:
                with environments.locked(cache / "docker.lock"):
                    fcntl.flock(users, fcntl.LOCK_EX)
                    processes.stop_group(daemon)


def _answers() -> bool:
    command = ["docker", "info"]
    try:
        return subprocess.run(command, env=_env(), capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _start() -> subprocess.Popen[bytes]:
    if os.geteuid() != 0:
        raise SetupError("Docker does not answer this user: start dockerd and join its group, or run ./test as root.")
    print("   starting dockerd", flush=True)
    _forget_dead(CONTAINERD_PID, "containerd")
    log = environments.cache_dir() / "dockerd.log"
    with log.open("w") as output:
        daemon = subprocess.Popen(
            ["dockerd"], env=_env(), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end and daemon.poll() is None:
        if _answers():
            return daemon
        time.sleep(POLL_INTERVAL)
    processes.stop_group(daemon)
    last_line = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
    raise SetupError(f"dockerd did not answer within {START_TIMEOUT} s; its last words were: {last_line}")


def _forget_dead(pid_file: Path, program: str) -> None:
    """Remove the pid file of a program that was killed: its number may be another's now, and dockerd would wait for it."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    try:
        alive = os.readlink(f"/proc/{pid}/exe").endswith(f"/{program}")
    except OSError:
        alive = False
    if not alive:
        pid_file.unlink(missing_ok=True)


def _env() -> dict[str, str]:
    return {**os.environ, "PATH": system.search_path()}
