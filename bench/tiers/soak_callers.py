"""What callers do to two rankers in virtual time: the default profile's traffic, and much that goes wrong in it.

Source: design, section 5, invariants I1, I6, I7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Protocol

from bench.load.profile import Profile
from bench.load.traffic import Plan, PlannedRequest, plan
from bench.tiers.soak_ranker import SoakRanker
from bench.tiers.soak_time import Act, Timeline
from relaygr.domain.chain import Chain
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core import events as ev

HOP_NS = 400_000
WINDOW_NS = 1_000_000_000
RANK_BUDGET_NS = 50_000_000
SHORT_BUDGET_NS = 4_000_000
"""Less than a rank of a long history takes."""
PATIENCE_NS = 6_000_000
"""Of a caller who leaves."""
SEGMENT_S = 300
"""Traffic is planned so far ahead; users of one plan do not come back in the next."""
USERS_MAX = 1 << 40
ROW_BYTES = 4

KINDS = {
    "ordinary": 78,
    "never ranks": 4,
    "released": 4,
    "ranks first": 3,
    "ranks late": 3,
    "no pre-infer": 3,
    "short deadline": 2,
    "caller leaves": 2,
    "asked twice": 1,
}
"""What becomes of a request, by weight."""
REWRITTEN_SHARE = 0.02
"""Of requests, those of a history that is not the one the user had before."""
FORGET_SHARE = 0.004
DRAIN_SHARE = 0.0002
DRAINED_NS = 2_000_000_000


class Host(Protocol):
    """Who serves."""

    def ranker_of(self, user: int) -> SoakRanker | None:
        """Where a user is sent now; None when nobody is there."""
        ...


@dataclass(slots=True)
class _Relay:
    ticket_id: str
    key: PsiKey
    chain: Chain
    ranker: SoakRanker | None
    """Where its pre-infer was sent; also where its rank goes, while that lives."""
    request: PlannedRequest


class Callers:
    """Sends plan after plan until the end."""

    def __init__(
        self, timeline: Timeline, host: Host, profile: Profile, rate_hz: float, chance: Random, seed: int
    ) -> None:
        self._timeline = timeline
        self._host = host
        self._profile = replace(profile, traffic=replace(profile.traffic, arrivals="bursty"))
        self._rate_hz = rate_hz
        self._chance = chance
        self._seed = seed
        self.requests = 0

    def start(self, end_ns: int) -> None:
        """From now until then."""
        self._plan_next(0, end_ns)

    def _plan_next(self, segment: int, end_ns: int) -> None:
        begin_ns = self._timeline.now_ns
        length_ns = SEGMENT_S * 1_000_000_000
        requests = self._planned(segment)
        self._send(requests, begin_ns, min(end_ns, begin_ns + length_ns))
        if begin_ns + length_ns < end_ns:
            self._timeline.at(begin_ns + length_ns, lambda: self._plan_next(segment + 1, end_ns))

    def _planned(self, segment: int) -> Iterator[PlannedRequest]:
        traffic = replace(self._profile.traffic, requests=int(1.1 * SEGMENT_S * self._rate_hz), warmup_s=0.0)
        wanted = Plan(
            traffic=traffic,
            stages=self._profile.stages,
            rate_hz=self._rate_hz,
            seed=1000 * self._seed + segment,
            first_user=segment * traffic.requests,
            users=USERS_MAX,
            tokens=self._profile.lengths,
        )
        return iter(plan(wanted))

    def _send(self, requests: Iterator[PlannedRequest], begin_ns: int, end_ns: int) -> None:
        """One after another, each planned by the one before it."""
        request = next(requests, None)
        if request is None or begin_ns + request.arrives_ns >= end_ns:
            return

        def arrived() -> None:
            self._arrive(request)
            self._send(requests, begin_ns, end_ns)

        self._timeline.at(begin_ns + request.arrives_ns, arrived)

    def _arrive(self, request: PlannedRequest) -> None:
        self.requests += 1
        is_rewritten = self._chance.random() < REWRITTEN_SHARE
        key = PsiKey(UserKey("default", str(request.user)), "model-1", 0)
        ranker = self._host.ranker_of(request.user)
        relay = _Relay(f"t{self.requests}", key, _chain(request, is_rewritten=is_rewritten), ranker, request)
        kind = self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        due_ns = request.due_ns - request.arrives_ns
        asks_ns = due_ns + 2 * HOP_NS if kind == "ranks first" else HOP_NS
        window_end_ns = self._timeline.now_ns + WINDOW_NS
        if kind != "no pre-infer":
            self._to(ranker, asks_ns, lambda: self._pre_infer(relay, window_end_ns))
        if kind == "asked twice":
            self._to(ranker, asks_ns + HOP_NS, lambda: self._pre_infer(relay, window_end_ns))
        if kind == "released":
            self._to(ranker, due_ns, lambda: self._release(relay))
        elif kind != "never ranks":
            late_ns = WINDOW_NS if kind == "ranks late" else 0
            self._timeline.after(due_ns + late_ns, lambda: self._rank(relay, kind))
        self._now_and_then(request)

    def _now_and_then(self, request: PlannedRequest) -> None:
        if self._chance.random() < FORGET_SHARE:
            self._timeline.after(int(self._chance.uniform(0, 2e8)), lambda: self._forget(str(request.user)))
        ranker = self._host.ranker_of(request.user)
        if ranker is not None and self._chance.random() < DRAIN_SHARE:
            self._to(ranker, HOP_NS, lambda: ranker.feed(ev.DrainSet(True)))
            self._to(ranker, DRAINED_NS, lambda: ranker.feed(ev.DrainSet(False)))

    def _pre_infer(self, relay: _Relay, window_end_ns: int) -> None:
        assert relay.ranker is not None
        relay.ranker.feed(ev.PreInferAsked(relay.ticket_id, relay.key, relay.chain, window_end_ns, ""))

    def _release(self, relay: _Relay) -> None:
        assert relay.ranker is not None
        relay.ranker.feed(ev.TicketReleased(relay.ticket_id))

    def _rank(self, relay: _Relay, kind: str) -> None:
        """Where its psi is, else anywhere: then without its ticket, which is of another instance."""
        is_there = relay.ranker is not None and not relay.ranker.is_dead
        ranker = relay.ranker if is_there else self._host.ranker_of(relay.request.user)
        if ranker is None:
            return
        ticket_id = relay.ticket_id if is_there and kind != "no pre-infer" else None
        budget_ns = SHORT_BUDGET_NS if kind == "short deadline" else RANK_BUDGET_NS
        suffix_tokens = relay.request.delta + relay.request.candidates

        def asked() -> None:
            deadline_ns = self._timeline.now_ns + budget_ns
            rank_id = ranker.rank(relay.key, relay.chain, ticket_id, deadline_ns, suffix_tokens)
            if kind == "caller leaves":
                ranker.later(PATIENCE_NS, lambda: ranker.abandon(rank_id))

        self._to(ranker, HOP_NS, asked)

    def _forget(self, user: str) -> None:
        """A router tells every instance."""
        forgotten = ev.UserForgotten(UserKey("default", user))
        for ranker in self._everybody():
            self._to(ranker, HOP_NS, partial(ranker.feed, forgotten))

    def _everybody(self) -> Sequence[SoakRanker]:
        both = (self._host.ranker_of(user) for user in (0, 1))
        return list(dict.fromkeys(ranker for ranker in both if ranker is not None))

    def _to(self, ranker: SoakRanker | None, delay_ns: int, act: Act) -> None:
        if ranker is not None:
            ranker.later(delay_ns, act)


def _chain(request: PlannedRequest, *, is_rewritten: bool) -> Chain:
    """Of one user's history any is a prefix of a longer one, unless it was rewritten: that ends in other rows."""
    same = bytes(ROW_BYTES * (request.behaviours // 2))
    rest = (b"\x01" if is_rewritten else b"\x00") * (ROW_BYTES * request.behaviours - len(same))
    return Chain(str(request.user).encode(), [same + rest], [ROW_BYTES], request.behaviours)
