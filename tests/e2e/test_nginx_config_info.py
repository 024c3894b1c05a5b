# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx_config_info on a real nginx: what it is told of is what nginx does."""

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import HTTP_FORMAT

from e2e.nginx_host import Nginx, free_port

LOGGED = "    log_format steady_rollout '{format}';\n    access_log {folder}/ours.log steady_rollout;\n"


@pytest.fixture
def ready(tmp_path: pathlib.Path) -> t.Iterator[tuple[Nginx, int]]:
    """A running nginx that has all that can be had of this version, and its port."""
    port = free_port()
    with Nginx(tmp_path, http=LOGGED.format(format=HTTP_FORMAT, folder=tmp_path)) as nginx:
        shop = f"upstream shop {{ zone shop 64k; server 127.0.0.1:1 weight=3; server unix:{tmp_path}/s.sock; }}"
        servers = f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://shop; }} }}"
        (tmp_path / "conf.d" / "shop.conf").write_text(
            f"{shop}\n{servers} server {{ listen unix:{tmp_path}/s.sock; return 200 sock; }}"
        )
        nginx.start()
        yield nginx, port


def test_a_running_nginx_that_is_ready_is_told_as_it_is(ready: tuple[Nginx, int]) -> None:
    nginx, port = ready
    told = nginx.module("nginx_config_info", "--check")
    shop = {
        "name": "shop",
        "kind": "http",
        "path": f"{nginx.folder}/conf.d/shop.conf",
        "algorithm": "roundrobin",
        "zone": True,
    }
    assert told["changed"] is False
    assert told["upstreams"] == [{**shop, "servers": ["127.0.0.1:1", f"unix:{nginx.folder}/s.sock"]}]
    assert (told["running"], told["pid_file"]) == (True, f"{nginx.folder}/nginx.pid")
    assert told["files"] == [f"{nginx.folder}/conf.d/shop.conf", str(nginx.config)]
    assert [finding["code"] for finding in told["findings"] if finding["code"] != "keepalive"] == []
    assert nginx.get(port) == "sock"
    # Where it says that requests are logged, there they are.
    assert '"ph":"shop"' in pathlib.Path(told["logs"]["shop"]).read_text()


def test_each_lack_of_a_foreign_configuration_is_told_with_its_line(tmp_path: pathlib.Path) -> None:
    with Nginx(tmp_path, main="worker_shutdown_timeout 5s;") as nginx:
        upstream = "upstream shop { least_conn; server localhost:1; server localhost:1; }"
        (tmp_path / "conf.d" / "shop.conf").write_text(
            f"{upstream}\nserver {{ location / {{ proxy_pass http://shop; }} }}"
        )
        told = nginx.module("nginx_config_info")
        codes = {finding["code"] for finding in told["findings"]}
        assert codes == {
            "not-running",
            "log",
            "server-twice",
            "zone",
            "algorithm",
            "names",
            "shutdown-timeout",
            "keepalive",
        }
        assert (told["running"], told["logs"]) == (False, {"shop": None})
        assert any(f"In {nginx.config}:6: worker_shutdown_timeout 60s;" in message for message in told["messages"])


def test_what_cannot_be_read_is_told_in_a_sentence(tmp_path: pathlib.Path) -> None:
    with Nginx(tmp_path, http="upstream shop {") as nginx:
        told = nginx.module("nginx_config_info")
        assert told["failed"]
        assert told["msg"].startswith("unexpected end of file")
    (tmp_path / "nginx.conf").unlink()
    assert "cannot be read: No such file" in nginx.module("nginx_config_info")["msg"]


def test_an_upstream_that_is_not_there_is_told(ready: tuple[Nginx, int]) -> None:
    told = ready[0].module("nginx_config_info", upstreams=["none"])
    assert "there is no upstream none; the configuration has shop" in told["msg"]
