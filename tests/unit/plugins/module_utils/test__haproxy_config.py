# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._haproxy_config import parse, restoration


def path(text: str, backend: str = "shop") -> str | None:
    return restoration(parse([text]), backend, "/etc/haproxy").path


GLOBAL = "global\n  server-state-file /var/lib/haproxy/state\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GLOBAL + "defaults\n load-server-state-from-file global\nbackend shop\n", "/var/lib/haproxy/state"),
        (GLOBAL + "backend shop\n  load-server-state-from-file global\n", "/var/lib/haproxy/state"),
        (GLOBAL + "listen shop\n  load-server-state-from-file global\n", "/var/lib/haproxy/state"),
        (GLOBAL + "backend shop\n", None),
        ("defaults\n load-server-state-from-file global\nbackend shop\n", None),
        (
            GLOBAL + "defaults\n load-server-state-from-file global\nbackend shop\n load-server-state-from-file none\n",
            None,
        ),
        # the defaults section read last counts, not the first
        (GLOBAL + "defaults\n load-server-state-from-file global\ndefaults\nbackend shop\n", None),
        (
            GLOBAL + "defaults a\n load-server-state-from-file global\ndefaults b\nbackend shop from a\n",
            "/var/lib/haproxy/state",
        ),
        (
            GLOBAL + "defaults a\n load-server-state-from-file global\ndefaults b from a\nbackend shop from b\n",
            "/var/lib/haproxy/state",
        ),
        (
            "global\n server-state-base /srv/\n server-state-file s\nbackend shop\n load-server-state-from-file global\n",
            "/srv/s",
        ),
        ("global\n server-state-file s\nbackend shop\n load-server-state-from-file global\n", "/etc/haproxy/s"),
        ("global\n server-state-base /srv\nbackend shop\n load-server-state-from-file local\n", "/srv/shop"),
        (
            "global\n server-state-base /srv\nbackend shop\n load-server-state-from-file local\n server-state-file-name x\n",
            "/srv/x",
        ),
        (GLOBAL + "backend shop # load-server-state-from-file global\n", None),
        (
            'global\n server-state-file "/srv/two words"\nbackend shop\n load-server-state-from-file global\n',
            "/srv/two words",
        ),
        ('global\n server-state-file "${HOME}/s"\nbackend shop\n load-server-state-from-file global\n', None),
        (GLOBAL + "backend other\n  load-server-state-from-file global\n", None),
    ],
)
def test_the_state_file_is_the_one_haproxy_would_load(text: str, expected: str | None) -> None:
    assert path(text) == expected


def test_sections_run_over_several_files() -> None:
    found = restoration(
        parse([GLOBAL, "defaults\n load-server-state-from-file global\n", "backend shop\n"]), "shop", "/"
    )
    assert (found.path, found.whole) == ("/var/lib/haproxy/state", True)


def test_a_local_file_holds_one_backend_only() -> None:
    text = "global\n server-state-base /srv\nbackend shop\n load-server-state-from-file local\n"
    assert restoration(parse([text]), "shop", "/").whole is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GLOBAL + "backend shop\n", "load-server-state-from-file global"),
        ("backend shop\n load-server-state-from-file global\n", "server-state-file PATH"),
        (GLOBAL, "backend shop is not in the configuration"),
    ],
)
def test_the_reason_names_what_is_missing(text: str, said: str) -> None:
    assert said in restoration(parse([text]), "shop", "/").reason


def test_an_unclosed_quote_does_not_hide_the_rest() -> None:
    assert path(GLOBAL + 'backend shop\n http-request set-header X "y\n load-server-state-from-file global\n')
