# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# This module util is private to the collection; it may change at any time.
"""A rollout is a plan: what is done, step by step, to which members of the fleet. Pure data, and its hash.

Strategies write plans, one executor runs them. A plan is recomputed on every run and compared by its hash with that of
the journal, so it must hold all that decides what is done, and nothing that differs between two runs (no clocks, no ids).
"""

from __future__ import annotations

import hashlib
import json
import math
import typing as t
from dataclasses import dataclass

from ansible_collections.steady.rollout.plugins.module_utils._duration import spelled
from ansible_collections.steady.rollout.plugins.module_utils._plan_error import PlanError, listed, quoted

KINDS = ("deploy", "probe", "traffic", "analyse", "pause", "drain", "admit")
# The tracks of a fleet of one group, while a canary is in it: which members they are the step says.
CANARY, STABLE = "canary", "stable"


class Member(t.NamedTuple):
    """One place where a release runs: a host, or one slot of a host that has two."""

    key: str  # "web1", or "web1:green" where the host has two slots
    host: str
    track: str  # "" where the fleet has no tracks
    servers: t.Mapping[str, str]  # backend -> server
    domain: str = ""  # its failure domain; "" where none is known: it shares its fate with nobody

    def as_dict(self) -> dict[str, t.Any]:
        found = {"key": self.key, "host": self.host, "track": self.track, "domain": self.domain}
        return {**{name: value for name, value in found.items() if value}, "servers": dict(self.servers)}

    @classmethod
    def from_dict(cls, data: t.Any) -> Member:
        """The member that ``as_dict`` was of. Raises PlanError for anything else."""
        fields = _fields(data, "a member", ("key", "host", "track", "domain", "servers"))
        servers = _mapping(fields.get("servers"), "the servers of a member")
        return cls(
            _text(fields.get("key"), "the key of a member"),
            _text(fields.get("host"), "the host of a member"),
            _text(fields.get("track", ""), "the track of a member"),
            {backend: _text(server, "a server of a member") for backend, server in servers.items()},
            _text(fields.get("domain", ""), "the failure domain of a member"),
        )


class Step(t.NamedTuple):
    """One step. Which fields mean something depends on ``kind``:

    deploy, probe, drain, admit: ``members``; traffic: ``shares``, of tracks, or with ``members`` of these and of all others that
    carry; analyse: the ``members`` that are judged, ``seconds`` and ``options``; pause: ``seconds``, or None until it is promoted.
    """

    kind: str
    members: tuple[str, ...] = ()  # keys, in order
    shares: t.Mapping[str, float] = {}  # of every track, in percent; together 100
    seconds: float | None = None
    options: t.Mapping[str, t.Any] = {}
    track: str = ""  # the track whose members these all are, where the step is for a whole track

    def as_dict(self) -> dict[str, t.Any]:
        """The step as JSON would have it; only what is set."""
        found: dict[str, t.Any] = {
            "track": self.track,
            "members": list(self.members),
            "shares": {track: float(share) for track, share in self.shares.items()},
            "options": dict(self.options),
        }
        found = {name: value for name, value in found.items() if value}
        if self.seconds is not None:
            found["seconds"] = float(self.seconds)
        return {"kind": self.kind, **found}

    @classmethod
    def from_dict(cls, data: t.Any) -> Step:
        """The step that ``as_dict`` was of. Raises PlanError for anything else."""
        fields = _fields(data, "a step", ("kind", "track", "members", "shares", "seconds", "options"))
        kind = _text(fields.get("kind"), "the kind of a step")
        if kind not in KINDS:
            raise PlanError(f"{quoted(kind)} is not a kind of step; there are {', '.join(KINDS)}.")
        shares = _mapping(fields.get("shares", {}), "the shares of a step")
        seconds = fields.get("seconds")
        return cls(
            kind,
            _texts(fields.get("members", []), "the members of a step"),
            {track: _number(share, "a share of a step") for track, share in shares.items()},
            None if seconds is None else _number(seconds, "the seconds of a step"),
            _mapping(fields.get("options", {}), "the options of a step"),
            _text(fields.get("track", ""), "the track of a step"),
        )

    def words(self) -> str:
        """The step for people: ``deploy green (web4, web5, web6)``."""
        told = [self.kind]
        if self.shares:
            told.append(", ".join(f"{track} {share:g} %" for track, share in self.shares.items()))
        if self.members:
            told.append(f"({listed(self.members)})" if self.shares else self._who())
        if self.seconds is not None:
            told.append(f"for {spelled(self.seconds)}")
        return " ".join(told)

    def _who(self) -> str:
        if not self.track:
            return listed(self.members)
        suffix = f":{self.track}"
        hosts = (key[: -len(suffix)] if key.endswith(suffix) else key for key in self.members)
        return f"{self.track} ({listed(hosts)})"


@dataclass(frozen=True)
class Plan:
    """What a rollout does. Raises PlanError where it contradicts itself: every member is there once, every step is for
    members that are there, and no server belongs to two."""

    strategy: str
    release: str
    backends: tuple[str, ...]
    members: tuple[Member, ...]
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        keys = [member.key for member in self.members]
        if len(set(keys)) < len(keys):
            twice = sorted({key for key in keys if keys.count(key) > 1})
            raise PlanError(f"{listed(twice)} is there more than once; a member of the fleet may be in a plan once.")
        _check_servers(self.members)
        for number, step in enumerate(self.steps, 1):
            strangers = sorted(set(step.members) - set(keys))
            if strangers:
                raise PlanError(
                    f"Step {number} ({step.kind}) is for {listed(strangers)}, which is not in the fleet of this plan."
                )

    @property
    def hash(self) -> str:
        """SHA-256 of all of it, in hex; equal exactly for equal plans, whatever the order of keys within mappings."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def member(self, key: str) -> Member:
        """Raises PlanError where there is none of this key."""
        for member in self.members:
            if member.key == key:
                return member
        raise PlanError(f"{quoted(key)} is not in the fleet of this plan.")

    def as_dict(self) -> dict[str, t.Any]:
        return {
            "strategy": self.strategy,
            "release": self.release,
            "backends": list(self.backends),
            "members": [member.as_dict() for member in self.members],
            "steps": [step.as_dict() for step in self.steps],
        }

    @classmethod
    def from_dict(cls, data: t.Any) -> Plan:
        """The plan that ``as_dict`` was of, also after a way through JSON. Raises PlanError for anything else."""
        fields = _fields(data, "a plan", ("strategy", "release", "backends", "members", "steps"))
        return cls(
            _text(fields.get("strategy"), "the strategy of a plan"),
            _text(fields.get("release"), "the release of a plan"),
            _texts(fields.get("backends"), "the backends of a plan"),
            tuple(Member.from_dict(entry) for entry in _list(fields.get("members"), "the members of a plan")),
            tuple(Step.from_dict(entry) for entry in _list(fields.get("steps"), "the steps of a plan")),
        )


def _check_servers(members: t.Sequence[Member]) -> None:
    owners: dict[tuple[str, str], str] = {}
    for member in members:
        for backend, server in member.servers.items():
            owner = owners.setdefault((backend, server), member.key)
            if owner != member.key:
                raise PlanError(
                    f"{owner} and {member.key} are both server {server} of backend {backend}; "
                    "give each its own with rollout_server."
                )


def _fields(data: t.Any, what: str, known: t.Collection[str]) -> dict[str, t.Any]:
    found = _mapping(data, what)
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise PlanError(f"{quoted(unknown[0])} is not a part of {what}.")
    return found


def _mapping(data: t.Any, what: str) -> dict[str, t.Any]:
    if not isinstance(data, t.Mapping) or not all(isinstance(name, str) for name in data):
        raise PlanError(f"{quoted(data)} cannot be {what}.")
    return {str(name): value for name, value in data.items()}


def _list(data: t.Any, what: str) -> list[t.Any]:
    if isinstance(data, (str, bytes)) or not isinstance(data, t.Sequence):
        raise PlanError(f"{quoted(data)} cannot be {what}.")
    return list(data)


def _texts(data: t.Any, what: str) -> tuple[str, ...]:
    return tuple(_text(entry, what) for entry in _list(data, what))


def _text(data: t.Any, what: str) -> str:
    if not isinstance(data, str):
        raise PlanError(f"{quoted(data)} cannot be {what}.")
    return str(data)


def _number(data: t.Any, what: str) -> float:
    wrong = isinstance(data, bool) or not isinstance(data, (int, float)) or not -(10**15) < data < 10**15
    if wrong or not math.isfinite(data):
        raise PlanError(f"{quoted(data)} cannot be {what}.")
    return float(data)
