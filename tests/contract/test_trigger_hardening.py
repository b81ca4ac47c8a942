"""The trigger against huge numbers, newer peers and a store that hangs."""

from __future__ import annotations

import asyncio
import threading

import grpc
import pytest

from relaygr.domain.identity import UserKey
from relaygr.errors import DeadlineTooShort, InvalidRequest, PeerFailed, Refused, Unreachable
from relaygr.testing.fake_router import resolve_response
from relaygr.v1.common_pb2 import CostModel, History, ModelLimits
from relaygr.v1.ranker_pb2 import PreInferResponse
from relaygr.v1.trigger_pb2 import Decision
from services.trigger.adapters.histories import PENDING_MAX, Histories
from tests.contract.test_trigger_service import FakeStore, _settled, running

HUGE = 2**32 - 1
USER = UserKey("default", "u1")


class HungStore(FakeStore):
    """Answers nobody until it is let go."""

    def __init__(self):
        super().__init__({"u1": 7})
        self.go = threading.Event()

    def head(self, user, as_of_s):
        self.go.wait(10)
        return super().head(user, as_of_s)


async def test_counts_too_large_for_a_prediction_are_the_callers_fault():
    async with running() as rig:
        rig.router.resolved = resolve_response(cost=CostModel(pair_ns=5.0))
        await rig.arrive()  # From now on the router is told what a request will cost.
        code, details = await rig.refusal(candidate_count=HUGE, delta_behaviour_count=HUGE)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith("candidate_count: ")


async def test_answer_of_a_newer_ranker_still_ends_the_pre_infer():
    async with running() as rig:
        rig.router.acceptance = PreInferResponse(acceptance=99, reason=99)
        await rig.arrive()
        await _settled(lambda: rig.service.admission.holdings.unanswered == 0)


@pytest.mark.parametrize(
    ("error", "is_given_back"),
    [
        (InvalidRequest("history.inline", "is not what the cut says"), True),
        (Refused("busy"), True),
        (PeerFailed("router", "bug"), False),
        (Unreachable("router", "gone"), False),
        (DeadlineTooShort(is_definite=False), False),
    ],
)
async def test_device_time_comes_back_only_when_the_pre_infer_surely_never_began(error, is_given_back):
    async with running() as rig:

        async def fail(ticket, history, window_ns):
            raise error

        rig.service._router.pre_infer = fail
        await rig.arrive()
        await _settled(lambda: rig.service.admission.holdings.unanswered == 0)
        (account,) = rig.service.admission._accounts.values()
        assert (account.load.debt_ns == 0) == is_given_back


async def test_hung_store_holds_a_bounded_number_of_reads():
    store = HungStore()
    histories = Histories(store, timeout_s=0.05)
    try:
        asked = [histories.head(USER, 0) for _ in range(4 * PENDING_MAX)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, Unreachable) for answer in answers)
        store.go.set()
        await _settled(lambda: len(store.asked) >= PENDING_MAX)
        assert (await histories.head(USER, 0)).log_count == 7
        assert len(store.asked) == PENDING_MAX + 1
    finally:
        store.go.set()
        histories.close()


async def test_read_given_up_by_its_caller_makes_room_when_it_ends():
    store = HungStore()
    histories = Histories(store, timeout_s=5.0)
    try:
        asked = [asyncio.create_task(histories.head(USER, 0)) for _ in range(PENDING_MAX)]
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        store.go.set()
        await _settled(lambda: len(store.asked) == PENDING_MAX)
        await _settled(lambda: histories.pending == 0)
        assert (await histories.head(USER, 0)).log_count == 7
    finally:
        store.go.set()
        histories.close()


@pytest.mark.parametrize(
    "absurd",
    [
        {"cost": CostModel(token_ns=float("inf"))},
        {"cost": CostModel(pair_ns=float("nan"))},
        {"cost": CostModel(fixed_ns=1e17, pair_ns=1e17)},
        {"limits": ModelLimits(window_step_behaviours=5_000)},
    ],
)
async def test_an_instance_of_absurd_costs_spoils_no_arrival_after_it(absurd):
    async with running(store=FakeStore({"u1": 7_000})) as rig:
        rig.router.resolved = resolve_response(**absurd)
        for _ in range(2):
            assert (await rig.arrive(history=History())).decision != Decision.DECISION_ADMITTED
        rig.router.resolved = resolve_response()
        assert (await rig.arrive()).decision == Decision.DECISION_ADMITTED
