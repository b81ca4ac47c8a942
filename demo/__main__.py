"""The demo: train, start, replay, report.

    python -m demo                      MovieLens-100k, 600 requests
    python -m demo --data log.csv       another log: CSV or Parquet with user, item, timestamp
    python -m demo --kill ranker        and kill a ranker in the middle
    python -m demo --keep               start and stay, for `relaygr recommend --user 42`

The last line is one JSON object. The exit code is 0 when every promise was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from rich.console import Console

from demo.cluster import Cluster
from demo.disturbance import TARGETS
from demo.processes import ProcessFailed, Supervisor
from demo.run import Demo, DemoError, Options
from trainer.data import MOVIELENS

_FAILED = 1
_MISUSED = 2
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit code."""
    options = _options(arguments)
    console = Console(highlight=False, soft_wrap=True)
    # SIGTERM ends the demo as Ctrl-C does: everything it started is stopped first.
    # Also where a script started this with `&`, which makes a process ignore the interrupt that SIGTERM becomes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    demo = Demo(options, console)
    try:
        prepared = demo.prepare()
        with Supervisor(options.run_dir / "logs") as supervisor:
            cluster = demo.start(prepared, supervisor)
            try:
                if options.keep:
                    return _stay(cluster, supervisor, console)
                found = asyncio.run(demo.replay(prepared, cluster))
            finally:
                # Whoever looks for a cluster must not find one that is gone.
                cluster.file.unlink(missing_ok=True)
    except (DemoError, ProcessFailed) as error:
        console.print(f"demo: {error}", markup=False)
        return _FAILED
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been stopped")
        # Ctrl-C is how a cluster that stays is meant to end.
        return 0 if options.keep else _INTERRUPTED
    broken = demo.report(prepared, found)
    print(json.dumps(found.line), flush=True)
    return _FAILED if broken else 0


def _stay(cluster: Cluster, supervisor: Supervisor, console: Console) -> int:
    """Wait for Ctrl-C, and say when a process ends by itself."""
    console.print(f"up; ask it with: {Path(sys.executable).parent}/relaygr recommend --user 42")
    console.print(f"watch it on {cluster.console_url}    Ctrl-C ends everything")
    told: set[str] = set()
    while True:
        # Returns None after the time; Ctrl-C raises KeyboardInterrupt here.
        signal.sigtimedwait([], 1.0)
        for name in set(supervisor.ended()) - told:
            told.add(name)
            console.print(f"{name} ended\n{supervisor.log_tail(name)}", markup=False)


def _options(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Train, start a cluster, replay, report.")
    parser.add_argument("--data", default=MOVIELENS, help=f"{MOVIELENS}, or a CSV or Parquet file of behaviours")
    parser.add_argument("--requests", type=int, default=600, help="how many requests to replay (600)")
    parser.add_argument("--rate", type=float, default=15.0, metavar="HZ", help="requests a second (15)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn (1)")
    parser.add_argument("--minutes", type=float, default=3.0, help="time to train, when there is no checkpoint (3)")
    parser.add_argument("--kill", choices=TARGETS, help="SIGKILL one in the middle of the replay, restart it later")
    parser.add_argument("--keep", action="store_true", help="start, do not replay, stay until Ctrl-C")
    parser.add_argument("--run-dir", type=Path, default=Path("run"), help="logs, traces, cluster.json (run)")
    parser.add_argument("--cache-dir", type=Path, default=Path(".cache/demo"), help="checkpoints and stores")
    given = parser.parse_args(arguments)
    if given.requests < 1 or not given.rate > 0 or not given.minutes > 0:
        parser.error("--requests, --rate and --minutes must be positive")
    return Options(**vars(given))


if __name__ == "__main__":
    sys.exit(main())
