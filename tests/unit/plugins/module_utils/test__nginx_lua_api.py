# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of answers that nginx itself, somebody else, or another version of the API gives."""

from __future__ import annotations

import json
import pathlib
import socket
import tempfile
import threading
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_lua_api import Api, Conflict, Lost, NginxLuaError


@pytest.fixture
def answering() -> t.Iterator[t.Callable[[bytes], Api]]:
    """An API whose next answer is given, byte by byte."""
    with tempfile.TemporaryDirectory(prefix="n") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = str(pathlib.Path(folder, "api.sock"))
        listener.bind(path)
        listener.listen()

        def serve(data: bytes) -> None:
            connection, _address = listener.accept()
            with connection:
                asked = b""
                while not asked.endswith(b"}"):
                    asked += connection.recv(65536)
                connection.sendall(data)

        def answer(data: bytes) -> Api:
            threading.Thread(target=serve, args=(data,), daemon=True).start()
            return Api(path, 5.0)

        yield answer


def http(status: int, body: t.Any) -> bytes:
    text = body if isinstance(body, str) else json.dumps(body)
    return f"HTTP/1.1 {status} x\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (
            http(404, "<html>not here</html>"),
            NginxLuaError,
            "answered 404 with b'<html>not here</html>', which is not what",
        ),
        (http(500, "[]"), NginxLuaError, "see nginx's error log"),
        (http(200, {"format": 2}), NginxLuaError, "in format 2, and only 1 is known here: install"),
        (http(409, {"error": "version 1 is old"}), Conflict, "answered 409: version 1 is old"),
        (http(500, {"error": "disk full"}), NginxLuaError, "answered 500: disk full"),
        (b"", Lost, "the connection was closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", Lost, "IncompleteRead"),
        (b"SSH-2.0\r\n", Lost, "BadStatusLine"),
    ],
)
def test_what_is_no_good_answer_is_told_with_what_was_asked(
    answering: t.Callable[[bytes], Api], data: bytes, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        answering(data).put("shop", 1, [])
    assert str(caught.value).startswith("PUT /upstreams/shop at /")
    assert words in str(caught.value)
    assert isinstance(caught.value, error)


def test_an_upstreams_name_is_one_part_of_the_path(answering: t.Callable[[bytes], Api]) -> None:
    body = {"format": 1, "upstreams": {"a/b": {"version": 2, "servers": []}}}
    assert answering(http(200, body)).put("a/b", 1, []) == {"version": 2, "servers": []}
