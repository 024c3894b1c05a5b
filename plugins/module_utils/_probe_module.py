# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""A probe as modules are asked for it: the options of http_probe, where they are documented, and what a probe returns."""

from __future__ import annotations

import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._probe import (
    METHODS,
    Target,
    failure_message,
    parse_rules,
    parse_targets,
    report,
)
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import HIDDEN
from ansible_collections.steady.rollout.plugins.module_utils._probe_http import Prober, Tls, tls_context
from ansible_collections.steady.rollout.plugins.module_utils._probe_run import run

SCHEME = {"type": "str", "choices": ["http", "https"]}
EXPECT = {
    "status": {"type": "list", "elements": "str"},
    "headers": {"type": "dict"},
    "headers_regex": {"type": "dict"},
    "body": {"type": "str"},
    "body_regex": {"type": "str"},
    "json": {"type": "dict"},
    "max_latency_ms": {"type": "float"},
}
TARGET = {
    "name": {"type": "str", "required": True},
    "url": {"type": "str"},
    "address": {"type": "str"},
    "unix_socket": {"type": "path"},
    "scheme": SCHEME,
    "port": {"type": "int"},
    "path": {"type": "str"},
    "host": {"type": "str"},
    "headers": {"type": "dict", "no_log": True},
    "server_hostname": {"type": "str"},
    "expect": {"type": "dict", "options": EXPECT},
}
OPTIONS = {
    "targets": {"type": "list", "elements": "dict", "required": True, "options": TARGET},
    "scheme": {**SCHEME, "default": "http"},
    "port": {"type": "int"},
    "path": {"type": "str", "default": "/"},
    "host": {"type": "str"},
    "method": {"type": "str", "choices": list(METHODS), "default": "GET"},
    "headers": {"type": "dict", "no_log": True},
    "body": {"type": "str"},
    "follow_redirects": {"type": "bool", "default": False},
    "expect": {
        "type": "dict",
        "apply_defaults": True,
        "options": {**EXPECT, "status": {"type": "list", "elements": "str", "default": ["200"]}},
    },
    "rise": {"type": "int", "default": 3},
    "fall": {"type": "int", "default": 0},
    "interval": {"type": "float", "default": 1},
    "timeout": {"type": "float", "default": 5},
    "deadline": {"type": "float", "default": 60},
    "max_body": {"type": "int", "default": 262144},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
    "server_hostname": {"type": "str"},
    "client_cert": {"type": "path"},
    "client_key": {"type": "path", "no_log": False},
}


def carry_out(params: t.Mapping[str, t.Any]) -> tuple[str, dict[str, t.Any]]:
    """Probe as the validated OPTIONS say: (what failed, or "", {targets, elapsed}). Raises ProbeError."""
    rules = parse_rules(params)
    targets = parse_targets(params)
    prober = Prober(_make_tls_context(params, targets), params["max_body"])
    try:
        progresses, elapsed = run(targets, rules, prober.attempt)
    finally:
        prober.close()
    found = [report(target, progress) for target, progress in zip(targets, progresses)]
    return failure_message(targets, progresses, rules) or "", {"targets": found, "elapsed": round(elapsed, 3)}


def hide_headers(params: dict[str, t.Any]) -> None:
    """Take the values of headers out of what Ansible returns as the invocation.

    no_log alone would also mask them wherever they occur in the result by chance: with a header `X-Env: up`, the health of
    every target. What answers repeat of them is hidden by the probe itself.
    """
    for options in (params, *(params.get("targets") or ())):
        if options.get("headers"):
            options["headers"] = dict.fromkeys(options["headers"], HIDDEN)


def _make_tls_context(params: t.Mapping[str, t.Any], targets: t.Sequence[Target]) -> t.Any:
    """One context for all tries: loading the authorities of a system takes some 20 ms. None where nobody speaks TLS."""
    options = {name: params[name] for name in ("validate_certs", "ca_path", "client_cert", "client_key")}
    asked = any(options[name] for name in ("ca_path", "client_cert", "client_key"))
    if asked or any(target.scheme == "https" for target in targets):
        return tls_context(Tls(**options))
    return None
