"""What each stage of `./test` does."""

from __future__ import annotations

import contextlib
import os
import re
import typing as t
from dataclasses import dataclass, field
from pathlib import Path

from runner import ansible_test, collection, docker, environments, molecule, processes, pythons, system
from runner.errors import SetupError

PYTEST_FOUND_NO_TEST = 5
HOST_PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
SHELL_SHEBANG = re.compile(rb"#!\s*\S*/(env )?(ba|da)?sh\b")
CONTAINERS_MARK = re.compile(r"\bmark\.containers\b")


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line."""

    root: Path
    long: bool
    arguments: list[str]


@dataclass
class Run:
    """One stage under way: its private folder, its deadline, and what has failed so far."""

    options: Options
    workspace: Path
    deadline: processes.Deadline
    failures: list[str] = field(default_factory=list)
    keep: set[int] = field(default_factory=set)

    @property
    def root(self) -> Path:
        return self.options.root

    def check(
        self,
        title: str,
        command: t.Sequence[str | Path],
        env: t.Mapping[str, str],
        cwd: Path | None = None,
        accept: t.Collection[int] = (0,),
    ) -> int:
        """Run one command of the stage and keep its failure; return its exit code."""
        print(f"-- {title}", flush=True)
        code = processes.run(command, env=env, cwd=cwd or self.root, deadline=self.deadline)
        if code not in accept:
            self.failures.append(f"{title}: exit code {code}")
        left = processes.stop_orphans(self.keep)
        if left:
            self.failures.append(f"{title}: left running and now stopped: {', '.join(left)}")
        return code

    def notice(self, text: str) -> None:
        """Say what could not be tested here; where everything must be tested, that is a failure."""
        print(f"   {text}", flush=True)
        if os.environ.get("CI") == "true":
            self.failures.append(text)

    def main_environment(self) -> environments.Environment:
        """The newest ansible-core that this machine's Pythons can run."""
        newest = environments.open_environment(self.root, "core221")
        if newest is not None:
            return newest
        self.notice("No Python 3.12, 3.13 or 3.14 is here for ansible-core 2.21; 2.19 stands in for it.")
        stand_in = environments.open_environment(self.root, "core219")
        if stand_in is None:
            raise SetupError("No Python 3.11 or later is here: install one and its venv package.")
        return stand_in

    def oldest_environment(self) -> environments.Environment | None:
        """The oldest supported ansible-core, if this machine has a Python for it."""
        oldest = environments.open_environment(self.root, "core217")
        if oldest is None:
            self.notice("No Python 3.10, 3.11 or 3.12 is here for ansible-core 2.17; it is not tested.")
        return oldest

    def cores(self) -> list[environments.Environment]:
        """The environments of the newest and the oldest supported ansible-core."""
        return [core for core in (self.main_environment(), self.oldest_environment()) if core is not None]

    def env(self, environment: environments.Environment, *collections: Path) -> dict[str, str]:
        """Environment variables for a program of a virtual environment; nothing of the user's own set-up leaks in."""
        return environments.variables(environment, self.workspace, *collections)


# ---------------------------------------------------------------------------------------------------------------------
# lint


def lint(run: Run) -> None:
    """Style, types and metadata."""
    system.need(["git", "shellcheck"])
    main = run.main_environment()
    tree = collection.copied_tree(run.root, run.workspace / "lint")
    copy = tree / collection.NAME
    env = run.env(main, tree)
    cache = environments.cache_dir()
    ruff: list[str | Path] = [main.program("ruff"), "--quiet"]
    mypy: list[str | Path] = [
        main.program("mypy"),
        "--cache-dir",
        cache / "mypy",
        "--config-file",
        copy / "pyproject.toml",
    ]
    mypy_env = {**env, "MYPYPATH": f"{tree}:{copy / 'tests'}"}

    run.check("ruff check", [*ruff, "check", "--cache-dir", cache / "ruff", "."], env)
    run.check("ruff format", [*ruff, "format", "--check", "--diff", "--cache-dir", cache / "ruff", "."], env)
    run.check("mypy plugins", [*mypy, "--strict", "-p", "ansible_collections.steady.rollout.plugins"], mypy_env, copy)
    run.check("mypy tests", [*mypy, "tests", "extensions"], mypy_env, copy)
    run.check("yamllint", [main.program("yamllint"), "--strict", "."], env, copy)
    lint_command: list[str | Path] = [
        main.program("ansible-lint"),
        "--offline",
        "--profile",
        "production",
        "--strict",
        "-q",
        "--nocolor",
    ]
    # Molecule's machines are containers, for which there are modules in collections of others.
    run.check("ansible-lint", lint_command, run.env(main, tree, collection.extra_collections(run.root, main)), copy)
    run.check("shellcheck", ["shellcheck", *_shell_scripts(run.root)], env)
    run.check("antsibull-changelog", [main.program("antsibull-changelog"), "lint"], env, copy)


def _shell_scripts(root: Path) -> list[str]:
    scripts = []
    for name in collection.files(root):
        path = root / name
        if path.is_file() and (path.suffix == ".sh" or _is_shell(path)):
            scripts.append(name)
    return scripts


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        return SHELL_SHEBANG.match(file.read(64)) is not None


# ---------------------------------------------------------------------------------------------------------------------
# ansible-test: sanity, integration


def sanity(run: Run) -> None:
    """ansible-test sanity on the newest ansible-core; with --all on the oldest one, too."""
    system.need(["git", "shellcheck"])
    for core in run.cores() if run.options.long else [run.main_environment()]:
        _ansible_test(run, core, ["sanity", "--local", *run.options.arguments])


def integration(run: Run) -> None:
    """ansible-test integration on the newest ansible-core; with --all on the oldest one, too."""
    targets = run.root / "tests" / "integration" / "targets"
    if not any(targets.glob("*/tasks/main.yml")):
        print("   there are no targets", flush=True)
        return
    system.need(["git", "haproxy"])
    for core in run.cores() if run.options.long else [run.main_environment()]:
        _ansible_test(run, core, ["integration", "--local", "--allow-root", *run.options.arguments])


def _ansible_test(run: Run, core: environments.Environment, arguments: list[str]) -> None:
    tree = collection.copied_tree(run.root, run.workspace / f"{arguments[0]}-{core.name}")
    env = run.env(core, tree)
    env["PATH"] = os.pathsep.join([env["PATH"], str(_all_pythons(run))])
    with ansible_test.home(core) as home:
        title = f"ansible-test {arguments[0]}, {core.name}, Python {core.python.series}"
        command: list[str | Path] = [core.program("ansible-test"), *arguments, "--color", "no"]
        run.check(title, command, {**env, "HOME": str(home), "PIP_QUIET": "1"}, tree / collection.NAME)


def _all_pythons(run: Run) -> Path:
    """A folder with every Python of this machine that managed hosts may have: ansible-test looks for them on PATH."""
    folder = run.workspace / "pythons"
    folder.mkdir(exist_ok=True)
    for series in HOST_PYTHONS:
        python = pythons.find(series)
        if python is not None and not (folder / f"python{series}").exists():
            (folder / f"python{series}").symlink_to(python.path)
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# pytest: unit, e2e, faults, benchmarks


def unit(run: Run) -> None:
    """Unit tests, and module_utils on the oldest Python of managed hosts."""
    system.need(["git", "openssl", "zip"])
    # Starting workers costs a second, which is too much for the few tests of an edit's first look.
    workers = [] if run.options.arguments else ["-n", "auto"]
    searching = ["--hypothesis-profile", "search"] if run.options.long else []
    found = [_pytest(run, run.main_environment(), "tests/unit", flags=[*workers, *searching])]
    hosts = environments.open_environment(run.root, "python39")
    folder = "tests/unit/plugins/module_utils"
    if hosts is None:
        run.notice("No Python 3.9 is here; module_utils are not tested on the oldest Python of managed hosts.")
    elif (run.root / folder).is_dir() and _is_within(run, folder):
        found.append(_pytest(run, hosts, folder, flags=[*workers, "--hypothesis-profile", "few"]))
    _fail_if_none(run, found)


def e2e(run: Run) -> None:
    """Real load balancers under load; tests marked `core` and `pattern` on other ansible-cores too."""
    system.need(["git", "haproxy", "prometheus", "wrk", *system.NGINX])
    main = run.main_environment()
    extra = collection.extra_collections(run.root, main)
    with _docker_for(run, main, "tests/e2e"):
        found = []
        for environment, marks in _e2e_environments(run, main):
            # Most of a test is waiting for Ansible; those that measure, or use all there is, come after the others.
            for alone, flags in (("not alone", _WORKERS), ("alone", [])):
                together = " and ".join(f"({mark})" for mark in (marks, alone) if mark)
                found.append(_pytest(run, environment, "tests/e2e", extra, marks=together, flags=flags))
    _fail_if_none(run, found)


def _e2e_environments(run: Run, main: environments.Environment) -> list[tuple[environments.Environment, str]]:
    """The environments to run tests in, each with the marks of those tests; the core in between with --all only."""
    chosen = [(main, "" if run.options.long else "not oldest_only")]
    oldest = run.oldest_environment()
    if oldest is not None:
        # What roles do to hosts does not depend on Ansible's way with failures: the newest core shows it every day.
        chosen.append((oldest, "core or pattern" if run.options.long else "core and not containers"))
    between = environments.open_environment(run.root, "core219") if run.options.long else main
    if between is None:
        run.notice("No Python 3.11, 3.12 or 3.13 is here for ansible-core 2.19; it is not tested.")
    elif between.name != main.name:
        chosen.append((between, "pattern"))
    return chosen


_WORKERS = ("-n", "2", "--dist", "loadgroup")
_MORE_WORKERS = ("-n", "3", "--dist", "loadgroup")


def faults(run: Run) -> None:
    """Rollouts whose controller, workers, load balancers, hosts or disks die in the middle."""
    system.need(["git", "haproxy", *system.NGINX])
    # A kill is followed by the time of a lease, in which next to nothing runs.
    _fail_if_none(run, [_pytest(run, run.main_environment(), "tests/faults", flags=_MORE_WORKERS)])


def molecule_scenarios(run: Run) -> None:
    """Roles on machines with systemd, those of inventories/example; with --all each on every release of Debian."""
    tool = environments.open_environment(run.root, "molecule")
    if tool is None:
        raise SetupError("No Python 3.11 or later is here for Molecule: install one and its venv package.")
    pairs, arguments = molecule.chosen(run.root, run.options.arguments, run.options.long)
    tree = collection.linked_tree(run.root)
    env = run.env(tool, tree, collection.extra_collections(run.root, run.main_environment()))
    env["PYTHONPATH"] = os.pathsep.join([str(tree), str(run.root / "tests")])
    if arguments:
        pairs = [(name, release) for name, release in pairs if _has_tests(run, tool, env, name, arguments)]
    _fail_if_none(run, [bool(pairs)])
    if not pairs:
        return
    system.need(["debootstrap"])
    with docker.running() as daemon, molecule.own_containers() as owner:
        run.keep |= set() if daemon is None else {daemon}
        for name, release in pairs:
            image = molecule.image(run.root, release, env)
            mine = molecule.variables(run.workspace, name, release, image, owner, arguments)
            base = run.root / molecule.BASE_CONFIG
            command: list[str | Path] = [tool.program("molecule"), "--base-config", base, "test", "-s", name]
            run.check(f"molecule {name}, Debian {release}", command, {**env, **mine}, run.root / "extensions")


def _has_tests(
    run: Run, tool: environments.Environment, env: t.Mapping[str, str], name: str, arguments: list[str]
) -> bool:
    """Whether a scenario has tests that the arguments of pytest choose."""
    command: list[str | Path] = [tool.program("python"), "-m", "pytest", "--collect-only", "-qq"]
    title = f"which tests of {name} are chosen"
    words: list[str | Path] = [*command, run.root / molecule.SCENARIOS / name / "tests", *arguments]
    return run.check(title, words, env, accept=(0, PYTEST_FOUND_NO_TEST)) == 0


def benchmarks(run: Run) -> None:
    """Figures, and the limits that they must keep to."""
    system.need(["git", "haproxy", "wrk", *system.NGINX])
    main = run.main_environment()
    extra = collection.extra_collections(run.root, main)
    with _docker_for(run, main, "tests/benchmarks"):
        _fail_if_none(run, [_pytest(run, main, "tests/benchmarks", extra, flags=["-s"])])


def _pytest(
    run: Run,
    environment: environments.Environment,
    folder: str,
    extra: Path | None = None,
    *,
    marks: str = "",
    flags: t.Sequence[str] = (),
) -> bool:
    """Run the tests of a folder, or those of it that were asked for; return whether there were any."""
    if not _mentions(run.root / folder, re.compile(r"^\s*(async )?def test_", re.MULTILINE)):
        print(f"   there are no tests in {folder}", flush=True)
        return True
    command, env = _pytest_command(run, environment, folder, extra, marks)
    title = f"pytest {folder}, {environment.name}, Python {environment.python.series}"
    return run.check(title, [*command, *flags], env, accept=(0, PYTEST_FOUND_NO_TEST)) != PYTEST_FOUND_NO_TEST


def _pytest_command(
    run: Run, environment: environments.Environment, folder: str, extra: Path | None, marks: str
) -> tuple[list[str | Path], dict[str, str]]:
    tree = collection.linked_tree(run.root)
    collections = [tree] if extra is None else [tree, extra]
    env = run.env(environment, *collections)
    env["PYTHONPATH"] = os.pathsep.join([str(tree), str(run.root / "tests")])
    if extra is not None:
        env["STEADY_EXTRA_COLLECTIONS"] = str(extra)
    asked_marks, arguments = _split_marks(run.options.arguments)
    wanted = [asked_marks, marks, "" if run.options.long else "not long"]
    expression = " and ".join(f"({mark})" for mark in wanted if mark)
    command: list[str | Path] = [environment.program("python"), "-m", "pytest"]
    if expression:
        command += ["-m", expression]
    if not _paths(run, arguments):
        command.append(folder)
    return [*command, *arguments], env


def _split_marks(arguments: list[str]) -> tuple[str, list[str]]:
    """Take `-m EXPRESSION` out of the arguments: pytest would let it replace ours."""
    if "-m" not in arguments[:-1]:
        return "", arguments
    place = arguments.index("-m")
    return arguments[place + 1], [*arguments[:place], *arguments[place + 2 :]]


def _paths(run: Run, arguments: list[str]) -> list[Path]:
    """The arguments that name a file or folder of the project."""
    places = (run.root / argument.partition("::")[0] for argument in arguments if not argument.startswith("-"))
    return [place for place in places if place.exists()]


def _is_within(run: Run, folder: str) -> bool:
    """Whether the paths asked for, if any, all lie in a folder."""
    return all((run.root / folder) in (path, *path.parents) for path in _paths(run, run.options.arguments))


def _fail_if_none(run: Run, found: list[bool]) -> None:
    if not any(found):
        run.failures.append("no test matches what was asked for")


def _mentions(folder: Path, pattern: re.Pattern[str]) -> bool:
    return any(pattern.search(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py"))


@contextlib.contextmanager
def _docker_for(run: Run, environment: environments.Environment, folder: str) -> t.Iterator[None]:
    """Have Docker running while a selected test needs containers; leave it alone otherwise."""
    if not _mentions(run.root / folder, CONTAINERS_MARK):
        yield
        return
    command, env = _pytest_command(run, environment, folder, None, "containers")
    title = f"which tests of {folder} need containers"
    if run.check(title, [*command, "--collect-only", "-qq"], env, accept=(0, PYTEST_FOUND_NO_TEST)) != 0:
        yield
        return
    system.need(["debootstrap"])
    with docker.running() as daemon:
        run.keep |= set() if daemon is None else {daemon}
        yield


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A named part of the tests with a limit in seconds, after which it is stopped."""

    name: str
    work: t.Callable[[Run], None]
    limit: float
    takes_arguments: bool = True
    # Words besides paths and options that are arguments of the stage, given the project's root.
    names: t.Callable[[Path], t.Collection[str]] = lambda _root: ()


STAGES = {
    stage.name: stage
    for stage in (
        Stage("lint", lint, limit=600, takes_arguments=False),
        Stage("sanity", sanity, limit=900),
        Stage("unit", unit, limit=600),
        Stage("integration", integration, limit=900),
        Stage("e2e", e2e, limit=4800),
        Stage("faults", faults, limit=3000),
        Stage("molecule", molecule_scenarios, limit=1800, names=molecule.scenarios),
        Stage("benchmarks", benchmarks, limit=900),
    )
}

LONG_FACTOR = 4
