"""A small collector with a live page: `python -m console --otlp 127.0.0.1:4317 --http 127.0.0.1:7080`.

It stands where an OpenTelemetry collector and a trace viewer stand in production; the services send it what they
would send those. Memory is bounded: the oldest traces are given up. With --out traces are written as files, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from console.keeper import Keeper
from console.receiver import serve_otlp
from console.shelf import Shelf
from console.web import application

_LOG = logging.getLogger("console")
TRACES_MAX = 1000
SPANS_MAX = 200
QUIET_NS = 1_000_000_000
"""Twice the services' export interval."""
SETTLE_S = 0.25
STOP_S = 1.0


async def serve(otlp: str, http: str, folder: Path | None, traces_max: int, hosts: Sequence[str] = ()) -> None:
    """Receive and show until SIGTERM or SIGINT.

    Raises:
        OSError: an address cannot be bound.
    """
    keeper = Keeper(traces_max=traces_max, spans_max=SPANS_MAX, quiet_ns=QUIET_NS)
    shelf = None if folder is None else Shelf(folder)
    runner = web.AppRunner(application(keeper, hosts), access_log=None)
    await runner.setup()
    host, _, port = http.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]"), int(port), shutdown_timeout=STOP_S)
    await site.start()
    server, otlp_port = await serve_otlp(otlp, keeper)
    _LOG.info("page on http://%s:%d, OTLP on %s:%d", host, runner.addresses[0][1], otlp.rpartition(":")[0], otlp_port)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    while not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), SETTLE_S)
        _settle(keeper, shelf, time.monotonic_ns())
    await server.stop(grace=STOP_S)
    _settle(keeper, shelf, time.monotonic_ns() + QUIET_NS)
    await runner.cleanup()


def _settle(keeper: Keeper, shelf: Shelf | None, now_ns: int) -> None:
    due = keeper.settle(now_ns)
    keeper.check()
    if shelf is not None:
        shelf.put(due)


def main() -> int:
    """Parse the command line and serve; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m console", description="Receive traces and metrics, and show them.")
    parser.add_argument("--otlp", default="127.0.0.1:4317", help="host:port of the OTLP gRPC receiver")
    parser.add_argument("--http", default="127.0.0.1:7080", help="host:port of the page")
    parser.add_argument("--out", type=Path, help="folder for traces as files; none when absent")
    parser.add_argument("--host", action="append", default=[], help="a name that the page is called by; repeatable")
    parser.add_argument("--traces-max", type=int, default=TRACES_MAX, help=f"traces kept ({TRACES_MAX})")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        asyncio.run(serve(given.otlp, given.http, given.out, given.traces_max, given.host))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"console: {error}; free the port, or choose another with --otlp or --http\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
