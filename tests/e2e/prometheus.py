# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Prometheus that scrapes the load balancers of a local fleet: HAProxy serves its counters on the port of the clients."""

from __future__ import annotations

import http.client
import json
import pathlib
import signal
import subprocess
import typing as t
import urllib.parse

from local_fleet.fleet import Fleet
from local_fleet.layout import LOAD_BALANCERS
from local_fleet.polling import poll

EXPORTER = "http-request use-service prometheus-exporter if { path /metrics }"  # of the frontend
SCRAPE_SECONDS = 0.5
START_SECONDS = 60.0
OCTET = 9  # of its address; no host of a fleet has it
PORT = 9099  # not that of a Prometheus of the machine's own


class Prometheus:
    """Use as a context manager; inside it has scraped every load balancer."""

    def __init__(self, fleet: Fleet, folder: pathlib.Path) -> None:
        self._address = f"127.{fleet.layout.number}.0.{OCTET}"
        self._folder = folder
        self._targets = [fleet.endpoint(name) for name in LOAD_BALANCERS]

    @property
    def url(self) -> str:
        return f"http://{self._address}:{PORT}"

    def __enter__(self) -> Prometheus:
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "prometheus.json"  # JSON is YAML
        job = {"job_name": "haproxy", "static_configs": [{"targets": self._targets}]}
        times = {
            "scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms",
            "scrape_timeout": f"{SCRAPE_SECONDS * 1000:.0f}ms",
        }
        config.write_text(json.dumps({"global": times, "scrape_configs": [job]}))
        self._log = (self._folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={self._address}:{PORT}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        try:
            poll(self._scraped, self._said, START_SECONDS, interval=0.1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def freeze(self) -> None:
        """From now on it takes connections and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _scraped(self) -> bool:
        assert self._process.poll() is None, self._said()
        with_all = f"count(up == 1) == {len(LOAD_BALANCERS)}"
        try:
            connection = http.client.HTTPConnection(self._address, PORT, timeout=5)
            connection.request("GET", f"/api/v1/query?{urllib.parse.urlencode({'query': with_all})}")
            told: dict[str, t.Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return bool(told.get("data", {}).get("result"))

    def _said(self) -> str:
        return (
            f"Prometheus has scraped {', '.join(self._targets)}; it said {(self._folder / 'log').read_text()[-1000:]}"
        )
