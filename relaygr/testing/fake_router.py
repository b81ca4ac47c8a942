"""A router without rankers: answers from a script and remembers what it was asked."""

from __future__ import annotations

import asyncio

import numpy as np

from relaygr.errors import RelayError
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2
from relaygr.v1.router_pb2_grpc import RouterServiceServicer

TASKS = ("click", "like")


def resolve_response(**changes: object) -> router_pb2.ResolveResponse:
    """One instance: 10 us a token, 100 MB of device memory, windows of 1,000 behaviours."""
    response = router_pb2.ResolveResponse(
        instance_id="ranker-0",
        instance_epoch=7,
        branch=router_pb2.Branch.BRANCH_SLOT,
        model=common_pb2.ModelIdentity(name="fake", version="1", dtype="float32", layout="fake", normaliser=1024),
        limits=common_pb2.ModelLimits(
            window_behaviours_max=1_000, window_step_behaviours=200, delta_behaviours_max=50, candidates_max=512
        ),
        cost=common_pb2.CostModel(fixed_ns=1e5, token_ns=1e4, token_bytes=1_000, candidates_typical=100),
        load=common_pb2.Load(device_budget_bytes=100_000_000),
        trigger_count=1,
    )
    response.MergeFrom(router_pb2.ResolveResponse(**changes))  # type: ignore[arg-type]
    return response


class FakeRouter(RouterServiceServicer):
    """Serves relaygr.v1.RouterService.

    Scores are made of item ids alone, so that a test knows them; `bypass_shift` is added
    to the scores of ranks that bypass psi.
    """

    def __init__(self) -> None:
        self.resolved = resolve_response()
        self.acceptance = ranker_pb2.PreInferResponse(acceptance=ranker_pb2.Acceptance.ACCEPTANCE_STARTED)
        self.failure: RelayError | None = None
        """Raised by every call when set."""
        self.pre_infer_gate = asyncio.Event()
        """Pre-infers are answered once this is set."""
        self.pre_infer_gate.set()
        self.rank_delay_s = 0.0
        self.bypass_shift = 0.0
        self.resolves: list[router_pb2.ResolveRequest] = []
        self.pre_infers: asyncio.Queue[ranker_pb2.PreInferRequest] = asyncio.Queue()
        self.ranks: list[ranker_pb2.RankRequest] = []
        self.releases: asyncio.Queue[common_pb2.Ticket] = asyncio.Queue()
        self.forgotten: list[tuple[str, str]] = []

    async def Resolve(self, request, context):  # type: ignore[no-untyped-def]  # noqa: D102
        self._called()
        self.resolves.append(request)
        return self.resolved

    async def PreInfer(self, request, context):  # type: ignore[no-untyped-def]  # noqa: D102
        self._called()
        self.pre_infers.put_nowait(request.pre_infer)
        await self.pre_infer_gate.wait()
        return router_pb2.RouterServicePreInferResponse(pre_infer=self.acceptance)

    async def Rank(self, request, context):  # type: ignore[no-untyped-def]  # noqa: D102
        self._called()
        rank = request.rank
        self.ranks.append(rank)
        await asyncio.sleep(self.rank_delay_s)
        return router_pb2.RouterServiceRankResponse(
            rank=self._scored(rank), branch=router_pb2.Branch.BRANCH_SLOT, attempts=1
        )

    async def Release(self, request, context):  # type: ignore[no-untyped-def]  # noqa: D102
        self._called()
        self.releases.put_nowait(request.ticket)
        return router_pb2.RouterServiceReleaseResponse(was_held=True)

    async def Forget(self, request, context):  # type: ignore[no-untyped-def]  # noqa: D102
        self._called()
        self.forgotten.append((request.tenant, request.user))
        return router_pb2.RouterServiceForgetResponse(device_entries=1, unreached_instance_ids=["ranker-9"])

    def _scored(self, rank: ranker_pb2.RankRequest) -> ranker_pb2.RankResponse:
        items = np.frombuffer(rank.candidates.item_ids, "<i8")
        shift = self.bypass_shift if rank.bypass_psi else 0.0
        logits = np.stack([items % 7 + shift, -(items % 5) + shift], axis=1).astype("<f4")
        on_psi = rank.HasField("ticket") and not rank.bypass_psi
        tier = ranker_pb2.Tier.TIER_DEVICE if on_psi else ranker_pb2.Tier.TIER_FULL
        reason = ranker_pb2.FallbackReason
        fallback = reason.FALLBACK_REASON_BYPASSED if rank.bypass_psi else reason.FALLBACK_REASON_NO_TICKET
        return ranker_pb2.RankResponse(
            logits=logits.tobytes(),
            tasks=TASKS,
            tier=tier,
            fallback=reason.FALLBACK_REASON_UNSPECIFIED if on_psi else fallback,
            unknown_candidates=[index for index, item in enumerate(items) if item < 0],
            timings=ranker_pb2.RankTimings(queue_ns=1_000_000, compute_ns=2_000_000, total_ns=4_000_000),
            instance_id="ranker-0",
            instance_epoch=7,
        )

    def _called(self) -> None:
        if self.failure is not None:
            raise self.failure
