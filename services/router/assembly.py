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
from relaygr.runtime.driver import Driver
from relaygr.runtime.logs import next_step
from relaygr.telemetry import Telemetry
from relaygr.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from services.router.adapters.discovery import Discovery
from services.router.adapters.pins import PinWriter
from services.router.adapters.planner import TablePlanner
from services.router.adapters.probes import Probes
from services.router.adapters.rankers import Rankers
from services.router.config import RouterConfig
from services.router.core.binding import Binding, Placement
from services.router.core.effects import ChangeMembers, ConfirmLoss, Effect, ForgetPeer, StartProbe
from services.router.core.events import Event, PinDropped, PinRead, UserPlaced
from services.router.metrics import RouterMetrics
from services.router.relay import Relay
from services.router.service import RouterService

_log = logging.getLogger(__name__)

PEER_KEPT_S = 15.0
"""A channel outlives its instance's registration by this, so that calls in progress end."""


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
        self._peer_timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.core = binding(
            spill_floor_ns=config.spill_floor_ns,
            pins_max=config.pins_max,
            members_max=config.members_max,
            calls_max=config.calls_max,
        )
        self.driver: Driver[Event, Effect] = Driver(self.core, self._perform)
        self.metrics = RouterMetrics(telemetry, self.core)
        self._rankers = rankers(ChannelPool(telemetry))
        self._probes = Probes(
            self._rankers, self.core.members, self.driver.feed, suspect_timeout_s=config.suspect_timeout_ms / 1e3
        )
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
            self._rankers,
            self._probes,
            telemetry,
            self.metrics,
            margin_ns=config.margin_ns,
        )
        servicer = service(
            config,
            self.core,
            relay,
            placed=self._placed,
            unpin=self._unpin,
            trigger_count=lambda: self.discovery.trigger_count,
        )
        self.server = RpcServer(
            service_name="router", address=config.address, telemetry=telemetry, lane_port=config.lane_port
        )
        self.server.add(add_RouterServiceServicer_to_server, servicer, "relaygr.v1.RouterService")
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
        await self._probes.close()
        await self.registry.close()
        for timer in self._peer_timers.values():
            timer.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._rankers.close()

    async def _serve_when_ready(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.start_wait_s):
                await self._has_members.wait()
        _log.info("router %s serves on %s, %d instances known", self.router_id, self.address, len(self.core.members))
        await self.server.set_serving(True)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartProbe():
                step = next_step("see that it runs: relaygr health; requests go to others until it answers")
                _log.warning("%s is fenced: %s", effect.instance_id, effect.reason.value, extra=step)
                self.metrics.fenced(effect.reason)
                self._probes.start(effect)
            case ConfirmLoss():
                step = next_step("see that etcd runs; instances that answer are kept")
                _log.warning("%s is said to be gone, with too many others", effect.instance_id, extra=step)
                self._probes.confirm(effect)
            case ForgetPeer():
                timer = self._peer_timers.pop(effect.address, None)
                if timer is not None:
                    timer.cancel()
                loop = asyncio.get_running_loop()
                self._peer_timers[effect.address] = loop.call_later(PEER_KEPT_S, self._forget_peer, effect.address)
            case ChangeMembers():
                if len(self.core.members):
                    self._has_members.set()
                self.planner.look()

    def _forget_peer(self, address: str) -> None:
        """Close the channel, unless somebody else is at that address by now."""
        self._peer_timers.pop(address, None)
        if any(member.record.address == address for member in self.core.members):
            return
        task = asyncio.create_task(self._rankers.forget_peer(address))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

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
