"""A real router on a real etcd, with small servers in the place of rankers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from relaygr.domain.identity import UserKey
from relaygr.registry import Registry, keys
from relaygr.registry.server import EmbeddedEtcd
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.identity import model_to_pb
from relaygr.rpc.server import RpcServer
from relaygr.rpc.tickets import encode_ticket
from relaygr.telemetry import Telemetry
from relaygr.v1 import common_pb2, ranker_pb2, ranker_pb2_grpc, router_pb2, router_pb2_grpc
from services.router.assembly import Router
from services.router.config import RouterConfig
from tests.unit.router.fleet import MODEL, record

KEY = b"0123456789abcdef"
CUT = common_pb2.Cut(anchor=0, behaviour_count=300, digest=b"d" * 16)
HISTORY = common_pb2.History(cut=CUT, inline=b"opaque")


async def until(condition, timeout_s=15.0):
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition belongs to the code under test
            await asyncio.sleep(0.01)


async def failing(call):
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


class FakeRanker(ranker_pb2_grpc.RankerServiceServicer):
    """Answers what a ranker would, and remembers what it was asked."""

    def __init__(self, world, name, *, epoch=1, model=MODEL, has_lanes=True):
        self.world = world
        self.name = name
        self.has_lanes = has_lanes
        self.record = record(name, epoch=epoch, model=model)
        self.asked = []
        self.backlog_ns = 0
        self.rank_rate_hz = 0.0
        self.feedback = None
        self.dram_reached = True
        self.was_held = True
        self.error = None
        self.pause_s = 0.0
        self.server = None
        self.registration = None

    async def start(self, address="127.0.0.1:0"):
        lane_port = 0 if self.has_lanes else None
        self.server = RpcServer(
            service_name=self.name, address=address, telemetry=self.world.telemetry, lane_port=lane_port
        )
        self.server.add(ranker_pb2_grpc.add_RankerServiceServicer_to_server, self, "relaygr.v1.RankerService")
        port = await self.server.start()
        self.record = replace(self.record, address=f"127.0.0.1:{port}")
        return self

    def register(self, ttl_s=2):
        self.registration = self.world.registry.keep_registered(
            keys.instance_key(self.name), self.record.to_json, ttl_s
        )

    async def kill(self):
        """Gone without a word: its registration stays until the lease ends."""
        await self.server.stop(0)

    def load(self):
        return common_pb2.Load(backlog_ns=self.backlog_ns, device_budget_bytes=1 << 30, rank_rate_hz=self.rank_rate_hz)

    async def PreInfer(self, request, context):
        await self._take("PreInfer", request)
        return ranker_pb2.PreInferResponse(
            acceptance=ranker_pb2.ACCEPTANCE_STARTED, load=self.load(), feedback=self.feedback
        )

    async def Rank(self, request, context):
        await self._take("Rank", request)
        return ranker_pb2.RankResponse(
            logits=b"1234",
            tier=ranker_pb2.TIER_DEVICE,
            load=self.load(),
            instance_id=self.name,
            instance_epoch=self.record.epoch,
            model=model_to_pb(self.record.model),
        )

    async def Release(self, request, context):
        await self._take("Release", request)
        return ranker_pb2.ReleaseResponse(was_held=self.was_held)

    async def Forget(self, request, context):
        await self._take("Forget", request)
        return ranker_pb2.ForgetResponse(device_entries=2, dram_entries=1, dram_reached=self.dram_reached)

    async def _take(self, method, request):
        self.asked.append((method, request))
        if self.error is not None:
            raise self.error
        if self.pause_s:
            await asyncio.sleep(self.pause_s)


class Freezer:
    """A TCP proxy in front of a server; frozen, connections stay open and nothing passes: a stopped process."""

    def __init__(self, target):
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._flows = asyncio.Event()
        self._flows.set()
        self._tasks = set()
        self._server = None

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def freeze(self):
        self._flows.clear()

    def thaw(self):
        self._flows.set()

    async def close(self):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        back_reader, back_writer = await asyncio.open_connection(self._host, self._port)
        for source, sink in ((reader, back_writer), (back_reader, writer)):
            self._tasks.add(asyncio.create_task(self._copy(source, sink)))

    async def _copy(self, source, sink):
        try:
            while data := await source.read(65_536):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


class World:
    """etcd, fake rankers, one or more routers."""

    def __init__(self, etcd):
        self.etcd = etcd
        self.telemetry, self.spans = Telemetry.for_tests()
        self.registry = Registry((etcd.endpoint,), timeout_s=1.0)
        self.pool = ChannelPool(self.telemetry)
        self.rankers = {}
        self.routers = []
        self.router = None
        self.stub = None

    async def add_rankers(self, *names, **options):
        for name in names:
            ranker = await FakeRanker(self, name, **options).start()
            ranker.register()
            self.rankers[name] = ranker
        await until(lambda: all(self.rankers[name].registration.is_live for name in names))
        return [self.rankers[name] for name in names]

    async def add_router(self, **settings):
        defaults = {
            "ticket_key": KEY,
            "address": "127.0.0.1:0",
            "registry": (self.etcd.endpoint,),
            "registry_ttl_s": 1,
            "registry_timeout_s": 1.0,
            "table_settle_ms": 20.0,
        }
        router = Router(RouterConfig(**{**defaults, **settings}), self.telemetry)
        self.routers.append(router)
        await router.start()
        self.router = self.router or router
        stub = router_pb2_grpc.RouterServiceStub(self.pool.get(router.address))
        self.stub = self.stub or stub
        return router, stub

    async def knows(self, *names, router=None):
        members = (router or self.router).core.members
        await until(lambda: [member.record.instance_id for member in members] == sorted(names))

    def ticket(self, ranker, user="u", tenant="default", cut=CUT, key=KEY, ticket_id="t-1", trigger_id=""):
        claims = common_pb2.TicketClaims(
            ticket_id=ticket_id,
            trigger_id=trigger_id,
            tenant=tenant,
            user=user,
            instance_id=ranker.name,
            instance_epoch=ranker.record.epoch,
            model=model_to_pb(ranker.record.model),
            cut=cut,
            issued_unix_ns=time.time_ns(),
            expires_unix_ns=time.time_ns() + 2_000_000_000,
        )
        return encode_ticket(claims, key)

    async def resolve(self, user="u", stub=None, **options):
        return await (stub or self.stub).Resolve(router_pb2.ResolveRequest(user=user, **options), timeout=5)

    async def pre_infer(self, ticket, history=HISTORY):
        inner = ranker_pb2.PreInferRequest(ticket=ticket, history=history)
        request = router_pb2.RouterServicePreInferRequest(pre_infer=inner)
        return (await self.stub.PreInfer(request, timeout=5)).pre_infer

    async def rank(self, user="u", ticket=None, timeout_s=5.0, stub=None, **fields):
        inner = ranker_pb2.RankRequest(
            user=user,
            ticket=ticket,
            candidates=ranker_pb2.Candidates(count=1, item_ids=bytes(8)),
            **{"history": HISTORY, **fields},
        )
        request = router_pb2.RouterServiceRankRequest(rank=inner)
        return await (stub or self.stub).Rank(request, timeout=timeout_s)

    async def release(self, ticket):
        return await self.stub.Release(router_pb2.RouterServiceReleaseRequest(ticket=ticket), timeout=5)

    async def ended(self, trigger_id):
        """The tickets that a trigger is told of with its next Resolve."""
        return list((await self.resolve(trigger_id=trigger_id)).ended_ticket_ids)

    async def forget(self, user="u"):
        return await self.stub.Forget(router_pb2.RouterServiceForgetRequest(user=user), timeout=5)

    def user_of_slot_owner(self, name):
        """A user whose slot belongs to an instance."""
        for index in range(10_000):
            user = UserKey("default", f"user-{index}")
            placement = self.router.core.resolve(_subject(user), now_ns=time.monotonic_ns())
            if placement is not None and placement.record.instance_id == name:
                return user.user
        raise AssertionError(f"nobody is placed on {name}")

    async def close(self):
        for router in self.routers:
            await router.close()
        for ranker in self.rankers.values():
            with contextlib.suppress(Exception):
                await ranker.server.stop(0)
        await self.pool.close()
        await self.registry.close()
        self.telemetry.shutdown()


def _subject(user):
    from services.router.core.binding import Subject

    return Subject(user, user.hashed(KEY))


@asynccontextmanager
async def router_world(data_dir, *names, has_lanes=True, **settings):
    """A world with these rankers and one router that knows them and serves.

    Without lanes for a ranker that is put behind a proxy: they lead past it.
    """
    with EmbeddedEtcd() as etcd:
        etcd.start(data_dir)
        world = World(etcd)
        try:
            await world.add_rankers(*names, has_lanes=has_lanes)
            await world.add_router(**settings)
            await world.knows(*names)
            yield world
        finally:
            await world.close()
