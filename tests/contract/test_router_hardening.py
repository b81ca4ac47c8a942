"""The router against absurd numbers, malformed registry values and an instance that stops while it is busy."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace

import grpc
import pytest

from relaygr.errors import PeerFailed
from relaygr.registry import keys
from relaygr.v1 import common_pb2, ranker_pb2, router_pb2
from services.router.adapters.rankers import answer_of
from tests.contract.router_world import HISTORY, Freezer, failing, router_world, until

HUGE = 2**32 - 1
HUGE_HISTORY = common_pb2.History(cut=common_pb2.Cut(behaviour_count=HUGE, digest=b"d" * 16), inline=b"x")


async def test_a_rank_that_names_absurd_counts_weighs_no_more_than_the_model_allows(tmp_path):
    async with router_world(tmp_path, "a") as world:
        world.rankers["a"].pause_s = 1.0
        delta = common_pb2.Behaviours(count=HUGE)
        rank = asyncio.create_task(world.rank(history=HUGE_HISTORY, delta=delta))
        await until(lambda: world.rankers["a"].asked)
        answer = await world.resolve()
        assert answer.instance_id == "a"
        record = world.rankers["a"].record
        most_ns = record.cost.full_ns(
            record.limits.candidates_max,
            record.limits.delta_behaviours_max * 2,
            record.limits.window_behaviours_max + 1,
        )
        assert answer.load.backlog_ns <= most_ns
        await rank


async def test_a_backlog_beyond_what_fits_in_a_reply_is_no_error(tmp_path):
    async with router_world(tmp_path, "a") as world:
        world.rankers["a"].backlog_ns = 2**64 - 1
        await world.rank()
        world.rankers["a"].pause_s = 0.5
        rank = asyncio.create_task(world.rank())
        await until(lambda: len(world.rankers["a"].asked) == 2)
        assert (await world.resolve()).instance_id == "a"
        await rank


MALFORMED = {
    "model name": lambda raw: raw["model"].update(name=5),
    "normaliser": lambda raw: raw["model"].update(normaliser=-1),
    "token bytes": lambda raw: raw["cost"].update(token_bytes=0.5),
    "epoch": lambda raw: raw.update(epoch=2**64),
    "device budget": lambda raw: raw.update(device_budget_bytes=2**64),
    "window": lambda raw: raw["limits"].update(window_behaviours_max=2**32),
    "window step": lambda raw: raw["limits"].update(window_step_behaviours=0),
}


async def test_malformed_records_hide_no_instance_and_break_no_resolve(tmp_path):
    async with router_world(tmp_path, "m") as world:
        for number, spoil in enumerate(MALFORMED.values()):
            # Names on both sides of the good one, so that order cannot save it.
            for name in (f"a{number}", f"z{number}"):
                raw = json.loads(replace(world.rankers["m"].record, instance_id=name).to_json())
                spoil(raw)
                await world.registry.put(keys.instance_key(name), json.dumps(raw))
        router, stub = await world.add_router()
        await world.knows("m", router=router)
        for user in range(20):
            request = router_pb2.ResolveRequest(user=f"u{user}")
            assert (await stub.Resolve(request, timeout=5)).instance_id == "m"


async def test_deeply_nested_pins_and_tables_do_not_hide_the_others(tmp_path):
    async with router_world(tmp_path, "m") as world:
        await until(lambda: world.router.core.table(world.rankers["m"].record.model.key) is not None)
        epoch = world.rankers["m"].record.epoch
        value = {"instance_id": "m", "epoch": epoch, "expires_unix_ns": time.time_ns() + 60_000_000_000}
        await world.registry.put(keys.pin_key("0" * 16), "[" * 1000)
        await world.registry.put(keys.pin_key("1" * 16), json.dumps(value))
        await world.registry.put(keys.slots_key("0"), "[" * 100_000)
        router, _ = await world.add_router()
        await world.knows("m", router=router)
        assert router.core.pins.get("1" * 16, time.monotonic_ns()) is not None
        assert router.core.table(world.rankers["m"].record.model.key) is not None


async def test_a_rank_waiting_on_an_instance_that_spoke_and_then_stopped_goes_elsewhere(tmp_path):
    async with router_world(tmp_path, "a", "b", has_lanes=False) as world:
        ranker = world.rankers["a"]
        freezer = Freezer(ranker.record.address)
        try:
            await ranker.registration.withdraw()
            ranker.record = replace(ranker.record, address=await freezer.start(), epoch=2)
            ranker.register()
            members = world.router.core.members
            await until(lambda: members.is_current("a", 2))
            user = world.user_of_slot_owner("a")
            ticket = world.ticket(ranker, user=user)
            ranker.pause_s = 0.3
            early = asyncio.create_task(world.rank(user=user, ticket=ticket, timeout_s=3.0))
            await until(lambda: ranker.asked)
            await asyncio.sleep(0.1)
            late = asyncio.create_task(world.rank(user=user, ticket=ticket, timeout_s=2.0))
            await until(lambda: len(ranker.asked) == 2)
            assert (await early).rank.instance_id == "a"  # Said while the late one waits.
            freezer.freeze()
            answer = await late
            assert (answer.rank.instance_id, answer.attempts) == ("b", 2)
        finally:
            freezer.thaw()
            await freezer.close()


async def test_a_leaving_ranker_that_is_slow_keeps_the_ranks_of_its_open_tickets(tmp_path):
    async with router_world(tmp_path, "a", "b") as world:
        ranker = world.rankers["a"]
        await ranker.server.set_serving(False)  # What a ranker says first when it is told to stop.
        ranker.pause_s = 0.8
        answer = await world.rank(ticket=world.ticket(ranker), timeout_s=1.2)
        assert (answer.rank.instance_id, answer.attempts) == ("a", 1)
        assert not world.router.core.members.is_fenced("a", 1)


async def test_absurd_window_and_cost_at_resolve_are_no_error(tmp_path):
    async with router_world(tmp_path, "a") as world:
        most = 2**64 - 1
        answer = await world.resolve(will_admit=True, window_ns=most, expected_ns=most)
        assert answer.instance_id == "a"


@pytest.mark.parametrize("mac", [b"", bytes(32)])
async def test_a_ticket_without_a_genuine_mac_is_refused_everywhere(tmp_path, mac):
    async with router_world(tmp_path, "a") as world:
        ticket = world.ticket(world.rankers["a"])
        ticket.mac = mac
        release = router_pb2.RouterServiceReleaseRequest(ticket=ticket)
        for call in (world.rank(ticket=ticket), world.pre_infer(ticket, HISTORY), world.stub.Release(release)):
            assert (await failing(call)).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not world.rankers["a"].asked


async def test_an_answer_that_is_no_message_is_the_peers_failure():
    async def as_grpc_has_it():
        return None

    async def as_a_lane_has_it():
        return ranker_pb2.RankResponse.FromString(b"\xff\xff\xff")

    for call in (as_grpc_has_it(), as_a_lane_has_it()):
        with pytest.raises(PeerFailed, match="a:1: its answer cannot be parsed"):
            await answer_of(call, "a:1")
