# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.steady.rollout.plugins.module_utils._release_role_input import input_problems

GOOD: dict[str, t.Any] = {
    "release_id": "1.4.2",
    "release_app": "shop",
    "release_path": "/opt/shop",
    "release_keep": 5,
    "release_track": "",
    "release_archive": "/srv/shop-1.4.2.tar.gz",
    "release_archive_strip": 0,
    "release_checksum": "",
    "release_git": "",
    "release_git_revision": "1.4.2",
    "release_package": "",
    "release_package_version": "1.4.2",
    "release_image": "",
    "release_container_options": [],
    "release_command": "bin/shop",
    "release_unit": "shop",
    "release_manage_unit": True,
    "release_user": "shop",
    "release_group": "shop",
    "release_environment": {},
    "release_port": 8080,
    "release_kill_signal": "SIGTERM",
    "release_stop_timeout": 30,
    "release_start_timeout": 60,
    "release_shared_directories": [],
    "release_shared_files": [],
    "release_templates": [],
    "release_migrate": {},
    "rollout_release": "",
    "rollout_tracks": [],
    "rollout_deploy_timeout": "",
}
TRACKS = ["blue", "green"]
PACKAGE = {"release_archive": "", "release_package": "shop", "release_manage_unit": False, "release_command": ""}
IMAGE = {"release_archive": "", "release_image": "registry.example.com:5000/shop:1.4.2", "release_command": ""}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="archive"),
        pytest.param({"release_archive": "", "release_git": "https://git.example.com/shop.git"}, id="git"),
        pytest.param(PACKAGE, id="package"),
        pytest.param({**PACKAGE, "release_package_version": "1:1.4.2-1~deb12u1"}, id="version"),
        pytest.param(IMAGE, id="image"),
        pytest.param({"release_track": "blue", "rollout_tracks": TRACKS}, id="track"),
        pytest.param({"rollout_release": "1.4.2"}, id="rollout"),
        pytest.param({"release_port": "8080", "release_keep": "5"}, id="numbers_as_text"),
        pytest.param({"release_migrate": {"command": "bin/migrate", "rollback": "forward_only"}}, id="migrate"),
        pytest.param({"release_manage_unit": False, "release_command": ""}, id="own_unit"),
        pytest.param({"release_templates": [{"src": "x", "dest": "./config/x"}]}, id="dest"),
        pytest.param(
            {"release_migrate": {"command": "x", "rollback": "safe", "timeout": 299}, "rollout_deploy_timeout": "5m"},
            id="migrate_in_time",
        ),
    ],
)
def test_what_can_work_has_no_problems(changes: dict[str, t.Any]) -> None:
    assert input_problems({**GOOD, **changes}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release_id": ""}, "release_id is not set"),
        ({"release_id": "../x"}, "release_id is '../x'"),
        ({"release_id": "x" * 129}, "at most 128"),
        ({"rollout_release": "1.4.1"}, "the rollout wants '1.4.1'"),
        ({"release_app": ""}, "no rollout_backend"),
        ({"release_app": "a b"}, "release_app is 'a b'"),
        ({"release_path": "opt/shop"}, "absolute path"),
        ({"release_path": "/opt/../etc"}, "without `..`"),
        ({"release_path": "/"}, "absolute path"),
        ({"release_path": "/opt/a b"}, "absolute path"),
        ({"release_keep": 0}, "at least 1"),
        ({"release_track": "../x"}, "release_track is '../x'"),
        ({"rollout_tracks": TRACKS}, "rollout_tracks has blue and green"),
        ({"release_archive": ""}, "none of them is set"),
        ({"release_git": "/srv/shop.git"}, "release_archive and release_git is set"),
        ({**PACKAGE, "release_package": "--x"}, "no package"),
        ({**PACKAGE, "release_package_version": "1 2"}, "no package version"),
        ({**PACKAGE, "release_track": "blue", "rollout_tracks": TRACKS}, "one version of a package"),
        ({**IMAGE, "release_image": "a b"}, "no image"),
        ({**IMAGE, "release_manage_unit": False}, "the role's"),
        ({**IMAGE, "release_container_options": ["a\nb"]}, "one line"),
        ({"release_archive": "", "release_git": "--upload-pack=x"}, "does not begin with -"),
        ({"release_archive": "", "release_git": "x", "release_git_revision": "-x"}, "release_git_revision is '-x'"),
        ({"release_archive": "", "release_git": "x", "release_checksum": "sha256:0"}, "for archives"),
        ({"release_archive_strip": -1}, "number of folders"),
        ({"release_command": " "}, "release_command is not set"),
        ({"release_command": "bin/shop\nUser=root"}, "one line"),
        ({"release_unit": "shop.service"}, "without .service"),
        ({"release_unit": "../shop"}, "release_unit is '../shop'"),
        ({"release_user": "Shop"}, "release_user is 'Shop'"),
        ({"release_group": "x" * 32}, "31 characters"),
        ({"release_environment": {"A B": "x"}}, "no name of a variable"),
        ({"release_environment": {"A": "x\ny"}}, "release_environment.A has a line break"),
        ({"release_port": 65536}, "between 1 and 65535"),
        ({"release_kill_signal": "kill me"}, "no signal's name"),
        ({"release_stop_timeout": 0}, "release_stop_timeout is 0"),
        ({"release_start_timeout": -1}, "release_start_timeout is -1"),
        ({**PACKAGE, "release_shared_files": ["x"]}, "release_shared_files needs"),
        ({"release_templates": [{"src": "x", "dest": "/etc/passwd"}]}, "dest '/etc/passwd'"),
        ({"release_templates": [{"src": "x", "dest": "a/../../x"}]}, "without `..`"),
        ({"release_templates": [{"src": "x", "dest": "config/"}]}, "a file's path"),
        ({"release_migrate": {"rollback": "safe"}}, "no command"),
        ({"release_migrate": {"command": "x"}}, "release_migrate.rollback must be"),
        ({"release_migrate": {"command": "x", "rollback": "safe", "timeout": 0}}, "release_migrate.timeout is 0"),
        ({"release_migrate": {"command": "x", "rollback": "safe"}, "rollout_deploy_timeout": "5m"}, "timeout is 10m"),
    ],
)
def test_what_cannot_work_is_told_once(changes: dict[str, t.Any], words: str) -> None:
    problems = input_problems({**GOOD, **changes})
    assert len(problems) == 1
    assert words in problems[0]
