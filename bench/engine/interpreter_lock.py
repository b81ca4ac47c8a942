"""How long the device's thread waits for the interpreter after a slice of native compute.

A real ranker behind real gRPC runs in a process of its own, on a model whose slices are
native and hold no interpreter lock: each writes down when it ended, and the Python behind
it when it could go on. The difference is the wait. A client process sends ranks at random
times (open loop) and pre-infers at a fixed rate; both carry whole histories, so that the
event loop parses, digests and answers as in production.

    python -m bench.engine.interpreter_lock [--intervals-ms 5 1 0.5 0.2 0.1]

The last line is one JSON document. Needs a C compiler. Source: design, section 3 (ranker).
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from torch import Tensor

from bench.engine.preempt import NOW_S, about, behaviours, percentiles, small_model
from relaygr.behaviours.columns import Behaviours, Candidates, Profile, chain_of
from relaygr.model.hstu import HstuModel
from relaygr.model.interface import PageView, Steps
from relaygr.rpc.identity import model_from_pb, model_to_pb
from relaygr.rpc.server import RpcServer, serve_until_signal
from relaygr.rpc.tickets import encode_ticket
from relaygr.runtime.loop import LoopLagProbe
from relaygr.telemetry import Telemetry
from relaygr.v1 import common_pb2, ranker_pb2, ranker_pb2_grpc
from services.ranker.assembly import Ranker
from services.ranker.config import RankerConfig

KEY = b"0123456789abcdef"
SLICE_NS = 1_000_000
RANK_SLICES, CHUNK_SLICES = 4, 8
"""A rank of about 4 ms and a chunk of about 8: what the arithmetic of d256_h4x64_l4 says of this machine."""
KNOWN_USERS, KNOWN_TOKENS, NEW_TOKENS = 8, 2048, 8192
CANDIDATES, DELTA = 128, 32
BURN = """
#include <stdint.h>
#include <time.h>
static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}
int64_t burn(int64_t ns) { int64_t end = now() + ns, t; while ((t = now()) < end); return t; }
"""


class SlicedModel(HstuModel):
    """Embeds and scores as the real one; its layers are so many slices of native compute that make nothing."""

    burn: Any
    waits_ns: list[int]
    rank_waits_ns: list[int]
    """Of all slices of a rank together."""
    embeds_ns: list[int]

    def embed_prefix(self, profile: Profile, behaviours: Behaviours, first_token: int, end_token: int) -> Tensor:
        """As the real one, timed: some thirty torch operators, each of which lets the lock go and takes it again."""
        begun_ns = time.monotonic_ns()
        x_TD = super().embed_prefix(profile, behaviours, first_token, end_token)
        self.embeds_ns.append(time.monotonic_ns() - begun_ns)
        return x_TD

    def extend(self, x_TD: Tensor, self_only: int, context: PageView | None, write: PageView | None) -> Steps:
        """Slices; see the interface."""
        in_all_ns = 0
        for _ in range(RANK_SLICES if self_only else CHUNK_SLICES):
            ended_ns = self.burn(SLICE_NS)
            wait_ns = time.monotonic_ns() - ended_ns
            self.waits_ns.append(wait_ns)
            in_all_ns += wait_ns
            yield
        if self_only:
            self.rank_waits_ns.append(in_all_ns)
        return x_TD[x_TD.shape[0] - self_only :]


def make_model() -> SlicedModel:
    """What RankerConfig.model names."""
    model = small_model()
    assert isinstance(model, HstuModel)
    model.__class__ = SlicedModel
    assert isinstance(model, SlicedModel)
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory, "burn.so")
        command = ["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(command, input=BURN, text=True, check=True)
        model.burn = ctypes.CDLL(str(library)).burn
    model.burn.restype, model.burn.argtypes = ctypes.c_int64, [ctypes.c_int64]
    model.waits_ns, model.rank_waits_ns, model.embeds_ns = [], [], []
    return model


async def serve(switch_interval_s: float) -> None:
    """The ranker's process: says its port, serves until told to stop, says what it measured."""
    sys.setswitchinterval(switch_interval_s)
    lags_s: list[float] = []
    telemetry = Telemetry.setup("relaygr-ranker", "bench", None, b"bench", sample_ratio=0.01)
    config = RankerConfig(model=f"{__name__}:make_model", ticket_key=KEY, device_budget_bytes=1 << 30)
    ranker = Ranker.build(replace(config, instance_id="bench"), telemetry)
    server = RpcServer(service_name="ranker", address="127.0.0.1:0", telemetry=telemetry)
    server.add(ranker_pb2_grpc.add_RankerServiceServicer_to_server, ranker.servicer, "relaygr.v1.RankerService")
    model = ranker.servicer._model
    assert isinstance(model, SlicedModel)
    port = await server.start()
    model.waits_ns.clear()
    model.rank_waits_ns.clear()
    model.embeds_ns.clear()
    probe = LoopLagProbe(lags_s.append, period_s=0.01)
    probe.start()
    print(port, flush=True)
    await serve_until_signal(server, ranker.leave, grace_s=0.5)
    await ranker.close()
    measured = {
        "slice_lock_wait": model.waits_ns,
        "rank_lock_wait": model.rank_waits_ns,
        "chunk_embed": model.embeds_ns,
        "loop_lag": [int(lag_s * 1e9) for lag_s in lags_s],
    }
    print(json.dumps({name: value for each in measured.items() for name, value in percentiles(*each).items()}))


@dataclass(frozen=True, slots=True)
class User:
    """A user and a history, as it is sent."""

    name: str
    history: common_pb2.History
    delta: Behaviours

    @classmethod
    def of(cls, name: str, tokens: int, rng: np.random.Generator) -> User:
        """A random one."""
        whole = behaviours(tokens - 1 + DELTA, rng, NOW_S - 100_000_000)
        known = whole.slice(0, tokens - 1)
        cut = common_pb2.Cut(behaviour_count=len(known), digest=chain_of(Profile.empty(), known).digest)
        inline = common_pb2.InlineHistory(behaviours=known.to_pb()).SerializeToString()
        return cls(name, common_pb2.History(cut=cut, inline=inline), whole.slice(tokens - 1, len(whole)))


class Client:
    """Sends ranks and pre-infers, and keeps what ranks took."""

    def __init__(self, stub: Any, description: ranker_pb2.DescribeResponse, seed: int):
        self.stub, self.description = stub, description
        self.rng = np.random.default_rng(seed)
        self.chance = random.Random(seed)
        self.users = [User.of(f"known{n}", KNOWN_TOKENS, self.rng) for n in range(KNOWN_USERS)]
        self.others = [User.of(f"new{n}", NEW_TOKENS, self.rng) for n in range(4)]
        self.latencies_ns: list[int] = []
        self.queued_ns: list[int] = []
        self.computes_ns: list[int] = []
        self.tickets = 0

    async def pre_infer(self, user: User, *, window_s: float) -> None:
        """Ask for psi, which is of use for so long."""
        self.tickets += 1
        now_ns, about_it = time.time_ns(), self.description
        claims = common_pb2.TicketClaims(
            ticket_id=f"t{self.tickets}",
            tenant="default",
            user=user.name,
            instance_id=about_it.instance_id,
            instance_epoch=about_it.instance_epoch,
            model=model_to_pb(model_from_pb(about_it.model)),
            cut=user.history.cut,
            issued_unix_ns=now_ns,
            expires_unix_ns=now_ns + int(window_s * 1e9),
        )
        ticket = encode_ticket(claims, KEY)
        await self.stub.PreInfer(ranker_pb2.PreInferRequest(ticket=ticket, history=user.history), timeout=10)

    async def rank(self, user: User) -> None:
        """Rank on resident psi."""
        request = ranker_pb2.RankRequest(
            user=user.name,
            history=user.history,
            delta=user.delta.to_pb(),
            candidates=Candidates.of(self.rng.integers(0, 20_000, CANDIDATES)).to_pb(),
            request_time_s=int(user.delta.timestamps_s[-1]) + 60,
        )
        begun_ns = time.monotonic_ns()
        response = await self.stub.Rank(request, timeout=10)
        self.latencies_ns.append(time.monotonic_ns() - begun_ns)
        assert response.tier == ranker_pb2.TIER_DEVICE, response.tier
        self.queued_ns.append(response.timings.queue_ns)
        self.computes_ns.append(response.timings.compute_ns)

    async def rank_when_ready(self, user: User) -> None:
        """The first rank joins the production."""
        request = ranker_pb2.RankRequest(user=user.name, history=user.history, request_time_s=NOW_S + 10_000_000)
        request.candidates.CopyFrom(Candidates.of(np.arange(1)).to_pb())
        await self.stub.Rank(request, timeout=10)

    async def chat(self, calls_per_s: float) -> None:
        """Small calls, so that the event loop has more to do."""
        while calls_per_s:
            await asyncio.sleep(self.chance.expovariate(calls_per_s))
            await self.stub.Describe(ranker_pb2.DescribeRequest(), timeout=5)

    async def run(self, seconds: float, ranks_per_s: float, pre_infers_per_s: float) -> None:
        """Open loop."""
        loop = asyncio.get_running_loop()
        for user in self.users:
            await self.pre_infer(user, window_s=600)
        for user in self.users:
            await self.rank_when_ready(user)
        self.latencies_ns.clear()
        self.queued_ns.clear()
        self.computes_ns.clear()
        calls = []
        rank_due_s = pre_infer_due_s = loop.time()
        end_s, pick = rank_due_s + seconds, 0
        while loop.time() < end_s:
            due_s = min(rank_due_s, pre_infer_due_s)
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if due_s == rank_due_s:
                rank_due_s += self.chance.expovariate(ranks_per_s)
                calls.append(asyncio.ensure_future(self.rank(self.chance.choice(self.users))))
                continue
            pre_infer_due_s += 1 / pre_infers_per_s
            pick += 1
            fresh = replace(self.others[pick % len(self.others)], name=f"new{pick}")
            calls.append(asyncio.ensure_future(self.pre_infer(fresh, window_s=1.0)))
        await asyncio.gather(*calls)


async def measure(switch_interval_ms: float, given: argparse.Namespace) -> dict[str, Any]:
    """One run at one switch interval."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--serve", str(switch_interval_ms / 1e3)]
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(*command, stdout=pipe)
    assert server.stdout is not None
    try:
        port = int(await server.stdout.readline())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = ranker_pb2_grpc.RankerServiceStub(channel)
            description = await stub.Describe(ranker_pb2.DescribeRequest(), timeout=10)
            client = Client(stub, description, given.seed)
            others = [asyncio.ensure_future(client.chat(given.others_per_s / 4)) for _ in range(4)]
            await client.run(given.seconds, given.ranks_per_s, given.pre_infers_per_s)
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        server.terminate()
        said = json.loads((await asyncio.wait_for(server.stdout.read(), 30)).splitlines()[-1])
    finally:
        if server.returncode is None:
            server.kill()
        await server.wait()
    return {
        "switch_interval_ms": switch_interval_ms,
        **percentiles("rank", client.latencies_ns),
        "ranks": len(client.latencies_ns),
        **percentiles("rank_queue", client.queued_ns),
        **percentiles("rank_compute", client.computes_ns),
        **said,
    }


def measure_worst(switch_interval_ms: float, slices: int = 300) -> dict[str, float]:
    """Waits beside a thread that never stops running Python: the most that a burst of the loop can take."""
    model, is_over = make_model(), threading.Event()

    def run_python() -> None:
        while not is_over.is_set():
            sum(range(2000))

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(switch_interval_ms / 1e3)
    busy = threading.Thread(target=run_python)
    busy.start()
    try:
        waits_ns = []
        for _ in range(slices):
            ended_ns = model.burn(SLICE_NS)
            waits_ns.append(time.monotonic_ns() - ended_ns)
    finally:
        is_over.set()
        busy.join()
        sys.setswitchinterval(before_s)
    return percentiles("slice_lock_wait_beside_busy_python", waits_ns)


def main() -> None:
    """Measure at each interval and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--intervals-ms", type=float, nargs="+", default=[5.0, 1.0, 0.5, 0.2, 0.1])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--ranks-per-s", type=float, default=60.0)
    parser.add_argument("--pre-infers-per-s", type=float, default=2.5)
    parser.add_argument("--others-per-s", type=float, default=0.0, help="small calls beside, at most so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
        return
    runs = []
    for interval_ms in given.intervals_ms:
        runs.append({**asyncio.run(measure(interval_ms, given)), **measure_worst(interval_ms)})
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"benchmark": "interpreter_lock", "runs": runs, "asked": vars(given), **about()}))


if __name__ == "__main__":
    main()
