# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role release on a real host: releases come, go and come back, and whatever goes wrong, what ran goes on."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import tarfile
import typing as t
from dataclasses import dataclass

import pytest
import yaml

from e2e import role_runs
from e2e.hosts import Host, HostError, image_of
from e2e.role_runs import Run, written
from local_fleet.polling import poll
from readmes import example_of

# In one process: the tests share a host.
pytestmark = [pytest.mark.core, pytest.mark.containers, pytest.mark.xdist_group("test_role_release")]

# Serves the folder it was started in, which is the release.
APP = """#!/usr/bin/python3
import http.server, os
print("serving", open("release").read(), flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
BROKEN = """#!/usr/bin/python3
raise SystemExit("the database has moved to the moon")
"""
ASK = "import sys, urllib.request as r; print(r.urlopen(f'http://127.0.0.1:{sys.argv[1]}/{sys.argv[2]}', timeout=5).read().decode())"
PORT = 8080
BASE = "/opt/shop"


class Archives:
    """Archives of the application, in a folder of the controller."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    @property
    def any(self) -> str:
        """As `release_archive`."""
        return f"{self.folder}/shop-{{{{ release_id }}}}.tar.gz"

    def pack(self, release: str, app: str = APP, **files: str | bytes) -> str:
        """A release, whose name it serves as /release; `__` in the names of files stands for a slash."""
        path = self.folder / f"shop-{release}.tar.gz"
        members = {
            "bin/shop": app,
            "release": release,
            **{name.replace("__", "/"): text for name, text in files.items()},
        }
        with tarfile.open(path, "w:gz") as archive:
            for name, text in members.items():
                data = text.encode() if isinstance(text, str) else text
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o755 if name.startswith("bin/") else 0o644
                archive.addfile(info, io.BytesIO(data))
        return release


@dataclass
class Shop:
    """A host with the application, and what there is to release on it."""

    host: Host
    folder: pathlib.Path
    archives: Archives

    def variables(self, **changes: t.Any) -> dict[str, t.Any]:
        common = {"release_app": "shop", "release_command": "bin/shop", "release_archive": self.archives.any}
        return {**common, "rollout_port": PORT, "release_settle": 1, "release_stop_timeout": 5, **changes}

    def apply(self, release: str, *flags: str, **changes: t.Any) -> Run:
        """Run the role once."""
        return role_runs.apply("release", self.host, self.folder, self.variables(release_id=release, **changes), *flags)

    def deploy(self, release: str, **changes: t.Any) -> str:
        """Have a new release served."""
        run = self.apply(self.archives.pack(release), **changes)
        assert run.code == 0, run.output
        return release

    def asked(self, path: str = "release", port: int = PORT) -> str:
        """What the application answers, which may be a moment after its process is there."""
        ask = ["python3", "-c", ASK, str(port), path]

        def answer() -> str:
            return self.host.run(*ask, check=False).stdout.strip()

        return poll(answer, f"{path} answers on port {port}", 20, HostError, 0.2)

    def runs(self, unit: str = "shop") -> tuple[str, str]:
        """The state of a unit and its main process."""
        shown = self.host.run("systemctl", "show", "--property", "ActiveState,MainPID", "--value", unit).stdout.split()
        return shown[1], shown[0]

    def record(self, base: str = BASE) -> dict[str, t.Any]:
        return dict(json.loads(self.host.read(f"{base}/releases.json")))

    def releases(self, base: str = BASE) -> list[str]:
        """What is in the folder of releases, also what is hidden."""
        return self.host.run("ls", "--almost-all", f"{base}/releases").stdout.split()


@dataclass
class Made(Shop):
    """A host that had nothing, and what three runs of the role did to it."""

    checked: Run
    written_by_check: set[str]
    first: Run
    second: Run
    main_processes: tuple[tuple[str, str], tuple[str, str]]  # before the second run and after it


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Made]:
    folder = tmp_path_factory.mktemp("role")
    archives = Archives(folder)
    archives.pack("1.0.0")
    with Host(image_of("bullseye")) as host:
        shop = Shop(host, folder, archives)
        before = written(host)
        checked = shop.apply("1.0.0", "--check", "--diff")
        after = written(host)
        first = shop.apply("1.0.0")
        assert first.code == 0, first.output
        running = shop.runs()
        second = shop.apply("1.0.0")
        yield Made(host, folder, archives, checked, after - before, first, second, (running, shop.runs()))


@pytest.fixture
def shop(made: Made, request: pytest.FixtureRequest) -> Shop:
    """The application serves some release. What a test puts there is named after it, so that none depends on another."""
    return made


@pytest.fixture
def new(request: pytest.FixtureRequest) -> t.Callable[[str], str]:
    """Names for releases that no other test has."""
    return lambda name: f"{request.node.originalname.removeprefix('test_')[:60]}-{name}"


# ---------------------------------------------------------------------------------------------------------------------
# From nothing


def test_check_mode_on_an_empty_host_changes_nothing_and_tells(made: Made) -> None:
    assert made.checked.code == 0, made.checked.output
    assert made.written_by_check == set()
    assert "+ExecStart=/opt/shop/current/bin/shop" in made.checked.output
    assert made.checked.changed > 0


def test_an_empty_host_serves_the_release_as_its_own_user(made: Made) -> None:
    assert made.first.code == 0, made.first.output
    state, pid = made.main_processes[0]
    assert state == "active"
    assert made.host.run("systemctl", "is-enabled", "shop").stdout.strip() == "enabled"
    assert made.host.run("systemctl", "show", "--property", "User", "--value", "shop").stdout.strip() == "shop"
    assert pid != "0"


def test_a_second_run_changes_nothing_and_does_not_restart(made: Made) -> None:
    assert made.second.code == 0, made.second.output
    assert made.second.changed == 0, made.second.output
    assert made.main_processes[0] == made.main_processes[1]


def test_check_mode_tells_a_switch_and_does_not_make_it(shop: Shop, new: t.Callable[[str], str]) -> None:
    shop.archives.pack(new("2"))
    before = (shop.asked(), shop.runs(), written(shop.host))
    run = shop.apply(new("2"), "--check", "--diff")
    assert run.code == 0, run.output
    assert run.changed > 0
    assert (shop.asked(), shop.runs(), written(shop.host)) == before


@pytest.mark.long
def test_check_mode_tells_of_configuration_also_of_a_release_that_is_not_there(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    (shop.folder / "note.j2").write_text("{{ note }}\n")
    files = {"release_templates": [{"src": str(shop.folder / "note.j2"), "dest": "note"}]}
    shop.archives.pack(new("2"))
    absent = shop.apply(new("2"), "--check", **files, note="one")
    assert absent.code == 0, absent.output
    assert shop.apply(new("2"), **files, note="one").code == 0
    before = (shop.asked("note"), shop.runs(), written(shop.host))
    changed = shop.apply(new("2"), "--check", **files, note="two")
    assert changed.code == 0, changed.output
    assert changed.changed > 0
    assert (shop.asked("note"), shop.runs(), written(shop.host)) == before


@pytest.mark.long
def test_check_mode_tells_that_a_changed_unit_restarts(shop: Shop, new: t.Callable[[str], str]) -> None:
    shop.deploy(new("2"))
    before = shop.runs()
    run = shop.apply(new("2"), "--check", "--diff", release_environment={"MODE": "night"})
    assert run.code == 0, run.output
    assert '"restarted": "that was asked for"' in run.output
    assert shop.runs() == before


# ---------------------------------------------------------------------------------------------------------------------
# There and back


def test_a_new_release_replaces_the_old_one_and_both_are_known(shop: Shop, new: t.Callable[[str], str]) -> None:
    old = shop.asked()
    shop.deploy(new("2"))
    assert shop.asked() == new("2")
    record = shop.record()
    assert (record["current"], record["previous"]) == (new("2"), old)
    assert shop.host.run("readlink", f"{BASE}/current").stdout.strip() == f"releases/{new('2')}"


@pytest.mark.long
def test_a_command_may_have_prefixes_of_systemd(shop: Shop, new: t.Callable[[str], str]) -> None:
    shop.deploy(new("2"), release_command="-bin/shop")
    assert shop.asked() == new("2")
    assert f"ExecStart=-{BASE}/current/bin/shop\n" in shop.host.read("/etc/systemd/system/shop.service")


@pytest.mark.long
def test_no_more_releases_are_kept_than_asked_for(shop: Shop, new: t.Callable[[str], str]) -> None:
    for name in "abc":
        shop.archives.pack(new(name))
    roles = [{"role": "steady.rollout.release", "release_id": new(name)} for name in "abc"]
    run = role_runs.play(shop.host, shop.folder, {"roles": roles, "vars": shop.variables(release_keep=2)})
    assert run.code == 0, run.output
    assert shop.releases() == [new("b"), new("c")]
    assert shop.host.run("ls", f"{BASE}/units").stdout.split() == [f"{new('b')}.service", f"{new('c')}.service"]


def test_the_way_back_needs_neither_the_archive_nor_a_network(shop: Shop, new: t.Callable[[str], str]) -> None:
    old = shop.asked()
    shop.deploy(new("2"), release_environment={"MOOD": "new"})
    dead = {"release_archive": "http://127.0.0.1:1/{{ release_id }}.tar.gz", "release_checksum": "sha256:" + "0" * 64}
    run = shop.apply(old, release_action="undo", **dead)
    assert run.code == 0, run.output
    assert shop.asked() == old
    assert shop.record()["current"] == old
    # The unit is that of the release, not that of the variables.
    assert "MOOD" not in shop.host.run("systemctl", "show", "--property", "Environment", "--value", "shop").stdout
    again = shop.apply(old, release_action="undo", **dead)
    assert (again.code, again.changed) == (0, 0), again.output


def test_two_releases_run_side_by_side_and_are_switched_alone(shop: Shop, new: t.Callable[[str], str]) -> None:
    for name in "123":
        shop.archives.pack(new(name))

    def put(*tracks: tuple[str, str]) -> None:
        tracks_of_host = {
            "blue": {"server": "web1-blue", "port": 8101},
            "green": {"server": "web1-green", "port": 8102},
        }
        roles = [
            {"role": "steady.rollout.release", "release_track": track, "release_id": new(name)}
            for track, name in tracks
        ]
        given = shop.variables(
            release_app="twin", rollout_tracks=tracks_of_host, release_shared_directories=["uploads"]
        )
        run = role_runs.play(shop.host, shop.folder, {"roles": roles, "vars": given})
        assert run.code == 0, run.output

    put(("blue", "1"), ("green", "2"))
    assert (shop.asked(port=8101), shop.asked(port=8102)) == (new("1"), new("2"))
    blue = shop.runs("twin-blue")
    shop.host.run("runuser", "--user", "twin", "--", "touch", "/opt/twin/blue/current/uploads/photo")
    put(("green", "3"))
    assert (shop.asked(port=8101), shop.asked(port=8102)) == (new("1"), new("3"))
    assert shop.runs("twin-blue") == blue
    assert "photo" in shop.asked("uploads/", 8102)


@pytest.mark.long
def test_templates_and_shared_files_are_in_the_release_and_a_change_restarts(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    (shop.folder / "mood.j2").write_text("{{ release_id }} is {{ mood }}\n")
    files = {
        "release_templates": [{"src": str(shop.folder / "mood.j2"), "dest": "config/mood"}],
        "release_shared_files": ["config/local"],
        "release_shared_directories": ["log"],
    }
    shop.archives.pack(new("2"), config__local="the first content")
    calm = shop.apply(new("2"), **files, mood="calm")
    assert calm.code == 0, calm.output
    before = shop.runs()
    assert (shop.asked("config/mood"), shop.asked("config/local")) == (f"{new('2')} is calm", "the first content")
    assert shop.host.run("readlink", "--canonicalize", f"{BASE}/current/log").stdout.strip() == f"{BASE}/shared/log"
    glad = shop.apply(new("2"), **files, mood="glad")
    assert glad.code == 0, glad.output
    assert shop.asked("config/mood") == f"{new('2')} is glad"
    assert shop.runs() != before
    again = shop.apply(new("2"), **files, mood="glad")
    assert (again.code, again.changed) == (0, 0), again.output
    assert shop.host.run("ls", f"{BASE}/current/config").stdout.split() == ["local", "mood"]


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def refused(shop: Shop, run: Run, message: str, was: tuple[str, tuple[str, str]]) -> None:
    """The role failed with this message, and what ran was not touched."""
    assert run.code == 2, run.output
    assert message in run.output
    assert "Nothing that runs was changed" in run.output or "Nothing was changed" in run.output
    assert (shop.asked(), shop.runs()) == was
    assert [name for name in shop.releases() if name.startswith(".")] == []
    assert shop.host.run("ls", f"{BASE}/.fetched", check=False).returncode != 0


SECRET = "much-to-hide"
ESCAPING = {"..__..__etc__escaped": "text"}


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        pytest.param({}, {"release_checksum": "sha256:" + "0" * 64}, "sha256", id="checksum"),
        pytest.param({}, {"release_checksum": {"0.9": "sha256:" + "0" * 64}}, "has none for", id="no_checksum"),
        pytest.param(ESCAPING, {}, "../../etc/escaped", id="escaping"),
        pytest.param({}, {"release_archive": "http://127.0.0.1:1/shop.tar.gz"}, "refused", id="no_network"),
        pytest.param(
            {}, {"release_archive": f"http://me:{SECRET}@127.0.0.1:1/shop.tar.gz"}, "refused", id="credentials"
        ),
        pytest.param({}, {"release_archive": "/nowhere/shop.tar.gz"}, "/nowhere/shop.tar.gz", id="no_archive"),
    ],
)
def test_what_cannot_be_put_leaves_what_runs_alone(
    shop: Shop, new: t.Callable[[str], str], files: dict[str, str], changes: dict[str, t.Any], message: str
) -> None:
    was = (shop.asked(), shop.runs())
    run = shop.apply(shop.archives.pack(new("2"), **files), **changes)
    refused(shop, run, message, was)
    assert SECRET not in run.output
    assert new("2") not in shop.releases()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"release_git": "/srv/shop.git"}, "release_archive and release_git is set", id="two_sources"),
        pytest.param({"rollout_deploy_release": "3.0.0"}, "the rollout wants '3.0.0' here", id="release"),
        pytest.param({"release_unit": "systemd-journald"}, "", id="foreign_unit"),
    ],
)
def test_variables_that_make_no_sense_are_refused(shop: Shop, changes: dict[str, t.Any], message: str) -> None:
    if "release_unit" in changes:
        shop.host.run("cp", "/lib/systemd/system/systemd-journald.service", "/etc/systemd/system/")
        message = "and this role did not write it"
    was = (shop.asked(), shop.runs())
    refused(shop, shop.apply("2.0.0", **changes), message, was)


def test_a_full_disk_is_told_before_anything_is_unpacked(shop: Shop, new: t.Callable[[str], str]) -> None:
    shop.host.run("mkdir", "-p", "/opt/full")
    shop.host.run("mount", "-t", "tmpfs", "-o", "size=40m,mode=755", "tmpfs", "/opt/full")
    here = {"release_app": "full", "rollout_port": 8103}
    shop.deploy(new("1"), **here)
    run = shop.apply(shop.archives.pack(new("2"), zeros=bytes(30_000_000)), **here)
    assert run.code == 2, run.output
    assert "MiB" in run.output
    assert (shop.asked(port=8103), shop.releases("/opt/full")) == (new("1"), [new("1")])


@pytest.mark.long
def test_a_disk_that_has_no_room_for_the_archive_leaves_what_runs_alone(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    shop.host.run("mkdir", "-p", "/opt/fuller")
    shop.host.run("mount", "-t", "tmpfs", "-o", "size=40m,mode=755", "tmpfs", "/opt/fuller")
    here = {"release_app": "fuller", "rollout_port": 8104}
    shop.deploy(new("1"), **here)
    shop.host.run("sh", "-c", "head -c 39M /dev/zero > /opt/fuller/filler || true")
    shop.host.run("sh", "-c", "head -c 39M /dev/zero > /opt/fuller/more || true")
    run = shop.apply(shop.archives.pack(new("2")), **here)
    assert run.code == 2, run.output
    assert (shop.asked(port=8104), shop.releases("/opt/fuller")) == (new("1"), [new("1")])


def test_a_unit_that_does_not_run_is_taken_back_and_its_last_words_are_told(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    old = shop.deploy(new("1"))
    run = shop.apply(shop.archives.pack(new("2"), app=BROKEN))
    assert run.code == 2, run.output
    assert "the database has moved to the moon" in run.output
    assert f"{old} is back and runs" in run.output
    assert (shop.asked(), shop.runs()[0], shop.record()["current"]) == (old, "active", old)
    again = shop.apply(old)
    assert (again.code, again.changed) == (0, 0), again.output


@pytest.mark.long
def test_configuration_that_does_not_run_is_taken_back(shop: Shop, new: t.Callable[[str], str]) -> None:
    (shop.folder / "app.j2").write_text("{{ app }}")
    files = {"release_templates": [{"src": str(shop.folder / "app.j2"), "dest": "bin/shop", "mode": "0755"}]}
    assert shop.apply(shop.archives.pack(new("2")), **files, app=APP).code == 0
    run = shop.apply(new("2"), **files, app=BROKEN)
    assert run.code == 2, run.output
    assert f"{new('2')} is back and runs" in run.output
    assert (shop.asked(), shop.runs()[0]) == (new("2"), "active")


PICKY = APP.replace("print(", "assert not os.path.exists('broken')\nprint(")


@pytest.mark.long
def test_configuration_that_is_new_and_does_not_run_is_removed(shop: Shop, new: t.Callable[[str], str]) -> None:
    (shop.folder / "any.j2").write_text("text")
    shop.deploy(new("1"))
    assert shop.apply(shop.archives.pack(new("2"), app=PICKY)).code == 0
    run = shop.apply(new("2"), release_templates=[{"src": str(shop.folder / "any.j2"), "dest": "broken"}])
    assert run.code == 2, run.output
    assert f"{new('2')} is back and runs" in run.output
    assert (shop.asked(), shop.runs()[0]) == (new("2"), "active")


@pytest.mark.long
def test_a_first_release_that_does_not_run_is_stopped(shop: Shop, new: t.Callable[[str], str]) -> None:
    here = {"release_app": "first", "rollout_port": 8105}
    run = shop.apply(shop.archives.pack(new("1"), app=BROKEN), **here)
    assert run.code == 2, run.output
    assert "Nothing ran before, so the unit was stopped" in run.output
    assert shop.runs("first")[0] in ("inactive", "failed")
    assert shop.host.run("systemctl", "is-enabled", "first", check=False).stdout.strip() == "disabled"
    next_run = shop.apply(shop.archives.pack(new("2"), app=BROKEN), **here)
    assert "Nothing ran before, so the unit was stopped" in next_run.output, next_run.output


@pytest.mark.parametrize("within", [pytest.param(False, marks=pytest.mark.long), True], ids=["by_hand", "in_a_rollout"])
def test_a_previous_release_that_is_gone_is_told_with_what_is_there(
    shop: Shop, new: t.Callable[[str], str], within: bool
) -> None:
    here: dict[str, t.Any] = {"release_app": "gone", "rollout_port": 8106}
    shop.deploy(new("2"), **here)
    asked = {"rollout_deploy_action": "undo"} if within else {"release_action": "undo"}
    run = shop.apply("0.9.0", **here, **asked)
    assert run.code == 2, run.output
    assert f"On it are: {new('2')}" in run.output
    assert shop.runs("gone")[0] == ("inactive" if within else "active")


@pytest.mark.long
def test_a_previous_release_that_is_gone_is_fetched_where_it_can_be(shop: Shop, new: t.Callable[[str], str]) -> None:
    shop.archives.pack(new("1"))
    shop.deploy(new("2"))
    run = shop.apply(new("1"), release_action="undo")
    assert run.code == 0, run.output
    assert shop.asked() == new("1")


@pytest.mark.long
def test_a_way_back_does_not_put_the_bad_release_there_under_the_name_of_the_good_one(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    here: dict[str, t.Any] = {"release_app": "pinned", "rollout_port": 8112}
    shop.archives.pack(new("2"))
    pinned = {**here, "release_archive": f"{shop.archives.folder}/shop-{new('2')}.tar.gz"}
    assert shop.apply(new("2"), **pinned).code == 0
    run = shop.apply(new("1"), release_action="undo", **pinned)
    assert run.code == 2, run.output
    assert f"is what {new('2')} was made of" in run.output
    assert (shop.releases("/opt/pinned"), shop.record("/opt/pinned")["current"]) == ([new("2")], new("2"))


@pytest.mark.long
def test_the_next_run_finishes_what_one_left_half_done(shop: Shop, new: t.Callable[[str], str]) -> None:
    shop.deploy(new("1"))
    run = role_runs.apply(
        "release",
        shop.host,
        shop.folder,
        shop.variables(release_id=shop.archives.pack(new("2")), release_command="false"),
    )
    assert run.code == 2, run.output
    # As a run leaves it that was killed right after the switch, and one that was killed while it unpacked.
    shop.host.run("ln", "-sfn", f"releases/{new('2')}", f"{BASE}/current")
    shop.host.run("mkdir", f"{BASE}/releases/.incoming-x", f"{BASE}/.fetched")
    assert shop.asked() == new("1")
    finished = shop.apply(new("2"))
    assert finished.code == 0, finished.output
    assert shop.asked() == new("2")
    assert [name for name in shop.releases() if name.startswith(".")] == []
    assert shop.host.run("ls", f"{BASE}/.fetched", check=False).returncode != 0


@pytest.mark.long
def test_a_failure_after_a_run_that_was_killed_goes_back_to_what_last_ran(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    shop.deploy(new("1"))
    assert shop.apply(shop.archives.pack(new("2"), app=BROKEN)).code == 2
    shop.host.run("ln", "-sfn", f"releases/{new('2')}", f"{BASE}/current")
    run = shop.apply(new("2"))
    assert f"{new('1')} is back and runs" in run.output
    assert (run.code, shop.asked()) == (2, new("1"))


# ---------------------------------------------------------------------------------------------------------------------
# Migrations


def migrating(command: str, rollback: str = "safe") -> dict[str, t.Any]:
    return {"release_migrate": {"command": command, "rollback": rollback}}


@pytest.mark.long
def test_a_migration_runs_once_in_the_release_as_its_user(shop: Shop, new: t.Callable[[str], str]) -> None:
    shop.archives.pack(new("2"))
    once = migrating(f"echo $(id -un) $(id -gn) {PORT} $PORT $(cat release) >> log/migrations")
    for _run in range(2):
        run = shop.apply(new("2"), release_group="clerks", release_shared_directories=["log"], **once)
        assert run.code == 0, run.output
    assert shop.host.read(f"{BASE}/shared/log/migrations").splitlines() == [f"shop clerks {PORT} {PORT} {new('2')}"]


@pytest.mark.long
def test_a_migration_that_fails_leaves_what_runs_alone_and_is_tried_again(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    was = (shop.asked(), shop.runs())
    shop.archives.pack(new("2"))
    run = shop.apply(new("2"), **migrating("echo no such table; exit 3"))
    refused(shop, run, "the migration ended with 3: no such table", was)
    assert shop.apply(new("2"), **migrating("true")).code == 0
    assert shop.asked() == new("2")


def test_after_a_migration_that_only_goes_forward_nothing_is_put_back(shop: Shop, new: t.Callable[[str], str]) -> None:
    here: dict[str, t.Any] = {"release_app": "forward", "rollout_port": 8111}
    shop.deploy(new("1"), **here)
    shop.archives.pack(new("2"), app=BROKEN)
    given = shop.variables(release_id=new("2"), **here, **migrating("true", "forward_only"))
    tell: dict[str, t.Any] = {"ansible.builtin.debug": {"msg": "told: {{ rollout_deploy_forward_only }}"}}
    role = {"ansible.builtin.include_role": {"name": "steady.rollout.release"}}
    run = role_runs.play(shop.host, shop.folder, {"tasks": [{"block": [role], "always": [tell]}], "vars": given})
    assert run.code == 2, run.output
    assert f"told: the migration of {new('2')}" in run.output
    assert f"is forward_only, so {new('1')} was not put back" in run.output
    assert shop.record("/opt/forward")["current"] == new("2")


@pytest.mark.long
def test_the_other_hosts_go_on_only_when_the_migration_has_succeeded(shop: Shop, new: t.Callable[[str], str]) -> None:
    """Two names of one host, each with an application of its own."""
    shop.archives.pack(new("2"))
    given = shop.variables(
        release_id=new("2"),
        release_app="{{ inventory_hostname }}",
        rollout_port="{{ {'web1': 8107, 'web2': 8108}[inventory_hostname] }}",
        **migrating("test -e /tmp/migrate", "forward_only"),
    )
    play = {"roles": ["steady.rollout.release"], "vars": given}
    run = role_runs.play(shop.host, shop.folder, play, names=("web1", "web2"))
    assert run.code == 2, run.output
    assert "web1 is the host that migrates" in run.output
    assert [shop.runs(name)[0] for name in ("web1", "web2")] == ["inactive", "inactive"]
    shop.host.run("touch", "/tmp/migrate")
    run = role_runs.play(shop.host, shop.folder, play, names=("web1", "web2"))
    assert run.code == 0, run.output
    assert [shop.asked(port=port) for port in (8107, 8108)] == [new("2")] * 2
    # Where another is the first one the next time, it does not run once more.
    shop.host.run("rm", "/tmp/migrate")
    run = role_runs.play(shop.host, shop.folder, play, names=("web2", "web1"))
    assert (run.code, run.changed) == (0, 0), run.output


@pytest.mark.long
def test_a_controller_that_is_killed_leaves_what_runs_alone_and_the_next_run_waits_for_its_migration(
    shop: Shop, new: t.Callable[[str], str]
) -> None:
    shop.deploy(new("1"))
    was = (shop.asked(), shop.runs())
    shop.archives.pack(new("2"))
    slow = migrating("touch log/began; until test -e log/end; do sleep 0.1; done")
    slow = {**slow, "release_shared_directories": ["log"]}
    play = {"roles": ["steady.rollout.release"], "vars": shop.variables(release_id=new("2"), **slow)}
    with role_runs.started(shop.host, shop.folder, play):
        began = f"{BASE}/shared/log/began"
        poll(
            lambda: shop.host.run("test", "-e", began, check=False).returncode == 0,
            lambda: "the migration did not begin",
            60,
            HostError,
        )
    assert (shop.asked(), shop.runs()) == was
    refused(shop, shop.apply(new("2"), **slow), "another run of the migration is still at work", was)
    shop.host.run("touch", f"{BASE}/shared/log/end")
    shop.host.run("flock", f"{BASE}/migrations/.lock", "true")
    run = shop.apply(new("2"), **slow)
    assert run.code == 0, run.output
    assert shop.asked() == new("2")


# ---------------------------------------------------------------------------------------------------------------------
# Other sources


@pytest.fixture(scope="module")
def repository(made: Made) -> str:
    """A repository on the host, with a tag v1."""
    commands = """
    set -e
    command -v git > /dev/null || (apt-get -qq update && apt-get -qq install --yes --no-install-recommends git) > /dev/null
    git init --quiet /srv/shop && cd /srv/shop && mkdir bin && printf %s v1 > release && cat > bin/shop && chmod +x bin/shop
    git add . && git -c user.name=t -c user.email=t@example.com commit --quiet --message one && git tag v1
    """
    made.host.run("sh", "-c", commands, stdin=APP)
    return "/srv/shop"


def test_a_tag_of_a_repository_is_released(shop: Shop, repository: str) -> None:
    run = shop.apply("git1", release_archive="", release_git=repository, release_git_revision="v1")
    assert run.code == 0, run.output
    assert shop.asked() == "v1"
    again = shop.apply("git1", release_archive="", release_git=repository, release_git_revision="v1")
    assert (again.code, again.changed) == (0, 0), again.output


def test_a_revision_that_does_not_exist_leaves_what_runs_alone(shop: Shop, repository: str) -> None:
    was = (shop.asked(), shop.runs())
    run = shop.apply("git2", release_archive="", release_git=repository, release_git_revision="v2")
    refused(shop, run, "v2", was)


# A package source in a folder, and a package whose unit serves what is in it.
PACKAGES = """
set -e
for version in 1.0-1 2.0-1; do
    mkdir -p /srv/apt/tree/DEBIAN /srv/apt/tree/usr/share/depot /srv/apt/tree/lib/systemd/system
    echo $version > /srv/apt/tree/usr/share/depot/release
    cat > /srv/apt/tree/lib/systemd/system/depot.service <<END
[Service]
WorkingDirectory=/usr/share/depot
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 8109
[Install]
WantedBy=multi-user.target
END
    printf 'Package: depot\\nVersion: %s\\nArchitecture: all\\nMaintainer: t <t@example.com>\\nDescription: test\\n' $version \\
        > /srv/apt/tree/DEBIAN/control
    deb=/srv/apt/depot_${version}_all.deb
    dpkg-deb --build /srv/apt/tree $deb > /dev/null
    { cat /srv/apt/tree/DEBIAN/control; echo "Filename: ./depot_${version}_all.deb"; echo "Size: $(stat -c %s $deb)"
      echo "SHA256: $(sha256sum $deb | cut -d' ' -f1)"; echo; } >> /srv/apt/Packages
done
echo 'deb [trusted=yes] file:/srv/apt ./' > /etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
"""


@pytest.mark.long
def test_a_package_goes_up_and_without_its_source_down_again(shop: Shop) -> None:
    sources = shop.host.read("/etc/apt/sources.list")
    depot: dict[str, t.Any] = {"release_app": "depot", "release_archive": "", "release_package": "depot"}

    def put(version: str, **changes: t.Any) -> Run:
        return shop.apply(version, **{**depot, **changes})

    shop.host.run("sh", "-c", PACKAGES)
    try:
        checked = shop.apply("1.0-1", "--check", **depot)
        assert checked.code == 0, checked.output
        assert shop.host.run("dpkg", "--status", "depot", check=False).returncode != 0
        for version in ("1.0-1", "2.0-1"):
            run = put(version)
            assert run.code == 0, run.output
            assert shop.asked(port=8109) == version
        again = put("2.0-1")
        assert (again.code, again.changed) == (0, 0), again.output
        shop.host.run("rm", "-rf", "/srv/apt")
        missing = put("3.0-1")
        assert missing.code == 2, missing.output
        assert "depot 3.0-1 cannot be had" in missing.output
        # The variables may still be those of the release that is to be taken back.
        back = put("1.0-1", release_action="undo", release_package_version="2.0-1")
        assert back.code == 0, back.output
        assert shop.asked(port=8109) == "1.0-1"
        record = shop.record("/opt/depot")
        assert (record["current"], record["previous"]) == ("1.0-1", "2.0-1")
    finally:
        shop.host.write("/etc/apt/sources.list", sources)


# ---------------------------------------------------------------------------------------------------------------------
# The README


@pytest.mark.long
def test_the_examples_of_the_readme_work_one_after_the_other(shop: Shop, tmp_path: pathlib.Path) -> None:
    """As they are written, but for the address of the archives and a checksum."""
    archives = Archives(tmp_path)
    for release in ("1.4.2", "1.4.3"):
        archives.pack(release, bin__migrate="#!/bin/sh\ntrue\n")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "shop.conf.j2").write_text("{{ release_id }}\n")
    checksum = hashlib.sha256((tmp_path / "shop-1.4.2.tar.gz").read_bytes()).hexdigest()
    examples = (
        example_of("roles/release/README.md", "play", 0),
        example_of("roles/release/README.md", "play", 1),
        example_of("roles/release/README.md", "play", 2),
        example_of("roles/release/README.md", "play", 3),
    )
    served = []
    for example in examples:
        text = example.text.replace("https://downloads.example.com", str(tmp_path)).replace("CHECKSUM", checksum)
        (play,) = yaml.safe_load(text)
        assert play.pop("hosts") == "web"
        run = role_runs.play(shop.host, tmp_path, play)
        assert run.code == 0, run.output
        served.append(shop.asked(port=8082 if "rollout_tracks" in text else PORT))
    assert served == ["1.4.2", "1.4.3", "1.4.2", "1.4.2"]
    assert shop.host.read(f"{BASE}/releases/1.4.3/config/shop.conf") == "1.4.3\n"
