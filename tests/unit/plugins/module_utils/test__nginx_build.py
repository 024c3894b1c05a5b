# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_build import (
    Build,
    NginxBuildError,
    build_of,
    pid_file_of,
)

from nginx_files import Tree

DEBIAN = """nginx version: nginx/1.22.1
built with OpenSSL 3.0.22 25 Aug 2026 (running with OpenSSL 3.0.19 27 Jan 2026)
TLS SNI support enabled
configure arguments: --with-cc-opt='-g -O2 --prefix=/none' --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf --pid-path=/run/nginx.pid --with-threads
"""
BUILT = Build((1, 22, 1), "/usr/share/nginx", "/etc/nginx/nginx.conf", "/run/nginx.pid")


def test_what_debian_built_is_read() -> None:
    assert build_of(DEBIAN) == BUILT


@pytest.mark.parametrize(
    ("first", "version"),
    [
        ("nginx version: nginx/1.18.0 (Ubuntu)", (1, 18, 0)),
        ("nginx version: nginx/1.25.3 (nginx-plus-r31)", (1, 25, 3)),
        ("nginx version: openresty/1.21.4.1", (1, 21, 4)),
        ("Tengine version: Tengine/2.4.1\nnginx version: nginx/1.24.0", (1, 24, 0)),
    ],
)
def test_versions_are_read_as_numbers(first: str, version: tuple[int, int, int]) -> None:
    assert build_of(f"{first}\nconfigure arguments:").version == version


def test_what_is_not_told_is_what_nginx_takes_without() -> None:
    assert build_of("nginx version: nginx/1.30.0") == Build(
        (1, 30, 0), "/usr/local/nginx", "/usr/local/nginx/conf/nginx.conf", "/usr/local/nginx/logs/nginx.pid"
    )
    built = build_of(
        "nginx version: nginx/1.30.0\nconfigure arguments: --prefix=/opt/n --conf-path=etc/n.conf --pid-path=run/n.pid"
    )
    assert built[1:] == ("/opt/n", "/opt/n/etc/n.conf", "/opt/n/run/n.pid")


@pytest.mark.parametrize(
    ("text", "told"), [("", "nothing"), ("sh: nginx", "sh: nginx"), (DEBIAN.replace("-g", "'"), "cannot be read")]
)
def test_what_is_not_understood_is_told(text: str, told: str) -> None:
    with pytest.raises(NginxBuildError, match=told):
        build_of(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"events { }", "/run/nginx.pid"),
        (b"pid /run/other.pid;", "/run/other.pid"),
        (b"pid logs/n.pid;", "/usr/share/nginx/logs/n.pid"),
        (b"include more;", "/run/more.pid"),
        (b"http { pid /x; }", "/run/nginx.pid"),
    ],
)
def test_the_pid_file_is_what_the_configuration_says_else_what_was_built_in(text: bytes, path: str) -> None:
    files = Tree({"nginx.conf": text, "more": b"pid /run/more.pid;"})
    assert pid_file_of("nginx.conf", files, BUILT) == path
