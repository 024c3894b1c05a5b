# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics out of a real Prometheus that scrapes the load balancers: what it tells, does not tell, and what becomes of a canary."""

from __future__ import annotations

import pathlib
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _metric as metric
from ansible_collections.steady.rollout.plugins.plugin_utils._metric_fetch import ask

from e2e.prometheus import EXPORTER, Prometheus
from e2e.rollouts import COARSE, Rollouts
from local_fleet.fleet import Fleet
from local_fleet.layout import LOAD_BALANCERS, Options
from local_fleet.load import Load, Profile
from local_fleet.polling import poll

SERVERS = {"canary": ["web1"], "stable": ["web2", "web3"]}
REQUESTS = 'sum(haproxy_server_http_responses_total{proxy="shop",server=~"$canary"})'
NOTHING = 'haproxy_server_http_responses_total{proxy="nobody"}'
NOT_A_NUMBER = "vector(0) / vector(0)"
WRONG = "sum by ("


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[tuple[Fleet, Prometheus]]:
    with (
        Fleet(Options(apps=3, extra_frontend=[EXPORTER])) as fleet,
        Prometheus(fleet, tmp_path_factory.mktemp("prometheus")) as prometheus,
    ):
        yield fleet, prometheus


def measured(prometheus: Prometheus, times: int = 1, **options: t.Any) -> tuple[str, str]:
    """The verdict after some measurements of a metric, and why."""
    given = {"name": "served", "url": prometheus.url, "query": REQUESTS, "success": ">= 0", "timeout": 0.5}
    if "canary" in options:
        del given["query"], given["success"]
    (one,) = metric.read_metrics([{**given, **options}])
    record = metric.Record()
    for number in range(times):
        record = metric.measured(one, record, ask([one], SERVERS)["served"], float(number))
    return metric.verdict(one, record)


@pytest.mark.xdist_group("test_prometheus")
def test_what_haproxy_counted_is_read_by_side(scraped: tuple[Fleet, Prometheus]) -> None:
    fleet, prometheus = scraped
    with Load(fleet, Profile(rate=40.0)):
        stable = REQUESTS.replace("$canary", "$stable")
        poll(lambda: measured(prometheus, success="> 20")[0] == "pass", "the canary has served", 30, interval=0.5)
        # Two servers serve twice as much as one.
        assert measured(prometheus, canary=stable, stable=REQUESTS, ratio=2.5)[0] == "pass"
        assert measured(prometheus, canary=stable, stable=REQUESTS, ratio=1.5)[0] == "fail"


@pytest.mark.xdist_group("test_prometheus")
@pytest.mark.parametrize("query", [NOTHING, NOT_A_NUMBER])
@pytest.mark.parametrize(
    ("policy", "verdict"), [("inconclusive", "inconclusive"), ("fail", "fail"), ("ignore", "inconclusive")]
)
def test_an_empty_vector_and_nan_are_no_data_and_the_policy_decides(
    scraped: tuple[Fleet, Prometheus], query: str, policy: str, verdict: str
) -> None:
    told = measured(scraped[1], query=query, no_data=policy)
    assert told[0] == verdict, told


@pytest.mark.xdist_group("test_prometheus")
@pytest.mark.parametrize("query", [NOTHING, NOT_A_NUMBER])
def test_no_data_as_an_error_fails_after_so_many_in_a_row(scraped: tuple[Fleet, Prometheus], query: str) -> None:
    options = {"query": query, "no_data": "error", "consecutive_error_limit": 1}
    assert measured(scraped[1], 1, **options)[0] == "inconclusive"
    assert measured(scraped[1], 2, **options)[0] == "fail"


@pytest.mark.xdist_group("test_prometheus")
def test_a_wrong_query_is_told_in_the_words_of_prometheus(scraped: tuple[Fleet, Prometheus]) -> None:
    verdict, why = measured(scraped[1], query=WRONG, consecutive_error_limit=0)
    assert verdict == "fail"
    assert "parse error" in why


@pytest.mark.xdist_group("test_prometheus")
def test_a_prometheus_that_does_not_answer_in_time_is_an_error_and_may_come_back(
    scraped: tuple[Fleet, Prometheus],
) -> None:
    _fleet, prometheus = scraped
    prometheus.freeze()
    try:
        assert measured(prometheus, 1, consecutive_error_limit=1)[0] == "inconclusive"
        verdict, why = measured(prometheus, 2, consecutive_error_limit=1)
        assert (verdict, "no answer in time" in why) == ("fail", True), why
    finally:
        prometheus.thaw()
    poll(lambda: measured(prometheus)[0] == "pass", "it answers again", 10, interval=0.1)


def test_a_prometheus_that_is_not_there_is_an_error(
    start_fleet: t.Callable[..., Fleet], tmp_path: pathlib.Path
) -> None:
    with Prometheus(start_fleet(apps=1, extra_frontend=[EXPORTER]), tmp_path) as prometheus:
        assert measured(prometheus, query="vector(1)")[0] == "pass"
    verdict, why = measured(prometheus, query="vector(1)", consecutive_error_limit=0)
    assert (verdict, "no connection" in why) == ("fail", True), why


# --- What becomes of a canary

BY_CODE = 'sum(rate(haproxy_server_http_responses_total{{proxy="shop",server=~"$canary"{code}}}[5s]))'
SHARE = BY_CODE.format(code=',code="5xx"') + " / " + BY_CODE.format(code="")


def analysis(prometheus: Prometheus, **options: t.Any) -> dict[str, t.Any]:
    errors = {"name": "errors", "url": prometheus.url, "query": SHARE, "interval": 1, "no_data": "ignore", **options}
    return {**COARSE, "metrics": [errors]}


@pytest.mark.long
def test_a_canary_that_fails_by_prometheus_alone_is_taken_back(
    start_rollouts: t.Callable[..., Rollouts], tmp_path: pathlib.Path
) -> None:
    # The tolerance would let so few errors pass.
    behaviours = {"2.0.0": {"behaviour": "errors", "rate": 0.05}}
    shop = start_rollouts(apps=4, extra_frontend=[EXPORTER], variables={"fleet_behaviours": behaviours})
    with Prometheus(shop.fleet, tmp_path / "prometheus") as prometheus:
        load = shop.load()
        given = {"canary_steps": [25], "canary_step_for": 60}
        result = shop.canary("2.0.0", rollout_analysis=analysis(prometheus, success="< 0.001"), **given)
        result.expect(2, "rolled_back")
        load.stop()
    assert "metric errors failed" in result.message
    assert load.summary().lost == 0, load.summary().examples
    shop.expect_traffic("1.0.0", set(shop.fleet.app_hosts))


@pytest.mark.long
def test_a_good_canary_passes_by_prometheus_too(
    start_rollouts: t.Callable[..., Rollouts], tmp_path: pathlib.Path
) -> None:
    shop = start_rollouts(apps=4, extra_frontend=[EXPORTER])
    with Prometheus(shop.fleet, tmp_path / "prometheus") as prometheus:
        shop.load()
        shop.canary("2.0.0", rollout_analysis=analysis(prometheus, success="< 0.001")).expect(0, "promoted")
    shop.expect_traffic("2.0.0", set(shop.fleet.app_hosts))


def test_a_query_that_prometheus_refuses_is_refused_before_anything_changes(
    start_rollouts: t.Callable[..., Rollouts], tmp_path: pathlib.Path
) -> None:
    shop = start_rollouts(apps=4, extra_frontend=[EXPORTER])
    before = shop.states()
    with Prometheus(shop.fleet, tmp_path / "prometheus") as prometheus:
        result = shop.canary("2.0.0", rollout_analysis=analysis(prometheus, query=WRONG, success="< 1"))
    result.expect(2, "refused")
    assert "parse error" in result.message
    assert (shop.states(), len(shop.starts())) == (before, 4)
    assert not any(shop.place(name, "rollout/shop/journal.jsonl").exists() for name in LOAD_BALANCERS)
