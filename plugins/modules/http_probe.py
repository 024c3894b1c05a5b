#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: http_probe
short_description: Wait until HTTP servers answer as expected, several times in a row
version_added: 0.1.0
description:
  - Asks many servers at the same time, from the host that the task runs on, until each has answered as expected O(rise) times
    in a row.
  - Succeeds as soon as every target has risen. Fails when O(deadline) passes before, with a message that names each target
    that has not risen and its last failing answer.
  - A target that has risen is not asked again by the same task.
  - Speaks HTTP/1.1 with a new connection for every try, directly; proxies named in the environment are not used.
  - A target that hangs delays no other one, up to 256 targets; of more, those beyond wait for a free place.
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
attributes:
  check_mode:
    support: full
    details:
      - A probe only reads, so it is made in check mode too.
  diff_mode:
    support: N/A
    details:
      - This module changes nothing.
  idempotent:
    support: full
options:
  targets:
    description:
      - The servers to ask. Each needs one of O(targets[].url), O(targets[].address) and O(targets[].unix_socket).
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description:
          - What the target is called in the result and in messages. No two targets may have the same name.
          - Give the name of the server in the load balancer, to be able to compare with
            P(steady.rollout.health_differences#filter).
        type: str
        required: true
      url:
        description:
          - All in one, such as V(https://web1.example.com:8443/health?full=1). It takes nothing from O(scheme), O(port)
            and O(path).
        type: str
      address:
        description:
          - Host name or IP address. A name is resolved anew for each try.
        type: str
      unix_socket:
        description:
          - Path of a unix stream socket that speaks HTTP.
        type: path
      scheme:
        description:
          - Instead of O(scheme).
        type: str
        choices: [http, https]
      port:
        description:
          - Instead of O(port).
        type: int
      path:
        description:
          - Instead of O(path).
        type: str
      host:
        description:
          - Instead of O(host).
        type: str
      headers:
        description:
          - Added to O(headers); a header of the same name takes its place.
        type: dict
      server_hostname:
        description:
          - Instead of O(server_hostname).
        type: str
      expect:
        description:
          - Each part given here takes the place of the same part of O(expect).
        type: dict
        suboptions:
          status:
            description: Instead of O(expect.status).
            type: list
            elements: str
          headers:
            description: Instead of O(expect.headers).
            type: dict
          headers_regex:
            description: Instead of O(expect.headers_regex).
            type: dict
          body:
            description: Instead of O(expect.body).
            type: str
          body_regex:
            description: Instead of O(expect.body_regex).
            type: str
          json:
            description: Instead of O(expect.json).
            type: dict
          max_latency_ms:
            description: Instead of O(expect.max_latency_ms).
            type: float
  scheme:
    description:
      - For targets with an address or a unix socket.
    type: str
    choices: [http, https]
    default: http
  port:
    description:
      - For targets with an address. 80 or 443, by the scheme, where nothing is given.
    type: int
  path:
    description:
      - What to ask for, with its query, percent-encoded. For targets with an address or a unix socket.
    type: str
    default: /
  host:
    description:
      - The Host header, with a port where it needs one. The target's own address where nothing is given.
    type: str
  method:
    description:
      - The request must not change anything on the server, whatever its method is.
    type: str
    choices: [GET, HEAD, OPTIONS, POST]
    default: GET
  headers:
    description:
      - Headers of the request.
      - Their values are never shown, neither in messages nor in results. Where an answer repeats a value of four or more
        characters, it is hidden there too.
    type: dict
  body:
    description:
      - Body of the request, sent as UTF-8. Only with O(method=POST).
    type: str
  follow_redirects:
    description:
      - Whether to follow up to 5 redirects that stay on the same server. One that leads elsewhere is a failure then, because
        what another server answers says nothing about this one.
      - When V(false), a redirect is an answer like any other.
    type: bool
    default: false
  expect:
    description:
      - What an answer must be; all that is given must be true.
    type: dict
    suboptions:
      status:
        description:
          - Status codes, or ranges of them such as V(200-399).
        type: list
        elements: str
        default: ["200"]
      headers:
        description:
          - Names of headers and the exact value of each. The case of names does not matter.
        type: dict
      headers_regex:
        description:
          - Names of headers and a regular expression that is found in the value of each.
        type: dict
      body:
        description:
          - Text that the body contains. Bodies are read as UTF-8.
        type: str
      body_regex:
        description:
          - Regular expression of Python that is found in the body. A search that is not over within the time of the try is a
            failure.
        type: str
      json:
        description:
          - Paths into the body, which must be JSON, and the value at each. Types matter, so V(1), V("1") and V(true) differ.
          - A path is written like V(a.b[0].c). A name with dots or brackets is written as V(["a.b"]).
        type: dict
      max_latency_ms:
        description:
          - Milliseconds from before the connection until the last byte read.
        type: float
  rise:
    description:
      - Successes in a row after which a target is V(up).
    type: int
    default: 3
  fall:
    description:
      - Failures in a row after which a target is given up before the deadline, from the first try on. With V(0) every target is
        tried until it has risen or O(deadline) passes.
      - The other targets are still tried, so that the message names all that fail.
    type: int
    default: 0
  interval:
    description:
      - Seconds from the end of a try of a target to the start of its next one; at least V(0.01).
    type: float
    default: 1
  timeout:
    description:
      - Seconds that one try may take, from resolving the name to the last byte of the answer.
    type: float
    default: 5
  deadline:
    description:
      - Seconds by which all targets must have risen.
      - With V(0) nothing is waited for. The first failure of a target is final, and only O(rise) successes take their time.
    type: float
    default: 60
  max_body:
    description:
      - Bytes that are read of a body, from 1 KiB to 16 MiB. The connection is closed after them.
    type: int
    default: 262144
  validate_certs:
    description:
      - Whether the certificate of a server must be valid, and for the right name.
    type: bool
    default: true
  ca_path:
    description:
      - PEM file with the certificates of the authorities to trust, or a directory of them with hashed names, instead of those
        of the system.
    type: path
  server_hostname:
    description:
      - The name for SNI and for the check of the certificate. The name in O(host) where nothing is given, else the target's own
        address.
    type: str
  client_cert:
    description:
      - PEM file with the certificate to show to servers, with the chain where they need it.
    type: path
  client_key:
    description:
      - PEM file with the key of O(client_cert), not encrypted. Not needed where that file holds the key too.
    type: path
seealso:
  - plugin: steady.rollout.health_differences
    plugin_type: filter
    description: Compare with what the load balancer thinks of the same servers.
  - module: steady.rollout.haproxy_backend_info
"""

EXAMPLES = r"""
- name: Wait until a host serves release 1.4.2, as seen from a load balancer
  steady.rollout.http_probe:
    targets:
      - name: web1
        address: 192.0.2.21
        port: 8080
    path: /health
    expect:
      json:
        release: 1.4.2
        checks[0].ok: true
      max_latency_ms: 500
    rise: 5
    deadline: 300
  delegate_to: lb1

- name: Look once at both servers of the shop, over TLS with the name that clients use
  steady.rollout.http_probe:
    targets:
      - name: web1
        address: 192.0.2.21
      - name: web2
        address: 192.0.2.22
    scheme: https
    host: shop.example.com
    headers:
      Authorization: "Bearer {{ shop_probe_token }}"
    expect:
      status: [200-299, 304]
    rise: 1
    deadline: 0

- name: Ask an application behind a unix socket
  steady.rollout.http_probe:
    targets:
      - name: app
        unix_socket: /run/app/http.sock
    expect:
      body_regex: "^(ok|ready)$"
"""

RETURN = r"""
targets:
  description: What became of each target, in the order of the option. Also returned when the task fails.
  returned: when targets were asked
  type: list
  elements: dict
  contains:
    name:
      description: As given.
      type: str
    where:
      description: The URL that was asked; for a unix socket C(http+unix:SOCKET:PATH).
      type: str
      sample: http://192.0.2.21:8080/health
    health:
      description: V(up) when the target has risen, else V(down).
      type: str
    successes:
      description: The most successes in a row; O(rise) for a target that is up.
      type: int
    tries:
      description: How often it was asked.
      type: int
    elapsed:
      description: Seconds from the start of the task to the end of the last try.
      type: float
    status:
      description: Status of the last answer; null where the last try got none.
      type: int
    latency_ms:
      description: Milliseconds that the last try took to its last byte; null where it got no answer.
      type: float
    last_failure:
      description:
        - The last try that failed; null where none did. A target that is up may have failed before.
      type: dict
      contains:
        reason:
          description: What was wrong.
          type: str
          sample: answered 503 instead of 200
        status:
          description: Status of that answer; null where there was none.
          type: int
        body:
          description: The first 200 characters of that answer's body, with control characters escaped; null where there was none.
          type: str
elapsed:
  description: Seconds that the probe took.
  returned: when targets were asked
  type: float
"""

import copy

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import ProbeError
from ansible_collections.steady.rollout.plugins.module_utils._probe_module import OPTIONS, carry_out, hide_headers


def main() -> None:
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    params = copy.deepcopy(module.params)
    hide_headers(module.params)
    module.no_log_values.clear()
    try:
        problem, result = carry_out(params)
    except ProbeError as exc:
        module.fail_json(msg=str(exc))
    if problem:
        module.fail_json(msg=problem, changed=False, **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
