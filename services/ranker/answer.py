"""What a rank answers, and what is observed of it.

Source: design, section 3 (ranker), section 7 (tracing).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import numpy as np
from opentelemetry.context import Context
from opentelemetry.trace import set_span_in_context

from relaygr.domain.identity import ModelIdentity, UserKey
from relaygr.domain.instance import InstanceRecord, InstanceState
from relaygr.model.interface import RelayModel
from relaygr.rpc.identity import feedback_to_pb, model_to_pb
from relaygr.telemetry import Telemetry, link_of, names
from relaygr.telemetry.provider import current_span
from relaygr.v1 import common_pb2, ranker_pb2
from services.ranker.core import effects as fx
from services.ranker.engine import Engine, RankResult, RankWork
from services.ranker.metrics import RankerMetrics


@dataclass(slots=True)
class Instance:
    """Who this ranker is; of its record only the state and the cost model change."""

    record: InstanceRecord
    cost_factor: float = 1.0
    """Of the record's cost model over the one measured alone, by which jobs' expected times are known."""

    @property
    def is_draining(self) -> bool:
        """Takes no new pre-infers."""
        return self.record.state is InstanceState.DRAINING


@dataclass(frozen=True, slots=True)
class Asked:
    """A rank as it came in, with what was found out about it."""

    owner: UserKey
    request_id: str
    work: RankWork
    is_ticket_foreign: bool
    arrived_ns: int
    prepare_ns: int
    trigger_id: str = ""
    """Who issued its ticket; empty without a usable one."""


class Answers:
    """Builds replies from results."""

    def __init__(self, engine: Engine, model: RelayModel, instance: Instance):
        """Take what the replies speak of."""
        self._engine = engine
        self._model = model
        self._instance = instance
        self._tasks = model.spec.tasks
        self._model_of: tuple[ModelIdentity, common_pb2.ModelIdentity] | None = None

    def rank(self, asked: Asked, result: RankResult) -> ranker_pb2.RankResponse:
        """Scores and how they came about."""
        placement, record = result.placement, self._instance.record
        response = ranker_pb2.RankResponse(
            logits=np.asarray(result.logits_CK.numpy(), "<f4").tobytes(),
            tasks=self._tasks,
            inferred_tokens=result.inferred_tokens,
            unknown_candidates=(~self._model.known_items(asked.work.suffix.candidates.item_ids)).nonzero()[0].tolist(),
            unknown_behaviour_count=self._unknown_behaviours(asked.work),
            load=self.load(),
            instance_id=record.instance_id,
            instance_epoch=record.epoch,
            model=self._model_pb(record),
        )
        response.MergeFrom(_outcome(asked, placement))
        response.timings.queue_ns = result.queue_ns
        response.timings.prepare_ns = asked.prepare_ns
        response.timings.compute_ns = result.compute_ns
        response.timings.total_ns = time.monotonic_ns() - asked.arrived_ns
        return response

    def load(self) -> common_pb2.Load:
        """The device's queues and bytes at this moment."""
        queues, seen = self._engine.load(), self._engine.residency.snapshot()
        page_bytes = self._model.page_elements * self._engine.element_bytes
        return common_pb2.Load(
            rank_jobs=queues.rank_jobs,
            full_jobs=queues.full_jobs,
            pre_infer_jobs=queues.pre_infer_jobs,
            backlog_ns=int(self._instance.cost_factor * queues.backlog_ns),
            device_used_bytes=seen.used_pages * page_bytes,
            device_budget_bytes=self._instance.record.device_budget_bytes,
            rank_rate_hz=self._engine.observed.rank_rate_hz(time.monotonic_ns()),
            aside_ns=int(self._instance.cost_factor * queues.aside_ns),
        )

    def feedback(self) -> common_pb2.Feedback:
        """How pre-infers have fared here."""
        return feedback_to_pb(self._engine.observed.feedback(self._engine.residency.snapshot().counters))

    def _model_pb(self, record: InstanceRecord) -> common_pb2.ModelIdentity:
        if self._model_of is None or self._model_of[0] is not record.model:
            self._model_of = record.model, model_to_pb(record.model)
        return self._model_of[1]

    def _unknown_behaviours(self, work: RankWork) -> int:
        prefix, known = work.prefix, self._model.known_items
        if prefix.unknown_count is None:
            prefix.unknown_count = int((~known(prefix.behaviours.item_ids)).sum())
        delta = work.suffix.delta
        return prefix.unknown_count + (int((~known(delta.item_ids)).sum()) if len(delta) else 0)


class Observer:
    """Metrics and spans of a rank, from its reply."""

    def __init__(self, telemetry: Telemetry, metrics: RankerMetrics):
        """Take where to record."""
        self._telemetry = telemetry
        self._metrics = metrics

    def ranked(self, asked: Asked, response: ranker_pb2.RankResponse) -> None:
        """Record one answered rank on the current span and in the instruments."""
        tier = ranker_pb2.Tier.Name(response.tier).removeprefix("TIER_")
        fallback = ""
        if response.fallback:
            fallback = ranker_pb2.FallbackReason.Name(response.fallback).removeprefix("FALLBACK_REASON_")
        timings = response.timings
        stages_ns = {
            "queue": timings.queue_ns,
            "join": timings.join_ns,
            "prepare": timings.prepare_ns,
            "compute": timings.compute_ns,
            "total": timings.total_ns,
        }
        # Behind the answer; what is written on the span itself must be there when it ends.
        behind = asyncio.get_running_loop().call_soon
        behind(self._metrics.ranked, tier, fallback, response.psi_tokens, stages_ns)
        span = current_span()
        if not span.is_recording():
            return
        span.set_attributes(
            {
                names.ATTR_RANK_TIER: tier,
                names.ATTR_RANK_FALLBACK: fallback,
                names.ATTR_RANK_PSI_TOKENS: response.psi_tokens,
                names.ATTR_RANK_INFERRED_TOKENS: response.inferred_tokens,
                names.ATTR_RANK_CANDIDATES: len(asked.work.suffix.candidates),
                names.ATTR_RANK_QUEUE_MS: timings.queue_ns / 1e6,
                names.ATTR_RANK_JOIN_MS: timings.join_ns / 1e6,
                names.ATTR_RANK_PREPARE_MS: timings.prepare_ns / 1e6,
                names.ATTR_RANK_COMPUTE_MS: timings.compute_ns / 1e6,
                names.ATTR_REQUEST_ID: asked.request_id,
                names.ATTR_INSTANCE_ID: response.instance_id,
                names.ATTR_USER_HASH: self._telemetry.user_hash(asked.owner),
            }
        )
        link = link_of(response.producer_traceparent)
        if link is not None:
            span.add_link(link.context, {names.ATTR_LINK_KIND: "psi_producer"})
        behind(self._stage_spans, timings, set_span_in_context(span), time.time_ns())

    def _stage_spans(self, timings: ranker_pb2.RankTimings, context: Context, end_ns: int) -> None:
        """Spans of the stages, laid end to end up to the answer: join, queue, compute."""
        stages = (
            (names.SPAN_RANK_COMPUTE, timings.compute_ns),
            (names.SPAN_RANK_QUEUE, timings.queue_ns),
            (names.SPAN_RANK_JOIN, timings.join_ns),
        )
        for name, elapsed_ns in stages:
            if elapsed_ns:
                span = self._telemetry.tracer.start_span(name, context=context, start_time=end_ns - elapsed_ns)
                span.end(end_ns)
                end_ns -= elapsed_ns


def _outcome(asked: Asked, placement: fx.RankOnPsi | fx.RankInFull) -> ranker_pb2.RankResponse:
    if isinstance(placement, fx.RankInFull):
        reason = f"FALLBACK_REASON_{_fallback(asked, placement)}"
        return ranker_pb2.RankResponse(tier=ranker_pb2.TIER_FULL, fallback=reason)
    return ranker_pb2.RankResponse(
        tier=f"TIER_{placement.tier.value}",
        psi_tokens=placement.tokens,
        producer_traceparent=placement.producer_trace,
        timings=ranker_pb2.RankTimings(join_ns=placement.joined_ns),
    )


def _fallback(asked: Asked, placement: fx.RankInFull) -> str:
    if asked.is_ticket_foreign and placement.reason is fx.FallbackReason.NO_TICKET:
        return fx.FallbackReason.FOREIGN_TICKET.value
    return placement.reason.value
