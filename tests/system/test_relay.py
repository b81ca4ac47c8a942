"""One relay end to end, through every tier; scores are those of full inference."""

import asyncio

import numpy as np
import pytest

from demo.cluster import describe_ranker
from tests.system.world import (
    AT_RISK_MS,
    CANDIDATES,
    FRESH_USERS,
    ITEMS,
    LATEST_MS,
    NO_RISK_MS,
    SCORE_DIFFERENCE_MOST,
    USERS,
    client_of,
    relay_admitted,
    relay_once,
    until,
)


async def test_an_admitted_request_is_ranked_on_psi_with_the_scores_of_full_inference(cluster):
    found = []

    async with client_of(cluster) as client:

        async def on_psi() -> bool:
            found.append(await relay_admitted(client, FRESH_USERS[3], wait_s=0.2))
            return found[-1].tier == "DEVICE"

        await until(on_psi, "an admitted request is ranked on psi")
    # Rarely, after the other system tests, the first is ranked in full; why is not known: docs/known-gaps.md.
    assert len(found) <= 2, [(one.tier, one.branch, one.fallback) for one in found]
    assert all(one.admitted and one.score_difference <= SCORE_DIFFERENCE_MOST for one in found)
    ranking = found[-1]
    assert ranking.branch == "TICKET" and ranking.psi_tokens > 128
    assert ranking.scores.shape == (CANDIDATES, 2) and np.ptp(ranking.scores) > 0.01


async def test_a_request_not_at_risk_is_ranked_without_a_ticket(cluster):
    async with client_of(cluster) as client:
        decision, ranking = await relay_once(client, FRESH_USERS[4], budget_ms=NO_RISK_MS)
    assert decision == "NOT_AT_RISK" and not ranking.admitted
    assert ranking.tier == "FULL" and ranking.fallback == "NO_TICKET"


async def test_a_rank_that_comes_at_once_joins_the_production(cluster):
    found = []

    async with client_of(cluster) as client:
        users = iter(range(USERS))

        async def joined() -> bool:
            _, ranking = await relay_once(client, next(users), wait_s=0.0)
            found.append(ranking)
            return ranking.tier == "JOINED"

        await until(joined, "a rank joins")
    assert all(one.score_difference <= SCORE_DIFFERENCE_MOST for one in found)


async def test_psi_that_left_the_device_comes_back_from_dram(cluster):
    found = []

    async with client_of(cluster) as client:

        async def reloaded() -> bool:
            # More users than the device holds, again and again: some stay there, whoever else returns was evicted.
            for user in range(USERS // 2):
                _, ranking = await relay_once(client, user, wait_s=0.03)
                found.append(ranking)
            return any(one.tier == "DRAM" for one in found[-(USERS // 2) :])

        await until(reloaded, "a psi is reloaded", timeout_s=30.0)
    assert max(one.score_difference for one in found) <= SCORE_DIFFERENCE_MOST


async def test_users_are_spread_over_both_rankers_and_stay_where_they_are(cluster):
    async with client_of(cluster) as client:
        first = [(await relay_once(client, user, verify=False))[1].instance_id for user in range(12)]
        again = [(await relay_once(client, user, verify=False))[1].instance_id for user in range(12)]
    assert set(first) == set(cluster.ranker_names)
    assert first == again


async def test_reservations_end(cluster):
    """Every ticket is consumed or released; the windows leave nothing open (I7)."""
    async with client_of(cluster) as client:
        for user in range(6):
            await relay_once(client, user)
            abandoned = await client.arrive(
                user=user + 6, candidate_count=8, rank_budget_ms=AT_RISK_MS, rank_latest_ms=LATEST_MS
            )
            async with abandoned:
                assert abandoned.decision in ("ADMITTED", "DECLINED")

    async def none_open() -> bool:
        seen = [describe_ranker(cluster.addresses[name]) for name in cluster.ranker_names]
        return all(one.open_tickets == 0 for one in seen)

    await until(none_open, "no ticket is open")


async def test_many_requests_at_once_are_all_answered(cluster):
    async with client_of(cluster) as client:
        answers = await asyncio.gather(*(relay_once(client, user) for user in range(USERS)))
    assert all(ranking.score_difference <= SCORE_DIFFERENCE_MOST for _, ranking in answers)


@pytest.mark.parametrize("count", [1, 63, 256])
async def test_any_number_of_candidates_up_to_the_limit_is_scored(cluster, count):
    async with client_of(cluster) as client:
        relay = await client.arrive(user=3, candidate_count=count, rank_budget_ms=AT_RISK_MS, rank_latest_ms=LATEST_MS)
        async with relay:
            ranking = await relay.rank(ITEMS[:count], verify=True)
    assert ranking.scores.shape == (count, 2)
    assert ranking.score_difference <= SCORE_DIFFERENCE_MOST
