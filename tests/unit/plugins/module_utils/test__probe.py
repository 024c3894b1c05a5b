# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import math
import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._probe import (
    NAMED_TARGETS,
    Progress,
    Rules,
    Target,
    Try,
    advance,
    failure_message,
    parse_rules,
    parse_targets,
    redirected,
    report,
)
from ansible_collections.steady.rollout.plugins.module_utils._probe_expect import ProbeError
from hypothesis import given
from hypothesis import strategies as st

OK = Try(status=200, latency_ms=1.0)
BAD = Try(reason="answered 503 instead of 200", status=503, latency_ms=1.0, body="starting")
CUT = Try(reason="gave no answer within 0.01 s", cut=True)

DEFAULTS: dict[str, t.Any] = {
    "targets": [],
    "scheme": "http",
    "port": None,
    "path": "/",
    "host": None,
    "method": "GET",
    "headers": None,
    "body": None,
    "follow_redirects": False,
    "expect": {"status": ["200"]},
    "rise": 3,
    "fall": 0,
    "interval": 1.0,
    "timeout": 5.0,
    "deadline": 60.0,
    "max_body": 262144,
    "server_hostname": None,
}


def rules(
    rise: int = 3, fall: int = 0, interval: float = 1.0, timeout: float = 5.0, deadline: float = math.inf
) -> Rules:
    return Rules(rise=rise, fall=fall, interval=interval, timeout=timeout, deadline=deadline)


def target(**options: t.Any) -> Target:
    """One target named web1; an option `common` holds those of the module."""
    common = options.pop("common", {})
    return parse_targets({**DEFAULTS, **common, "targets": [{"name": "web1", **options}]})[0]


def refusal(**options: t.Any) -> str:
    with pytest.raises(ProbeError) as refused:
        target(**options)
    return str(refused.value)


def progress_after(tries: t.Iterable[Try], by: Rules) -> Progress:
    """The tries take no time, and each starts when it is due."""
    progress = Progress()
    for each in tries:
        if progress.due is None:
            break
        progress = advance(progress, each, progress.due, by)
    return progress


# When a target has risen.


def test_target_is_up_after_successes_in_a_row() -> None:
    progress = progress_after([OK, OK, OK], rules(rise=3))
    assert (progress.health, progress.due, progress.tries) == ("up", None, 3)


def test_failure_starts_the_row_again() -> None:
    progress = progress_after([OK, OK, BAD, OK, OK], rules(rise=3))
    assert (progress.health, progress.row, progress.longest_row) == ("down", 2, 2)
    assert progress.due is not None


def test_target_is_given_up_after_failures_in_a_row() -> None:
    progress = progress_after([BAD, OK, BAD, BAD, OK, OK, OK], rules(rise=3, fall=2))
    assert (progress.health, progress.due, progress.tries) == ("down", None, 4)


def test_next_try_starts_an_interval_after_the_end_of_the_last() -> None:
    assert advance(Progress(), BAD, 2.5, rules(interval=0.5)).due == 3.0


def test_no_try_starts_at_the_deadline() -> None:
    assert advance(Progress(), BAD, 2.5, rules(interval=0.5, deadline=3.0)).due is None


def test_try_that_the_deadline_cut_does_not_hide_the_failure_before() -> None:
    progress = advance(advance(Progress(), BAD, 1.0, rules()), CUT, 10.0, rules(deadline=10.0))
    assert (progress.last_failure, progress.tries, progress.elapsed, progress.due) == (BAD, 1, 10.0, None)


def test_first_try_is_told_even_when_the_deadline_cut_it() -> None:
    assert advance(Progress(), CUT, 10.0, rules(deadline=10.0)).last_failure == CUT


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 5)), max_size=60),
    st.integers(1, 5),
    st.integers(0, 5),
    st.floats(0.01, 5),
    st.floats(1, 100) | st.just(math.inf),
)
def test_progress_agrees_with_the_whole_history(
    tries: list[tuple[bool, float]], rise: int, fall: int, interval: float, deadline: float
) -> None:
    by = rules(rise=rise, fall=fall, interval=interval, deadline=deadline)
    progress, history = Progress(), ""
    for ok, seconds in tries:
        if progress.due is None:
            break
        assert progress.due < deadline
        ended = progress.due + seconds
        progress = advance(progress, OK if ok else BAD, ended, by)
        history += "+" if ok else "-"
        assert progress.due is None or progress.due == ended + interval
    rows = history.split("-")
    assert progress.tries == len(history)
    assert progress.longest_row == max(map(len, rows))
    assert progress.row == len(rows[-1])
    assert progress.risen == history.endswith("+" * rise)
    assert ("+" * rise in history[:-1]) is False
    assert (progress.last_failure is None) == ("-" not in history)
    if fall:
        assert "-" * fall not in history[:-1]
        assert not history.endswith("-" * fall) or progress.due is None
    if progress.due is None and history:
        assert progress.risen or (fall and history.endswith("-" * fall)) or progress.elapsed + interval >= deadline


# What is told.


def test_nothing_is_told_when_all_have_risen() -> None:
    assert failure_message([target(address="127.0.0.1")], [progress_after([OK] * 3, rules())], rules()) is None


def test_message_names_the_failing_target_with_its_last_failing_answer() -> None:
    by = rules(rise=2, deadline=4.0)
    good, bad = target(address="127.0.0.1"), target(address="127.0.0.2", port=8080, path="/health")
    progresses = [progress_after([OK] * 2, by), progress_after([OK, BAD, OK, BAD], by)]
    assert failure_message([good, bad], progresses, by) == (
        "1 of 2 targets did not answer as expected 2 times in a row within 4 s. "
        "web1 (http://127.0.0.2:8080/health) answered 503 instead of 200, body 'starting' "
        "(4 tries in 3.0 s, at most 1 success in a row). "
        "Look into what runs there, or raise deadline if it only needs more time."
    )


def test_message_tells_a_target_that_only_lacked_time() -> None:
    by = rules(rise=3, deadline=1.5)
    message = failure_message([target(address="127.0.0.1")], [progress_after([OK, OK], by)], by)
    assert "answered as expected, but not often enough in time" in str(message)


def test_message_of_one_look_speaks_of_no_row_and_no_deadline() -> None:
    by = rules(rise=1, fall=1)
    message = failure_message([target(address="127.0.0.1")], [progress_after([BAD], by)], by)
    assert str(message).startswith("1 of 1 target did not answer as expected. web1 ")
    assert str(message).endswith("(1 try in 0.0 s). Look into what runs there.")


def test_message_names_ten_targets_and_counts_the_others() -> None:
    by = rules(fall=1)
    targets = parse_targets({**DEFAULTS, "targets": [{"name": f"t{n}x", "address": "127.0.0.1"} for n in range(300)]})
    message = str(failure_message(targets, [progress_after([BAD], by)] * 300, by))
    assert [f"t{n}x " in message for n in range(300)] == [True] * NAMED_TARGETS + [False] * (300 - NAMED_TARGETS)
    assert "And 290 more" in message


def test_report_of_a_target_that_failed_before_it_rose() -> None:
    assert report(target(address="127.0.0.1"), progress_after([BAD, OK, OK, OK], rules())) == {
        "name": "web1",
        "where": "http://127.0.0.1/",
        "health": "up",
        "successes": 3,
        "tries": 4,
        "elapsed": 3.0,
        "status": 200,
        "latency_ms": 1.0,
        "last_failure": {"reason": "answered 503 instead of 200", "status": 503, "body": "starting"},
    }


def test_report_of_a_target_that_was_never_tried() -> None:
    told = report(target(address="127.0.0.1"), Progress())
    assert (told["health"], told["status"], told["latency_ms"], told["last_failure"]) == ("down", None, None, None)


# Rules.


def test_deadline_0_makes_the_first_failure_final() -> None:
    by = parse_rules({**DEFAULTS, "deadline": 0.0})
    assert progress_after([OK, BAD, OK, OK, OK], by).tries == 2
    assert progress_after([OK, OK, OK], by).health == "up"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("rise", 0, "rise is 0"),
        ("fall", -1, "fall is -1"),
        ("interval", -1.0, "interval is -1"),
        ("interval", 0.0, "interval is 0"),
        ("timeout", 0.0, "timeout is 0"),
        ("timeout", -5.0, "timeout is -5"),
        ("timeout", math.nan, "timeout is nan"),
        ("deadline", -1.0, "deadline is -1"),
        ("deadline", math.inf, "deadline is inf"),
        ("deadline", 2.0, "no target could rise"),
    ],
)
def test_bad_rule_is_refused(option: str, value: float, told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        parse_rules({**DEFAULTS, option: value})


# Targets.


@pytest.mark.parametrize(
    ("options", "where", "host", "server_hostname"),
    [
        ({"url": "http://web1.test"}, "http://web1.test/", "web1.test", "web1.test"),
        ({"url": "HTTPS://Web1.Test:8443/a?b=c#d"}, "https://web1.test:8443/a?b=c", "web1.test:8443", "web1.test"),
        ({"url": "http://[::1]:8080/"}, "http://[::1]:8080/", "[::1]:8080", "::1"),
        (
            {"url": "http://bücher.test/ü"},
            "http://xn--bcher-kva.test/%C3%BC",
            "xn--bcher-kva.test",
            "xn--bcher-kva.test",
        ),
        ({"address": "127.0.0.1"}, "http://127.0.0.1/", "127.0.0.1", "127.0.0.1"),
        ({"address": "[::1]", "port": 81}, "http://[::1]:81/", "[::1]:81", "::1"),
        ({"address": "fe80::1%eth0"}, "http://[fe80::1]/", "[fe80::1]", "fe80::1"),
        ({"address": "127.0.0.1", "scheme": "https"}, "https://127.0.0.1/", "127.0.0.1", "127.0.0.1"),
        ({"address": "127.0.0.1", "host": "shop.test:81"}, "http://127.0.0.1/", "shop.test:81", "shop.test"),
        ({"address": "127.0.0.1", "server_hostname": "shop.test"}, "http://127.0.0.1/", "127.0.0.1", "shop.test"),
        ({"address": "127.0.0.1", "path": "/a%20b?c=d&e"}, "http://127.0.0.1/a%20b?c=d&e", "127.0.0.1", "127.0.0.1"),
        ({"unix_socket": "/run/app", "path": "/h"}, "http+unix:/run/app:/h", "localhost", "localhost"),
    ],
)
def test_target_is_read(options: dict[str, t.Any], where: str, host: str, server_hostname: str) -> None:
    read = target(**options)
    assert (read.where, read.host, read.server_hostname) == (where, host, server_hostname)


def test_target_takes_what_is_given_for_all() -> None:
    common = {"scheme": "https", "port": 8443, "path": "/health", "host": "shop.test"}
    read = target(address="127.0.0.1", common=common)
    assert (read.where, read.host, read.server_hostname) == ("https://127.0.0.1:8443/health", "shop.test", "shop.test")


def test_target_puts_its_own_in_the_place_of_what_is_given_for_all() -> None:
    common = {
        "scheme": "https",
        "port": 8443,
        "headers": {"X-A": "1", "X-B": "2"},
        "expect": {"status": ["200"], "body": "ready"},
    }
    read = target(
        address="127.0.0.1",
        scheme="http",
        port=8080,
        headers={"X-B": 3},
        expect={"status": ["204"], "body": None},
        common=common,
    )
    assert read.where == "http://127.0.0.1:8080/"
    assert read.headers == (("X-A", "1"), ("X-B", "3"))
    assert (read.expect.statuses, read.expect.body) == (((204, 204),), "ready")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "web1 has no place to ask"),
        ({"url": "http://a", "address": "b"}, "url and address"),
        ({"url": "http://a", "port": 80, "path": "/"}, "url and port and path"),
        ({"url": "ftp://a/"}, "give http://HOST"),
        ({"url": "http:///x"}, "give http://HOST"),
        ({"url": "a:80"}, "give http://HOST"),
        ({"url": "http://a:b/"}, "cannot be read"),
        ({"url": "http://a:0/"}, "port 0"),
        ({"url": "http://[::1/"}, "cannot be read"),
        ({"url": "http://a/\r\nX: y"}, "control characters"),
        ({"url": "http://a/b c"}, "spaces"),
        ({"address": "a b"}, "address 'a b'"),
        ({"address": "a/b"}, "address 'a/b'"),
        ({"address": ""}, "address ''"),
        ({"address": "a", "port": 0}, "port 0"),
        ({"address": "a", "port": 65536}, "port 65536"),
        ({"address": "a", "path": "health"}, "must begin with /"),
        ({"address": "a", "path": "/a\r\nX: y"}, "control characters"),
        ({"address": "a", "host": "a\r\nX: y"}, "has the host"),
        ({"address": "a", "host": "[::1"}, "has the host"),
        ({"address": "a", "host": "a:b"}, "has the host"),
        ({"address": "a", "server_hostname": "a b"}, "address 'a b'"),
        ({"unix_socket": "run/app"}, "absolute path"),
        ({"unix_socket": "/" + "x" * 107}, "at most 107 bytes"),
        ({"unix_socket": "/run/app", "port": 1}, "no port"),
        ({"address": "a", "headers": {"X Y": "z"}}, "'x y'"),
        ({"address": "a", "headers": {"": "z"}}, "header ''"),
        ({"address": "a", "headers": {"X": "1", "x": "2"}}, "x more than once"),
        ({"address": "a", "headers": {"Content-Length": "1"}}, "content-length"),
        ({"address": "a", "headers": {"X": True}}, "not text"),
        ({"address": "a", "host": "b", "headers": {"Host": "c"}}, "host and a header Host"),
        ({"address": "a", "expect": {"status": ["x"]}}, "expect (for target web1).status"),
        ({"address": "a", "expect": {"body": "x"}, "common": {"method": "HEAD"}}, "no answer to HEAD"),
        ({"address": "a", "common": {"body": "x"}}, "only POST"),
        ({"address": "a", "common": {"max_body": 10}}, "max_body is 10"),
        ({"address": "a", "name": ""}, "name ''"),
        ({"address": "a", "name": "a\nb"}, "can be printed"),
    ],
)
def test_bad_target_is_refused(options: dict[str, t.Any], told: str) -> None:
    message = refusal(**options)
    assert told in message
    assert message.isprintable()


@pytest.mark.parametrize("value", ["s3cret\r\nX: y", "s3cret\x00", "s3cret\u20ac", {"s3cret": 1}, ["s3cret"]])
def test_refused_header_does_not_show_its_value(value: t.Any) -> None:
    assert "s3cret" not in refusal(address="a", headers={"Authorization": value})


@pytest.mark.parametrize(
    "password", ["s3cret", "s3cret x", "x/s3cret", "s3cret/x", "s3cret\t", "s3cret@x", "s3cret?x y"]
)
@pytest.mark.parametrize("form", ["http://user:{}@a/", "//user:{}@a/", "user:{}@a", "http:////user:{}@a/"])
def test_refused_url_does_not_show_its_password(form: str, password: str) -> None:
    assert "s3cret" not in refusal(url=form.format(password))


def test_at_in_a_path_is_no_user() -> None:
    assert target(url="http://a/users/@me").path == "/users/@me"


def test_own_header_takes_the_place_of_a_common_one_in_another_case() -> None:
    headers = target(address="a", common={"headers": {"X-Token": "1", "X-Env": "2"}}, headers={"x-token": "3"}).headers
    assert headers == (("X-Env", "2"), ("x-token", "3"))


@pytest.mark.parametrize("name", [".example.com", "a..example.com", "x" * 64 + ".example.com"])
@pytest.mark.parametrize("option", ["url", "address", "host", "server_hostname"])
def test_name_with_an_empty_or_too_long_label_is_refused(option: str, name: str) -> None:
    options = {"address": "a", option: f"https://{name}/" if option == "url" else name}
    if option == "url":
        del options["address"]
    assert name in refusal(**options)


def test_name_may_end_in_a_dot() -> None:
    assert target(address="web1.example.com.", host="example.com.").address == "web1.example.com."


def test_no_targets_are_refused() -> None:
    with pytest.raises(ProbeError, match="targets is empty"):
        parse_targets(DEFAULTS)


def test_two_targets_of_one_name_are_refused() -> None:
    twice = [{"name": "web1", "address": "127.0.0.1"}, {"name": "web1", "address": "127.0.0.2"}]
    with pytest.raises(ProbeError, match="'web1' 2 times"):
        parse_targets({**DEFAULTS, "targets": twice})


@given(st.text(), st.sampled_from(["url", "address", "unix_socket", "path", "host", "server_hostname", "name"]))
def test_any_text_is_read_or_refused(text: str, option: str) -> None:
    options: dict[str, t.Any] = {"name": "web1", "address": "127.0.0.1", option: text}
    if option in ("url", "unix_socket"):
        del options["address"]
    try:
        (read,) = parse_targets({**DEFAULTS, "targets": [options]})
    except ProbeError:
        return
    assert f"{read.where}{read.host}{read.path}".isprintable()
    assert " " not in read.path + read.host
    assert read.path.isascii()


@given(st.dictionaries(st.text(), st.text()))
def test_headers_that_are_accepted_cannot_break_out_of_their_line(headers: dict[str, str]) -> None:
    try:
        read = target(address="a", headers=headers)
    except ProbeError:
        return
    for name, value in read.headers:
        assert name.isascii()
        assert not set(name + value) & set("\r\n\0")


# Redirects.


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/login", "/login"),
        ("login?a=b", "/a/login?a=b"),
        ("http://127.0.0.1:8080/x", "/x"),
        ("http://shop.test", "/"),
        ("HTTP://SHOP.test:80/x", "/x"),
        ("//shop.test/x", "/x"),
    ],
)
def test_redirect_on_the_same_server_is_followed(location: str, path: str) -> None:
    start = target(address="127.0.0.1", port=8080, host="shop.test", path="/a/b")
    following = redirected(start, 302, location)
    assert following is not None
    assert (following.path, following.address, following.port) == (path, "127.0.0.1", 8080)


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "https://shop.test/",
        "http://other.test/",
        "http://shop.test:81/",
        "ftp://shop.test/",
        "/a\r\nb",
        "http://[",
    ],
)
def test_redirect_that_leads_away_is_not_followed(location: str | None) -> None:
    assert redirected(target(address="127.0.0.1", port=8080, host="shop.test"), 302, location) is None


@pytest.mark.parametrize(("status", "method", "body"), [(302, "GET", None), (303, "GET", None), (307, "POST", b"x")])
def test_redirect_of_a_post_keeps_its_body_only_where_http_says_so(
    status: int, method: str, body: bytes | None
) -> None:
    following = redirected(target(address="a", common={"method": "POST", "body": "x"}), status, "/b")
    assert following is not None
    assert (following.method, following.body) == (method, body)


@given(st.text())
def test_any_location_is_followed_on_this_server_or_not_at_all(location: str) -> None:
    following = redirected(target(address="127.0.0.1"), 302, location)
    assert following is None or following.path.startswith("/")
