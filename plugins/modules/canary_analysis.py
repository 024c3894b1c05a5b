#!/usr/bin/python
# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# What it does is in the action plugin of the same name.

from __future__ import annotations

DOCUMENTATION = r"""
module: canary_analysis
short_description: Judge a canary by what it and the stable servers did
version_added: 0.1.0
description:
  - Compares the canary with the stable servers, poll by poll, and says V(fail), V(pass) or V(inconclusive). It works on plain numbers
    and on the controller; neither a rollout nor a load balancer is needed.
  - It may be asked after every poll. A canary that is as good as O(tolerance) allows fails with a probability of at most O(alpha) over all
    polls together, and one that is not passes with one of at most O(beta).
  - Without traffic on both sides there is nothing to compare, and no data is never a V(pass).
author:
  - steady.rollout developers (@steady-rollout)
extends_documentation_fragment:
  - steady.rollout.attributes
  - steady.rollout.attributes.actiongroup_rollout
  - steady.rollout.attributes.part
options:
  polls:
    description:
      - What happened in each poll since the one before it, oldest first. Never sums since the start, as these would mix times of
        different shares and error rates.
      - Each has C(canary) and C(stable), and each of these C(requests) and C(errors), and one count for each name in O(further). What is left
        out is 0. More errors than requests count as all of them.
    type: list
    elements: dict
    default: []
  latencies:
    description:
      - How long requests took, one entry for each of O(polls), with C(canary) and C(stable). Each is a list of milliseconds, or a histogram that
        maps the upper edge of a bucket in milliseconds (V(+Inf) for the last one) to the requests in that bucket alone.
      - Whether latencies are judged is settled by the first call.
    type: list
    elements: dict
    default: []
  averages:
    description:
      - Mean times, where no latencies of single requests are known, one entry for each of O(polls). Each has C(canary) and C(stable) in milliseconds, and
        C(servers), the number of means that the canary's is made of. Each mean is one over the last 1024 requests of a server, as HAProxy tells
        it.
      - They can fail a canary, but take about ten thousand requests of it, and never withhold a pass. Whether they are judged is settled by the first
        call.
    type: list
    elements: dict
    default: []
  state:
    description:
      - What the last call returned as RV(state), or nothing to begin.
    type: dict
    default: {}
  tolerance:
    description:
      - What a canary is allowed. It may answer badly up to C(ratio) times (V(1.5)) the stable rate plus C(delta) (V(0.0005), of 1), and take C(latency)
        times (V(1.25)) as long.
      - For a pass C(pass_ratio) and C(pass_delta) must be excluded; they default to C(ratio) and C(delta).
    type: dict
    default: {}
  further:
    description:
      - Other counts of bad answers that are judged beside C(errors), such as answers with a status of 4xx, by name. Each has its own C(ratio) and
        C(delta).
    type: dict
    default: {}
  alpha:
    description:
      - How probable it may be that a canary fails which is as good as tolerated.
    type: float
    default: 0.01
  beta:
    description:
      - How probable it may be that a canary passes which is not.
    type: float
    default: 0.05
  horizon:
    description:
      - How many polls there will be at most. More are judged, too, but what breaks after them is found late.
    type: int
    default: 180
  min_requests:
    description:
      - Without so many requests to the canary there is no verdict, unless ten of them failed.
    type: int
    default: 50
  absolute_max:
    description:
      - The part of the canary's requests that may fail while there is no stable traffic to compare with.
    type: float
    default: 0.5
"""

EXAMPLES = r"""
- name: Judge a canary by one poll
  steady.rollout.canary_analysis:
    polls:
      - canary: {requests: 120, errors: 30}
        stable: {requests: 1080, errors: 1}
  register: first

- name: Judge it by the next one, too
  steady.rollout.canary_analysis:
    polls:
      - canary: {requests: 118, errors: 33}
        stable: {requests: 1092, errors: 0}
    state: "{{ first.state }}"
  register: second

- name: Tell how it looks
  ansible.builtin.debug:
    msg: "{{ second.verdict }}: {{ second.reason }}"
"""

RETURN = r"""
verdict:
  description: V(fail), V(pass) or V(inconclusive). A V(fail) stays; a V(pass) counts only when no further poll comes.
  returned: success
  type: str
  sample: inconclusive
history:
  description: The verdict after each of O(polls).
  returned: success
  type: list
  elements: str
  sample: [inconclusive, inconclusive, fail]
reason:
  description: The verdict in a sentence, with its numbers. It begins with V(no_data) when the last six polls had no request to the canary.
  returned: success
  type: str
requests_needed:
  description:
    - About how many more requests to the canary a pass takes at the rates seen so far. V(null) where that cannot be said, or where it looks as if
      it would not pass.
  returned: success
  type: int
evidence:
  description: How far the evidence towards C(fail) and C(pass) has come, each from 0 to 1.
  returned: success
  type: dict
  sample: {fail: 0.12, pass: 0.6}
state:
  description: What the next call needs to go on. Less than 4 kB of JSON.
  returned: success
  type: dict
"""
