"""Runs scenarios: `python -m sim.scenario flash_crowd --instances 128`. Prints an account and ends with one JSON line.

Without a name, all of them. `--renew` writes the accounts of the committed forms to tests/sim/golden, which the tests
compare with what comes out: renew them when a change of a decision is meant, and read the difference before it is
committed.

Source: design, section 3.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from sim.account import Account
from sim.cluster import Cluster
from sim.kernel import rest_collector
from sim.mishaps import Mishaps
from sim.story import Scenario, ScenarioError, names, read

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "sim" / "golden"


def main(arguments: list[str] | None = None) -> int:
    """Run and print; 2 when a scenario cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m sim.scenario", description="Scenarios under virtual time.")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names())}, or a file; none: all of them")
    parser.add_argument("--instances", type=int, help="instead of the scenario's; its rate is one of each instance")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--full-checks", action="store_true", help="every invariant after every event")
    parser.add_argument("--renew", action="store_true", help="write the accounts that the tests compare with")
    given = parser.parse_args(arguments)
    if given.renew and (given.instances or given.seed):
        parser.error("--renew takes the scenarios as they are")
    rest_collector()
    line = {}
    for name in given.names or names():
        try:
            scenario = read(name)
        except ScenarioError as error:
            print(error, file=sys.stderr)
            return 2
        changed = {key: value for key in ("instances", "seed") if (value := getattr(given, key)) is not None}
        account = play(replace(scenario, **changed), is_full=given.full_checks)
        print(account.text())
        line[scenario.name] = account.figures()
        if given.renew:
            GOLDEN.joinpath(f"{scenario.name}.txt").write_text(account.text())
    print(json.dumps(line))
    return 0


def play(scenario: Scenario, *, is_full: bool = False) -> Account:
    """Run a scenario to its end.

    Raises:
        AssertionError: a core's invariant or a rule of the design does not hold.
    """
    cluster = Cluster(scenario.settings(is_full=is_full))
    account = Account(scenario, cluster)
    mishaps = Mishaps(cluster)
    for each in scenario.faults:
        mishaps.plan(each.kind, scenario.begins_s[each.at], each.seconds)
    cluster.run()
    return account


if __name__ == "__main__":
    sys.exit(main())
