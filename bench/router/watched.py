"""A router that says how full its tables are: `python -m bench.router.watched --sizes FILE`, else as services.router.

On SIGUSR1 it writes to the file, as one JSON object, what is in each table that could grow with users and the most
that may be. Nothing else is added, so that what is measured is the router.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path

from relaygr.telemetry import Telemetry
from services.router.__main__ import main as route
from services.router.assembly import Router
from services.router.config import RouterConfig


def write_sizes(router: Router, path: Path) -> None:
    """All at once: who reads sees a whole file."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(router.sizes()))
    os.replace(unfinished, path)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bench.router.watched")
    parser.add_argument("--sizes", type=Path, required=True, help="file to write to on SIGUSR1")
    path: Path = parser.parse_args().sizes

    def build(config: RouterConfig, telemetry: Telemetry) -> Router:
        router = Router(config, telemetry)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, write_sizes, router, path)
        return router

    route(build)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
