# Copyright (c) steady.rollout developers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m local_fleet up`: a local fleet for a person and for inventories/local."""

from __future__ import annotations

import argparse
import json
import sys
import time

from local_fleet.app import BEHAVIOURS, LATER_BEHAVIOURS, ReleaseError, parse_release
from local_fleet.fleet import DETACHED_NUMBER, Fleet, RunningFleet, detached_directory
from local_fleet.layout import LOAD_BALANCERS, Options
from local_fleet.load import Load, Profile
from local_fleet.supervisor import FleetError

RELEASE_VALUES = ("rate", "delay_ms", "after_s", "then")


def up(arguments: argparse.Namespace) -> int:
    """Start a fleet that stays until `down`."""
    fleet = Fleet(Options(apps=arguments.apps), number=arguments.number, directory=arguments.fleet)
    fleet.start_detached()
    for host in fleet.layout.hosts:
        print(f"{host}  {fleet.endpoint(host)}")
    print(f"inventory: {fleet.inventory()}")
    return 0


def down(arguments: argparse.Namespace) -> int:
    """End the fleet."""
    RunningFleet.open(arguments.fleet).end()
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Tell what runs where, and how the load balancers see it."""
    fleet = RunningFleet.open(arguments.fleet)
    hosts = fleet.status()
    seen = {name: fleet.servers(name) for name in LOAD_BALANCERS if hosts[name]["running"]}
    for host, told in hosts.items():
        words = [host, "running" if told["running"] else "stopped", told["release"] or ""]
        words += [
            f"{name}: {rows[host]['status']} {rows[host]['weight']}" for name, rows in seen.items() if host in rows
        ]
        print("  ".join(word for word in words if word))
    for crash in fleet.crashes():
        print(f"{crash.host} with release {crash.release} crashed with {crash.exit_code}")
    return 0


def deploy(arguments: argparse.Namespace) -> int:
    """Put a release on an app host and restart it, as it is: drain it first when it carries traffic."""
    values = {name: getattr(arguments, name) for name in RELEASE_VALUES if getattr(arguments, name) is not None}
    fleet = RunningFleet.open(arguments.fleet)
    if not fleet.deploy(arguments.host, arguments.release, arguments.behaviour, **values):
        print(f"{arguments.host} does not run: {fleet.log(arguments.host).strip()}", file=sys.stderr)
        return 1
    return 0


def ensure(arguments: argparse.Namespace) -> int:
    """Have an app host run a release, killing what runs now; leave it alone if it runs it already. For deploy.yml."""
    release = parse_release(arguments.release)
    changed = RunningFleet.open(arguments.fleet).ensure(arguments.host, release)
    print(f"{arguments.host} runs {release.release} {'now' if changed else 'already'}")
    return 0


def load(arguments: argparse.Namespace) -> int:
    """Put a load on the fleet; fail when a request is lost."""
    with Load(RunningFleet.open(arguments.fleet), Profile(rate=arguments.rate)) as running:
        time.sleep(arguments.seconds)
    summary = running.summary()
    if arguments.json:
        print(json.dumps(summary.as_dict(), default=str))
    print(summary.line())
    return 1 if summary.lost else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local_fleet", description="A fleet on loopback addresses.")
    parser.add_argument("--fleet", default=detached_directory(), help="its directory (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("up", help=up.__doc__)
    command.add_argument("--apps", type=int, default=Options.apps, help="how many app hosts (default: %(default)s)")
    command.add_argument("--number", type=int, default=DETACHED_NUMBER, help="N of 127.N.0.0/24 (default: %(default)s)")
    command.set_defaults(act=up)
    commands.add_parser("down", help=down.__doc__).set_defaults(act=down)
    commands.add_parser("status", help=status.__doc__).set_defaults(act=status)
    command = commands.add_parser("deploy", help=deploy.__doc__)
    command.add_argument("host")
    command.add_argument("release")
    command.add_argument("--behaviour", choices=BEHAVIOURS, default="good")
    command.add_argument("--rate", type=float)
    command.add_argument("--delay-ms", type=float)
    command.add_argument("--after-s", type=float)
    command.add_argument("--then", choices=LATER_BEHAVIOURS)
    command.set_defaults(act=deploy)
    command = commands.add_parser("ensure", help=ensure.__doc__)
    command.add_argument("host")
    command.add_argument("release", help="what the release file is to say, as JSON")
    command.set_defaults(act=ensure)
    command = commands.add_parser("load", help=load.__doc__)
    command.add_argument("--rate", type=float, default=Profile.rate, help="requests/s to each load balancer")
    command.add_argument("--seconds", type=float, default=10.0)
    command.add_argument("--json", action="store_true", help="print all figures too")
    command.set_defaults(act=load)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    try:
        return int(arguments.act(arguments))
    except (FleetError, ReleaseError, ValueError) as error:
        print(f"local_fleet: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
