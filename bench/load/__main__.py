"""The benchmark under an SLO: `python -m bench.load`, with `--full` every mode and sweep.

Ends with one JSON line. The run's folder keeps every trace, every outcome and the report.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any, cast

from bench.engine.machine import compute_versions, hardware, source
from bench.load.campaign import Campaign
from bench.load.ground import prepare
from bench.load.plans import claims, everything
from bench.load.profile import load_profile
from bench.load.schema import Run
from bench.load.search import TooNoisy
from bench.load.summary import summary
from demo.processes import ROOT

_TOO_NOISY = 3


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when it came to its end, 3 when the machine was too noisy."""
    given = _options(arguments)
    profile = load_profile(given.profile)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    ground = prepare(profile.model, given.ground)
    head = json.loads((given.run_dir / "run.json").read_text()) if given.resume else _head()
    campaign = Campaign(profile, ground, given.run_dir, head, say, given.seed)
    try:
        (everything if given.full else claims)(campaign, profile)
    except TooNoisy as error:
        say(f"the machine is too noisy to judge: {error}")
        return _TOO_NOISY
    finally:
        campaign.close()
    line = summary(cast(Run, campaign.run))
    print(json.dumps(line), flush=True)
    return _TOO_NOISY if line["is_too_noisy"] else 0


def _head() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "source": source(ROOT),
        "versions": compute_versions(),
        "command": f"python -m bench.load {' '.join(sys.argv[1:])}".strip(),
    }


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description="Open-loop load under an SLO.")
    parser.add_argument("--full", action="store_true", help="all modes and sweeps")
    parser.add_argument("--resume", action="store_true", help="with --full: go on from the claims in --run-dir")
    parser.add_argument("--profile", default="default", help="a name in bench/load/profiles, or a file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run-dir", type=Path, default=Path("run/bench/load"))
    parser.add_argument("--ground", type=Path, default=Path("run/bench/ground"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
