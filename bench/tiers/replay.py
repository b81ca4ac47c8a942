"""A trace through the cores of ranker and expander, in virtual time: what is reused, by which policy.

The very machines that decide in production decide here; what they ask for is done at once, so that only their
decisions tell runs apart: a lookup is answered by the expander's core, a copy or a compute ends in the instant it
begins. Ranks come when the trace says, so that tickets hold psi as long as they would.

Source: design, section 3 (ranker, expander).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from bench.load.traffic import PlannedRequest
from relaygr.domain.chain import Chain
from relaygr.domain.cost import CostModel
from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.effects import StoreRefusal
from services.expander.core.entries import Content
from services.expander.core.tiering import Tiering
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.residency import Residency

OWNER, EPOCH = "ranker-1", 1
WINDOW_NS = 1_000_000_000
ROW_BYTES = 4


@dataclass(slots=True)
class Replayed:
    """What came of a trace, its warm-up left out."""

    requests: int = 0
    returns: int = 0
    """Of users who had been here."""
    asked_tokens: int = 0
    """Of all pre-infers."""
    computed_tokens: int = 0
    """Of those, tokens that a production computed."""
    reloaded_tokens: int = 0
    on_device: int = 0
    """Returns whose psi was still on the device."""
    from_dram: int = 0
    work_ns: int = 0
    """Device time of productions and reloads, by the cost model."""
    declined: int = 0

    @property
    def recompute_avoided(self) -> float:
        """Of the tokens that pre-infers asked for, the share that was not computed."""
        return round(1 - self.computed_tokens / max(1, self.asked_tokens), 4)

    def to_json(self) -> dict[str, float | int]:
        """Shares; of returns, where psi came from."""
        returns = max(1, self.returns)
        return {
            "requests": self.requests,
            "returns": self.returns,
            "recompute_avoided": self.recompute_avoided,
            "device_hits": round(self.on_device / returns, 4),
            "dram_hits": round(self.from_dram / returns, 4),
            "work_ms_per_request": round(self.work_ns / max(1, self.requests) / 1e6, 3),
            "declined": self.declined,
        }


class TierReplay:
    """One ranker, and the expander beside it when there is one."""

    def __init__(self, residency: Residency, dram: Tiering | None, cost: CostModel) -> None:
        self._residency = residency
        self._dram = dram
        self._cost = cost
        self._now_ns = 0
        self._owner_index = 0
        self._found: dict[int, tuple[int, int]] = {}
        """Pin and tokens of a lookup's job."""
        self._counted = Replayed()
        self._is_counted = False
        self._was_looked_up = False
        self._was_reloaded = False
        self._visited: set[int] = set()

    def run(self, requests: Sequence[PlannedRequest]) -> Replayed:
        """Send all of it."""
        if self._dram is not None:
            self._beat()
            self._feed(ev.DramAttached(True))
        due: list[tuple[int, int]] = []
        for number, request in enumerate(requests):
            while due and due[0][0] <= request.arrives_ns:
                self._rank(requests, *heapq.heappop(due))
            self._arrive(number, request)
            heapq.heappush(due, (request.due_ns, number))
        while due:
            self._rank(requests, *heapq.heappop(due))
        self._residency.check()
        if self._dram is not None:
            self._dram.check()
        return self._counted

    def _arrive(self, number: int, request: PlannedRequest) -> None:
        self._advance(request.arrives_ns)
        self._is_counted = request.is_counted
        self._was_looked_up = self._was_reloaded = False
        computed_before = self._counted.computed_tokens
        chain = _chain(request)
        asked = ev.PreInferAsked(str(number), _key(request), chain, self._now_ns + WINDOW_NS, "")
        self._feed(asked)
        self._count(request, chain.token_count, self._counted.computed_tokens - computed_before)

    def _count(self, request: PlannedRequest, tokens: int, computed: int) -> None:
        """A request whose pre-infer has ended."""
        was_here = request.user in self._visited
        self._visited.add(request.user)
        if not request.is_counted:
            return
        counted = self._counted
        counted.requests += 1
        counted.asked_tokens += tokens
        if was_here:
            counted.returns += 1
            counted.on_device += not self._was_looked_up and computed < tokens
            counted.from_dram += self._was_reloaded

    def _rank(self, requests: Sequence[PlannedRequest], at_ns: int, number: int) -> None:
        request = requests[number]
        self._advance(at_ns)
        self._is_counted = request.is_counted
        suffix = request.delta + request.candidates
        self._feed(ev.RankAsked(number, _key(request), _chain(request), str(number), at_ns + WINDOW_NS, suffix))
        self._feed(ev.RankEnded(number))

    def _advance(self, now_ns: int) -> None:
        """Time passes: windows close, heartbeats are sent."""
        while (next_ns := self._residency.deadline_ns()) is not None and next_ns <= now_ns:
            self._now_ns = max(self._now_ns, next_ns)
            self._perform(self._residency.expire(self._now_ns))
        self._now_ns = max(self._now_ns, now_ns)
        self._beat()

    def _beat(self) -> None:
        if self._dram is not None:
            index = self._dram.attach(OWNER, EPOCH, self._now_ns)
            assert index is not None
            self._owner_index = index

    def _feed(self, event: ev.Event) -> None:
        self._perform(self._residency.handle(event, self._now_ns))

    def _perform(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.StartLookup():
                    self._look_up(effect)
                case fx.StartReload():
                    self._reload(effect)
                case fx.StartCompute():
                    self._compute(effect)
                case fx.AbandonLookup(job_id):
                    self._abandon(job_id)
                case fx.StartSpill():
                    self._spill(effect)
                case fx.Decline():
                    self._counted.declined += self._is_counted
                case _:
                    pass

    def _look_up(self, effect: fx.StartLookup) -> None:
        assert self._dram is not None
        self._was_looked_up = True
        found = self._dram.lookup(self._owner_index, effect.key, self._now_ns)
        if found is None:
            self._feed(ev.LookupEnded(effect.job_id, 0, b""))
            return
        self._found[effect.job_id] = found.pin_id, found.content.tokens
        self._feed(ev.LookupEnded(effect.job_id, found.content.tokens, found.content.chain_digest))

    def _reload(self, effect: fx.StartReload) -> None:
        assert self._dram is not None
        pin_id, _ = self._found.pop(effect.job_id)
        is_ok = self._dram.complete_load(self._owner_index, pin_id, True, self._now_ns)
        self._was_reloaded = is_ok
        if is_ok and self._is_counted:
            self._counted.reloaded_tokens += effect.tokens
            self._counted.work_ns += self._cost.reload_ns(effect.tokens)
        self._feed(ev.ReloadEnded(effect.job_id, is_ok))

    def _abandon(self, job_id: int) -> None:
        assert self._dram is not None
        pin_id, _ = self._found.pop(job_id)
        self._dram.complete_load(self._owner_index, pin_id, True, self._now_ns)

    def _compute(self, effect: fx.StartCompute) -> None:
        if self._is_counted:
            new_tokens = effect.to_tokens - effect.from_tokens
            self._counted.computed_tokens += new_tokens
            self._counted.work_ns += self._cost.extend_ns(new_tokens, effect.from_tokens)
        self._feed(ev.ChunkEnded(effect.job_id, effect.to_tokens))

    def _spill(self, effect: fx.StartSpill) -> None:
        assert self._dram is not None
        length_bytes = effect.tokens * self._cost.token_bytes
        content = Content(effect.tokens, effect.digest, length_bytes, b"", "")
        asked = (self._owner_index, effect.key, effect.tokens, effect.digest, length_bytes, self._now_ns)
        grant = self._dram.prepare_store(*asked)
        is_stored = grant is StoreRefusal.PRESENT
        if not isinstance(grant, StoreRefusal):
            ended = (self._owner_index, grant.store_id, True, content, self._now_ns)
            is_stored = self._dram.complete_store(*ended)
        self._feed(ev.SpillEnded(effect.entry_id, is_stored))


def _key(request: PlannedRequest) -> PsiKey:
    return PsiKey(UserKey("default", str(request.user)), "model-1", 0)


def _chain(request: PlannedRequest) -> Chain:
    """Of one user's history any is a prefix of a longer one."""
    rows = bytes(ROW_BYTES * request.behaviours)
    return Chain(str(request.user).encode(), [rows], [ROW_BYTES], request.behaviours)
