"""The client library against real servers with a fake trigger and a fake router behind them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager

import numpy as np
import pytest
from opentelemetry.trace import format_trace_id

from relaygr.client import Behaviours, Candidates, RelayClient, SyncRelayClient
from relaygr.errors import DeadlineTooShort, InvalidRequest, Refused, Unreachable
from relaygr.rpc.server import RpcServer
from relaygr.telemetry import Telemetry, names
from relaygr.testing.fake_router import FakeRouter
from relaygr.testing.fake_trigger import FakeTrigger
from relaygr.v1.common_pb2 import InlineHistory
from relaygr.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from relaygr.v1.trigger_pb2_grpc import add_TriggerServiceServicer_to_server

HISTORY = {"item_ids": [3, 1, 2], "timestamps_s": [10, 20, 30]}


class Rig:
    def __init__(self, trigger, router, servers, addresses, telemetry, spans):
        self.trigger, self.router, self.addresses = trigger, router, addresses
        self.trigger_server, self.router_server = servers
        self.telemetry, self.spans = telemetry, spans

    def client(self, **arguments):
        arguments.setdefault("arrive_timeout_ms", 2_000.0)
        return RelayClient(*self.addresses, telemetry=self.telemetry, **arguments)


@asynccontextmanager
async def running():
    telemetry, spans = Telemetry.for_tests()
    trigger, router = FakeTrigger(), FakeRouter()
    servers = [RpcServer(service_name=name, address="127.0.0.1:0", telemetry=telemetry) for name in ("t", "r")]
    servers[0].add(add_TriggerServiceServicer_to_server, trigger, "relaygr.v1.TriggerService")
    servers[1].add(add_RouterServiceServicer_to_server, router, "relaygr.v1.RouterService")
    addresses = [f"127.0.0.1:{await server.start()}" for server in servers]
    try:
        yield Rig(trigger, router, servers, addresses, telemetry, spans)
    finally:
        for server in servers:
            await server.stop(0)
        telemetry.shutdown()


async def test_relay_carries_ticket_cut_and_history_from_arrive_to_rank():
    async with running() as rig, rig.client(tenant="shop") as client:
        relay = await client.arrive(user=42, behaviours=HISTORY, candidate_count=3)
        ranking = await relay.rank([10, 11, 12], request_time_s=99)
        (arrival,), (rank,) = rig.trigger.arrivals, rig.router.ranks
        assert (arrival.tenant, arrival.user, arrival.candidate_count) == ("shop", "42", 3)
        assert (rank.tenant, rank.user, rank.request_id) == ("shop", "42", relay.request_id)
        assert rank.ticket.claims == b"claims"
        assert rank.history == arrival.history
        assert rank.history.cut.behaviour_count == 3 and len(rank.history.cut.digest) == 16
        assert InlineHistory.FromString(rank.history.inline).behaviours.count == 3
        assert rank.request_time_s == 99
        assert ranking.admitted and ranking.tier == "DEVICE" and ranking.fallback == ""


async def test_scores_orders_and_flags_come_back_as_asked():
    async with running() as rig, rig.client() as client:
        relay = await client.arrive(user="u", behaviours=HISTORY)
        ranking = await relay.rank(np.array([8, 20, -1]))
        assert ranking.tasks == ("click", "like") and ranking.scores.shape == (3, 2)
        assert ranking.items.tolist() == [8, 20, -1]
        assert ranking.top(2) == [(20, 6.0), (-1, 6.0)]
        assert ranking.as_dict("like") == {8: -3.0, 20: 0.0, -1: -4.0}
        assert ranking.order("like").tolist() == [1, 0, 2]
        assert ranking.unknown == (2,)
        assert ranking.timings_ms["rank.compute"] == 2.0 and ranking.timings_ms["arrive"] > 0


async def test_by_reference_repeats_the_cut_that_the_trigger_fixed():
    async with running() as rig, rig.client() as client:
        relay = await client.arrive(user="u", as_of_s=500)
        await relay.rank([1])
        await (await client.arrive(user="u", as_of_s=500)).rank([1], as_of_s=700)
        first, second = rig.router.ranks
        assert not rig.trigger.arrivals[0].history.HasField("cut")
        assert first.history.cut.store_generation == "g1" and first.history.cut.behaviour_count == 12
        assert (first.history.as_of_s, second.history.as_of_s) == (500, 700)
        assert not first.HasField("delta")


async def test_delta_cross_and_candidate_features_are_sent():
    async with running() as rig, rig.client() as client:
        relay = await client.arrive(user="u", behaviours=HISTORY)
        candidates = Candidates.of([1, 2], dense=np.ones((2, 4)))
        await relay.rank(candidates, delta=Behaviours.of([9], [40]), cross=[[0.5, 0.25]])
        (rank,) = rig.router.ranks
        assert rank.delta.count == 1 and rank.cross.count == 1
        assert np.frombuffer(rank.cross.dense, "<f4").tolist() == [0.5, 0.25]
        assert len(rank.candidates.dense) == 2 * 4 * 4


async def test_not_at_risk_ranks_without_a_ticket():
    async with running() as rig, rig.client() as client:
        rig.trigger.admits = False
        relay = await client.arrive(user="u", behaviours=HISTORY)
        assert (relay.decision, relay.reason, relay.admitted) == ("NOT_AT_RISK", "FITS_BUDGET", False)
        ranking = await relay.rank([1])
        assert not rig.router.ranks[0].HasField("ticket")
        assert (ranking.tier, ranking.fallback, ranking.admitted) == ("FULL", "NO_TICKET", False)


async def test_trigger_down_still_ranks_inline_with_a_cut_of_the_clients_own():
    async with running() as rig, rig.client() as client:
        await rig.trigger_server.stop(0)
        relay = await client.arrive(user="u", behaviours=HISTORY)
        assert isinstance(relay.arrive_error, Unreachable) and relay.decision == "UNKNOWN"
        ranking = await relay.rank([1])
        assert ranking.tier == "FULL"
        assert rig.router.ranks[0].history.cut.behaviour_count == 3


async def test_trigger_down_leaves_a_cut_by_reference_to_the_ranker():
    async with running() as rig, rig.client() as client:
        await rig.trigger_server.stop(0)
        relay = await client.arrive(user="u", as_of_s=500)
        await relay.rank([1])
        history = rig.router.ranks[0].history
        assert not history.HasField("cut") and history.as_of_s == 500


async def test_slow_trigger_is_not_waited_for():
    async with running() as rig, rig.client(arrive_timeout_ms=50.0) as client:
        rig.trigger.delay_s = 30.0
        relay = await client.arrive(user="u", behaviours=HISTORY)
        assert isinstance(relay.arrive_error, DeadlineTooShort) and not relay.admitted
        assert relay.timings_ms["arrive"] < 5_000
        assert (await relay.rank([1])).tier == "FULL"


async def test_trigger_in_trouble_is_no_error_but_bad_input_is():
    async with running() as rig, rig.client() as client:
        rig.trigger.failure = Refused("busy")
        assert (await client.arrive(user="u")).arrive_error is not None
        rig.trigger.failure = InvalidRequest("user", "must not be empty")
        with pytest.raises(InvalidRequest) as caught:
            await client.arrive(user="")
        assert caught.value.field == "user"


async def test_abandoned_relay_gives_its_ticket_back_once():
    async with running() as rig, rig.client() as client:
        with pytest.raises(LookupError):
            async with await client.arrive(user="u", behaviours=HISTORY) as relay:
                raise LookupError("retrieval found nothing")
        await relay.release()
        assert rig.router.releases.get_nowait().claims == b"claims"
        assert rig.router.releases.empty()


async def test_ranked_relay_releases_nothing():
    async with running() as rig, rig.client() as client:
        async with await client.arrive(user="u", behaviours=HISTORY) as relay:
            await relay.rank([1])
        assert rig.router.releases.empty()


async def test_release_that_fails_does_not_hide_the_callers_error():
    async with running() as rig, rig.client() as client:
        with pytest.raises(LookupError):
            async with await client.arrive(user="u", behaviours=HISTORY):
                await rig.router_server.stop(0)
                raise LookupError


async def test_verify_ranks_once_more_in_full_without_the_ticket():
    async with running() as rig, rig.client() as client:
        rig.router.bypass_shift = 0.5
        relay = await client.arrive(user="u", behaviours=HISTORY)
        ranking = await relay.rank([6, 0], verify=True)
        relayed, full = rig.router.ranks
        assert full.bypass_psi and not full.HasField("ticket") and not relayed.bypass_psi
        # Logits 6 and 0 against 6.5 and 0.5: 0.5/6.5 and 0.5/1.
        assert ranking.score_difference == pytest.approx(0.5)
        assert ranking.tier == "DEVICE"


async def test_router_down_raises_unreachable():
    async with running() as rig, rig.client() as client:
        relay = await client.arrive(user="u", behaviours=HISTORY)
        await rig.router_server.stop(0)
        with pytest.raises(Unreachable):
            await relay.rank([1])


async def test_rank_deadline_is_kept():
    async with running() as rig, rig.client() as client:
        rig.router.rank_delay_s = 30.0
        relay = await client.arrive(user="u", behaviours=HISTORY)
        with pytest.raises(DeadlineTooShort):
            await relay.rank([1], deadline_ms=60.0)


@pytest.mark.parametrize(
    ("field", "call"),
    [
        ("behaviours", lambda c: c.arrive(user="u", behaviours={"item_ids": [1, 2], "timestamps_s": [1]})),
        ("behaviours", lambda c: c.arrive(user="u", behaviours={"item_ids": ["a"], "timestamps_s": [1]})),
        ("behaviours", lambda c: c.arrive(user="u", behaviours={"items": [1]})),
    ],
)
async def test_columns_that_do_not_fit_name_their_argument(field, call):
    async with running() as rig, rig.client() as client:
        with pytest.raises(InvalidRequest) as caught:
            await call(client)
        assert caught.value.field == field


async def test_one_trace_with_stages_under_one_root():
    async with running() as rig, rig.client() as client:
        async with await client.arrive(user="u", behaviours=HISTORY) as relay:
            with relay.stage("retrieval"):
                pass
            ranking = await relay.rank([1])
        spans = rig.spans.get_finished_spans()
        (root,) = [span for span in spans if span.name == names.SPAN_RECOMMEND]
        stages = [span for span in spans if span.name == names.SPAN_RECOMMEND_STAGE]
        assert [span.attributes[names.ATTR_RECOMMEND_STAGE] for span in stages] == ["arrive", "retrieval", "rank"]
        assert {span.parent.span_id for span in stages} == {root.context.span_id}
        assert {span.context.trace_id for span in spans} == {root.context.trace_id}
        assert ranking.trace_id == relay.trace_id == format_trace_id(root.context.trace_id)
        assert root.attributes[names.ATTR_RANK_TIER] == "DEVICE"
        assert root.attributes[names.ATTR_TRIGGER_DECISION] == "ADMITTED"


async def test_forget_lists_what_was_not_reached():
    async with running() as rig, rig.client(tenant="shop") as client:
        forgotten = await client.forget(42)
        assert rig.router.forgotten == [("shop", "42")]
        assert forgotten.device_entries == 1 and forgotten.unreached == ("ranker-9",)


async def test_blocking_client_speaks_the_same_verbs_from_any_thread():
    async with running() as rig:

        def use():
            with SyncRelayClient(*rig.addresses, telemetry=rig.telemetry, arrive_timeout_ms=2_000.0) as client:
                with client.arrive(user="u", behaviours=HISTORY) as relay:
                    with relay.stage("retrieval"):
                        items = [1, 2]
                    ranking = relay.rank(items)
                with client.arrive(user="u", behaviours=HISTORY):
                    pass
                return ranking, client.forget("u")

        ranking, forgotten = await asyncio.to_thread(use)
        assert ranking.tier == "DEVICE" and "retrieval" in ranking.timings_ms
        assert forgotten.device_entries == 1
        assert rig.router.releases.qsize() == 1
        assert not [thread for thread in threading.enumerate() if thread.name == "relaygr-client"]


async def test_blocking_client_that_is_closed_says_so():
    async with running() as rig:

        def use():
            client = SyncRelayClient(*rig.addresses)
            client.close()
            client.close()
            with pytest.raises(RuntimeError, match="closed"):
                client.arrive(user="u")

        await asyncio.to_thread(use)
