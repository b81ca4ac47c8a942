"""Users whose psi was damaged in DRAM while they were away: it is computed anew, and no score is wrong."""

from __future__ import annotations

import functools
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from demo.cluster import Cluster
from demo.processes import Supervisor
from relaygr.behaviours.columns import Behaviours, Candidates, Cross
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.model.error import logit_error
from relaygr.model.loading import load_model
from relaygr.model.oracle import infer_full_float64
from relaygr.model.run import RankInputs
from tests.system.tier_history.history import Log
from tests.system.tier_history.injector import Injector
from tests.system.tier_history.owner import PinningOwner
from tests.system.world import (
    AT_RISK_MS,
    CANDIDATES,
    ITEMS,
    LATEST_MS,
    SCORE_DIFFERENCE_MOST,
    client_of,
    relay_once,
    small_plan,
    until,
)

REQUEST_TIME_S = 1_700_000_000
DAMAGED_RETURNS = 100
WHOLE_RETURNS = 20
REQUESTS_MAX = 1500
WEIGHTS = {"flip": 3, "truncate": 3, "reorder": 2, "swap": 1, "stale": 3}
USERS = tuple(str(user) for user in range(24))
"""Three times as many as the device has room for."""


class Oracle:
    """What is right, from the model's definition in float64 and the behaviour store alone."""

    def __init__(self, plan):
        self.model, self._store = load_model(plan.model_dir), FileStore(plan.store_dir)
        self.tenant = self._store.meta.tenant
        self.history = functools.cache(self._history)
        self.scores = functools.cache(self._scores)

    def _history(self, user: str):
        key = UserKey(self.tenant, user)
        return self._store.read(key, 0, self._store.head(key, 0).log_count, self._store.meta.generation)

    def _scores(self, user: str):
        history = self.history(user)
        inputs = RankInputs(
            profile=self._store.profile(UserKey(self.tenant, user)),
            prefix=history,
            delta=Behaviours.of([], []),
            cross=Cross.empty(),
            candidates=Candidates.of(ITEMS[:CANDIDATES]),
            request_time_s=REQUEST_TIME_S,
        )
        return infer_full_float64(self.model.config, self.model.state_dict(), self.model.vocabulary, inputs)

    def key_of(self, user: str) -> PsiKey:
        return PsiKey(UserKey(self.tenant, user), self.model.spec.identity.key, 0)

    def middle_s(self, user: str) -> int:
        """A time at which the history was half as long."""
        return int(self.history(user).timestamps_s[len(self.history(user)) // 2])


@pytest.fixture(scope="module")
def lone_ranker(tmp_path_factory):
    """A cluster of one ranker, and the oracle of its model."""
    patient = {"ranker": ("-m", "tests.system.tier_history.patient_ranker")}
    plan = replace(small_plan(tmp_path_factory.mktemp("damaged")), rankers=1, without=("console",), commands=patient)
    with Supervisor(plan.run_dir / "logs") as supervisor:
        cluster = Cluster(plan, supervisor)
        cluster.start()
        yield cluster, Oracle(plan)


def failed_digests(cluster: Cluster) -> int:
    return cluster.supervisor.log_path(cluster.ranker_names[0]).read_text().count("failed its digest")


@asynccontextmanager
async def pinning(cluster: Cluster, oracle: Oracle):
    async with PinningOwner(cluster.addresses["expander"], oracle.model.spec.identity) as owner:
        yield owner


async def older_images(client, owner: PinningOwner, oracle: Oracle) -> dict[str, NDArray[np.uint8]]:
    """What DRAM held of each user when their history was half as long."""
    images = {}

    async def is_kept(user: str) -> bool:
        relay = await client.arrive(
            user=user,
            as_of_s=oracle.middle_s(user),
            candidate_count=CANDIDATES,
            rank_budget_ms=AT_RISK_MS,
            rank_latest_ms=LATEST_MS,
        )
        async with relay:
            await relay.rank(ITEMS[:CANDIDATES], request_time_s=REQUEST_TIME_S)
        pinned = await owner.pin(oracle.key_of(user))
        if pinned is not None:
            images[user] = pinned.target.read(pinned.segment)
            await owner.let_go(pinned)
        return pinned is not None

    for user in USERS:
        await until(functools.partial(is_kept, user), f"psi of user {user} is in DRAM")
    return images


class Returns:
    """Users return one after the other, and what DRAM has of them is damaged before most of their returns."""

    def __init__(self, cluster: Cluster, client, owner: PinningOwner, injector: Injector, oracle: Oracle):
        self._cluster = cluster
        self._client, self._owner, self._injector, self._oracle = client, owner, injector, oracle
        self.damages: dict[str, tuple[str, int]] = {}
        """By user: the kind, and the generation of the entry that has it."""
        self.met: Counter[str] = Counter()
        """Damaged entries that a reload came upon, by kind."""
        self.reloads = 0
        """Of entries that nobody had touched."""
        self.wrong: list[tuple[str, float]] = []
        self.believed: list[str] = []

    async def one(self, rng: Random, user: str) -> None:
        """Perhaps a damage, and then a request of this user."""
        if rng.random() < 0.75 and user not in self.damages:
            for one in await self._injector.hit(rng, user, [other for other in USERS if other != user]):
                if one.has_changed:
                    self.damages[one.user] = one.kind, one.generation
        damage = self.damages.get(user)
        _, ranking = await relay_once(self._client, user, wait_s=0.03)
        distance = logit_error(torch.tensor(ranking.scores), self._oracle.scores(user))
        if max(distance, ranking.score_difference) > SCORE_DIFFERENCE_MOST:
            self.wrong.append((user, distance))
        if damage is None:
            self.reloads += ranking.tier == "DRAM"
            return
        if ranking.tier == "DRAM":
            self.believed.append(user)
        await self._account(user, *damage)

    async def _account(self, user: str, kind: str, damaged: int) -> None:
        generation = await self._generation(user)
        if generation != damaged and failed_digests(self._cluster) > self.met.total():
            self.met[kind] += 1
            del self.damages[user]
        elif generation not in (damaged, 0):
            del self.damages[user]  # A longer psi from the device has replaced it unread.

    async def _generation(self, user: str) -> int:
        """Of the entry that DRAM has now; 0 for none."""
        pinned = await self._owner.pin(self._oracle.key_of(user))
        if pinned is None:
            return 0
        await self._owner.let_go(pinned)
        return pinned.target.generation


@pytest.mark.timeout(240)
async def test_a_user_whose_psi_was_damaged_in_dram_gets_the_scores_of_full_inference(lone_ranker, tmp_path):
    cluster, oracle = lone_ranker
    rng, log = Random(7), Log(tmp_path / "world.jsonl")
    async with client_of(cluster) as client, pinning(cluster, oracle) as owner:
        images = await older_images(client, owner, oracle)
        injector = Injector(
            owner, log, key_of=oracle.key_of, older=lambda rng, user, pinned: images[user], weights=WEIGHTS
        )
        returns = Returns(cluster, client, owner, injector, oracle)
        for number in range(REQUESTS_MAX):
            await returns.one(rng, USERS[number % len(USERS)])
            is_enough = returns.met.total() >= DAMAGED_RETURNS and len(returns.met) == len(WEIGHTS)
            is_enough = is_enough and returns.reloads >= WHOLE_RETURNS
            if is_enough or returns.wrong or returns.believed:
                break
        evictions = (await owner.describe()).evictions
    log.close()
    assert not returns.wrong and not returns.believed
    assert returns.met.total() >= DAMAGED_RETURNS and set(returns.met) == set(WEIGHTS), returns.met
    assert returns.reloads >= WHOLE_RETURNS, "what is whole is reloaded"
    assert evictions == 0, "no damaged entry has gone in another way"
    # A reload that a rank overtook may have ended after its user's reply.
    assert 0 <= failed_digests(cluster) - returns.met.total() <= len(returns.damages), (
        "a digest has failed of these only"
    )
