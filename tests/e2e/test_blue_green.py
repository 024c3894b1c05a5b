# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Blue-green: the idle colour gets the release and, once it is seen to work, all of the traffic; the way back is short."""

from __future__ import annotations

import re
import typing as t

import pytest

from e2e.rollouts import COLOURS, RELEASE, Rollouts, Seen, rest_green, see
from local_fleet.layout import BACKEND, LOAD_BALANCERS, TEMPLATE, Options
from local_fleet.polling import poll

BLUE, GREEN = {"web1", "web2"}, {"web3", "web4"}


# --- A good release


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[Rollouts]:
    """A fleet for a release, a second run of it, and the way back: each fixture below goes on from the one before."""
    with Rollouts(tmp_path_factory.mktemp("story"), Options(apps=4, tracks=COLOURS), {}, {}) as shop:
        yield rest_green(shop)


@pytest.fixture(scope="module")
def promoted(story: Rollouts) -> Seen:
    """A good release on the idle colour."""
    return see(story, "blue_green", "2.0.0")


@pytest.fixture(scope="module")
def repeated(promoted: Seen, story: Rollouts) -> Seen:
    """The same release once more."""
    promoted.result.expect(0, "promoted")
    return see(story, "blue_green", "2.0.0")


@pytest.fixture(scope="module")
def taken_back(repeated: Seen, story: Rollouts) -> Seen:
    """The way back from it."""
    repeated.result.expect(0, "unchanged")
    return see(story, "rollback")


@pytest.mark.xdist_group("test_blue_green_promoted")
@pytest.mark.pattern
def test_a_good_release_is_promoted(promoted: Seen) -> None:
    promoted.result.expect(0, "promoted")
    assert (promoted.summary.lost, promoted.summary.harmed) == (0, 0), promoted.summary.examples


@pytest.mark.xdist_group("test_blue_green_promoted")
@pytest.mark.pattern
def test_the_idle_colour_gets_the_release_and_all_traffic(promoted: Seen) -> None:
    for name in LOAD_BALANCERS:
        assert promoted.carrying[name] == GREEN
        assert promoted.answering[name] == {"2.0.0"}


@pytest.mark.xdist_group("test_blue_green_promoted")
@pytest.mark.pattern
def test_the_old_colour_stays_as_it_was(promoted: Seen) -> None:
    assert {promoted.releases[host] for host in BLUE} == {"1.0.0"}
    assert {host for host, _release in promoted.started} == GREEN


@pytest.mark.xdist_group("test_blue_green_promoted")
@pytest.mark.pattern
def test_one_colour_carries_all_at_every_moment(promoted: Seen) -> None:
    # While one takes over from the other, both do.
    seen = [now for name in LOAD_BALANCERS for now in promoted.watch.seen[name]]
    assert not [now for now in seen if not (now >= BLUE or now >= GREEN)]


@pytest.mark.xdist_group("test_blue_green_promoted")
@pytest.mark.pattern
def test_the_share_that_was_seen_is_told(promoted: Seen) -> None:
    assert re.search(r"100\.0 % of (\d+ requests|the traffic)", promoted.result.output), promoted.result.output


@pytest.mark.long
def test_the_next_release_goes_to_the_other_colour(blue_green: Rollouts) -> None:
    blue_green.load()
    blue_green.blue_green("2.0.0").expect(0, "promoted")
    blue_green.blue_green("3.0.0").expect(0, "promoted")
    blue_green.expect_traffic("3.0.0", BLUE)
    assert {blue_green.releases()[host] for host in GREEN} == {"2.0.0"}


@pytest.mark.long
@pytest.mark.long
def test_a_bake_without_any_traffic_is_no_pass(blue_green: Rollouts) -> None:
    result = blue_green.blue_green("2.0.0")
    assert result.code == 2, result.output
    assert result.outcome == "rolled_back"
    blue_green.expect_traffic("1.0.0", BLUE)


@pytest.mark.long
def test_a_bake_of_nothing_needs_no_traffic(blue_green: Rollouts) -> None:
    blue_green.blue_green("2.0.0", blue_green_bake=0).expect(0, "promoted")
    blue_green.expect_traffic("2.0.0", GREEN)


@pytest.mark.long
def test_a_load_balancer_without_traffic_is_swapped_too(blue_green: Rollouts) -> None:
    blue_green.load(only="lb1")
    blue_green.blue_green("2.0.0").expect(0, "promoted")
    blue_green.expect_traffic("2.0.0", GREEN)


@pytest.mark.long
def test_unequal_base_weights_are_kept(start_blue_green: t.Callable[..., Rollouts]) -> None:
    shop = start_blue_green(weights={"web1": 30, "web3": 5, "web4": 20})
    shop.blue_green("2.0.0", blue_green_bake=0).expect(0, "promoted")
    shop.rollback().expect(0, "rolled_back")
    for servers in shop.states().values():
        assert {name: weight for name, (_status, weight) in servers.items()} == {
            "web1": "30",
            "web2": "10",
            "web3": "5",
            "web4": "20",
        }


# --- A second run, and one that only looks


@pytest.mark.xdist_group("test_blue_green_promoted")
@pytest.mark.pattern
def test_a_second_run_of_the_same_release_changes_nothing(promoted: Seen, repeated: Seen) -> None:
    repeated.result.expect(0, "unchanged")
    assert repeated.result.changed == {}, repeated.result.output
    assert repeated.started == []
    assert repeated.states == promoted.states


def test_check_mode_shows_the_plan_and_the_weights_and_changes_nothing(blue_green: Rollouts) -> None:
    started, states = blue_green.starts(), blue_green.states()
    result = blue_green.blue_green("2.0.0", "--check", "--diff")
    assert result.code == 0, result.output
    assert blue_green.starts() == started
    assert blue_green.states() == states
    for word in ("deploy green", "probe green", "web1", "web4"):
        assert word in result.output, result.output
    assert "\n+" in result.output, result.output


@pytest.mark.long
def test_check_mode_leaves_no_trace_that_a_rollout_would_find(blue_green: Rollouts) -> None:
    blue_green.load()
    assert blue_green.blue_green("2.0.0", "--check").code == 0
    blue_green.blue_green("3.0.0").expect(0, "promoted")
    blue_green.expect_traffic("3.0.0", GREEN)


# --- The way back


@pytest.mark.xdist_group("test_blue_green_promoted")
@pytest.mark.pattern
def test_a_rollback_swaps_back_to_the_warm_colour(taken_back: Seen) -> None:
    taken_back.result.expect(0, "rolled_back")
    for name in LOAD_BALANCERS:
        assert taken_back.carrying[name] == BLUE
        assert taken_back.answering[name] == {"1.0.0"}
    assert taken_back.started == []
    assert (taken_back.summary.lost, taken_back.summary.harmed) == (0, 0), taken_back.summary.examples


def test_a_release_that_turns_bad_in_the_bake_is_swapped_back_by_itself(blue_green: Rollouts) -> None:
    load = blue_green.load()
    bad = {"2.0.0": {"behaviour": "errors", "rate": 0.3}}
    result = blue_green.blue_green("2.0.0", blue_green_bake=20, fleet_behaviours=bad).expect(2, "rolled_back")
    blue_green.expect_traffic("1.0.0", BLUE)
    assert "%" in result.message
    assert "5xx" in result.message
    load.stop()
    summary = load.summary()
    assert (summary.lost, summary.harmed > 0) == (0, True), summary.examples


@pytest.mark.long
def test_a_release_within_the_limit_that_fails_more_than_what_carried_before_is_swapped_back(
    blue_green: Rollouts,
) -> None:
    load = blue_green.load(rate=150)
    bad = {"2.0.0": {"behaviour": "errors", "rate": 0.04}}
    analysis = {"interval": 0.5, "max_error_rate": 20, "min_requests": 100}
    given = {"fleet_behaviours": bad, "rollout_analysis": analysis, "blue_green_bake": 30}
    result = blue_green.blue_green("2.0.0", **given).expect(2, "rolled_back")
    assert "of what carried before" in result.message
    blue_green.expect_traffic("1.0.0", BLUE)
    load.stop()
    assert load.summary().lost == 0, load.summary().examples


@pytest.mark.long
def test_a_release_that_is_bad_sometimes_but_within_the_limit_is_promoted(blue_green: Rollouts) -> None:
    blue_green.load(rate=150)
    bad = {"2.0.0": {"behaviour": "errors", "rate": 0.01}}
    analysis = {"interval": 0.3, "max_error_rate": 20, "min_requests": 100, "tolerance": {"delta": 0.02}}
    blue_green.blue_green("2.0.0", fleet_behaviours=bad, rollout_analysis=analysis).expect(0, "promoted")


# --- Which colour is live


@pytest.mark.long
def test_a_fleet_where_both_colours_are_live_is_adopted_on_request(start_rollouts: t.Callable[..., Rollouts]) -> None:
    tracks = {"web1": "blue", "web2": "blue", "web3": "green", "web4": "green"}
    shop = start_rollouts(apps=4, tracks=tracks)
    shop.load()
    shop.blue_green("2.0.0", blue_green_live="blue").expect(0, "promoted")
    shop.expect_traffic("2.0.0", GREEN)


@pytest.mark.long
def test_two_slots_on_one_host_are_two_colours(start_rollouts: t.Callable[..., Rollouts]) -> None:
    shop = start_rollouts(apps=4)
    slots = {"web1": ("web1", "web3"), "web2": ("web2", "web4")}

    def halve(inventory: dict[str, t.Any]) -> None:
        hosts = inventory["all"]["children"]["app"]["hosts"]
        for host, (blue, green) in slots.items():
            hosts[host]["rollout_tracks"] = {"blue": {"server": blue}, "green": {"server": green}}
            hosts[host]["fleet_slots"] = {"blue": blue, "green": green}
        del hosts["web3"], hosts["web4"]

    shop.write_inventory(halve)
    for host in GREEN:
        shop.fleet.set_state(host, "drain")
    shop.load()
    shop.blue_green("2.0.0").expect(0, "promoted")
    shop.expect_traffic("2.0.0", GREEN)
    assert {shop.releases()[host] for host in BLUE} == {"1.0.0"}


# --- Reloads


@pytest.mark.long
def test_a_load_balancer_may_be_reloaded_during_the_bake(blue_green: Rollouts) -> None:
    load = blue_green.load()
    running = blue_green.start("blue_green", rollout_hosts="app", rollout_release="2.0.0", blue_green_bake=5)
    poll(lambda: blue_green.carrying("lb1") == blue_green.carrying("lb2") == GREEN, "green has taken over", 60)
    blue_green.fleet.reload("lb1")
    running.result().expect(0, "promoted")
    blue_green.expect_traffic("2.0.0", GREEN)
    load.stop()
    assert load.summary().lost == 0, load.summary().examples


STATELESS = TEMPLATE.replace("    server-state-file $dir/server-state\n", "")


@pytest.mark.long
@pytest.mark.parametrize(
    ("policy", "code", "outcome", "carries"), [("reassert", 0, "promoted", GREEN), ("rollback", 2, "rolled_back", BLUE)]
)
def test_a_load_balancer_that_forgets_at_a_reload_is_told_again_or_the_release_is_taken_back(
    start_blue_green: t.Callable[..., Rollouts], policy: str, code: int, outcome: str, carries: set[str]
) -> None:
    shop = start_blue_green(template=STATELESS, variables={"rollout_unpersisted": True, "rollout_on_restart": policy})
    load = shop.load()
    running = shop.start("blue_green", rollout_hosts="app", rollout_release="2.0.0", blue_green_bake=6)
    poll(lambda: ": analyse green" in running.output, "the bake has begun", 120)
    shop.fleet.reload("lb1")
    result = running.result().expect(code, outcome)
    for name in LOAD_BALANCERS:
        assert shop.carrying(name) == carries, result.output
    assert ("it is told again" in result.output) == (policy == "reassert")
    load.stop()
    assert load.summary().lost == 0, load.summary().examples


def test_a_state_that_would_not_survive_a_reload_is_refused(start_blue_green: t.Callable[..., Rollouts]) -> None:
    shop = start_blue_green(template=STATELESS)
    result = shop.blue_green("2.0.0").expect(2, "refused")
    assert "reload" in result.message
    assert "lb1" in result.message
    shop.expect_traffic("1.0.0", BLUE)


@pytest.mark.long
def test_a_state_that_would_not_survive_a_reload_is_accepted_on_request(
    start_blue_green: t.Callable[..., Rollouts],
) -> None:
    shop = start_blue_green(template=STATELESS, variables={"rollout_unpersisted": True, "blue_green_bake": 0})
    shop.blue_green("2.0.0").expect(0, "promoted")
    shop.expect_traffic("2.0.0", GREEN)


# --- Several backends

TWO_BACKENDS = TEMPLATE.replace(
    "    default_backend $backend\n", "    use_backend api if { path_beg /api }\n    default_backend $backend\n"
) + (
    "backend api\n"
    "    balance roundrobin\n"
    "    option httpchk GET /health\n"
    "    default-server check inter 200ms rise 2 fall 3\n"
    "$servers\n"
)


@pytest.mark.long
def test_several_backends_are_swapped_together(start_blue_green: t.Callable[..., Rollouts]) -> None:
    shop = start_blue_green(template=TWO_BACKENDS, variables={"rollout_backend": [BACKEND, "api"]})
    for host in GREEN:
        for name in LOAD_BALANCERS:
            assert not shop.fleet.ask(name, f"set server api/{host} state drain").strip()
    shop.load()
    shop.blue_green("2.0.0").expect(0, "promoted")
    shop.expect_traffic("2.0.0", GREEN)
    for name in LOAD_BALANCERS:
        assert carrying_in(shop, name, "api") == GREEN


def carrying_in(shop: Rollouts, load_balancer: str, backend: str) -> set[str]:
    lines = shop.fleet.ask(load_balancer, f"show servers state {backend}").splitlines()[2:]
    rows = [line.split() for line in lines if line]
    return {row[3] for row in rows if (row[5], row[6]) == ("2", "0") and int(row[4 + 3])}


# --- A user's own deploy


@pytest.mark.long
def test_a_deploy_is_told_what_to_do(blue_green: Rollouts) -> None:
    names = ["release", "previous", "action", "track"]
    told = " ".join(f"{name}={{{{ rollout_deploy_{name} }}}}" for name in names)
    note = {"name": "Note", "ansible.builtin.debug": {"msg": f"{{{{ inventory_hostname }}}}: {told}"}}
    deploy = blue_green.write_deploy(note, RELEASE)
    result = blue_green.blue_green("2.0.0", rollout_deploy=deploy, blue_green_bake=0).expect(0, "promoted")
    notes = {entry["message"] for entry in result.entries if str(entry.get("task")).endswith("Note")}
    assert notes == {f"{host}: release=2.0.0 previous=1.0.0 action=deploy track=green" for host in GREEN}
