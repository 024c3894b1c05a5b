# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is NGINX's own: its files, its reloads and whatever kills them half-way, its log, and the two modules."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils import _lock
from ansible_collections.steady.rollout.plugins.module_utils import _nginx_process as process
from ansible_collections.steady.rollout.plugins.module_utils._driver import LoadBalancerError
from ansible_collections.steady.rollout.plugins.module_utils._nginx_driver import NginxDriver

from e2e.drivers import NginxSite, answers, hold
from e2e.nginx_lab import CONFIG, NginxLab
from local_fleet.polling import poll

Told = dict[str, t.Any]


@pytest.fixture
def lab() -> t.Iterator[NginxLab]:
    with NginxLab() as running:
        yield running


@pytest.fixture
def site(lab: NginxLab) -> NginxSite:
    return NginxSite(lab)


def servers(lab: NginxLab, **options: t.Any) -> list[Told]:
    found: list[Told] = lab.driver(**options).read(["shop"]).backends["shop"]["servers"]
    return found


def states(lab: NginxLab) -> list[tuple[int, str]]:
    return [(one["weight"], one["state"]) for one in servers(lab)]


READY = [(10, "ready")] * 3

# --- Killed at any moment

# Dies before the call of a number, of those that reach the disk or the master.
DYING = textwrap.dedent(
    """
    import os, signal, sys
    from ansible_collections.steady.rollout.plugins.module_utils._nginx_driver import NginxDriver
    calls, point = 0, int(sys.argv[1])
    def dying(real):
        def call(*args, **kwargs):
            global calls
            calls += 1
            if calls == point:
                real_kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    real_kill = os.kill
    for name in ("fsync", "replace", "kill"):
        setattr(os, name, dying(getattr(os, name)))
    NginxDriver(sys.argv[2]).change("shop", [{"name": sys.argv[3], "weight": 30}, {"name": sys.argv[4], "state": "down"}])
    print(calls)
    """
)


def killed_at(lab: NginxLab, point: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DYING, str(point), str(lab.config), lab.server(0), lab.server(1)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_killed_at_any_flush_rename_or_reload_it_leaves_a_valid_configuration_and_a_way_back(
    lab: NginxLab, site: NginxSite
) -> None:
    """Of each point: nginx takes what is there, no request fails, and what is safe can be restored and serves."""
    before = lab.upstream.read_bytes()
    safe = {lab.server(place): {"weight": 10, "state": "ready"} for place in range(3)}
    whole = killed_at(lab, 0)
    points = int(whole.stdout)
    after = lab.upstream.read_bytes()
    assert points >= 4
    assert after != before
    lab.driver().restore("shop", safe)
    assert lab.upstream.read_bytes() == before
    unread = 0
    for point in range(1, points + 1):
        dead = killed_at(lab, point)
        assert dead.returncode == -signal.SIGKILL, (point, dead.stderr)
        assert lab.upstream.read_bytes() in (before, after), point
        subprocess.run(["nginx", "-t", "-p", str(lab.dir), "-c", str(lab.config)], check=True, capture_output=True)
        assert sum(answers(site, 12).values()) == 12
        unread += not lab.driver().read(["shop"]).process["loaded"]
        lab.driver().restore("shop", safe)
        assert lab.driver().read(["shop"]).process["loaded"], point
        assert (lab.upstream.read_bytes(), states(lab)) == (before, READY), point
        assert answers(site, 12) == {0: 4, 1: 4, 2: 4}, point
    assert unread, "no point was between the rename and the reload"


def test_what_a_killed_call_left_unread_the_next_one_has_read_though_its_own_change_is_there_already(
    lab: NginxLab, site: NginxSite
) -> None:
    point = next(
        point for point in range(1, 20) if killed_at(lab, point) and not lab.driver().read(["shop"]).process["loaded"]
    )
    assert answers(site, 12)[1] == 4, point  # still served by what was read before
    wanted: list[Told] = [{"name": lab.server(0), "weight": 30}, {"name": lab.server(1), "state": "down"}]
    lab.driver().change("shop", wanted)
    assert answers(site, 12) == {0: 9, 2: 3}


def test_a_restart_reads_what_a_killed_call_left(lab: NginxLab) -> None:
    for point in range(1, 20):
        killed_at(lab, point)
        if not lab.driver().read(["shop"]).process["loaded"]:
            break
    lab.kill()
    lab.start()
    assert lab.driver().read(["shop"]).process["loaded"]


# --- Reloads that do not work


def test_a_reload_that_fails_without_a_word_is_noticed_and_rolled_back(lab: NginxLab, site: NginxSite) -> None:
    before, workers = lab.upstream.read_bytes(), lab.workers()
    (lab.dir / "nginx.conf").write_text(
        lab.config.read_text().replace("server {", f"server {{ listen {lab.host}:8081; }}\n    server {{", 1)
    )
    with pytest.raises(LoadBalancerError, match=r"started no new workers.*The configuration is as it was before"):
        lab.driver(timeout=4.0).change("shop", [{"name": lab.server(0), "state": "down"}])
    assert (lab.upstream.read_bytes(), lab.workers()) == (before, workers)
    assert answers(site, 12) == {0: 4, 1: 4, 2: 4}


def test_a_configuration_broken_by_somebody_else_is_refused_in_nginxs_words_and_not_touched(lab: NginxLab) -> None:
    lab.config.write_text(lab.config.read_text().replace("proxy_read_timeout 30s;", "proxy_read_timeout soon;"))
    before, workers = lab.upstream.read_bytes(), lab.workers()
    words = "proxy_read_timeout.*nginx.conf:.*mend it first"
    with pytest.raises(LoadBalancerError, match=words):
        lab.driver().change("shop", [{"name": lab.server(0), "state": "down"}])
    with pytest.raises(LoadBalancerError, match=words):
        lab.driver().restore("shop", {lab.server(0): {"weight": 5, "state": "ready"}})
    assert (lab.upstream.read_bytes(), lab.workers()) == (before, workers)


def test_an_nginx_that_does_not_run_is_told(lab: NginxLab) -> None:
    lab.kill()
    with pytest.raises(LoadBalancerError, match="nginx does not run"):
        lab.driver().read(["shop"])
    with pytest.raises(LoadBalancerError, match="nginx does not run"):
        lab.driver().change("shop", [{"name": lab.server(0), "state": "down"}])


# --- Drained


def test_drained_means_that_no_older_worker_is_left(lab: NginxLab, site: NginxSite) -> None:
    """Whatever it still serves: it may send the next try of a request to the server that goes."""
    lab.driver().change("shop", [{"name": lab.server(place), "state": "down"} for place in (1, 2)])
    client = hold(site, site.apps[0])
    lab.driver().change("shop", [{"name": lab.server(1), "state": "ready"}])
    with pytest.raises(LoadBalancerError, match=rf"1 workers of before still serve.*1 connections to {lab.server(0)}"):
        lab.driver(drain_timeout=0.5).change("shop", [{"name": lab.server(0), "state": "down"}])
    site.apps[0].held.release()
    assert client.answer() == 200
    poll(lambda: all(not one.leaves for one in process.workers_of(lab.master())), "older workers end")


def test_workers_that_outlive_a_drain_can_be_ended_and_what_that_cuts_is_counted(
    lab: NginxLab, site: NginxSite
) -> None:
    lab.driver().change("shop", [{"name": lab.server(place), "state": "down"} for place in (1, 2)])
    client = hold(site, site.apps[0])
    wanted = [{"name": lab.server(0), "state": "down"}, {"name": lab.server(1), "state": "ready"}]
    changed = lab.driver(drain_timeout=0.5, on_drain_timeout="cut").change("shop", wanted)
    assert changed.cut == 1
    assert client.answer() == 0
    assert not any(one.leaves for one in process.workers_of(lab.master()))
    site.apps[0].held.release()


# --- Counters


def counted(lab: NginxLab, place: int) -> Told:
    told = servers(lab)[place]
    return {"requests": told["requests"], **told["errors"]}


def test_each_try_of_a_request_counts_for_its_own_server(lab: NginxLab, site: NginxSite) -> None:
    servers(lab)
    site.apps[0].shutdown()
    site.apps[0].server_close()
    assert answers(site, 12).get(-1, 0) == 0  # nginx tried them again elsewhere
    first = counted(lab, 0)
    assert first["connect"] == first["requests"] >= 1
    assert sum(counted(lab, place)["requests"] for place in (1, 2)) == 12
    assert all(counted(lab, place)["connect"] == 0 for place in (1, 2))


def test_an_answer_that_breaks_off_is_an_error_of_its_server(lab: NginxLab, site: NginxSite) -> None:
    servers(lab)
    site.apps[0].broken = True
    answers(site, 6)
    assert counted(lab, 0)["response"] >= 1
    assert sum(counted(lab, place)["response"] for place in (1, 2)) == 0


def test_times_of_single_answers_are_told(lab: NginxLab, site: NginxSite) -> None:
    servers(lab)
    answers(site, 12)
    for one in servers(lab):
        assert sum(one["latencies"].values()) == 4
        assert all(0 <= float(bound) < 5000 for bound in one["latencies"])


def test_counters_go_on_over_a_rotation_and_count_no_request_twice(lab: NginxLab, site: NginxSite) -> None:
    servers(lab)
    answers(site, 6)
    log = lab.dir / "access.log"
    log.rename(lab.dir / "access.log.1")
    answers(site, 6)  # into the old file, which workers still have open
    os.kill(lab.master().pid, signal.SIGUSR1)
    poll(log.exists, "a new log")
    answers(site, 6)
    assert sum(one["requests"] for one in servers(lab)) == 18
    answers(site, 6)
    assert sum(one["requests"] for one in servers(lab)) == 24


def test_a_log_that_is_truncated_goes_on_from_its_start(lab: NginxLab, site: NginxSite) -> None:
    servers(lab)
    answers(site, 6)
    assert sum(one["requests"] for one in servers(lab)) == 6
    os.truncate(lab.dir / "access.log", 0)
    answers(site, 3)
    assert sum(one["requests"] for one in servers(lab)) == 9


def test_a_log_that_is_copied_and_cut_counts_no_request_twice(lab: NginxLab, site: NginxSite) -> None:
    servers(lab)
    answers(site, 6)
    assert sum(one["requests"] for one in servers(lab)) == 6
    answers(site, 3)
    log = lab.dir / "access.log"
    (lab.dir / "access.log.1").write_bytes(log.read_bytes())
    os.truncate(log, 0)
    answers(site, 3)
    assert sum(one["requests"] for one in servers(lab)) == 12


def test_a_log_that_is_rotated_to_a_name_with_a_date_is_read_to_its_end(lab: NginxLab, site: NginxSite) -> None:
    servers(lab)
    answers(site, 6)
    log = lab.dir / "access.log"
    log.rename(lab.dir / "access.log-20261126")
    os.kill(lab.master().pid, signal.SIGUSR1)
    poll(log.exists, "a new log")
    answers(site, 3)
    assert sum(one["requests"] for one in servers(lab)) == 9


def test_servers_that_are_names_are_not_counted_and_it_is_told(lab: NginxLab) -> None:
    lab.write_upstream("    server localhost:8081;\n    server {host}:8082;")
    lab.reload()
    backend = lab.driver().read(["shop"]).backends["shop"]
    assert "localhost:8081 is a host name" in backend["uncounted"]
    assert [one["requests"] for one in backend["servers"]] == [None, 0]


def test_a_first_reading_tells_of_the_requests_before_it(lab: NginxLab, site: NginxSite) -> None:
    answers(site, 9)
    assert sum(one["requests"] for one in servers(lab)) == 9


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("access_log {dir}/access.log {format_name};", "access_log off;", "access_log"),
        ("access_log {dir}/access.log {format_name};", "access_log {dir}/access.log combined;", "steady_rollout"),
        ("escape=json '{format}'", "'$remote_addr'", "log_format"),
    ],
    ids=["off", "another format", "another format of that name"],
)
def test_without_its_log_counters_are_null_and_it_is_told_what_to_add(old: str, new: str, words: str) -> None:
    with NginxLab(config=CONFIG.replace(old, new)) as lab:
        backend = lab.driver().read(["shop"]).backends["shop"]
        assert words in backend["uncounted"]
        assert {one["requests"] for one in backend["servers"]} == {None}


# --- The modules


def module(lab: NginxLab, name: str, *flags: str, **arguments: t.Any) -> Told:
    """What a module returns to Ansible."""
    program = pathlib.Path(sys.executable).with_name("ansible")
    upstream = {} if name == "rollout_act" else {"upstream": "shop"}
    given = json.dumps({"config": str(lab.config), **upstream, **arguments})
    command = [
        str(program),
        "-i",
        "localhost,",
        "-c",
        "local",
        "localhost",
        "-m",
        f"steady.rollout.{name}",
        "-a",
        given,
    ]
    command += [*flags, "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    status, _arrow, told = done.stdout.partition("=> ")
    assert told, done.stdout + done.stderr
    found: Told = json.loads(told)
    return {**found, "failed": "FAILED" in status}


def test_the_module_changes_once_and_tells_the_truth_in_check_mode(lab: NginxLab) -> None:
    wanted = [{"name": lab.server(0), "weight": 30}, {"name": lab.server(1), "state": "down"}]
    before = lab.upstream.read_bytes()
    foreseen = module(lab, "nginx_upstream", "--check", servers=wanted)
    assert foreseen["changed"]
    assert lab.upstream.read_bytes() == before
    done = module(lab, "nginx_upstream", servers=wanted)
    assert done["changed"]
    assert done["after"] == foreseen["after"]
    assert [(one["weight"], one["state"]) for one in done["after"]] == [(30, "ready"), (10, "down")]
    for flags in ((), ("--check",)):
        assert not module(lab, "nginx_upstream", *flags, servers=wanted)["changed"]
    told = module(lab, "nginx_upstream_info")
    assert {one["name"]: one["share"] for one in told["servers"]} == {
        lab.server(0): 75,
        lab.server(1): 0,
        lab.server(2): 25,
    }
    assert (told["mode"], told["algorithm"], told["process"]["loaded"]) == ("http", "roundrobin", True)


def test_the_module_asks_a_server_before_it_gains_traffic(lab: NginxLab, site: NginxSite) -> None:
    lab.driver().change("shop", [{"name": lab.server(0), "state": "down"}])
    site.apps[0].healthy = False
    wanted = [{"name": lab.server(0), "state": "ready"}]
    probe = {"path": "/health", "rise": 1, "interval": 0.1}
    refused = module(lab, "nginx_upstream", servers=wanted, probe=probe, health_timeout=1)
    assert refused["failed"]
    assert "503" in refused["msg"]
    assert "Nothing was changed" in refused["msg"]
    site.apps[0].healthy = True
    assert module(lab, "nginx_upstream", servers=wanted, probe=probe)["changed"]


def test_the_module_is_refused_while_a_rollout_holds_the_upstream(lab: NginxLab, tmp_path: pathlib.Path) -> None:
    state_dir = str(tmp_path / "rollouts")
    common = {"provider": "nginx", "config": str(lab.config), "state_dir": state_dir, "backends": ["shop"]}
    wanted = [{"name": lab.server(0), "weight": 20}]

    def act(**given: t.Any) -> Told:
        return module(lab, "rollout_act", **common, rollout_id="r1", guard="off", **given)

    program: dict[str, t.Any] = {"name": "nginx_upstream", "servers": wanted}
    assert not act(act="begin", who={"user": "test"})["failed"]
    refused = module(lab, **program)
    assert refused["failed"]
    assert "rollout r1" in refused["msg"]
    assert not module(lab, **program, fence={"state_dir": state_dir, "rollout_id": "r1"})["failed"]
    other = module(lab, **program, fence={"state_dir": state_dir, "rollout_id": "r2"})
    assert other["failed"]
    assert "r1" in other["msg"]
    assert not module(lab, "nginx_upstream", servers=[{"name": lab.server(0), "weight": 10}], force=True)["failed"]
    assert not act(act="end", outcome="promoted")["failed"]
    assert module(lab, **program)["changed"]


def test_an_upstream_of_another_block_is_told_by_its_kind(lab: NginxLab) -> None:
    """The same name in http and in stream."""
    text = lab.config.read_text()
    module_line = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n"
    stream = f"stream {{ upstream shop {{ zone stream_shop 64k; server {lab.host}:8081; server {lab.host}:8082; }} }}\n"
    lab.config.write_text(module_line + text + stream)
    lab.kill()
    lab.start()
    with pytest.raises(LoadBalancerError, match="http/shop or stream/shop"):
        lab.driver().read(["shop"])
    reading = lab.driver().read(["stream/shop"])
    assert reading.backends["stream/shop"]["mode"] == "tcp"
    lab.driver().change("stream/shop", [{"name": lab.server(0), "weight": 3}])
    assert re.search(rf"server {re.escape(lab.host)}:8081 weight=3;", lab.config.read_text())
    assert "weight=3" not in lab.upstream.read_text()


def test_locks_and_notes_of_a_lab_do_not_stay(lab: NginxLab) -> None:
    lab.driver().change("shop", [{"name": lab.server(0), "weight": 20}])
    left = [name for name in os.listdir(_lock.known_folder()) if lab.dir.name in name and name.endswith(".pending")]
    assert left == []


def test_a_line_that_goes_back_to_what_it_was_is_what_it_was_byte_by_byte(lab: NginxLab) -> None:
    """Lines without a weight, with one written otherwise, and out of rotation by a word in the middle."""
    lab.write_upstream(
        "    server {host}:8081;\n    server {host}:8082 'weight=01' max_fails=2;\n\tserver   {host}:8083 down weight=4 # why\n  ;"
    )
    lab.reload()
    before = lab.upstream.read_bytes()
    safe = {one["name"]: {"weight": one["weight"], "state": one["state"]} for one in servers(lab)}
    for place in range(3):
        lab.driver().change("shop", [{"name": lab.server(place), "weight": 7 + place, "state": "ready"}])
    lab.driver().change("shop", [{"name": lab.server(0), "state": "down"}])
    assert states(lab) == [(7, "down"), (8, "ready"), (9, "ready")]
    lab.driver().restore("shop", safe)
    assert lab.upstream.read_bytes() == before


def test_a_line_that_two_upstreams_have_is_not_changed_for_one_of_them(lab: NginxLab) -> None:
    (lab.dir / "both.conf").write_text(lab.filled("server {host}:8081;\nserver {host}:8082;\n"))
    lab.write_upstream(f"    include {lab.dir}/both.conf;\n    server {lab.server(2)};")
    lab.upstream.write_text(lab.upstream.read_text() + f"upstream other {{ include {lab.dir}/both.conf; }}\n")
    lab.reload()
    before = (lab.dir / "both.conf").read_bytes()
    with pytest.raises(LoadBalancerError, match=r"is one of upstream other, too"):
        lab.driver().change("shop", [{"name": lab.server(0), "state": "down"}])
    assert (lab.dir / "both.conf").read_bytes() == before
    lab.driver().change("shop", [{"name": lab.server(2), "weight": 5}])


def test_an_nginx_that_runs_another_configuration_is_not_taken_for_this_one(lab: NginxLab) -> None:
    other = lab.dir / "other.conf"
    other.write_text(lab.config.read_text())
    with pytest.raises(LoadBalancerError, match=r"was started with .*nginx.conf, not with .*other.conf"):
        NginxDriver(str(other)).read(["shop"])


def test_servers_may_be_named_in_any_way_that_nginx_takes(lab: NginxLab) -> None:
    lab.write_upstream("    server LocalHost:8081;\n    server {host}:8082;\n    server {host};")
    lab.reload()
    wanted = [{"name": "LOCALHOST:8081", "weight": 4}, {"name": lab.host, "weight": 5}]
    changed = lab.driver(policy={"require_healthy": False}).change("shop", wanted)
    assert [(one["name"], one["weight"]) for one in changed.after] == [("localhost:8081", 4), (f"{lab.host}:80", 5)]
