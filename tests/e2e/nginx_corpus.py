# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations of NGINX in all the forms that people write them in: {name: {path: bytes}}. All but those of BROKEN are valid."""

from __future__ import annotations

import typing as t

Files = t.Mapping[str, bytes]
LISTEN = b"listen 127.0.0.1:49151;"
PROXY = b"location / { proxy_pass http://app; }"
HEAD = b"events { worker_connections 64; }\n"


def http(upstream: bytes, more: bytes = b"", server: bytes = PROXY) -> bytes:
    return (
        HEAD + b"http {\n" + upstream + b"\n" + more + b"\nserver {\n    " + LISTEN + b"\n    " + server + b"\n}\n}\n"
    )


def app(lines: bytes) -> bytes:
    return b"upstream app {\n" + lines + b"\n}"


def single(text: bytes) -> Files:
    return {"nginx.conf": text}


def stream(lines: bytes) -> bytes:
    return b"stream {\nupstream app {\n" + lines + b"\n}\nserver { listen 127.0.0.1:49152; proxy_pass app; }\n}\n"


BASE = b"    server 127.0.0.1:8081 weight=5;\n    server 127.0.0.1:8082;\n    server 127.0.0.1:8083 backup;"

LOG_FORMAT = b"""log_format j escape=json '{"up":"$upstream_addr","b":"}"}';"""

CORPUS: dict[str, Files] = {
    "plain": single(http(app(BASE))),
    "zone": single(http(app(b"    zone app 64k;\n" + BASE))),
    "two in a line": single(
        http(app(b"    server 127.0.0.1:8081; server 127.0.0.1:8082 weight=2; server 127.0.0.1:8083;"))
    ),
    "all in one line": single(b"events{}http{upstream app{server 127.0.0.1:8081;server 127.0.0.1:8082 weight=3;}}"),
    "over several lines": single(
        http(app(b"    server\n        127.0.0.1:8081\n        weight=5\n        max_fails=3\n    ;\n" + BASE))
    ),
    "comments between words": single(
        http(app(b"    server # the first\n  127.0.0.1:8081 # its address\n  weight=2 # twice\n  ;\n" + BASE))
    ),
    "comment that ends a line": single(
        http(app(b"    server 127.0.0.1:8081 weight=5; # server 127.0.0.1:9 weight=7;\n" + BASE))
    ),
    "servers commented out": single(http(app(b"    #server 127.0.0.1:8081 weight=9;\n    # upstream app {\n" + BASE))),
    "brace in a comment": single(http(app(b"    # } {\n" + BASE + b"\n    # }"))),
    "quoted parameter": single(http(app(b'    server 127.0.0.1:8081 "weight=5";\n' + BASE))),
    "single quotes": single(http(app(b"    server '127.0.0.1:8081' 'weight=5' 'max_fails=2';\n" + BASE))),
    "quoted name": single(http(b'upstream "app" {\n' + BASE + b"\n}")),
    "escaped quote in a text": single(http(app(BASE), server=PROXY + b' location /q { return 200 "a \\" } b"; }')),
    "twice the weight": single(http(app(b"    server 127.0.0.1:8081 weight=5 weight=7;\n" + BASE))),
    "weight first and last": single(
        http(
            app(
                b"    server 127.0.0.1:8081 weight=5 max_fails=1 fail_timeout=2s;\n    server 127.0.0.1:8082 max_fails=1 weight=6;"
            )
        )
    ),
    "large weights": single(
        http(app(b"    server 127.0.0.1:8081 weight=1000000;\n    server 127.0.0.1:8082 weight=1;"))
    ),
    "down": single(http(app(b"    server 127.0.0.1:8081 down;\n" + BASE))),
    "down in the middle": single(
        http(
            app(
                b"    server 127.0.0.1:8081 down weight=4;\n    server 127.0.0.1:8082 weight=2 down max_fails=2;\n"
                + BASE
            )
        )
    ),
    "down on a line of its own": single(
        http(app(b"    server 127.0.0.1:8081\n        weight=4 # four\n        down\n    ;\n" + BASE))
    ),
    "all down": single(http(app(b"    server 127.0.0.1:8081 down;\n    server 127.0.0.1:8082 down;"))),
    "down and backup": single(http(app(b"    server 127.0.0.1:8081 down;\n    server 127.0.0.1:8082 backup;"))),
    "many parameters": single(
        http(app(b"    server 127.0.0.1:8081 max_conns=10 max_fails=3 fail_timeout=5s weight=2;\n" + BASE))
    ),
    "unix sockets": single(
        http(app(b"    server unix:/run/app1.sock weight=2;\n    server unix:/run/app2.sock down;"))
    ),
    "ipv6": single(http(app(b"    server [::1]:8081 weight=2;\n    server [::1];\n    server 127.0.0.1;"))),
    "without a port": single(http(app(b"    server 127.0.0.1 weight=2;\n    server 127.0.0.2;"))),
    "name of a host": single(http(app(b"    server localhost:8081 weight=2;\n    server LOCALHOST:8082;"))),
    "tabs": single(http(app(b"\tserver\t127.0.0.1:8081\tweight=5\t;\n" + BASE))),
    "line ends of windows": single(http(app(BASE)).replace(b"\n", b"\r\n")),
    "mixed line ends": single(http(app(BASE.replace(b";\n", b";\r\n", 1)))),
    "no line end at the end": single(http(app(BASE)).rstrip()),
    "blank lines at the end": single(http(app(BASE)) + b"\n\n  \n\t"),
    "latin-1 comment": single(http(app(b"    # Stra\xdfe, \xff\xfe\n" + BASE))),
    "utf-8 comment": single(http(app("    # Straße, грузовик\n".encode() + BASE))),
    "latin-1 text": single(http(app(BASE), server=PROXY + b' location /x { return 200 "Gr\xfc\xdfe"; }')),
    "hash": single(
        http(app(b"    hash $request_uri consistent;\n    server 127.0.0.1:8081 weight=5;\n    server 127.0.0.1:8082;"))
    ),
    "ip_hash": single(http(app(b"    ip_hash;\n    server 127.0.0.1:8081 weight=5;\n    server 127.0.0.1:8082 down;"))),
    "least_conn and keepalive": single(
        http(app(b"    least_conn;\n" + BASE + b"\n    keepalive 32;\n    keepalive_timeout 60s;"))
    ),
    "random": single(
        http(app(b"    random two least_conn;\n    server 127.0.0.1:8081;\n    server 127.0.0.1:8082 weight=3;"))
    ),
    "several upstreams": single(
        http(app(BASE) + b"\nupstream api { server 127.0.0.1:9001; server 127.0.0.1:8081 weight=3; }")
    ),
    "variables and braces": single(
        http(
            app(BASE),
            b'map $http_x $route { default app; "~^a{2,3};" app; }',
            b'set $x "${uri}}"; location ~ "^/a{1,2}/\\.php$" { proxy_pass http://$route; }',
        )
    ),
    "quotes within a quoted word": single(http(app(BASE), LOG_FORMAT)),
    "split_clients": single(http(app(BASE), b"split_clients $remote_addr $side { 5% app; * app; }")),
    "if and nested blocks": single(
        http(app(BASE), server=b'location / { if ($arg_a = "}") { return 404; } proxy_pass http://app; }')
    ),
    "include of the upstream": {"nginx.conf": http(b"include conf.d/*.conf;"), "conf.d/app.conf": app(BASE) + b"\n"},
    "include within the upstream": {
        "nginx.conf": http(app(b"    include servers/*.conf;\n    server 127.0.0.1:8084;")),
        "servers/a.conf": BASE,
        "servers/b.conf": b"server 127.0.0.1:8085 weight=2;",
    },
    "includes in their order": {
        "nginx.conf": http(b"include conf.d/[ab]*.conf;\ninclude more;"),
        "conf.d/b.conf": b"upstream api { server 127.0.0.1:9001; }",
        "conf.d/a.conf": app(BASE),
        "conf.d/c.conf": b"this is not read {",
        "more": b"upstream last { server 127.0.0.1:9002 weight=2; }",
    },
    "include of nothing": single(http(b"include conf.d/*.conf;\n" + app(BASE))),
    "http and stream": single(
        http(app(BASE)) + stream(b"    server 127.0.0.1:8081 weight=5;\n    server 127.0.0.1:8082 down;")
    ),
    "stream only": single(
        HEAD
        + stream(b"    least_conn;\n    server 127.0.0.1:8081 max_fails=2 weight=5;\n    server unix:/run/app.sock;")
    ),
}

# What nginx does not take, with what it says of it; our reader need not find it all, but must not fall over it.
BROKEN: dict[str, Files] = {
    "no semicolon": single(http(app(b"    server 127.0.0.1:8081\n    server 127.0.0.1:8082;"))),
    "no brace": single(HEAD + b"http {\n" + app(BASE)),
    "brace too many": single(http(app(BASE)) + b"}\n"),
    "open quote": single(http(app(b'    server 127.0.0.1:8081 "weight=5;\n'))),
    "weight of zero": single(http(app(b"    server 127.0.0.1:8081 weight=0;\n" + BASE))),
    "parameter that is not there": single(http(app(b"    server 127.0.0.1:8081 wieght=5;\n" + BASE))),
    "empty upstream": single(http(b"upstream app { }")),
}

# The stock Lua module reads blocks that only Lua understands. Valid where it is loaded.
LUA: dict[str, Files] = {
    "lua block": single(http(app(BASE), server=b'location / { content_by_lua_block { ngx.say("}") -- }\n } }')),
    "lua strings": single(
        http(
            app(BASE),
            b"init_by_lua_block {\n  local a = [[ } ]] local b = [==[ ]] } ]==]\n  --[[ } ]]\n  c = {d = '\\'}'}\n}",
        )
    ),
}
