"""The trigger behind a real gRPC server, with the router faked."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import numpy as np
import pytest

from relaygr.behaviours.columns import Behaviours
from relaygr.behaviours.store import StoreHead
from relaygr.errors import PeerFailed, Refused
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.server import RpcServer
from relaygr.rpc.tickets import decode_ticket
from relaygr.telemetry import Telemetry, names
from relaygr.testing.fake_router import FakeRouter, resolve_response
from relaygr.v1.common_pb2 import Cut, History, Load
from relaygr.v1.ranker_pb2 import Acceptance, DeclineReason, PreInferResponse
from relaygr.v1.router_pb2 import ResolveResponse
from relaygr.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from relaygr.v1.trigger_pb2 import ArriveRequest, Decision, DecisionReason, StageBudgets
from relaygr.v1.trigger_pb2_grpc import TriggerServiceStub, add_TriggerServiceServicer_to_server
from services.trigger.adapters.histories import Histories
from services.trigger.adapters.router import RouterClient
from services.trigger.config import TriggerConfig
from services.trigger.service import TriggerService

KEY = bytes(range(16))
MS = 1_000_000
CONFIG = TriggerConfig(ticket_key=KEY, rank_budget_ms=5.0, time_to_rank_ms=50.0)
INLINE = b"opaque bytes that nobody parses \xff\xfe"
CUT = Cut(anchor=400, behaviour_count=900, digest=bytes(16))
PSI_BYTES = 8 * 128 * 1_000


class FakeStore:
    """Logs of a given length."""

    def __init__(self, counts):
        self.counts = counts
        self.asked = []

    def head(self, user, as_of_s):
        self.asked.append((user, as_of_s))
        if user.user == "broken":
            raise OSError("disk gone")
        return StoreHead(self.counts.get(user.user, 0), "g1")

    def read(self, user, first, end, generation):
        raise AssertionError("the trigger reads metadata only")

    def profile(self, user):
        raise AssertionError("the trigger reads metadata only")


class Rig:
    """A trigger, a fake router, and a stub to ask."""

    def __init__(self, service, router, stub, spans, store, router_server):
        self.service, self.router, self.stub, self.spans = service, router, stub, spans
        self.store, self.router_server = store, router_server

    async def arrive(self, timeout=5.0, **fields):
        fields.setdefault("user", "u1")
        fields.setdefault("history", History(inline=INLINE, cut=CUT))
        return await self.stub.Arrive(ArriveRequest(**fields), timeout=timeout)

    async def refusal(self, **fields):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.arrive(**fields)
        return caught.value.code(), caught.value.details()


@asynccontextmanager
async def running(config=CONFIG, store=None):
    telemetry, spans = Telemetry.for_tests("trigger")
    pool = ChannelPool(telemetry)
    fake = FakeRouter()
    router_server = RpcServer(service_name="router", address="127.0.0.1:0", telemetry=telemetry)
    router_server.add(add_RouterServiceServicer_to_server, fake, "relaygr.v1.RouterService")
    address = f"127.0.0.1:{await router_server.start()}"
    timeouts = int(config.resolve_timeout_ms * MS), int(config.pre_infer_timeout_ms * MS)
    router = RouterClient(pool, address, *timeouts, trigger_id="trigger-1")
    service = TriggerService(config, router, Histories(store, 0.05), telemetry, unix_now_ns=lambda: 10**18)
    server = RpcServer(service_name="trigger", address="127.0.0.1:0", telemetry=telemetry)
    server.add(add_TriggerServiceServicer_to_server, service, "relaygr.v1.TriggerService")
    stub = TriggerServiceStub(pool.get(f"127.0.0.1:{await server.start()}"))
    try:
        yield Rig(service, fake, stub, spans, store, router_server)
    finally:
        await service.drain(0.1)
        await server.stop(0)
        await router_server.stop(0)
        service.close()
        await pool.close()
        telemetry.shutdown()


async def _settled(condition):
    """Wait for what happens behind an answer's back."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (the state is a counter, not an event)
            await asyncio.sleep(0.005)


async def test_answers_while_the_pre_infer_is_still_unanswered():
    async with running() as rig:
        rig.router.pre_infer_gate.clear()
        answer = await rig.arrive()
        assert answer.decision == Decision.DECISION_ADMITTED
        assert rig.service.admission.holdings.unanswered == 1
        rig.router.pre_infer_gate.set()
        await _settled(lambda: rig.service.admission.holdings.unanswered == 0)


async def test_ticket_is_genuine_and_repeats_what_was_decided():
    async with running() as rig:
        answer = await rig.arrive(tenant="shop", budgets=StageBudgets(rank_latest_ns=700 * MS))
        claims = decode_ticket(answer.ticket, KEY)
        assert (claims.tenant, claims.user) == ("shop", "u1")
        assert (claims.instance_id, claims.instance_epoch) == ("ranker-0", 7)
        assert claims.model.name == "fake"
        assert claims.cut == answer.cut == CUT
        assert claims.expires_unix_ns - claims.issued_unix_ns == 700 * MS
        assert claims.reserved_bytes == answer.predictions.psi_bytes == PSI_BYTES
        assert claims.traceparent
        assert answer.request_id and answer.instance_id == "ranker-0"


async def test_inline_history_is_passed_on_untouched():
    async with running() as rig:
        answer = await rig.arrive()
        sent = await rig.router.pre_infers.get()
        assert sent.history.inline == INLINE
        assert sent.history.cut == CUT
        assert sent.ticket == answer.ticket


async def test_reads_nothing_but_the_log_length_by_reference():
    async with running(store=FakeStore({"u1": 1_300})) as rig:
        answer = await rig.arrive(history=History(as_of_s=1_234))
        assert rig.store.asked[0][1] == 1_234
        # 300 over the window of 1,000: the anchor moves by whole steps of 200.
        assert answer.cut == Cut(anchor=400, behaviour_count=900, store_generation="g1")
        sent = await rig.router.pre_infers.get()
        assert sent.history.as_of_s == 1_234 and sent.history.cut == answer.cut


async def test_not_at_risk_gets_a_cut_and_no_ticket():
    async with running() as rig:
        answer = await rig.arrive(budgets=StageBudgets(rank_budget_ns=500 * MS))
        assert answer.decision == Decision.DECISION_NOT_AT_RISK
        assert answer.reason == DecisionReason.DECISION_REASON_FITS_BUDGET
        assert not answer.HasField("ticket") and answer.cut == CUT
        assert rig.router.pre_infers.empty()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(load=Load(device_budget_bytes=1_000_000)), "FOOTPRINT"),
        (dict(load=Load(backlog_ns=500 * MS)), "TOO_LATE"),
        (dict(trigger_count=100), "FOOTPRINT"),
    ],
)
async def test_declines_with_the_reason(changes, reason):
    async with running() as rig:
        rig.router.resolved = resolve_response(**changes)
        answer = await rig.arrive()
        assert answer.decision == Decision.DECISION_DECLINED
        assert answer.reason == DecisionReason.Value(f"DECISION_REASON_{reason}")
        assert not answer.HasField("ticket") and answer.predictions.full_ns > 5 * MS


async def test_unknown_user_has_an_empty_prefix():
    async with running(config=replace(CONFIG, rank_budget_ms=0.1), store=FakeStore({})) as rig:
        answer = await rig.arrive(user="nobody", history=History())
        assert answer.reason == DecisionReason.DECISION_REASON_EMPTY_PREFIX
        assert answer.HasField("cut") and answer.cut.behaviour_count == 0


async def test_router_down_is_no_error_and_keeps_the_cut():
    async with running() as rig:
        await rig.router_server.stop(0)
        answer = await rig.arrive()
        assert answer.decision == Decision.DECISION_DECLINED
        assert answer.reason == DecisionReason.DECISION_REASON_NO_INSTANCE
        assert answer.cut == CUT and not answer.instance_id


async def test_router_that_knows_no_ranker_is_no_error():
    async with running() as rig:
        rig.router.resolved = ResolveResponse()
        answer = await rig.arrive()
        assert answer.reason == DecisionReason.DECISION_REASON_NO_INSTANCE


@pytest.mark.parametrize("failure", [Refused("busy"), PeerFailed("router", "bug")])
async def test_router_in_trouble_is_no_error(failure):
    async with running() as rig:
        rig.router.failure = failure
        assert (await rig.arrive()).reason == DecisionReason.DECISION_REASON_NO_INSTANCE


async def test_by_reference_keeps_its_cut_when_the_router_goes_away():
    async with running(store=FakeStore({"u1": 1_300})) as rig:
        first = await rig.arrive(history=History())
        await rig.router_server.stop(0)
        assert (await rig.arrive(history=History())).cut == first.cut


async def test_pre_infer_declined_by_the_ranker_keeps_its_footprint():
    async with running() as rig:
        rig.router.acceptance = PreInferResponse(
            acceptance=Acceptance.ACCEPTANCE_DECLINED, reason=DeclineReason.DECLINE_REASON_FOOTPRINT
        )
        answer = await rig.arrive()
        await _settled(lambda: rig.service.admission.holdings.unanswered == 0)
        assert answer.HasField("ticket")
        assert rig.service.admission.open_bytes("ranker-0", 7) == PSI_BYTES


async def test_pre_infer_that_gets_no_answer_ends_by_its_timeout():
    async with running(config=replace(CONFIG, pre_infer_timeout_ms=50.0)) as rig:
        rig.router.pre_infer_gate.clear()
        await rig.arrive()
        await _settled(lambda: rig.service.admission.holdings.unanswered == 0)
        span = next(s for s in rig.spans.get_finished_spans() if s.name == names.SPAN_TRIGGER_PRE_INFER)
        assert span.attributes[names.ATTR_PRE_INFER_ACCEPTANCE] == "UNREACHABLE"
        assert span.status.is_ok or span.status.is_unset, "a fallback is an attribute, not an error"
        rig.router.pre_infer_gate.set()


async def test_window_end_frees_the_footprint_by_timer():
    async with running() as rig:
        budgets = StageBudgets(time_to_rank_ns=20 * MS, rank_latest_ns=60 * MS)
        assert (await rig.arrive(budgets=budgets)).HasField("ticket")
        assert rig.service.admission.holdings.open_bytes > 0
        await _settled(lambda: rig.service.admission.holdings.open_bytes == 0)


async def test_asks_after_tickets_by_the_id_that_they_carry():
    async with running() as rig:
        claims = decode_ticket((await rig.arrive()).ticket, KEY)
        assert claims.trigger_id == rig.router.resolves[0].trigger_id == "trigger-1"


async def test_ticket_that_the_router_says_has_ended_makes_room_for_the_very_next_arrival():
    async with running() as rig:
        room = Load(device_budget_bytes=int(PSI_BYTES / CONFIG.footprint_share))
        rig.router.resolved = resolve_response(load=room)
        first = decode_ticket((await rig.arrive()).ticket, KEY)
        assert (await rig.arrive()).reason == DecisionReason.DECISION_REASON_FOOTPRINT
        rig.router.resolved = resolve_response(load=room, ended_ticket_ids=[first.ticket_id, "nobody's"])
        answer = await rig.arrive()
        assert answer.decision == Decision.DECISION_ADMITTED
        assert decode_ticket(answer.ticket, KEY).ticket_id != first.ticket_id
        assert rig.service.admission.open_bytes("ranker-0", 7) == PSI_BYTES


async def test_ticket_ends_also_when_the_arrival_that_hears_of_it_is_refused():
    async with running() as rig:
        ended = decode_ticket((await rig.arrive()).ticket, KEY)
        rig.router.resolved = resolve_response(ended_ticket_ids=[ended.ticket_id])
        code, _ = await rig.refusal(candidate_count=513)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert rig.service.admission.holdings.open_bytes == 0


async def test_one_trace_from_arrive_to_pre_infer():
    async with running() as rig:
        await rig.arrive()
        await _settled(lambda: rig.service.admission.holdings.unanswered == 0)
        spans = {span.name: span for span in rig.spans.get_finished_spans()}
        pre_infer, admission = spans[names.SPAN_TRIGGER_PRE_INFER], spans[names.SPAN_TRIGGER_ADMISSION]
        assert pre_infer.context.trace_id == admission.context.trace_id
        assert pre_infer.parent.span_id == admission.parent.span_id
        assert admission.attributes[names.ATTR_TRIGGER_DECISION] == "ADMITTED"
        assert "u1" not in str(dict(admission.attributes))


async def test_later_arrivals_tell_the_router_what_to_expect():
    async with running() as rig:
        await rig.arrive()
        await rig.arrive()
        await rig.arrive(budgets=StageBudgets(rank_budget_ns=500 * MS))
        first, second, third = rig.router.resolves
        assert (first.expected_ns, first.will_admit) == (0, True)
        assert second.expected_ns > 5 * MS and second.will_admit
        assert not third.will_admit


BAD = [
    ("user", dict(user="")),
    ("user", dict(user="x" * 129)),
    ("tenant", dict(tenant="x" * 65)),
    ("request_id", dict(request_id="x" * 129)),
    ("history.cut", dict(history=History(inline=INLINE))),
    ("history.cut", dict(history=History(cut=CUT))),
    ("history.cut.digest", dict(history=History(inline=INLINE, cut=Cut(behaviour_count=3)))),
    (
        "history.cut.store_generation",
        dict(history=History(inline=INLINE, cut=Cut(digest=bytes(16), store_generation="g"))),
    ),
    ("history.cut.anchor", dict(history=History(inline=INLINE, cut=Cut(anchor=1 << 63, digest=bytes(16))))),
    (
        "history.cut.behaviour_count",
        dict(history=History(inline=INLINE, cut=Cut(behaviour_count=1_001, digest=bytes(16)))),
    ),
    ("history.as_of_s", dict(history=History(as_of_s=-1))),
    ("history.inline", dict(history=History())),
    ("candidate_count", dict(candidate_count=513)),
    ("delta_behaviour_count", dict(delta_behaviour_count=51)),
    ("budgets.rank_latest_ns", dict(budgets=StageBudgets(rank_latest_ns=31_000 * MS))),
    ("budgets.rank_latest_ns", dict(budgets=StageBudgets(time_to_rank_ns=20 * MS, rank_latest_ns=10 * MS))),
    ("budgets.time_to_rank_ns", dict(budgets=StageBudgets(time_to_rank_ns=31_000 * MS))),
]


@pytest.mark.parametrize(("field", "fields"), BAD, ids=[f"{field}-{n}" for n, (field, _) in enumerate(BAD)])
async def test_bad_input_names_its_field(field, fields):
    async with running() as rig:
        code, details = await rig.refusal(**fields)
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert details.startswith(f"{field}: ")
        assert rig.service.admission.holdings.open_tickets == 0


async def test_store_that_fails_is_unavailable_not_internal():
    async with running(store=FakeStore({})) as rig:
        code, details = await rig.refusal(user="broken", history=History())
        assert code == grpc.StatusCode.UNAVAILABLE and "behaviour store" in details


async def test_over_size_message_is_resource_exhausted():
    async with running() as rig:
        history = History(inline=bytes(9 * 1024 * 1024), cut=CUT)
        code, _ = await rig.refusal(history=history)
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_real_inline_history_weighs_nothing_to_the_trigger():
    # What the client library sends: the digest is 16 bytes, the count is the cut's.
    behaviours = Behaviours.of(np.arange(900), np.arange(900))
    async with running() as rig:
        cut = Cut(behaviour_count=len(behaviours), digest=bytes(16))
        answer = await rig.arrive(history=History(inline=behaviours.to_pb().SerializeToString(), cut=cut))
        assert answer.decision == Decision.DECISION_ADMITTED


async def test_ticket_that_the_instance_says_has_ended_frees_its_bytes():
    async with running() as rig:
        budgets = StageBudgets(rank_latest_ns=30_000 * MS)  # No window closes meanwhile.
        first = decode_ticket((await rig.arrive(budgets=budgets)).ticket, KEY)
        await _settled(lambda: rig.service.admission.holdings.unanswered == 0)
        # Its rank came by another router, which this trigger does not ask.
        rig.router.acceptance = PreInferResponse(
            acceptance=Acceptance.ACCEPTANCE_STARTED, ended_ticket_ids=[first.ticket_id, "nobody's"]
        )
        await rig.arrive(budgets=budgets)
        await _settled(lambda: rig.service.admission.open_bytes("ranker-0", 7) == PSI_BYTES)


async def test_a_decision_at_the_bounds_carries_its_numbers():
    async with running() as rig:
        rig.router.resolved = resolve_response(
            load=Load(device_budget_bytes=int(2 * PSI_BYTES / CONFIG.footprint_share))
        )
        empty, half = (await rig.arrive()).predictions, (await rig.arrive()).predictions
        assert (empty.footprint_used, half.footprint_used) == (0.0, 0.5)
        assert (half.footprint_scale, half.load_scale, half.price) == (1.0, 1.0, 0.0)
        assert 0 < half.load_used < 1
        assert half.miss_saved == 1.0
        refused = await rig.arrive()
        assert refused.reason == DecisionReason.DECISION_REASON_FOOTPRINT
        assert refused.predictions.footprint_used == refused.predictions.price == 1.0
        spans = [span for span in rig.spans.get_finished_spans() if span.name == "relaygr.trigger.admission"]
        assert spans[-1].attributes["relaygr.trigger.footprint_used"] == 1.0
