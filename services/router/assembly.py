"""One router, put together: the same for a process and for a test."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Callable
from time import monotonic_ns

from relaygr.registry import Registration, keys
from relaygr.registry.settings import connect
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.server import RpcServer
from relaygr.security.identity import Role
from relaygr.security.settings import material_of
from relaygr.telemetry import Telemetry
from services.router.adapters.discovery import Discovery
from services.router.adapters.pins import PinWriter
from services.router.adapters.planner import TablePlanner
from services.router.adapters.rankers import Rankers
from services.router.config import RouterConfig
from services.router.core.binding import Binding, Placement
from services.router.core.events import PinDropped, PinRead, UserPlaced
from services.router.forward import add_router_service
from services.router.relay import Relay
from services.router.service import RouterService
from services.router.view import View

_log = logging.getLogger(__name__)


class Router:
    """Everything of one router. Make it on a running loop; `start`, then `leave` and `close`.

    `binding`, `rankers` and `service` make the parts that choose, call and answer.
    """

    def __init__(
        self,
        config: RouterConfig,
        telemetry: Telemetry,
        *,
        binding: Callable[..., Binding] = Binding,
        rankers: Callable[[ChannelPool], Rankers] = Rankers,
        service: Callable[..., RouterService] = RouterService,
    ) -> None:
        self.config = config
        self.router_id = config.router_id or uuid.uuid4().hex[:12]
        self._has_members = asyncio.Event()
        tls = material_of(config, Role.ROUTER)
        self._view = View(
            binding(
                spill_floor_ns=config.spill_floor_ns,
                pins_max=config.pins_max,
                members_max=config.members_max,
                calls_max=config.calls_max,
                warm_up_ns=config.warm_up_ns,
            ),
            rankers(ChannelPool(telemetry, tls=tls, peer_role=Role.RANKER)),
            telemetry,
            suspect_timeout_s=config.suspect_timeout_ms / 1e3,
            changed=self._changed,
        )
        self.core, self.driver, self.metrics = self._view.core, self._view.driver, self._view.metrics
        self._probes = self._view.probes
        self.registry = connect(config)
        self._pin_writer = PinWriter(self.registry, config.pin_writes_max)
        self.planner = TablePlanner(
            self.registry,
            self.core,
            self.router_id,
            ttl_s=config.registry_ttl_s,
            settle_s=config.table_settle_ms / 1e3,
        )
        self.discovery = Discovery(self.registry, self.driver.feed)
        self.metrics.observe_registry(self.discovery.instances)
        relay = Relay(
            self.core,
            self.driver.feed,
            self._view.rankers,
            self._probes,
            telemetry,
            self.metrics,
            margin_ns=config.margin_ns,
        )
        self._service = service(
            config,
            self.core,
            relay,
            placed=self._placed,
            unpin=self._unpin,
            trigger_count=lambda: self.discovery.trigger_count,
        )
        self.server = RpcServer(
            service_name="router", address=config.address, telemetry=telemetry, lane_port=config.lane_port, tls=tls
        )
        self.server.add(add_router_service, self._service, "relaygr.v1.RouterService")
        self.address = config.address
        self._registration: Registration | None = None
        self._ready: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen; healthy as soon as an instance is known, or after `start_wait_s`. Returns the port."""
        port = await self.server.start(serving=False)
        host = self.config.address.rpartition(":")[0]
        self.address = self.config.advertised_address or f"{host}:{port}"
        record = json.dumps({"router_id": self.router_id, "address": self.address})
        self._registration = self.registry.keep_registered(
            keys.router_key(self.router_id), lambda: record, self.config.registry_ttl_s
        )
        self._ready = asyncio.create_task(self._serve_when_ready(), name="serve when ready")
        return port

    async def leave(self) -> None:
        """Withdraw from etcd; calls are still served."""
        if self._ready is not None:
            self._ready.cancel()
        await self.planner.close()
        if self._registration is not None:
            await self._registration.withdraw()

    async def close(self) -> None:
        """Stop everything; repeatable."""
        if self._ready is not None:
            self._ready.cancel()
            await asyncio.gather(self._ready, return_exceptions=True)
        await self.server.stop(0)
        self.driver.close()
        await self.planner.close()
        await self._pin_writer.close()
        await self.registry.close()
        await self._view.close()

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table that could grow with users: what is in it and the most that may be."""
        return {**self.core.sizes(), **self._service.ended.sizes(), **self._pin_writer.sizes()}

    async def _serve_when_ready(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.start_wait_s):
                await self._has_members.wait()
        _log.info("router %s serves on %s, %d instances known", self.router_id, self.address, len(self.core.members))
        await self.server.set_serving(True)

    def _changed(self) -> None:
        """The instances changed."""
        if len(self.core.members):
            self._has_members.set()
        self.planner.look()

    def _placed(self, placement: Placement, user: UserPlaced | None) -> None:
        """Remember a placement, and of one that a ticket will follow, the user and what it brings."""
        self.metrics.chosen(placement.branch)
        if user is not None:
            self.driver.feed(user)
        pin = placement.pin
        if pin is not None:
            self.driver.feed(PinRead(pin.user_hash, pin.instance_id, pin.epoch, monotonic_ns() + pin.window_ns))
            self._pin_writer.write(pin)

    def _unpin(self, user_hash: str) -> None:
        self.driver.feed(PinDropped(user_hash))
        self._pin_writer.delete(user_hash)
