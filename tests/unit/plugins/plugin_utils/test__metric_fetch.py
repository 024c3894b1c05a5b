# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import http.server
import json
import math
import socket
import threading
import time
import typing as t
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._metric import Answer, read_metrics
from ansible_collections.steady.rollout.plugins.plugin_utils._metric_fetch import ask

SERVERS = {"canary": ["web.1"], "stable": ["web2", "web3"]}
SECRET = "hush-hush"


class Server:
    """An HTTP server whose next answers are set, and which keeps what it was asked."""

    def __init__(self) -> None:
        self.status, self.body, self.wait = 200, b"{}", 0.0
        self.asked: list[tuple[str, t.Mapping[str, str]]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers.items())))
                time.sleep(outer.wait)
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *_arguments: t.Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def says(self, data: t.Any, status: int = 200) -> None:
        self.status, self.body = status, json.dumps(data).encode()

    def vector(self, *values: str) -> None:
        """As Prometheus answers an instant query."""
        result = [{"metric": {}, "value": [1.0, value]} for value in values]
        self.says({"status": "success", "data": {"resultType": "vector", "result": result}})


@pytest.fixture
def server() -> t.Iterator[Server]:
    with Server() as one:
        yield one


def fetched(url: str, **options: t.Any) -> Answer:
    raw = {"name": "m", "url": url, "query": "up", "success": "< 1", **options}
    metrics = read_metrics([{name: value for name, value in raw.items() if value is not None}])
    return ask(metrics, SERVERS)["m"]


def test_a_query_has_its_value(server: Server) -> None:
    server.vector("0.25")
    assert fetched(server.url) == Answer({"value": 0.25})
    path, _headers = server.asked[0]
    assert urlsplit(path).path == "/api/v1/query"
    assert parse_qs(urlsplit(path).query) == {"query": ["up"]}


def test_a_scalar_is_a_value_too(server: Server) -> None:
    server.says({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "3"]}})
    assert fetched(server.url) == Answer({"value": 3.0})


def test_no_series_is_no_data_and_nan_stays_nan(server: Server) -> None:
    server.vector()
    assert fetched(server.url) == Answer({"value": None})
    server.vector("NaN")
    number = fetched(server.url).values["value"]
    assert number is not None
    assert math.isnan(number)


def test_several_series_are_an_error_with_what_to_do(server: Server) -> None:
    server.vector("1", "2")
    assert "2 values" in fetched(server.url).error
    assert "sum()" in fetched(server.url).error


def test_both_sides_are_asked_with_the_names_of_their_servers(server: Server) -> None:
    server.vector("1")
    asked = fetched(server.url, query=None, success=None, canary='x{s=~"$canary"}', stable='x{s=~"$stable"}')
    assert asked == Answer({"canary": 1.0, "stable": 1.0})
    queries = [parse_qs(urlsplit(path).query)["query"][0] for path, _headers in server.asked]
    assert queries == ['x{s=~"web\\\\.1"}', 'x{s=~"web2|web3"}']


def test_a_wrong_query_is_an_error_with_what_the_server_says_of_it(server: Server) -> None:
    server.says({"status": "error", "error": "parse error: unexpected end"}, status=400)
    assert "answered 400: parse error" in fetched(server.url).error


def test_a_value_in_json_is_found_by_its_path(server: Server) -> None:
    server.says({"data": [{"rate": "0.5"}, {"rate": None}]})
    assert fetched(server.url, provider="http", query=None, path="data.0.rate") == Answer({"value": 0.5})
    assert fetched(server.url, provider="http", query=None, path="data.1.rate") == Answer({"value": None})
    assert fetched(server.url, provider="http", query=None, path="data.7.rate") == Answer({"value": None})
    assert "no number" in fetched(server.url, provider="http", query=None, path="data").error


@pytest.mark.parametrize("body", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_json_is_an_error(server: Server, body: bytes) -> None:
    server.body = body
    assert "no JSON" in fetched(server.url).error


def test_headers_and_credentials_are_sent(server: Server) -> None:
    server.vector("1")
    fetched(server.url, headers={"X-Scope": "shop"}, username="judge", password=SECRET)
    _path, headers = server.asked[0]
    assert headers["X-Scope"] == "shop"
    assert headers["Authorization"] == "Basic " + base64.b64encode(f"judge:{SECRET}".encode()).decode()


def test_who_is_slow_is_not_waited_for(server: Server) -> None:
    server.wait = 3.0
    began = time.monotonic()
    assert "no answer in time" in fetched(server.url, timeout=0.3).error
    assert time.monotonic() - began < 2


def test_nobody_there_is_an_error_without_what_is_secret() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://judge:{SECRET}@127.0.0.1:{free.getsockname()[1]}/prom?token={SECRET}"
        error = fetched(url, headers={"Authorization": f"Bearer {SECRET}"}).error
    assert "no connection" in error
    assert "/prom" in error
    assert SECRET not in error
