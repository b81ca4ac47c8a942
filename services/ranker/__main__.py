"""Starts one ranker: python -m services.ranker. Wiring only."""

from __future__ import annotations

import asyncio
import json
import logging
import os

# torch_npu registers itself with torch and breaks `import torch` where its driver is missing;
# it is imported by name when the device is asked for.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

from relaygr.config import describe, load
from relaygr.rpc.server import RpcServer, serve_until_signal
from relaygr.runtime.loop import LoopLagProbe, configure_logging
from relaygr.runtime.process import settle_memory, share_interpreter
from relaygr.security.identity import Role
from relaygr.security.settings import material_of
from relaygr.telemetry import Telemetry, names
from relaygr.v1 import ranker_pb2_grpc
from services.ranker.assembly import Makers, Ranker, named
from services.ranker.config import RankerConfig


async def serve(config: RankerConfig, makers: Makers | None = None) -> None:
    """Serve until told to stop."""
    telemetry = Telemetry.setup(
        "relaygr-ranker",
        config.instance_id,
        config.otlp_endpoint or None,
        config.user_hash_key,
        sample_ratio=config.trace_sample_ratio,
        resource=describe(config),
    )
    probe = LoopLagProbe(telemetry.histogram(names.METRIC_LOOP_LAG).record)
    tls = material_of(config, Role.RANKER)
    server = RpcServer(
        service_name=f"ranker {config.instance_id}",
        address=config.address,
        telemetry=telemetry,
        default_deadline_ns=int(config.rank_deadline_default_ms * 1e6),
        lane_port=config.lane_port,
        tls=tls,
    )
    ranker = Ranker.build(config, telemetry, makers, tls)
    server.add(ranker_pb2_grpc.add_RankerServiceServicer_to_server, ranker.servicer, "relaygr.v1.RankerService")
    ranker.announce(config, await server.start())
    if telemetry.has_reader:
        probe.start()
    settle_memory()
    await serve_until_signal(server, ranker.leave)
    probe.stop()
    await ranker.close()
    telemetry.shutdown()


def main(makers: Makers | None = None) -> None:
    """Read the environment and run; `makers` of other parts than the ranker's own."""
    config = named(load(RankerConfig, "RELAYGR_RANKER", os.environ))
    configure_logging("ranker", config.log_level)
    share_interpreter()
    logging.getLogger(__name__).info("config %s", json.dumps(describe(config)))
    asyncio.run(serve(config, makers))


if __name__ == "__main__":
    main()
