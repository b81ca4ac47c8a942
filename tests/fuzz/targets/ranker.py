"""The ranker's RPCs, with a small model that really ranks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from relaygr.behaviours.columns import Cross
from relaygr.model import checkpoint
from relaygr.model.config import ModelConfig
from relaygr.model.init import new_model
from relaygr.rpc.server import RpcServer
from relaygr.v1 import common_pb2, ranker_pb2
from relaygr.v1.ranker_pb2_grpc import add_RankerServiceServicer_to_server
from services.ranker.assembly import Ranker
from services.ranker.config import RankerConfig
from tests.fuzz import ground
from tests.fuzz.calls import Calls, Method
from tests.fuzz.subject import Subject

RANKER = "/relaygr.v1.RankerService"
EPOCH = 7
"""Always the same, so that kept tickets stay those of this instance."""
PAGES = 64
TICKETS_MAX = 512
SERVED_IN_S = 30


def write_model(directory: Path) -> None:
    """A checkpoint of a small random model that reads every kind of feature."""
    config = ModelConfig(
        name="small",
        version="1",
        layers=1,
        width=16,
        heads=1,
        qk_dim=8,
        v_dim=8,
        normaliser=128,
        items=len(ground.ITEMS),
        actions=6,
        positions=300,
        tasks=("click", "like"),
        features=ground.FEATURES,
        limits=ground.LIMITS,
        head_width=8,
    )
    checkpoint.save(new_model(config, ground.ITEMS, seed=5), directory)


class Fuzzed(Calls):
    """Ranks, pre-infers, releases, forgets; descriptions and drains."""

    def __init__(self, ranker: Ranker) -> None:
        methods = {
            f"{RANKER}/Rank": Method(ranker_pb2.RankRequest, self.rank, 10),
            f"{RANKER}/PreInfer": Method(ranker_pb2.PreInferRequest, self.pre_infer, 6),
            f"{RANKER}/Release": Method(ranker_pb2.ReleaseRequest, self.release, 4),
            f"{RANKER}/Forget": Method(ranker_pb2.ForgetRequest, self.forget, 2),
            f"{RANKER}/Describe": Method(ranker_pb2.DescribeRequest, lambda _: ranker_pb2.DescribeRequest(), 0.3),
            f"{RANKER}/Drain": Method(ranker_pb2.DrainRequest, lambda _: ranker_pb2.DrainRequest(undo=True), 0.3),
        }
        super().__init__(methods, ground.KEY)
        self._ranker = ranker
        self._tickets = 0

    def history(self, random: Random) -> common_pb2.History:
        if random.random() < 0.3:
            return common_pb2.History(as_of_s=ground.BEGIN_S + random.choice((0, 600, 9_000)))
        return ground.history(random)

    def ticket(self, history: common_pb2.History, user: str) -> common_pb2.Ticket:
        self._tickets = (self._tickets + 1) % 64
        return ground.ticket(
            self._ranker.instance.record,
            ticket_id=f"t{self._tickets}",
            user=user,
            cut=history.cut,
            reserved_bytes=1 << 16,
            traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01",
            trigger_id="trigger-1",
            rank_budget_ns=20_000_000,
        )

    def rank(self, random: Random) -> ranker_pb2.RankRequest:
        user, history = str(random.randrange(1, 12)), self.history(random)
        asked = ranker_pb2.RankRequest(
            user=user, request_id="r", history=history, candidates=ground.candidates(random), bypass_psi=False
        )
        if history.inline:
            count = random.choice((0, 1, 5))
            sent = ground.behaviours(random, count, begin_s=ground.BEGIN_S + 10_000_000)
            asked.delta.CopyFrom(sent.to_pb())
        if history.inline and random.random() < 0.6:
            asked.ticket.CopyFrom(self.ticket(history, user))
        if random.random() < 0.3:
            asked.cross.CopyFrom(Cross.of(np.full((2, ground.FEATURES.cross_dense), 0.5)).to_pb())
        asked.request_time_s = ground.BEGIN_S + 20_000_000
        return asked

    def pre_infer(self, random: Random) -> ranker_pb2.PreInferRequest:
        history = ground.history(random)
        return ranker_pb2.PreInferRequest(ticket=self.ticket(history, str(random.randrange(1, 12))), history=history)

    def release(self, random: Random) -> ranker_pb2.ReleaseRequest:
        return ranker_pb2.ReleaseRequest(ticket=self.ticket(common_pb2.History(), str(random.randrange(1, 12))))

    def forget(self, random: Random) -> ranker_pb2.ForgetRequest:
        return ranker_pb2.ForgetRequest(tenant="default", user=str(random.randrange(100, 120)))

    async def settle(self) -> None:
        async with asyncio.timeout(SERVED_IN_S):
            while any((found := self._ranker.engine.load()).__getattribute__(name) for name in _QUEUES):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        del found
        self._ranker.engine.residency.check()

    def sizes(self) -> dict[str, tuple[int, int]]:
        seen, queues = self._ranker.engine.residency.snapshot(), self._ranker.engine.load()
        return {
            "open_tickets": (seen.open_tickets, TICKETS_MAX),
            "resident_entries": (seen.resident_entries, PAGES),
            **{name: (getattr(queues, name), 0) for name in _QUEUES},
        }


_QUEUES = ("rank_jobs", "full_jobs", "pre_infer_jobs")


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    telemetry = ground.quiet()
    write_model(directory / "model")
    ground.store(directory / "store")
    config = RankerConfig(
        model=str(directory / "model"),
        store=str(directory / "store"),
        ticket_key=ground.KEY,
        instance_id="r1",
        device_budget_bytes=PAGES * (8 + 8) * 128 * 4,
        chunk_tokens=128,
        tickets_max=TICKETS_MAX,
        threads=1,
    )
    ranker = Ranker.build(config, telemetry)
    ranker.instance.record = replace(ranker.instance.record, epoch=EPOCH)
    server = RpcServer(service_name="ranker", address="127.0.0.1:0", telemetry=telemetry)
    server.add(add_RankerServiceServicer_to_server, ranker.servicer, "relaygr.v1.RankerService")
    subject = Fuzzed(ranker)
    await subject.serve(server, telemetry)
    try:
        yield subject
    finally:
        await subject.close()
        await server.stop(0)
        ranker.engine.residency.check()
        await ranker.close()
