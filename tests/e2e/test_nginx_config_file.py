# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx_config_file on a real nginx: a file serves, or everything is as it was."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import tempfile
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_pending as pending
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_api import Api

from e2e.nginx_host import Nginx, free_port
from e2e.nginx_lua_lab import FILES, MODULES

Written = t.Callable[..., dict[str, t.Any]]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def nginx(tmp_path: pathlib.Path) -> t.Iterator[Nginx]:
    with Nginx(tmp_path) as made:
        yield made


def own(nginx: Nginx) -> pathlib.Path:
    return nginx.folder / "conf.d" / "own.conf"


def text(port: int, answer: str, more: str = "") -> str:
    """A file that serves an answer, and has an upstream."""
    upstream = "upstream shop {\n    server 127.0.0.1:1 weight=100;\n    server 127.0.0.1:2 weight=100;\n}"
    return f"# ours\n{upstream}\nserver {{ listen 127.0.0.1:{port}; return 200 {answer}; {more} }}\n"


def write(nginx: Nginx, content: str, *flags: str, **more: t.Any) -> dict[str, t.Any]:
    return nginx.module("nginx_config_file", "--diff", *flags, path=str(own(nginx)), content=content, timeout=4, **more)


def seen(nginx: Nginx) -> tuple[list[str], set[int]]:
    """All files with their contents, and the workers."""
    folders = [nginx.folder / "conf.d", nginx.folder / "sites-enabled"]
    files = [
        f"{path}: {os.readlink(path) if path.is_symlink() else path.read_text()}"
        for folder in folders
        for path in folder.iterdir()
    ]
    return sorted(files), nginx.workers()


def test_a_new_file_is_served_and_a_second_run_changes_nothing(nginx: Nginx, port: int) -> None:
    nginx.start()
    before = nginx.workers()
    done = write(nginx, text(port, "one"))
    assert (done["changed"], done["reloaded"]) == (True, True)
    assert before.isdisjoint(nginx.workers())
    assert nginx.get(port) == "one"
    assert own(nginx).stat().st_mode & 0o777 == 0o644
    now = seen(nginx)
    for flags in ([], ["--check"]):
        assert write(nginx, text(port, "one"), *flags)["changed"] is False
    assert seen(nginx) == now


def test_weights_and_states_of_servers_that_are_there_stay(nginx: Nginx, port: int) -> None:
    nginx.start()
    write(nginx, text(port, "one"))
    moved = (
        own(nginx)
        .read_text()
        .replace("1:1 weight=100", "1:1 weight=7")
        .replace("1:2 weight=100", "1:2 weight=100 down")
    )
    own(nginx).write_text(moved)
    write(nginx, text(port, "one"))
    assert own(nginx).read_text() == moved
    done = write(nginx, text(port, "two"), backup=True)
    assert own(nginx).read_text() == moved.replace("200 one", "200 two")
    assert pathlib.Path(done["backup_file"]).read_text() == moved


@pytest.mark.long
def test_check_mode_tells_what_would_change_and_changes_nothing(nginx: Nginx, port: int) -> None:
    nginx.start()
    for answer in ("one", "two"):
        before = seen(nginx)
        told = write(nginx, text(port, answer), "--check")
        assert told["changed"] is True
        assert f"200 {answer}" in told["output"]
        assert seen(nginx) == before
        write(nginx, text(port, answer))


@pytest.mark.parametrize("flags", [(), pytest.param(("--check",), marks=pytest.mark.long)])
@pytest.mark.parametrize("runs", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("is_new", [True, False])
def test_what_nginx_refuses_changes_nothing(
    nginx: Nginx, port: int, flags: tuple[str, ...], runs: bool, is_new: bool
) -> None:
    if not is_new:
        own(nginx).write_text(text(port, "old"))
    if runs:
        nginx.start()
    before = seen(nginx)
    done = write(nginx, text(port, "one", "no-such-word;"), *flags)
    assert done["failed"]
    assert 'unknown directive "no-such-word"' in done["msg"]
    assert seen(nginx) == before


@pytest.mark.parametrize("is_new", [True, False])
def test_what_does_not_run_is_taken_back(nginx: Nginx, port: int, is_new: bool) -> None:
    if not is_new:
        own(nginx).write_text(text(port, "old"))
    (nginx.folder / "sites-enabled" / "default").symlink_to("../other")
    (nginx.folder / "other").write_text("# welcome")
    nginx.start()
    files = seen(nginx)[0]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = taken.getsockname()[1]
        done = write(
            nginx,
            text(port, "one", f"listen 127.0.0.1:{other};"),
            absent_links=[f"{nginx.folder}/sites-enabled/default"],
        )
    assert done["failed"]
    assert "started no new workers in 4 s" in done["msg"]
    assert seen(nginx)[0] == files
    if not is_new:
        assert nginx.get(port) == "old"


def test_a_file_is_written_also_where_nginx_does_not_run(nginx: Nginx, port: int) -> None:
    done = write(nginx, text(port, "one"))
    assert (done["changed"], done["reloaded"]) == (True, False)
    nginx.start()
    assert nginx.get(port) == "one"


def test_a_link_is_removed_with_the_change_that_needs_it(nginx: Nginx, port: int) -> None:
    link = nginx.folder / "sites-enabled" / "default"
    link.symlink_to("../other")
    (nginx.folder / "other").write_text(f"server {{ listen 127.0.0.1:{port} default_server; return 200 welcome; }}")
    nginx.start()
    wanted = text(port, "one").replace(f":{port};", f":{port} default_server;")
    assert "duplicate default server" in write(nginx, wanted)["msg"]
    before = seen(nginx)
    told = write(nginx, wanted, "--check", absent_links=[str(link)])
    assert (told["changed"], told["removed_links"]) == (True, {str(link): "../other"})
    assert seen(nginx) == before
    assert write(nginx, wanted, absent_links=[str(link)])["changed"] is True
    assert nginx.get(port) == "one"
    assert not link.is_symlink()
    assert write(nginx, wanted, absent_links=[str(link)])["changed"] is False


def test_a_file_that_nothing_includes_is_refused(nginx: Nginx, port: int) -> None:
    (nginx.folder / "elsewhere").mkdir()
    done = nginx.module("nginx_config_file", path=f"{nginx.folder}/elsewhere/own.conf", content=text(port, "one"))
    assert f"add to http in {nginx.config}: include {nginx.folder}/elsewhere/*.conf;" in done["msg"]
    assert list((nginx.folder / "elsewhere").iterdir()) == []


def test_a_file_that_was_not_read_after_it_was_written_is_read_by_the_next_run(nginx: Nginx, port: int) -> None:
    own(nginx).write_text(text(port, "one"))
    nginx.start()
    # As after a run that was killed between the two.
    master = process.master_of(f"{nginx.folder}/nginx.pid")
    pending.note(str(nginx.config), master, process.workers_of(master))
    own(nginx).write_text(text(port, "two"))
    told = write(nginx, text(port, "two"), "--check")
    assert (told["changed"], told["reloaded"], nginx.get(port)) == (True, True, "one")
    assert write(nginx, text(port, "two"))["reloaded"] is True
    assert nginx.get(port) == "two"
    assert write(nginx, text(port, "two"))["changed"] is False


def test_the_last_servers_that_take_traffic_are_not_removed(nginx: Nginx, port: int) -> None:
    own(nginx).write_text(text(port, "one").replace("1:2 weight=100", "1:2 weight=100 down"))
    done = write(nginx, text(port, "one").replace("    server 127.0.0.1:1 weight=100;\n", ""))
    assert "upstream shop would have no server left to take traffic" in done["msg"]


class Lua:
    """An nginx that may have Lua choose its servers."""

    def __init__(self, folder: pathlib.Path) -> None:
        # Sockets want short paths.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nl"))
        modules = "\n".join(f"load_module {MODULES}/{name}_module.so;" for name in ("ndk_http", "ngx_http_lua"))
        self.nginx = Nginx(folder, main=modules)
        (folder / "lua").mkdir()
        self.program = (FILES / "steady_rollout.lua").read_text()

    def text(self, port: int, more: str = "") -> str:
        servers = "\n".join(
            f'{{name = "127.0.0.1:{one}", address = "127.0.0.1", port = {one}, weight = 100}},' for one in (1, 2)
        )
        return f"""
lua_package_path "{self.nginx.folder}/lua/?.lua;/usr/share/lua/5.1/?.lua;;";
lua_shared_dict steady_rollout 4m;
init_by_lua_block {{
    require("steady_rollout").load{{dir = "{self.folder}", socket = "{self.folder}/api.sock", upstreams = {{
["shop"] = {{
{servers}
}},
    }}}}
}}
server {{ listen unix:{self.folder}/api.sock; location / {{ content_by_lua_block {{ require("steady_rollout").api() }} }} }}
upstream shop {{ server 0.0.0.1; balancer_by_lua_block {{ require("steady_rollout").balance("shop") }} }}
server {{ listen 127.0.0.1:{port}; return 200 lua; {more} }}
"""

    def write(self, content: str, *flags: str, program: str = "") -> dict[str, t.Any]:
        # Lua's braces are none of Jinja's.
        raw = f"{{% raw %}}{program or self.program}{{% endraw %}}"
        others = [{"path": f"{self.nginx.folder}/lua/steady_rollout.lua", "content": raw}]
        places = {"lua_state": str(self.folder), "lua_socket": str(self.folder / "api.sock")}
        return write(self.nginx, content, *flags, others=others, **places)

    def _api(self) -> Api:
        """On a connection of its own: a reload closes those of before."""
        return Api(str(self.folder / "api.sock"))

    def in_force(self) -> dict[str, tuple[int, str]]:
        servers = self._api().read()["upstreams"]["shop"]["servers"]
        return {one["name"]: (one["weight"], one["state"]) for one in servers}

    def put(self, name: str, weight: int, state: str) -> None:
        api = self._api()
        version = api.read()["upstreams"]["shop"]["version"]
        api.put("shop", version, [{"name": name, "weight": weight, "state": state}])


@pytest.fixture
def lua(tmp_path: pathlib.Path) -> t.Iterator[Lua]:
    made = Lua(tmp_path)
    with made.nginx:
        yield made
    shutil.rmtree(made.folder)


def test_weights_and_states_go_to_lua_and_come_back(lua: Lua, port: int) -> None:
    own(lua.nginx).write_text(text(port, "one").replace("1:2 weight=100", "1:2 weight=9 down"))
    lua.nginx.start()
    assert lua.write(lua.text(port), "--check")["changed"] is True
    assert list(lua.folder.iterdir()) == []
    done = lua.write(lua.text(port))
    assert (done["changed"], done["reloaded"]) == (True, True), done["output"]
    assert lua.in_force() == {"127.0.0.1:1": (100, "ready"), "127.0.0.1:2": (9, "down")}
    lua.put("127.0.0.1:1", 7, "ready")
    assert lua.write(lua.text(port))["changed"] is False
    # Another program is read, too.
    assert lua.write(lua.text(port), program=f"{lua.program}-- newer\n")["reloaded"] is True
    moved = {"127.0.0.1:1": (7, "ready"), "127.0.0.1:2": (9, "down")}
    assert lua.in_force() == moved
    lua.write(text(port, "one"))
    lines = [line.strip() for line in own(lua.nginx).read_text().splitlines() if "127.0.0.1:" in line]
    assert lines[:2] == ["server 127.0.0.1:1 weight=7;", "server 127.0.0.1:2 weight=9 down;"]


def test_a_program_or_switch_to_lua_that_does_not_run_is_taken_back(lua: Lua, port: int) -> None:
    own(lua.nginx).write_text(text(port, "one"))
    lua.nginx.start()
    before = seen(lua.nginx)[0]
    done = lua.write(lua.text(port), program="no Lua")
    assert "started no new workers in 4 s" in done["msg"]
    assert (seen(lua.nginx)[0], list((lua.nginx.folder / "lua").iterdir()), list(lua.folder.glob("*.json"))) == (
        before,
        [],
        [],
    )
    assert lua.nginx.get(port) == "one"


def test_what_nginx_takes_once_is_told_with_its_place(lua: Lua, port: int) -> None:
    (lua.nginx.folder / "conf.d" / "mine.conf").write_text('lua_package_path "/srv/?.lua;;";')
    done = lua.write(lua.text(port))
    assert f"{lua.nginx.folder}/conf.d/mine.conf:1 has lua_package_path, and so would" in done["msg"]
