"""Starts one router: `python -m services.router`, settings from RELAYGR_ROUTER_*."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import replace

from relaygr.config import describe, load
from relaygr.rpc.server import serve_until_signal
from relaygr.runtime.loop import LoopLagProbe, configure_logging
from relaygr.runtime.process import settle_memory, share_interpreter
from relaygr.telemetry import Telemetry, names
from services.router.assembly import Router
from services.router.config import RouterConfig

_log = logging.getLogger(__name__)


async def run(config: RouterConfig, build: Callable[[RouterConfig, Telemetry], Router] = Router) -> None:
    """Build outside-in, serve until a signal, leave in order."""
    telemetry = Telemetry.setup(
        "relaygr-router",
        config.router_id,
        config.otlp_endpoint,
        config.user_hash_key,
        sample_ratio=config.trace_sample_ratio,
        resource=describe(config),
    )
    router = build(config, telemetry)
    probe = LoopLagProbe(telemetry.histogram(names.METRIC_LOOP_LAG).record)
    try:
        await router.start()
        if telemetry.has_reader:
            probe.start()
        settle_memory()
        await serve_until_signal(router.server, router.leave)
    finally:
        probe.stop()
        await router.close()
        telemetry.shutdown()


def main(build: Callable[[RouterConfig, Telemetry], Router] = Router) -> None:
    """Entry point; `build` puts the router together."""
    config = load(RouterConfig, "RELAYGR_ROUTER", os.environ)
    config = replace(config, router_id=config.router_id or uuid.uuid4().hex[:12])
    configure_logging("router", config.log_level)
    share_interpreter()
    _log.info("config %s", json.dumps(describe(config)))
    asyncio.run(run(config, build))


if __name__ == "__main__":
    main()
