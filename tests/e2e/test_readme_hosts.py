# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The examples of work on a host out of rotation, on a host that has packages and can reboot; the fleet is the local one."""

from __future__ import annotations

import pathlib
import typing as t

import pytest

from e2e.hosts import Host, docker, image_of
from e2e.readme_runs import OLD, SHOP, Reader
from e2e.rollouts import Result
from readmes import Example, example_of

# On one host, one after the other.
pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("test_readme_hosts")]

BOOT_ID = "/proc/sys/kernel/random/boot_id"
# The package `shop` in two versions, the older one installed, and what apt is to know of it.
PACKAGE = r"""
set -e
mkdir -p /srv/shop
cd /srv/shop
for version in 1.4.1 1.4.2; do
    mkdir -p "$version/DEBIAN"
    fields="Package: shop\nVersion: $version\nArchitecture: all\nMaintainer: the shop <shop@example.com>\nDescription: the shop"
    printf "$fields\n" >"$version/DEBIAN/control"
    dpkg-deb --build "$version" "shop_$version.deb"
    sum=$(sha256sum "shop_$version.deb" | cut -d ' ' -f 1)
    printf "$fields\nFilename: ./shop_$version.deb\nSize: $(stat -c %s "shop_$version.deb")\nSHA256: $sum\n\n" >>Packages
done
dpkg --install shop_1.4.1.deb
echo 'deb [trusted=yes] file:/srv/shop ./' >/etc/apt/sources.list.d/shop.list
apt-get update -o Dir::Etc::sourcelist=sources.list.d/shop.list -o Dir::Etc::sourceparts=-
"""


@pytest.fixture(scope="module")
def web1() -> t.Iterator[Host]:
    """A host that has the package `shop`, of which there is a newer version, and starts again when it goes down."""
    with Host(image_of("forky")) as host:
        docker("update", "--restart", "always", host.id)
        host.run("sh", "-c", PACKAGE)
        yield host


@pytest.fixture
def reader(tmp_path: pathlib.Path, web1: Host) -> t.Iterator[Reader]:
    """Whose web1 is the host; what answers as the server web1 of the load balancers is the local fleet's."""
    with Reader(tmp_path) as reader:
        reader.write_places("host_vars", "web1", web1.inventory)
        reader.quick_start(example_of("README.md", "commands"))
        yield reader


def work(reader: Reader, play: Example) -> Result:
    """Run a play on the inventory of the quick start, and see that web1 alone was out meanwhile, without a loss."""
    reader.write("play.yml", play)
    load, watch = reader.load(), reader.watch()
    result = reader.playbook("play.yml")
    assert result.code == 0, result.output
    reader.expect_traffic(OLD, SHOP)
    assert [out for out in watch.out() if out] == [{"web1"}]
    load.stop()
    assert (load.summary().lost, load.summary().harmed) == (0, 0), load.summary().examples
    return result


@pytest.mark.long
def test_a_package_is_upgraded_out_of_rotation(reader: Reader, web1: Host) -> None:
    work(reader, example_of("README.md", "play"))
    assert web1.run("dpkg-query", "--show", "--showformat", "${Version}", "shop").stdout == "1.4.2"


@pytest.mark.long
def test_a_host_reboots_out_of_rotation(reader: Reader, web1: Host) -> None:
    # The kernel of a container goes on; without the other id that it has until it reboots, nobody could tell.
    web1.run("sh", "-c", f"cat /proc/sys/kernel/random/uuid >/run/boot_id; mount --bind /run/boot_id {BOOT_ID}")
    before = docker("inspect", "--format", "{{.RestartCount}}", web1.id)
    work(reader, example_of("roles/rollout/README.md", "play", 1))
    assert int(docker("inspect", "--format", "{{.RestartCount}}", web1.id)) == int(before) + 1
