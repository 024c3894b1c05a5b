# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import re

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._release import (
    ReleaseError,
    checked_id,
    checked_parts,
    listed,
    shown,
    size_words,
    without_credentials,
)
from hypothesis import given
from hypothesis import strategies as st

IDS = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}", re.ASCII), fullmatch=True)


@given(IDS)
def test_an_id_is_one_folder_below_where_it_is(name: str) -> None:
    assert checked_id(name) == name
    assert os.path.normpath(f"/releases/{name}") == f"/releases/{name}"


@given(st.text(max_size=140))
def test_what_is_taken_for_an_id_is_no_option_no_path_and_not_hidden(name: str) -> None:
    try:
        checked_id(name)
    except ReleaseError:
        return
    assert name[0] not in ".-"
    assert "/" not in name
    assert "\0" not in name
    assert name == name.strip()
    assert len(os.fsencode(name)) <= 128


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", "a/b", "a b", "a\n", "ä", "x" * 129, "$(id)", "%n", "a\0", "{{ x }}"]
)
def test_an_id_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match="cannot be the name of a release"):
        checked_id(name)


@pytest.mark.parametrize("path", ["", "/", "/etc", "..", "a/../b", ".", "./", "a\0b"])
def test_a_shared_path_that_leaves_the_release_is_refused(path: str) -> None:
    with pytest.raises(ReleaseError, match="below the release"):
        checked_parts("shared_files", path)


def test_a_shared_path_is_taken_apart() -> None:
    assert checked_parts("shared_files", "./config//local.yml/") == ("config", "local.yml")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://me:secret@example.com/x.git", "https://example.com/x.git"),
        ("https://token@example.com/x", "https://example.com/x"),
        ("https://me:p@ss@example.com/x", "https://example.com/x"),
        ("ssh://git@example.com:22/x", "ssh://example.com:22/x"),
        ("https://example.com/a@b", "https://example.com/a@b"),
        ("git@example.com:x.git", "git@example.com:x.git"),
        ("fatal: https://a:b@h/ and https://c:d@i/", "fatal: https://h/ and https://i/"),
    ],
)
def test_credentials_are_taken_out_of_urls(text: str, clean: str) -> None:
    assert without_credentials(text) == clean


@given(st.text())
def test_a_name_of_others_is_shown_on_one_short_line(name: str) -> None:
    text = shown(name)
    assert text.isprintable()
    assert len(text) <= 4 * 10 * 123
    text.encode()


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (851443712, "812 MiB"), (2**50, "1024.0 TiB")],
)
def test_sizes_are_told_in_words(size: int, words: str) -> None:
    assert size_words(size) == words


def test_of_many_releases_the_newest_are_named() -> None:
    assert listed([]) == "none"
    assert listed(["1", "2", "3"], most=2) == "2, 3 and 1 older"
