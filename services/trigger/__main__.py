"""Starts one trigger: `python -m services.trigger`, settings from RELAYGR_TRIGGER_*."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import uuid
from collections.abc import Callable

from relaygr.behaviours.freshness import keep_fresh
from relaygr.behaviours.store import FileStore
from relaygr.config import describe, load
from relaygr.registry.settings import connect
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.server import RpcServer, serve_until_signal
from relaygr.runtime.loop import LoopLagProbe, configure_logging
from relaygr.runtime.process import settle_memory, share_interpreter
from relaygr.security.identity import Role
from relaygr.security.settings import material_of
from relaygr.telemetry import Telemetry, names
from relaygr.v1.trigger_pb2_grpc import add_TriggerServiceServicer_to_server
from services.trigger.adapters.histories import Histories
from services.trigger.adapters.membership import Membership
from services.trigger.adapters.router import RouterClient
from services.trigger.config import TriggerConfig
from services.trigger.core.admission import Admission, AdmissionRules
from services.trigger.service import TriggerService

_log = logging.getLogger(__name__)
_MS = 1_000_000


async def run(config: TriggerConfig, admission: Callable[[AdmissionRules], Admission] = Admission) -> None:
    """Build outside-in, serve until a signal, leave in order."""
    trigger_id = config.trigger_id or uuid.uuid4().hex[:12]
    telemetry = Telemetry.setup(
        "relaygr-trigger",
        trigger_id,
        config.otlp_endpoint,
        config.user_hash_key,
        sample_ratio=config.trace_sample_ratio,
        resource=describe(config),
    )
    async with contextlib.AsyncExitStack() as cleanup:
        cleanup.callback(telemetry.shutdown)
        membership = Membership(connect(config) if config.registry else None, config.registry_ttl_s)
        cleanup.push_async_callback(membership.close)
        tls = material_of(config, Role.TRIGGER)
        pool = ChannelPool(telemetry, tls=tls, peer_role=Role.ROUTER)
        cleanup.push_async_callback(pool.close)
        timeouts = int(config.resolve_timeout_ms * _MS), int(config.pre_infer_timeout_ms * _MS)
        router = RouterClient(pool, config.router, *timeouts, trigger_id=trigger_id)
        store = FileStore(config.store) if config.store else None
        if store is not None:
            cleanup.callback(keep_fresh(store).cancel)
        histories = Histories(store, config.store_timeout_ms / 1e3)
        service = TriggerService(config, router, histories, telemetry, admission=admission)
        cleanup.callback(service.close)
        server = RpcServer(
            service_name="trigger", address=config.address, telemetry=telemetry, lane_port=config.lane_port, tls=tls
        )
        server.add(add_TriggerServiceServicer_to_server, service, "relaygr.v1.TriggerService")
        port = await server.start()
        probe = LoopLagProbe(telemetry.histogram(names.METRIC_LOOP_LAG).record)
        if telemetry.has_reader:
            probe.start()
        cleanup.callback(probe.stop)
        address = config.advertised_address or f"{config.address.rpartition(':')[0]}:{port}"
        membership.join(trigger_id, address)
        _log.info("trigger %s serves on %s", trigger_id, address)

        async def on_stop() -> None:
            await membership.leave()
            await service.drain(config.pre_infer_timeout_ms / 1e3)

        settle_memory()
        await serve_until_signal(server, on_stop)


def main(admission: Callable[[AdmissionRules], Admission] = Admission) -> None:
    """Entry point; `admission` makes the core."""
    config = load(TriggerConfig, "RELAYGR_TRIGGER", os.environ)
    configure_logging("trigger", config.log_level)
    share_interpreter()
    _log.info("config %s", json.dumps(describe(config)))
    asyncio.run(run(config, admission))


if __name__ == "__main__":
    main()
