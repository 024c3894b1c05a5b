# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A server to be probed. Started as `server.py FILE`: writes its port and its process id to FILE as JSON.

/ready answers 200, /starting 503 for ever, /flapping good twice, then bad once, then good; /echo repeats the request's
headers with 500.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FLAPPING = itertools.chain([200, 200, 503], itertools.repeat(200))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/ready": lambda: (200, json.dumps({"release": "1.4.2", "checks": [{"ok": True}]})),
            "/starting": lambda: (503, "starting up"),
            "/flapping": lambda: (next(FLAPPING), "flapping"),
            "/echo": lambda: (500, str(self.headers)),
        }
        status, text = answers[self.path]()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode("utf-8"))))
        self.end_headers()
        self.wfile.write(text.encode("utf-8"))

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told = {"port": server.server_address[1], "pid": os.getpid()}
    with open(sys.argv[1] + ".new", "w", encoding="utf-8") as file:
        json.dump(told, file)
    os.rename(sys.argv[1] + ".new", sys.argv[1])
    server.serve_forever()


if __name__ == "__main__":
    main()
