"""The client library against newer servers, odd arguments, and being closed or cancelled midway."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from relaygr.client import SyncRelayClient
from relaygr.client.blocking import LoopThread
from relaygr.errors import InvalidRequest, RelayError
from relaygr.telemetry import names
from relaygr.v1.trigger_pb2 import ArriveResponse
from tests.contract.test_client_relay import HISTORY, running


async def test_answers_of_newer_servers_do_not_fail_a_request():
    async with running() as rig, rig.client() as client:

        async def arrive(request, timeout_s):
            return ArriveResponse(request_id="r", decision=77, reason=78, cut=request.history.cut)

        client._calls.arrive = arrive
        rig.router._scored = _newer(rig.router._scored)
        relay = await client.arrive(user="u", behaviours=HISTORY)
        assert (relay.decision, relay.reason) == ("77", "78")
        ranking = await relay.rank([1, 2])
        assert (ranking.tier, ranking.fallback) == ("79", "80")


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("candidate_count", {"candidate_count": -1}),
        ("delta_count", {"delta_count": 1 << 40}),
        ("as_of_s", {"as_of_s": 1 << 70}),
        ("rank_budget_ms", {"rank_budget_ms": -1.0}),
        ("time_to_rank_ms", {"time_to_rank_ms": float("nan")}),
        ("rank_latest_ms", {"rank_latest_ms": float("inf")}),
    ],
)
async def test_argument_out_of_range_names_its_field(field, arguments):
    async with running() as rig, rig.client() as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.arrive(user="u", **arguments)
        assert caught.value.field == field
        assert not rig.trigger.arrivals


async def test_release_cancelled_midway_ends_the_requests_span():
    async with running() as rig, rig.client() as client:
        relay = await client.arrive(user="u", behaviours=HISTORY)
        gate = asyncio.Event()

        async def stuck(ticket, timeout_s):
            gate.set()
            await asyncio.sleep(60)

        relay._settings.calls.release = stuck
        task = asyncio.create_task(relay.release())
        await gate.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [span.name for span in rig.spans.get_finished_spans()].count(names.SPAN_RECOMMEND) == 1


async def test_rank_under_way_when_the_client_closes_is_unreachable_not_cancelled():
    async with running() as rig:
        rig.router.rank_delay_s = 5.0
        client = rig.client()
        relay = await client.arrive(user="u", behaviours=HISTORY)
        rank = asyncio.create_task(relay.rank([1]))
        while not rig.router.ranks:  # noqa: ASYNC110 (the state is a list, not an event)
            await asyncio.sleep(0.005)
        await client.close()
        with pytest.raises(RelayError):
            await rank


async def test_closing_the_blocking_client_ends_calls_of_other_threads():
    async with running() as rig:
        rig.trigger.delay_s = 30.0
        ended = [threading.Event() for _ in range(8)]
        client = SyncRelayClient(*rig.addresses, telemetry=rig.telemetry, arrive_timeout_ms=30_000.0)

        def ask(done):
            try:
                client.arrive(user="u", behaviours=HISTORY)
            except BaseException:
                pass
            finally:
                done.set()

        threads = [threading.Thread(target=ask, args=(done,), daemon=True) for done in ended]
        for thread in threads:
            thread.start()
        while len(rig.trigger.arrivals) < len(threads):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await asyncio.to_thread(client.close)
        assert all([await asyncio.to_thread(done.wait, 2.0) for done in ended]), "a caller waits for ever"


async def test_closing_ends_what_other_threads_wait_for():
    thread, ended = LoopThread(), threading.Event()

    def wait():
        with pytest.raises(CancelledError):
            thread.run(asyncio.sleep(60))
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    await asyncio.sleep(0.05)
    await asyncio.to_thread(thread.close)
    assert await asyncio.to_thread(ended.wait, 2.0), "a caller waits for ever"
    with pytest.raises(RuntimeError):
        thread.run(asyncio.sleep(0))


async def test_blocking_clients_thread_ends_when_closing_fails():
    async with running() as rig:
        client = SyncRelayClient(*rig.addresses, telemetry=rig.telemetry)

        async def broken():
            raise ValueError("boom")

        client._client.close = broken
        with pytest.raises(ValueError, match="boom"):
            await asyncio.to_thread(client.close)
        assert not client._thread._thread.is_alive()


def _newer(scored):
    def score(rank):
        response = scored(rank)
        response.tier, response.fallback = 79, 80
        return response

    return score
