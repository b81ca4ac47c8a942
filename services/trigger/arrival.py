"""An ArriveRequest, checked, and what the model's limits say about it.

Only metadata is read: an inline history is bytes that are passed on.

Source: design, section 3 (trigger), section 4 (the cut).
"""

from __future__ import annotations

from dataclasses import dataclass

from relaygr.domain.chain import DIGEST_BYTES
from relaygr.domain.identity import ModelLimits, UserKey
from relaygr.domain.window import anchor_of
from relaygr.errors import InvalidRequest
from relaygr.rpc.identity import checked_request_id, user_key_of
from relaygr.v1.common_pb2 import Cut
from relaygr.v1.trigger_pb2 import ArriveRequest, StageBudgets
from services.trigger.config import TriggerConfig
from services.trigger.core.events import Demand

_MS = 1_000_000
_LOG_INDEX_END = 1 << 62


@dataclass(frozen=True, slots=True)
class Budgets:
    """Stage budgets with the defaults filled in."""

    rank_budget_ns: int
    """Of the device: less the share for hops, reading and answering."""
    time_to_rank_ns: int
    window_ns: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A checked request; counts still wait for the model's limits."""

    user: UserKey
    request_id: str
    """Empty when the caller gave none."""
    inline_cut: Cut | None
    """The client library's cut; None by reference."""
    as_of_s: int
    candidate_count: int
    delta_behaviour_count: int
    budgets: Budgets


@dataclass(frozen=True, slots=True)
class LogHead:
    """How much of a user's log belongs to the request, and which generation says so."""

    log_count: int
    generation: str


def parse_arrival(request: ArriveRequest, config: TriggerConfig) -> Arrival:
    """Check what can be checked before the instance is known.

    Raises:
        InvalidRequest: names the field.
    """
    user = user_key_of(request.tenant, request.user)
    history = request.history
    if history.as_of_s < 0:
        raise InvalidRequest("history.as_of_s", "must not be negative")
    inline_cut = None
    if history.inline:
        inline_cut = _inline_cut(history.cut if history.HasField("cut") else None)
    elif history.HasField("cut"):
        raise InvalidRequest("history.cut", "is fixed here for a history by reference; leave it unset")
    return Arrival(
        user=user,
        request_id=checked_request_id(request.request_id),
        inline_cut=inline_cut,
        as_of_s=history.as_of_s,
        candidate_count=request.candidate_count,
        delta_behaviour_count=request.delta_behaviour_count,
        budgets=_budgets(request.budgets, config),
    )


def cut_at(head: LogHead, limits: ModelLimits) -> Cut:
    """The cut of a history by reference: the window's rule applied to the log's length."""
    anchor = anchor_of(head.log_count, limits)
    return Cut(anchor=anchor, behaviour_count=head.log_count - anchor, store_generation=head.generation)


def check_limits(arrival: Arrival, limits: ModelLimits) -> None:
    """Refuse what the model does not serve.

    Raises:
        InvalidRequest: names the field.
    """
    if arrival.inline_cut is not None:
        _at_most("history.cut.behaviour_count", arrival.inline_cut.behaviour_count, limits.window_behaviours_max)
    _at_most("candidate_count", arrival.candidate_count, limits.candidates_max)
    _at_most("delta_behaviour_count", arrival.delta_behaviour_count, limits.delta_behaviours_max)


def demand_of(arrival: Arrival, prefix_behaviours: int, candidates_typical: int) -> Demand:
    """What the request would ask of a device."""
    return Demand(
        prefix_tokens=1 + prefix_behaviours,
        delta_tokens=arrival.delta_behaviour_count,
        candidate_count=arrival.candidate_count or max(1, candidates_typical),
        rank_budget_ns=arrival.budgets.rank_budget_ns,
        time_to_rank_ns=arrival.budgets.time_to_rank_ns,
        window_ns=arrival.budgets.window_ns,
    )


def _inline_cut(cut: Cut | None) -> Cut:
    if cut is None:
        raise InvalidRequest("history.cut", "required with an inline history")
    if cut.anchor >= _LOG_INDEX_END:
        raise InvalidRequest("history.cut.anchor", "not an index of a log")
    if cut.store_generation:
        raise InvalidRequest("history.cut.store_generation", "must be empty with an inline history")
    if len(cut.digest) != DIGEST_BYTES:
        raise InvalidRequest("history.cut.digest", f"{len(cut.digest)} bytes, expected {DIGEST_BYTES}")
    return cut


def _budgets(given: StageBudgets, config: TriggerConfig) -> Budgets:
    window_max_ns = int(config.window_max_ms * _MS)
    _at_most("budgets.rank_budget_ns", given.rank_budget_ns, window_max_ns)
    _at_most("budgets.time_to_rank_ns", given.time_to_rank_ns, window_max_ns)
    _at_most("budgets.rank_latest_ns", given.rank_latest_ns, window_max_ns)
    time_to_rank_ns = given.time_to_rank_ns or int(config.time_to_rank_ms * _MS)
    window_ns = given.rank_latest_ns or max(int(config.rank_latest_ms * _MS), time_to_rank_ns)
    if given.time_to_rank_ns > window_ns:
        raise InvalidRequest("budgets.rank_latest_ns", "must not be before time_to_rank_ns")
    rank_budget_ns = given.rank_budget_ns or int(config.rank_budget_ms * _MS)
    return Budgets(
        rank_budget_ns=int(rank_budget_ns * (1.0 - config.rank_overhead_share)),
        time_to_rank_ns=min(time_to_rank_ns, window_ns),
        window_ns=window_ns,
    )


def _at_most(field: str, value: int, most: int) -> None:
    if value > most:
        raise InvalidRequest(field, f"{value} exceeds the limit of {most}")
