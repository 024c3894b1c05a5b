# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""What is wrong with the variables of the role `release`, beyond their types. Pure.

They end up in a unit of systemd and in paths below which files are removed, where a line break or a `..` would mean something else.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.steady.rollout.plugins.module_utils._duration import duration, spelled

SOURCES = ("release_archive", "release_git", "release_package", "release_image")
ROLLBACKS = ("safe", "forward_only")
# As the modules have it, which refuse what slips through here.
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What systemd takes as a unit's name, but for templates and escapes.
UNIT = re.compile(r"[A-Za-z0-9_.-]+")
USER = re.compile(r"[a-z_][a-z0-9_.-]{0,30}")
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._-]*")
PACKAGE_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~:^-]*")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SIGNAL = re.compile(r"(SIG)?[A-Z0-9+-]+")
LINE = re.compile(r"[^\n\r\0]*")
HIGHEST_PORT = 65535
MIGRATION_SECONDS = 600  # where the user says nothing, as in the role's vars
LONGEST_USER = 31

Values = t.Mapping[str, t.Any]


def input_problems(values: Values) -> list[str]:
    """Sentences, each naming one value that cannot work; empty when all can.

    ``values``: the variables of the role by their names, and ``rollout_release``: what a rollout wants on the host, else empty;
    ``rollout_tracks``: the names of the host's tracks; ``rollout_deploy_timeout``: how long a rollout waits for the role, else empty.
    """
    return [
        *_name_problems(values),
        *_track_problems(values),
        *_source_problems(values),
        *_run_problems(values),
        *_file_problems(values),
        *_migration_problems(values),
    ]


def _name_problems(values: Values) -> t.Iterator[str]:
    release, wanted = str(values["release_id"]), str(values["rollout_release"])
    if not release:
        yield "release_id is not set: it says which release to put on the host."
    elif wanted and release != wanted:
        yield (
            f"release_id is {release!r}, and the rollout wants {wanted!r} here. Leave release_id out, or give it no value of its own: "
            "an undo asks for another release than the rollout did."
        )
    elif not ID.fullmatch(release):
        yield (
            f"release_id is {release!r}; it is made of letters, digits and . _ + ~ -, begins with a letter or a digit, and has at most 128 "
            "characters."
        )
    app = values["release_app"]
    if not app:
        yield "release_app is not set, and there is no rollout_backend to name the application by."
    elif not NAME.fullmatch(app):
        yield f"release_app is {app!r}; it is made of letters, digits and . _ -, and begins with a letter or a digit."
    path = values["release_path"]
    if (
        not path.startswith("/")
        or ".." in path.split("/")
        or path.strip("/") == ""
        or not re.fullmatch(r"[\w/.+-]+", path)
    ):
        yield f"release_path is {path!r}; it must be an absolute path of letters, digits and . _ + -, without `..`, such as /opt/shop."
    if int(values["release_keep"]) < 1:
        yield f"release_keep is {values['release_keep']}; at least 1 release is kept."


def _track_problems(values: Values) -> t.Iterator[str]:
    tracks, track = values["rollout_tracks"], values["release_track"]
    if not tracks:
        if track and not NAME.fullmatch(track):
            yield f"release_track is {track!r}; it is made of letters, digits and . _ -, and begins with a letter or a digit."
    elif track not in tracks:
        there = " and ".join(tracks)
        yield f"release_track is {track!r}, and rollout_tracks has {there}: say which of them the release is for."


def _source_problems(values: Values) -> t.Iterator[str]:
    given = [name for name in SOURCES if values[name]]
    if len(given) != 1:
        found = " and ".join(given) if given else "none of them"
        yield f"One of {', '.join(SOURCES)} says where the release comes from; {found} is set."
    for name, form in (
        ("release_package", PACKAGE),
        ("release_package_version", PACKAGE_VERSION),
        ("release_image", IMAGE),
    ):
        if name.startswith(given[0] if len(given) == 1 else "-") and not form.fullmatch(str(values[name])):
            yield f"{name} is {values[name]!r}, which is no {name.replace('release_', '').replace('_', ' ')}."
    for name in ("release_archive", "release_git", "release_git_revision"):
        if str(values[name]).startswith("-") or not LINE.fullmatch(str(values[name])):
            yield f"{name} is {values[name]!r}; it must be one line that does not begin with -."
    if values["release_package"] and values["rollout_tracks"]:
        yield "release_package cannot serve two tracks: a host has one version of a package. Use archives or images with rollout_tracks."
    if given == ["release_git"] and values["release_checksum"]:
        yield "release_checksum is for archives; the name of a commit, as release_git_revision, is one already."
    if int(values["release_archive_strip"]) < 0:
        yield f"release_archive_strip is {values['release_archive_strip']}; it is a number of folders, 0 or more."


def _run_problems(values: Values) -> t.Iterator[str]:
    managed, image = values["release_manage_unit"], values["release_image"]
    if managed and not image and not str(values["release_command"]).strip():
        yield "release_command is not set: it is what the unit runs. With release_manage_unit: false the unit is yours."
    if image and not managed:
        yield "release_manage_unit is false; the unit of an image is what runs it, so it is the role's."
    if not UNIT.fullmatch(values["release_unit"]) or values["release_unit"].endswith(".service"):
        yield f"release_unit is {values['release_unit']!r}; it must be the name of a unit without .service."
    for name in ("release_user", "release_group"):
        if not USER.fullmatch(values[name]):
            yield (
                f"{name} is {values[name]!r}; it must begin with a lower-case letter or _, have no more than {LONGEST_USER} characters, and be made "
                "of lower-case letters, digits and . _ -."
            )
    if not 0 <= int(values["release_port"]) <= HIGHEST_PORT:
        yield f"release_port is {values['release_port']}; it must be between 1 and {HIGHEST_PORT}, or 0 for none."
    if not SIGNAL.fullmatch(values["release_kill_signal"]):
        yield f"release_kill_signal is {values['release_kill_signal']!r}, which is no signal's name, such as SIGTERM."
    for name in ("release_stop_timeout", "release_start_timeout"):
        if int(values[name]) < 1:
            yield f"{name} is {values[name]}; it is a number of seconds, 1 or more."
    for name, value in values["release_environment"].items():
        if not VARIABLE.fullmatch(str(name)):
            yield f"release_environment has {name!r}, which is no name of a variable."
        if not LINE.fullmatch(str(value)):
            yield f"release_environment.{name} has a line break, which a unit cannot hold; put it into a file by release_templates."
    lines = [values["release_command"], *values["release_container_options"]]
    if not all(LINE.fullmatch(str(line)) for line in lines):
        yield "release_command and each of release_container_options must be one line."


def _file_problems(values: Values) -> t.Iterator[str]:
    names = ("release_shared_directories", "release_shared_files", "release_templates")
    if values["release_package"] or values["release_image"]:
        yield from (
            f"{name} needs release_archive or release_git: a package or an image has no folder here."
            for name in names
            if values[name]
        )
    for template in values["release_templates"]:
        destination = str(template["dest"])
        parts = destination.split("/")
        if not all(parts) or ".." in parts or parts[-1] == ".":
            yield f"release_templates has the dest {destination!r}; it must be a file's path below the release, such as config/local.yml, without `..`."


def _migration_problems(values: Values) -> t.Iterator[str]:
    migrate = values["release_migrate"]
    if not migrate:
        return
    if not str(migrate.get("command") or "").strip():
        yield "release_migrate has no command."
    if migrate.get("rollback") not in ROLLBACKS:
        yield (
            "release_migrate.rollback must be `safe`, where the release before can work with what the migration leaves behind, or `forward_only`, "
            "where it cannot; then a failure holds the rollout instead of undoing it."
        )
    timeout = migrate.get("timeout")
    if timeout is not None and int(timeout) < 1:
        yield f"release_migrate.timeout is {timeout}; it is a number of seconds, 1 or more."
    seconds, most = int(timeout or MIGRATION_SECONDS), values["rollout_deploy_timeout"]
    if most and seconds >= duration(most):
        yield (
            f"release_migrate.timeout is {spelled(seconds)}, and the rollout gives up a deploy after {most} (rollout_deploy_timeout), while it may "
            "still migrate: raise that, to more than fetching, migrating and starting take together."
        )
