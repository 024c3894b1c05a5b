# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role release with container images: docker and podman of Debian, and a registry, on a real host."""

from __future__ import annotations

import pathlib
import typing as t
from dataclasses import dataclass

import pytest

from e2e import role_runs
from e2e.hosts import Host, HostError, image_of
from e2e.role_runs import Run
from local_fleet.polling import poll

pytestmark = [pytest.mark.core, pytest.mark.containers, pytest.mark.long]

REGISTRY = "127.0.0.1:5000"
# Both keep images on any file system with vfs. A host of ours has neither a bridge to set up nor a controller for pids, and cannot raise limits.
SET_UP = r"""
apt-get --quiet update > /dev/null
DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes install --no-install-recommends docker-registry busybox-static $1 > /dev/null 2>&1
sed -i '/^auth:/,/path:/d' /etc/docker/registry/config.yml
systemctl restart docker-registry
case $1 in
docker*)
    # Newer releases have its program in a package of its own.
    command -v docker > /dev/null || apt-get --quiet --yes install --no-install-recommends docker-cli > /dev/null 2>&1
    echo '{"storage-driver": "vfs", "bridge": "none", "iptables": false, "ip6tables": false}' > /etc/docker/daemon.json
    systemctl restart docker ;;
*)
    limits=
    for limit in nofile=-Hn nproc=-Hp memlock=-Hl; do
        value=$(ulimit ${limit#*=})
        case $limit$value in *unlimited) value=-1 ;; memlock*) value=$((value * 1024)) ;; esac
        limits="$limits\"${limit%=*}=$value:$value\", "
    done
    printf '[containers]\npids_limit = 0\ndefault_ulimits = [%s]\n' "$limits" > /etc/containers/containers.conf
    printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "/var/lib/containers/storage"\n' \
        > /etc/containers/storage.conf
    printf '[[registry]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n' > /etc/containers/registries.conf.d/here.conf ;;
esac
"""
# An image of one program, which serves its release and stops when it is asked to.
PACK = r"""
engine=$1 name=$2 release=$3 entry=$4
tree=$(mktemp --directory)
mkdir $tree/bin $tree/www $tree/tmp
cp /bin/busybox $tree/bin/
ln -s busybox $tree/bin/sh
ln -s busybox $tree/bin/cat
echo "$release" > $tree/www/release
tar --directory $tree --create . | $engine import --change "ENTRYPOINT [\"/bin/sh\", \"-c\", \"$entry\"]" - $name > /dev/null
$engine push $name > /dev/null
$engine image rm --force $name > /dev/null
"""
SERVE = "trap 'echo stopped > /srv/last; exit 0' TERM; /bin/busybox httpd -f -h /www -p $PORT & wait"
PACKAGES = {"docker": "docker.io", "podman": "podman crun"}
ASK = "import sys, urllib.request as r; print(r.urlopen(f'http://127.0.0.1:{sys.argv[1]}/release', timeout=5).read().decode())"
PORT = 8110


@dataclass
class Box:
    """A host with a container engine, a registry, and an application that comes as an image."""

    host: Host
    engine: str
    folder: pathlib.Path

    def pack(self, release: str, entry: str = SERVE) -> str:
        """Put an image into the registry, and nowhere else."""
        self.host.run("sh", "-ec", PACK, "sh", self.engine, f"{REGISTRY}/box:{release}", release, entry)
        return release

    def apply(self, release: str, *flags: str, **changes: t.Any) -> Run:
        variables = {
            "release_app": "box",
            "release_id": release,
            "release_image": f"{REGISTRY}/box:{{{{ release_id }}}}",
            "release_container_options": ["--volume /srv:/srv"],
            "rollout_port": PORT,
            "release_stop_timeout": 5,
            **changes,
        }
        return role_runs.apply("release", self.host, self.folder, variables, *flags)

    def deploy(self, release: str) -> None:
        run = self.apply(self.pack(release))
        assert run.code == 0, run.output
        assert self.asked() == release

    def asked(self) -> str:
        """What the application answers, which may be a moment after its process is there."""

        def answer() -> str:
            return self.host.run("python3", "-c", ASK, str(PORT), check=False).stdout.strip()

        return poll(answer, f"port {PORT} answers", 20, HostError, 0.2)

    def containers(self) -> list[str]:
        return self.host.run(self.engine, "ps", "--all", "--format", "{{.Names}}").stdout.split()

    def images(self) -> list[str]:
        return self.host.run(self.engine, "image", "ls", "--quiet").stdout.split()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(pair, id="-".join(pair), marks=pytest.mark.xdist_group(f"images_{'_'.join(pair)}"))
        for pair in (("docker", "bullseye"), ("docker", "forky"), ("podman", "bullseye"), ("podman", "forky"))
    ],
)
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Box]:
    engine, release = request.param
    with Host(image_of(release)) as host:
        host.run("sh", "-ec", SET_UP, "sh", PACKAGES[engine])
        yield Box(host, engine, tmp_path_factory.mktemp("images"))


def test_an_image_is_pulled_and_run_and_a_second_run_changes_nothing(box: Box) -> None:
    absent = box.apply(box.pack("1"), "--check", "--diff")
    assert absent.code == 0, absent.output
    assert (box.images(), box.containers()) == ([], [])
    box.deploy("1")
    again = box.apply("1")
    assert (again.code, again.changed) == (0, 0), again.output


def test_the_one_before_stops_by_its_signal_and_the_new_one_runs(box: Box) -> None:
    box.deploy("2")
    assert box.host.read("/srv/last").strip() == "stopped"
    assert box.containers() == ["box"]


def test_an_image_that_cannot_be_had_leaves_what_runs_alone(box: Box) -> None:
    box.deploy("4")
    run = box.apply("none")
    assert run.code == 2, run.output
    assert f"{box.engine} cannot pull {REGISTRY}/box:none" in run.output
    assert "Nothing that runs was changed: 4 goes on" in run.output
    assert box.asked() == "4"


def test_an_image_that_does_not_run_is_taken_back_with_its_last_words(box: Box) -> None:
    box.deploy("5")
    run = box.apply(box.pack("5.1", "echo the database has moved to the moon; exit 3"))
    assert run.code == 2, run.output
    assert "the database has moved to the moon" in run.output
    assert "5 is back and runs" in run.output
    assert box.asked() == "5"
    assert box.host.run(box.engine, "image", "inspect", f"{REGISTRY}/box:5.1", check=False).returncode != 0


def test_the_way_back_needs_no_registry_and_does_not_mind_a_tag_that_moved(box: Box) -> None:
    box.deploy("6")
    box.deploy("7")
    box.pack("6", "exit 1")
    box.host.run("systemctl", "stop", "docker-registry")
    try:
        back = box.apply("6", release_action="undo")
        assert back.code == 0, back.output
        assert box.asked() == "6"
    finally:
        box.host.run("systemctl", "start", "docker-registry")


def test_a_migration_runs_once_in_the_image_with_its_options(box: Box) -> None:
    once = {"command": "echo $PORT $(cat /www/release) >> /srv/migrations", "rollback": "safe"}
    box.pack("8")
    for _run in range(2):
        run = box.apply("8", release_migrate=once)
        assert run.code == 0, run.output
    assert box.host.read("/srv/migrations").splitlines() == [f"{PORT} 8"]


def test_a_migration_that_takes_too_long_is_ended_with_its_container(box: Box) -> None:
    box.deploy("9")
    endless = {"command": "while :; do :; done", "rollback": "safe", "timeout": 2}
    run = box.apply(box.pack("9.1"), release_migrate=endless)
    assert run.code == 2, run.output
    assert "the migration was ended after 2 seconds" in run.output
    assert (box.containers(), box.asked()) == (["box"], "9")


def test_images_of_releases_that_are_gone_are_removed(box: Box) -> None:
    for release in ("11", "12", "13"):
        run = box.apply(box.pack(release), release_keep=2)
        assert run.code == 0, run.output
    assert len(box.images()) == 2, box.images()
