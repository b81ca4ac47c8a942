"""What honest requests are made of: a small model, histories, a store, and quiet telemetry."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from relaygr.behaviours.build import StoreBuilder
from relaygr.behaviours.columns import Behaviours, Candidates, FeatureSpec, Profile, chain_of
from relaygr.behaviours.log import Rows
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import ModelLimits
from relaygr.domain.instance import InstanceRecord
from relaygr.rpc.identity import model_to_pb
from relaygr.rpc.tickets import encode_ticket
from relaygr.telemetry import Telemetry
from relaygr.v1 import common_pb2, ranker_pb2

KEY = b"0123456789abcdef"
ITEMS = np.arange(1, 101)
LIMITS = ModelLimits(window_behaviours_max=256, window_step_behaviours=64, delta_behaviours_max=16, candidates_max=32)
FEATURES = FeatureSpec(
    behaviour_dense=2,
    behaviour_categorical=(5,),
    candidate_dense=1,
    candidate_categorical=(3,),
    user_dense=2,
    user_categorical=(7,),
    cross_dense=2,
)
STORED_USERS = 8
STORED_EACH = 150
BEGIN_S = 1_600_000_000


def quiet() -> Telemetry:
    """Telemetry that nobody reads, and that so keeps nothing."""
    return Telemetry(resource={}, user_hash_key=b"fuzz")


def behaviours(random: Random, count: int, features: FeatureSpec = FEATURES, begin_s: int = BEGIN_S) -> Behaviours:
    drawn = np.random.default_rng(random.randrange(64))
    return Behaviours.of(
        drawn.integers(1, 110, count),
        begin_s + np.cumsum(drawn.integers(0, 5_000, count)),
        drawn.integers(0, 7, count),
        dense=drawn.standard_normal((count, features.behaviour_dense)),
        categorical=drawn.integers(0, 5, (count, len(features.behaviour_categorical))),
    )


def history(random: Random, features: FeatureSpec = FEATURES) -> common_pb2.History:
    """Sent inline, with its cut."""
    count = random.choice((0, 1, 2, 10, 60, 127, 130))
    sent = behaviours(random, count, features)
    profile = Profile.of([0.5] * features.user_dense, [3] * len(features.user_categorical))
    cut = common_pb2.Cut(
        anchor=random.choice((0, 0, 64, 1_000)), behaviour_count=count, digest=chain_of(profile, sent).digest
    )
    inline = common_pb2.InlineHistory(profile=profile.to_pb(), behaviours=sent.to_pb())
    return common_pb2.History(cut=cut, inline=inline.SerializeToString())


def candidates(random: Random, features: FeatureSpec = FEATURES) -> ranker_pb2.Candidates:
    count = random.choice((1, 2, 8, 32))
    dense = np.full((count, features.candidate_dense), 0.25)
    categorical = np.full((count, len(features.candidate_categorical)), 2)
    return Candidates.of(np.arange(1, count + 1), dense, categorical).to_pb()


def store(directory: Path, each: int = STORED_EACH) -> FileStore:
    """Some users' logs, on disk, with so many behaviours each."""
    count = STORED_USERS * each
    rows = Rows(
        users=np.repeat(np.arange(1, STORED_USERS + 1), each),
        items=np.tile(np.arange(1, each + 1), STORED_USERS),
        timestamps=BEGIN_S + np.tile(np.arange(each) * 60, STORED_USERS),
        actions=np.ones(count, "<i4"),
    )
    widths = {"dense_width": FEATURES.behaviour_dense, "categorical_width": len(FEATURES.behaviour_categorical)}
    profiles = {1: Profile.of([0.5] * FEATURES.user_dense, [3] * len(FEATURES.user_categorical))}
    with StoreBuilder(directory, **widths) as builder:
        builder.add(rows)
        builder.finish(profiles)
    return FileStore(directory)


def ticket(record: InstanceRecord, **claims: Any) -> common_pb2.Ticket:
    """A ticket that an instance takes: issued now, open for two seconds, under the right key."""
    now_ns = time.time_ns()
    said = common_pb2.TicketClaims(
        tenant="default",
        instance_id=record.instance_id,
        instance_epoch=record.epoch,
        model=model_to_pb(record.model),
        issued_unix_ns=now_ns,
        expires_unix_ns=now_ns + 2_000_000_000,
        **claims,
    )
    return encode_ticket(said, KEY)
