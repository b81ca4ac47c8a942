"""A real ranker behind a real server, on a small random model and a small store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from relaygr.behaviours.columns import Behaviours, Candidates, FeatureSpec, Profile, chain_of
from relaygr.domain.identity import ModelLimits
from relaygr.model import checkpoint
from relaygr.model.config import ModelConfig
from relaygr.model.init import new_model
from relaygr.rpc.identity import model_to_pb
from relaygr.rpc.server import RpcServer
from relaygr.rpc.tickets import encode_ticket
from relaygr.telemetry import Telemetry
from relaygr.v1 import common_pb2, ranker_pb2, ranker_pb2_grpc
from services.ranker.assembly import Ranker
from services.ranker.config import RankerConfig

KEY = b"0123456789abcdef"
ITEMS = np.arange(1, 101)
LIMITS = ModelLimits(window_behaviours_max=1024, window_step_behaviours=256, delta_behaviours_max=32, candidates_max=64)
PAGE_BYTES = 2 * 2 * (8 + 8) * 128 * 4


def write_model(directory: Path) -> None:
    """A checkpoint of a small random model."""
    config = ModelConfig(
        name="small",
        version="1",
        layers=2,
        width=32,
        heads=2,
        qk_dim=8,
        v_dim=8,
        normaliser=256,
        items=len(ITEMS),
        actions=6,
        positions=1100,
        tasks=("click", "like"),
        features=FeatureSpec(behaviour_dense=2),
        limits=LIMITS,
        head_width=16,
    )
    checkpoint.save(new_model(config, ITEMS, seed=5), directory)


def history(seed: int, count: int) -> Behaviours:
    """Behaviours of one user; the first n are the same for every count of n or more."""
    random = np.random.default_rng(seed)
    longest = 2000
    items = random.integers(1, 101, longest)
    times = 1_600_000_000 + np.cumsum(random.integers(1, 5000, longest))
    dense = random.standard_normal((longest, 2)).astype("f4")
    return Behaviours.of(items[:count], times[:count], random.integers(1, 6, longest)[:count], dense=dense[:count])


class World:
    """A ranker, a stub to it, and the requests a caller would send."""

    def __init__(self, ranker: Ranker, stub: Any, telemetry: Telemetry, spans: Any):
        self.ranker, self.stub, self.telemetry, self.spans = ranker, stub, telemetry, spans
        self._tickets = 0

    def history(self, behaviours: Behaviours, anchor: int = 0) -> common_pb2.History:
        """Sent inline, with its cut."""
        inline = common_pb2.InlineHistory(behaviours=behaviours.to_pb())
        digest = chain_of(Profile.empty(), behaviours).digest
        cut = common_pb2.Cut(anchor=anchor, behaviour_count=len(behaviours), digest=digest)
        return common_pb2.History(cut=cut, inline=inline.SerializeToString())

    def ticket(self, behaviours: Behaviours, user: str = "u1", **changes: Any) -> common_pb2.Ticket:
        """As the trigger would issue it."""
        self._tickets += 1
        record, now = self.ranker.instance.record, time.time_ns()
        fields = {
            "ticket_id": f"t{self._tickets}",
            "tenant": "default",
            "user": user,
            "instance_id": record.instance_id,
            "instance_epoch": record.epoch,
            "model": model_to_pb(record.model),
            "cut": self.history(behaviours).cut,
            "issued_unix_ns": now,
            "expires_unix_ns": now + 30_000_000_000,
        }
        return encode_ticket(common_pb2.TicketClaims(**{**fields, **changes}), KEY)

    def rank_request(self, behaviours: Behaviours, user: str = "u1", **changes: Any) -> ranker_pb2.RankRequest:
        """Twenty candidates after a delta of three."""
        whole = history(99, 40)
        shift = (int(behaviours.timestamps_s[-1]) if len(behaviours) else 0) - int(whole.timestamps_s[0])
        delta = Behaviours.of(whole.item_ids[:3], whole.timestamps_s[:3] + shift, dense=whole.dense[:3])
        fields = {
            "user": user,
            "history": self.history(behaviours),
            "delta": delta.to_pb(),
            "candidates": Candidates.of(np.arange(1, 21)).to_pb(),
            "request_time_s": int(delta.timestamps_s[-1]) + 60,
        }
        return ranker_pb2.RankRequest(**{**fields, **changes})

    async def pre_infer(self, behaviours: Behaviours, ticket: common_pb2.Ticket) -> ranker_pb2.PreInferResponse:
        """Ask for psi."""
        request = ranker_pb2.PreInferRequest(ticket=ticket, history=self.history(behaviours))
        return await self.stub.PreInfer(request, timeout=5)

    async def rank(self, request: ranker_pb2.RankRequest) -> ranker_pb2.RankResponse:
        """Score."""
        return await self.stub.Rank(request, timeout=10)

    async def difference(self, request: ranker_pb2.RankRequest, response: ranker_pb2.RankResponse) -> float:
        """Largest difference from full inference, by the design's measure."""
        bare = ranker_pb2.RankRequest()
        bare.CopyFrom(request)
        bare.bypass_psi = True
        full = np.frombuffer((await self.rank(bare)).logits, "<f4")
        relayed = np.frombuffer(response.logits, "<f4")
        return float((np.abs(full - relayed) / np.maximum(1.0, np.abs(full))).max())

    async def until_idle(self) -> None:
        """Until the device has nothing to do and no production is under way."""
        async with asyncio.timeout(20):
            while True:
                queues = self.ranker.engine.load()
                if not (queues.rank_jobs or queues.full_jobs or queues.pre_infer_jobs):
                    # One more turn of the loop delivers what the device thread has posted.
                    await asyncio.sleep(0)
                    return
                await asyncio.sleep(0.002)


@asynccontextmanager
async def ranker_world(directory: Path, pages: int = 64, **settings: Any) -> AsyncIterator[World]:
    """Serve a ranker; ends with the invariants checked."""
    if not (directory / "model.json").exists():
        write_model(directory)
    telemetry, spans = Telemetry.for_tests("ranker")
    config = RankerConfig(
        model=str(directory),
        ticket_key=KEY,
        instance_id="r1",
        device_budget_bytes=pages * PAGE_BYTES,
        chunk_tokens=128,
        **settings,
    )
    server = RpcServer(service_name="ranker", address="127.0.0.1:0", telemetry=telemetry)
    ranker = Ranker.build(config, telemetry)
    server.add(ranker_pb2_grpc.add_RankerServiceServicer_to_server, ranker.servicer, "relaygr.v1.RankerService")
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield World(ranker, ranker_pb2_grpc.RankerServiceStub(channel), telemetry, spans)
    await server.stop(0)
    ranker.engine.residency.check()
    await ranker.close()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small model lies; written once."""
    return tmp_path_factory.mktemp("model")


@pytest.fixture
async def world(model_dir: Path) -> AsyncIterator[World]:
    """A ranker with room for 64 pages."""
    async with ranker_world(model_dir) as made:
        yield made
