"""python -m services.expander: wiring, top to bottom."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import NoReturn

from relaygr.config import describe, load
from relaygr.rpc.server import RpcServer, serve_until_signal
from relaygr.runtime.logs import next_step
from relaygr.runtime.loop import LoopLagProbe, configure_logging
from relaygr.runtime.process import settle_memory, share_interpreter
from relaygr.security.identity import Role
from relaygr.security.settings import material_of
from relaygr.telemetry import Telemetry, names
from relaygr.v1.expander_pb2_grpc import add_ExpanderServiceServicer_to_server
from relaygr.v1.transfer_pb2_grpc import add_TransferServiceServicer_to_server
from services.expander.adapters.local_owner import LocalOwner
from services.expander.adapters.segment import create_segment, new_boot_id
from services.expander.adapters.sweeper import Sweeper
from services.expander.config import ExpanderConfig
from services.expander.core.tiering import Tiering
from services.expander.metrics import TransferMetrics
from services.expander.service import ExpanderService
from services.expander.transfer import TransferService

_log = logging.getLogger(__name__)


async def serve(config: ExpanderConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    telemetry = Telemetry.setup(
        "relaygr-expander",
        config.expander_id,
        config.otlp_endpoint,
        config.user_hash_key,
        sample_ratio=config.trace_sample_ratio,
    )
    tls = material_of(config, Role.EXPANDER)
    try:
        segment = create_segment(config, new_boot_id())
    except OSError as error:
        # No room as a rule: all of it is allocated now, so that no ranker meets a page that cannot be had.
        step = next_step("free room there, or lower RELAYGR_EXPANDER_SEGMENT_BYTES; rankers compute meanwhile")
        _log.error("no segment in %s: %s", config.segment_directory, error.strerror or error, extra=step)
        raise SystemExit(1) from None
    tiering = Tiering(config.limits, segment.presence, segment)
    probe = LoopLagProbe(telemetry.histogram(names.METRIC_LOOP_LAG).record)
    sweeper = Sweeper(tiering, segment.locks, config.probe_ms / 1000)
    owner = LocalOwner(tiering, segment, config.heartbeat_ms / 1000)
    try:
        service = ExpanderService(tiering, segment, telemetry, int(config.heartbeat_ms * 1e6))
        transfer = TransferService(tiering, segment, owner, config.transfer_limits, TransferMetrics(telemetry))
        server = RpcServer(
            service_name="relaygr-expander",
            address=config.address,
            telemetry=telemetry,
            lane_port=config.lane_port,
            tls=tls,
        )
        server.add(add_ExpanderServiceServicer_to_server, service, "relaygr.v1.ExpanderService")
        server.add(add_TransferServiceServicer_to_server, transfer, "relaygr.v1.TransferService")
        sweeper.start()
        await server.start()
        if telemetry.has_reader:
            probe.start()
        settle_memory()
        await serve_until_signal(server, _nothing)
    finally:
        probe.stop()
        await owner.close()
        await sweeper.close()
        segment.close()
        telemetry.shutdown()


async def _nothing() -> None:
    # Not registered anywhere: rankers are configured with their host's expander.
    return


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    """Read the environment and serve."""
    config = load(ExpanderConfig, "RELAYGR_EXPANDER", os.environ)
    configure_logging("relaygr-expander", config.log_level)
    share_interpreter()
    # Until the server takes signals over: a stop during the start must unlink the segment as well.
    signal.signal(signal.SIGTERM, _leave)
    _log.info("config %s", describe(config))
    asyncio.run(serve(config))


if __name__ == "__main__":
    main()
