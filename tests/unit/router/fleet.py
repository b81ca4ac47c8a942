"""Instances for the router's tests."""

from __future__ import annotations

from dataclasses import replace

from relaygr.domain.cost import CostModel
from relaygr.domain.identity import ModelIdentity, ModelLimits, UserKey
from relaygr.domain.instance import InstanceRecord, InstanceState
from services.router.core.binding import Subject, TicketRef

MODEL = ModelIdentity("hstu", "1", "ab" * 32, "float32", "paged128-khd-vhd", 512)
OTHER_MODEL = replace(MODEL, version="2", weights_digest="cd" * 32)
LIMITS = ModelLimits(1000, 250, 64, 256)
COST = CostModel(1e6, 1e3, 1.0, 1e5, 0.1, 0.1, 512, 50)
GIB = 1 << 30


def record(name, *, epoch=1, model=MODEL, budget=GIB, state=InstanceState.READY, address=""):
    return InstanceRecord(
        instance_id=name,
        address=address or f"{name}:1",
        host="h",
        epoch=epoch,
        model=model,
        limits=LIMITS,
        cost=COST,
        device_budget_bytes=budget,
        pre_infer_share=0.5,
        state=state,
    )


def subject(user, tenant="t"):
    key = UserKey(tenant, str(user))
    return Subject(key, key.hashed(b"k" * 16))


def ticket_for(one):
    return TicketRef(one.instance_id, one.epoch, one.model.key)
