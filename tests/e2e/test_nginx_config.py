# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The editor of NGINX's configuration on files in all forms, with a real nginx as the judge of what is valid."""

from __future__ import annotations

import pathlib
import subprocess
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_files import DiskFiles
from ansible_collections.steady.rollout.plugins.module_utils._nginx_syntax import replaced
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import (
    DOWN,
    READY,
    NginxConfigError,
    Server,
    edits,
    rewrite,
    upstreams,
    written,
)

from e2e.nginx_corpus import BROKEN, CORPUS, LUA, Files

MODULES = ("ndk_http_module", "ngx_http_lua_module", "ngx_stream_module")
# The Lua module wants to find its library where the distribution has it.
GLOBALS = "pid {folder}/nginx.pid; error_log stderr emerg; " + "".join(
    f"load_module /usr/lib/nginx/modules/{name}.so; " for name in MODULES
)
SECONDS = 20


def write(folder: pathlib.Path, files: Files) -> str:
    """Write the files; returns the path of the main one."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder / "nginx.conf")


def refusal(main: str) -> str:
    """What nginx says of a configuration that it does not take; "" where it takes it."""
    folder = str(pathlib.Path(main).parent)
    command = ["nginx", "-t", "-q", "-p", folder, "-c", main, "-g", GLOBALS.format(folder=folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    return "" if done.returncode == 0 else done.stderr or "no reason"


def servers(main: str) -> list[Server]:
    return [server for upstream in upstreams(main, DiskFiles(main)) for server in upstream.servers]


def edit(main: str, number: int, **wanted: t.Any) -> None:
    """Edit one of the servers on disk."""
    server = servers(main)[number]
    path = pathlib.Path(server.path)
    data = path.read_bytes()
    path.write_bytes(replaced(data, edits(data, server, **wanted)))


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.conf")}


ALL = {**CORPUS, **LUA}


def test_there_are_at_least_forty_files_and_nginx_takes_each(tmp_path: pathlib.Path) -> None:
    assert len(ALL) >= 40
    for number, (name, files) in enumerate(ALL.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert refusal(write(folder, files)) == "", name


@pytest.mark.parametrize("name", ALL)
def test_every_server_can_be_edited_and_put_back_byte_by_byte(name: str, tmp_path: pathlib.Path) -> None:
    main = write(tmp_path, ALL[name])
    before = contents(tmp_path)
    found = servers(main)
    assert found
    for number, server in enumerate(found):
        line = written(pathlib.Path(server.path).read_bytes(), server)
        edit(main, number, weight=server.weight + 6, state=DOWN if server.state == READY else READY)
        now = servers(main)
        others = [one.address for one in now]
        assert (others, now[number].weight) == ([one.address for one in found], server.weight + 6)
        assert now[number].state != server.state
        assert refusal(main) == ""
        path = pathlib.Path(server.path)
        path.write_bytes(replaced(path.read_bytes(), [rewrite(now[number], line)]))
        assert contents(tmp_path) == before


@pytest.mark.parametrize("name", BROKEN)
def test_what_nginx_does_not_take_is_read_or_refused(name: str, tmp_path: pathlib.Path) -> None:
    main = write(tmp_path, BROKEN[name])
    assert refusal(main) != ""
    try:
        found = servers(main)
    except NginxConfigError as exc:
        assert "nginx.conf" in str(exc)  # noqa: PT017
    else:
        assert all(server.address for server in found)


def test_a_link_to_a_file_is_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "sites-enabled").mkdir()
    main = write(
        tmp_path, {**CORPUS["include of the upstream"], "sites-available/app": b"upstream linked { server a; }"}
    )
    (tmp_path / "sites-enabled" / "app").symlink_to("../sites-available/app")
    (tmp_path / "conf.d" / "more.conf").write_bytes(b"include sites-enabled/*;")
    assert [upstream.name for upstream in upstreams(main, DiskFiles(main))] == ["app", "linked"]
