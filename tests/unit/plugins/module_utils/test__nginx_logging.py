# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._nginx_log import HTTP_FORMAT, STREAM_FORMAT
from ansible_collections.steady.rollout.plugins.module_utils._nginx_logging import Logged, log_of
from ansible_collections.steady.rollout.plugins.module_utils._nginx_upstream import find, upstreams
from hypothesis import given
from hypothesis import strategies as st

from nginx_files import Tree

FORMAT = f"log_format steady_rollout '{HTTP_FORMAT}';"
LOG = "access_log /l/ours steady_rollout;"
OTHER = "access_log /l/other combined;"
PASS = "location / { proxy_pass http://app; }"


def logged(text: str, kind: str = "http", **files: str) -> Logged:
    """Where the requests of `app` are logged, which is added to the text of a block."""
    whole = f"{kind} {{\nupstream app {{ server a:1; }}\n{text}\n}}"
    known = Tree({"nginx.conf": whole.encode(), **{name: data.encode() for name, data in files.items()}})
    return log_of("nginx.conf", known, find(upstreams("nginx.conf", known), "app"), "/prefix")


def refused(text: str, kind: str = "http") -> str:
    found = logged(text, kind)
    assert found.path is None
    return found.problem


@pytest.mark.parametrize(
    "text",
    [
        f"{FORMAT} {LOG} server {{ {PASS} }}",
        f"{FORMAT} {OTHER} {LOG} server {{ {PASS} }}",
        f"{FORMAT} {LOG} access_log off; server {{ {LOG} {PASS} }}",
        f"{FORMAT} server {{ {OTHER} location / {{ {LOG} proxy_pass http://app; }} }}",
        f"{FORMAT} {LOG} server {{ access_log off; return 404; }} server {{ {PASS} }}",
        f"{FORMAT} {LOG} server {{ {PASS} location /static {{ access_log off; root /srv; }} }}",
        f"{FORMAT} {LOG} server {{ location / {{ {OTHER} proxy_pass http://another; }} {PASS} }}",
        f"{FORMAT} {LOG} server {{ location / {{ {OTHER} proxy_pass $where; }} {PASS} }}",
        f"{FORMAT} {LOG} server {{ location / {{ proxy_pass http://app; if ($bad) {{ access_log off; return 403; }} }} }}",
        f"{FORMAT} {LOG} server {{ location / {{ proxy_pass http://app; location /s {{ access_log off; root /srv; }} }} }}",
        f"{FORMAT} {LOG} server {{ {OTHER} location / {{ proxy_pass $where; }} }}",
        f"{FORMAT} {LOG}",
        f"{FORMAT.replace('steady_rollout ', 'steady_rollout escape=json ')} {LOG} server {{ {PASS} }}",
    ],
)  # fmt: skip
def test_the_log_that_holds_where_requests_are_passed_is_found(text: str) -> None:
    assert logged(text) == Logged("/l/ours")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "There is no log in the format steady_rollout, so nothing counts requests. In http (nginx.conf:1): log_format steady_rollout '"),
        (OTHER, "There is no log in the format steady_rollout"),
        (f"log_format steady_rollout '$status'; {LOG}", "The format steady_rollout is not the one that is counted. In nginx.conf:3: log_format"),
        (f"{FORMAT}", "What is passed to app is not logged in the format steady_rollout, so nothing counts it. In http (nginx.conf:1): access_log"),
        (f"{FORMAT} {OTHER} server {{ {PASS} }}", "What nginx.conf:3 passes to app is not logged in the format steady_rollout"),
        (f"{FORMAT}\naccess_log off; {LOG}", "What is passed to app is not logged at all, so nothing counts it. In nginx.conf:4: access_log /l/ours"),
        (f"{FORMAT} {LOG} server {{\n{OTHER}\n{PASS} }}", "nothing counts it. In nginx.conf:4: access_log /l/ours steady_rollout;"),
        (f"{FORMAT} {LOG} server {{ {PASS} }} server {{ access_log off; {PASS} }}", "is not logged at all"),
        (f"{FORMAT} {LOG} server {{ location / {{ if ($a) {{ access_log off; proxy_pass http://app; }} }} }}", "is not logged at all"),
        (f"{FORMAT} {LOG} server {{ location / {{ proxy_pass http://app; if ($a) {{ access_log off; }} }} }}", "is not logged at all"),
        (f"{FORMAT} {LOG} server {{ location / {{ proxy_pass http://app; limit_except GET {{ {OTHER} }} }} }}", "is not logged in the format"),
        (f"{FORMAT} {LOG} {LOG}", "What is passed to app is logged 2 times"),
        (f"{FORMAT} access_log syslog:server=unix:/l steady_rollout;", "must be one plain file, not syslog:server=unix:/l."),
        (f"{FORMAT} access_log /l/$host steady_rollout;", "must be one plain file, not /l/$host."),
        (f"{FORMAT} access_log /dev/stdout steady_rollout;", "must be one plain file, not /dev/stdout."),
        (f"{FORMAT} access_log /l/ours steady_rollout if=$loggable;", "The log /l/ours cannot be counted with if=$loggable"),
        (f"{FORMAT} access_log /l/ours steady_rollout gzip flush=1s;", "The log /l/ours cannot be counted with gzip"),
        (
            f"{FORMAT} {LOG} server {{ {PASS} }} server {{ access_log /l/b steady_rollout; {PASS} }}",
            "app is logged in /l/b, and only one file is counted. In nginx.conf:3: access_log /l/ours",
        ),
    ],
)  # fmt: skip
def test_why_requests_cannot_be_counted_is_told_with_the_line_to_write(text: str, told: str) -> None:
    assert told in refused(text)


@pytest.mark.parametrize(
    "passing",
    [
        "proxy_pass http://app;",
        "proxy_pass https://app/;",
        "proxy_pass HTTP://App/some/path;",
        "proxy_pass http://app$request_uri;",
        "proxy_pass http://app${uri}?a;",
        "proxy_pass http://app/$1$is_args$args;",
        "proxy_pass http://app?a=b;",
        "grpc_pass app;",
        "grpc_pass grpcs://app;",
        "fastcgi_pass app;",
        "uwsgi_pass app;",
        "uwsgi_pass suwsgi://app;",
        "scgi_pass app;",
        "memcached_pass app;",
    ],
)
def test_requests_are_passed_by_name_in_many_ways(passing: str) -> None:
    refused(f"{FORMAT} {LOG} server {{ location / {{ access_log off; {passing} }} }}")


@pytest.mark.parametrize(
    "target", ["http://app2", "http://app.example", "http://$app", "http://app$number", "http://unix:/app"]
)
def test_what_only_looks_like_the_name_is_another(target: str) -> None:
    assert (
        logged(f"{FORMAT} {LOG} server {{ location / {{ access_log off; proxy_pass {target}; }} }}").path == "/l/ours"
    )


@pytest.mark.parametrize("word", ["buffer=32k", "flush=5s", "buffer=32k flush=1m"])
def test_a_log_that_is_written_late_is_counted_and_told(word: str) -> None:
    found = logged(f"{FORMAT} access_log /l/ours steady_rollout {word};")
    assert found.path == "/l/ours"
    assert found.problem.startswith(f"With {word} requests are counted late in /l/ours")


def test_a_relative_path_is_one_of_the_prefix() -> None:
    assert logged(f"{FORMAT} access_log logs/ours steady_rollout;").path == "/prefix/logs/ours"


def test_one_file_may_be_named_in_two_ways() -> None:
    text = f"{FORMAT} access_log logs/a steady_rollout; server {{ {PASS} }} server {{ access_log /prefix/logs/a steady_rollout; {PASS} }}"
    assert logged(text) == Logged("/prefix/logs/a")


def test_logs_and_places_are_found_through_includes() -> None:
    found = logged(
        "include logs; server { location / { include pass; } }",
        logs=f"{FORMAT}\n{LOG}",
        **{"pass": "proxy_pass http://app;"},
    )
    assert found == Logged("/l/ours")


def test_a_stream_has_a_format_of_its_own() -> None:
    form = f"log_format steady_rollout '{STREAM_FORMAT}';"
    assert logged(f"{form} {LOG} server {{ proxy_pass app; }}", "stream") == Logged("/l/ours")
    assert "access_log /l/ours" in refused(f"{form} {LOG} server {{ access_log off; proxy_pass app; }}", "stream")
    assert STREAM_FORMAT in refused(f"{FORMAT} {LOG}", "stream")


@given(
    st.lists(st.integers(1, len(HTTP_FORMAT) - 1), unique=True, max_size=4).map(sorted),
    st.sampled_from(["", "escape=none "]),
)
def test_the_words_of_a_format_are_one_text(cuts: list[int], escape: str) -> None:
    parts = [HTTP_FORMAT[start:end] for start, end in zip([0, *cuts], [*cuts, len(HTTP_FORMAT)])]
    words = " ".join(f"'{part}'" for part in parts)
    assert logged(f"log_format steady_rollout {escape}{words}; {LOG}") == Logged("/l/ours")


LEVELS = st.lists(
    st.sampled_from(["", LOG, OTHER, f"{OTHER} {LOG}", "access_log off;", f"{LOG} access_log off;"]),
    min_size=3,
    max_size=5,
)


@given(LEVELS)
def test_the_innermost_level_with_a_log_decides(levels: list[str]) -> None:
    http, server, *locations = levels
    inner = "proxy_pass http://app;"
    for number, logs in enumerate(reversed(locations)):
        inner = f"location /{number} {{ {logs} {inner} }}"
    deciding = next((logs for logs in reversed(levels) if logs), "")
    found = logged(f"{FORMAT} {http} server {{ {server} {inner} }}")
    assert (found.path == "/l/ours") == (LOG in deciding and "off" not in deciding)
    assert bool(found.problem) == (found.path is None)
