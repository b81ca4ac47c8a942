"""A toy engine for the residency machine: performs effects late and in any order, and remembers tokens.

Pages hold token values. A compute scribbles over the tokens of its chunk when it begins
the chunk and writes them when it ends it, so that whoever may read a torn page, does.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from relaygr.domain.chain import PAGE_TOKENS, Chain
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from services.ranker.core.residency import Residency
from tests.unit.ranker_core.histories import chain, token_values

Tokens = tuple[bytes, ...]


@dataclass
class Job:
    """A production under way."""

    key: PsiKey
    chain: Chain
    phase: str = "lookup"
    page_ids: tuple[int, ...] = ()
    done: int = 0
    target: int = 0
    found: Tokens = ()
    is_scribbled: bool = False
    is_cancelled: bool = False
    is_given_up: bool = False
    lent_until_ns: int | None = None


@dataclass
class Spill:
    effect: fx.StartSpill
    content: Tokens
    is_forgotten: bool = False


@dataclass
class Asked:
    """A rank that was asked, and its answer."""

    key: PsiKey
    chain: Chain
    tokens: Tokens
    deadline_ns: int
    ticket_id: str | None
    answer: fx.RankOnPsi | fx.RankInFull | None = None


@dataclass
class Open:
    """A ticket that was accepted and has not ended, as its caller sees it."""

    key: PsiKey
    chain: Chain
    window_end_ns: int
    is_covered: bool
    """Its psi was seen complete: from now on it must be found (I1)."""


@dataclass
class World:
    """Machine, pages, DRAM and callers."""

    machine: Residency
    rest_tokens: int = 0
    values: dict[bytes, Tokens] = field(default_factory=dict)
    now_ns: int = 0
    pages: dict[int, list[bytes]] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    spills: dict[int, Spill] = field(default_factory=dict)
    dram: dict[PsiKey, tuple[Tokens, bytes]] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    ranks: dict[int, Asked] = field(default_factory=dict)
    decisions: dict[str, list[fx.Accept | fx.Decline]] = field(default_factory=dict)
    open: dict[str, Open] = field(default_factory=dict)
    forgotten: list[UserKey] = field(default_factory=list)
    keys: dict[PsiKey, None] = field(default_factory=dict)
    rank_ids: int = 0

    def history(self, name: str, tokens: int, variant: int) -> Chain:
        """A chain, and a note of what its tokens are."""
        made = chain(name, tokens, variant)
        self.values[made.digest] = token_values(name, tokens, variant)
        return made

    def pre_infer(self, ticket_id: str, key: PsiKey, asked: Chain, window_ns: int) -> None:
        decisions = self.decisions.setdefault(ticket_id, [])
        before = len(decisions)
        self.keys[key] = None
        window_end_ns = self.now_ns + window_ns
        self.feed(ev.PreInferAsked(ticket_id, key, asked, window_end_ns, f"trace-{ticket_id}"))
        assert len(decisions) == before + 1, "a pre-infer gets exactly one answer"
        if isinstance(decisions[-1], fx.Accept) and ticket_id not in self.open:
            is_covered = decisions[-1].how == fx.Acceptance.RESIDENT
            self.open[ticket_id] = Open(key, asked, window_end_ns, is_covered)

    def rank(self, key: PsiKey, asked: Chain, ticket_id: str | None, budget_ns: int, suffix_tokens: int) -> int:
        self.rank_ids += 1
        rank_id, deadline_ns = self.rank_ids, self.now_ns + budget_ns
        tokens = self.values[asked.digest]
        self.ranks[rank_id] = record = Asked(key, asked, tokens, deadline_ns, ticket_id)
        untracked = self.machine.snapshot().counters["ranks_untracked"]
        self.feed(ev.RankAsked(rank_id, key, asked, ticket_id, deadline_ns, suffix_tokens))
        known = self.open.get(ticket_id or "")
        if self.machine.snapshot().counters["ranks_untracked"] > untracked:
            record.ticket_id = None
        elif known is not None and known.is_covered and known.key == key and asked.shares(known.chain, len(tokens)):
            answer = record.answer
            assert isinstance(answer, fx.RankOnPsi), f"an open ticket's psi was lost: {answer}"
            missing = len(tokens) - answer.tokens
            assert 0 <= missing < max(1, self.rest_tokens) and answer.tier != fx.Tier.JOINED
        return rank_id

    def end_rank(self, rank_id: int, *, is_abandoned: bool) -> None:
        record = self.ranks.pop(rank_id)
        if is_abandoned or record.answer is None:
            self.feed(ev.RankAbandoned(rank_id))
            return
        self.open.pop(record.ticket_id or "", None)
        self.feed(ev.RankEnded(rank_id))

    def release(self, ticket_id: str) -> None:
        self.open.pop(ticket_id, None)
        self.feed(ev.TicketReleased(ticket_id))

    def forget(self, owner: UserKey) -> None:
        self.open = {ticket_id: known for ticket_id, known in self.open.items() if known.key.owner != owner}
        before = len(self.forgotten)
        for spill in self.spills.values():
            spill.is_forgotten = spill.is_forgotten or spill.effect.key.owner == owner
        self.feed(ev.UserForgotten(owner))
        assert self.forgotten[before:] == [owner]
        assert all(job.is_cancelled for job in self.jobs.values() if job.key.owner == owner)

    def attach_dram(self, is_attached: bool) -> None:
        if not is_attached:
            self.dram.clear()
        self.feed(ev.DramAttached(is_attached))

    def cover(self, key: PsiKey, complete: Tokens) -> None:
        """Psi of a key is complete so far: note the tickets it serves."""
        for known in self.open.values():
            wanted = self.values[known.chain.digest]
            if known.key == key and complete[: len(wanted)] == wanted:
                known.is_covered = True

    def feed(self, event: ev.Event) -> None:
        for effect in self.machine.handle(event, self.now_ns):
            self.perform(effect)
        self._check()

    def advance(self, by_ns: int) -> None:
        self.now_ns += by_ns
        self.open = {ticket_id: known for ticket_id, known in self.open.items() if known.window_end_ns > self.now_ns}
        deadline_ns = self.machine.deadline_ns()
        if deadline_ns is not None and deadline_ns <= self.now_ns:
            for effect in self.machine.expire(self.now_ns):
                self.perform(effect)
            self._check()
        deadline_ns = self.machine.deadline_ns()
        assert deadline_ns is None or deadline_ns > self.now_ns, "expire left work that is due"

    def read(self, page_ids: tuple[int, ...], tokens: int) -> Tokens:
        return tuple(self.pages[page_ids[i // PAGE_TOKENS]][i % PAGE_TOKENS] for i in range(tokens))

    def _write(self, page_ids: tuple[int, ...], first: int, values: Tokens) -> None:
        for i, value in enumerate(values, first):
            page = self.pages.setdefault(page_ids[i // PAGE_TOKENS], [b"never written"] * PAGE_TOKENS)
            page[i % PAGE_TOKENS] = value

    def _check(self) -> None:
        self.machine.check()
        self._check_leases()
        self._check_loans()

    def _check_loans(self) -> None:
        """A job has the earliest deadline of those who wait for it, and nothing of those who do not any more."""
        for job in self.jobs.values():
            waiting = [asked for asked in self.ranks.values() if asked.answer is None and asked.key == job.key]
            earliest_ns = min((asked.deadline_ns for asked in waiting), default=None)
            is_over = job.is_cancelled or job.phase.endswith("ended")
            assert is_over or job.lent_until_ns == earliest_ns

    def _check_leases(self) -> None:
        """I5: what a rank may read now is its own history, complete."""
        for asked in self.ranks.values():
            if isinstance(asked.answer, fx.RankOnPsi):
                read = self.read(asked.answer.page_ids, asked.answer.tokens)
                assert read == asked.tokens[: asked.answer.tokens], "a rank reads tokens that are not its own"

    def perform(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Accept(ticket_id) | fx.Decline(ticket_id):
                self.decisions.setdefault(ticket_id, []).append(effect)
            case fx.StartLookup(job_id, key, chain):
                assert job_id not in self.jobs
                assert all(job.key != key for job in self.jobs.values()), "two producers of one key"
                self.jobs[job_id] = Job(key, chain)
            case fx.AbandonLookup(job_id):
                self.pinned.remove(job_id)
            case fx.StartReload(job_id, page_ids, tokens):
                job = self.jobs[job_id]
                assert job.phase == "lookup ended" and tokens == len(job.found) and not job.is_cancelled
                assert not job.is_given_up, "what was given up is begun"
                self.pinned.remove(job_id)
                job.phase, job.page_ids, job.target = "reload", page_ids, tokens
            case fx.GiveUpReload(job_id):
                job = self.jobs[job_id]
                assert job.phase in ("lookup", "reload") and not job.is_given_up and not job.is_cancelled
                job.is_given_up = True
            case fx.StartCompute():
                self._start_compute(effect)
            case fx.CancelProduction(job_id):
                self.jobs[job_id].is_cancelled = True
            case fx.PromoteProduction(job_id, deadline_ns):
                assert job_id in self.jobs and not self.jobs[job_id].is_cancelled and deadline_ns > 0
                self.jobs[job_id].lent_until_ns = deadline_ns
            case fx.DemoteProduction(job_id):
                assert self.jobs[job_id].lent_until_ns is not None, "taken back, but nothing was lent"
                self.jobs[job_id].lent_until_ns = None
            case fx.RankOnPsi(rank_id) | fx.RankInFull(rank_id):
                assert self.ranks[rank_id].answer is None, "a rank was answered twice"
                self.ranks[rank_id].answer = effect
            case fx.StartSpill(entry_id, _, page_ids, tokens):
                assert entry_id not in self.spills
                self.spills[entry_id] = Spill(effect, self.read(page_ids, tokens))
            case fx.ForgetDram(owner):
                self.forgotten.append(owner)
                self.dram = {key: stored for key, stored in self.dram.items() if key.owner != owner}

    def _start_compute(self, effect: fx.StartCompute) -> None:
        others = [job for job_id, job in self.jobs.items() if job_id != effect.job_id]
        assert all(job.key != effect.key for job in others), "two producers of one key"
        writing = {page for job in others for page in job.page_ids[job.done // PAGE_TOKENS :]}
        assert not writing & set(effect.page_ids), "two jobs may write one page"
        assert effect.chain.token_count >= effect.to_tokens > effect.from_tokens
        job = self.jobs.setdefault(effect.job_id, Job(effect.key, effect.chain))
        job.phase, job.chain, job.page_ids = "compute", effect.chain, effect.page_ids
        job.done, job.target, job.is_scribbled = effect.from_tokens, effect.to_tokens, False
        job.lent_until_ns = None

    def step_job(self, job_id: int, *, is_failing: bool, chunk_tokens: int) -> None:
        """Let a job get on by one step; a cancelled one may still take a few."""
        job = self.jobs[job_id]
        match job.phase:
            case "lookup":
                self._end_lookup(job_id, job, is_failing=is_failing)
            case "reload":
                self._end_reload(job_id, job, is_failing=is_failing)
            case "compute" if is_failing:
                del self.jobs[job_id]
                self.feed(ev.ProductionFailed(job_id, "cancelled" if job.is_cancelled else "device"))
            case "compute":
                self._compute_step(job_id, job, chunk_tokens)
            case phase:
                raise AssertionError(f"a job was left in {phase}")

    def _end_lookup(self, job_id: int, job: Job, *, is_failing: bool) -> None:
        tokens, digest = (), b""
        if is_failing:
            del self.jobs[job_id]
            self.feed(ev.ProductionFailed(job_id, "no answer"))
        else:
            tokens, digest = self.dram.get(job.key, ((), b""))
            job.found, job.phase = tokens, "lookup ended"
            if tokens:
                self.pinned.add(job_id)
            if job.is_cancelled:
                del self.jobs[job_id]
            self.feed(ev.LookupEnded(job_id, len(tokens), digest))
        assert job_id not in self.pinned, "a lookup's pin was kept"

    def _end_reload(self, job_id: int, job: Job, *, is_failing: bool) -> None:
        if not is_failing:
            self._write(job.page_ids, 0, job.found)
            self.cover(job.key, job.found)
        job.phase = "reload ended"
        is_last = is_failing or job.is_cancelled
        if is_last:
            del self.jobs[job_id]
        is_gone = is_failing and job_id % 2  # Either report is right.
        self.feed(ev.ProductionFailed(job_id, "expander gone") if is_gone else ev.ReloadEnded(job_id, not is_failing))
        if not is_last and job.phase == "reload ended":
            del self.jobs[job_id]

    def _compute_step(self, job_id: int, job: Job, chunk_tokens: int) -> None:
        end = min(job.done + chunk_tokens, job.target)
        if not job.is_scribbled:
            self._write(job.page_ids, job.done, (b"torn",) * (end - job.done))
            job.is_scribbled = True
            self._check_leases()
            return
        self._write(job.page_ids, job.done, self.values[job.chain.digest][job.done : end])
        job.done, job.is_scribbled = end, False
        if end == job.target:
            del self.jobs[job_id]
        self.cover(job.key, self.values[job.chain.digest][:end])
        self.feed(ev.ChunkEnded(job_id, end))

    def end_spill(self, entry_id: int, *, is_stored: bool) -> None:
        """A copy ends: what was read over its whole length must have been stable."""
        spill = self.spills.pop(entry_id)
        effect = spill.effect
        assert self.read(effect.page_ids, effect.tokens) == spill.content, "pages changed while they were copied"
        stored = (spill.content, effect.digest)
        if is_stored:
            self.dram[effect.key] = stored
        self.feed(ev.SpillEnded(entry_id, is_stored))
        assert not spill.is_forgotten or self.dram.get(effect.key) is not stored, "a forgotten user came back to DRAM"

    def store_in_dram(self, key: PsiKey, content: Chain) -> None:
        self.dram[key] = (self.values[content.digest], content.digest)

    def let_everything_end(self) -> None:
        """Close windows, end ranks, finish jobs and copies: then nothing is held and nobody waits (I6, I7)."""
        self.now_ns = max([self.now_ns, *(asked.deadline_ns for asked in self.ranks.values())])
        self.advance(10_000_000)
        assert all(asked.answer is not None for asked in self.ranks.values()), "a rank was never answered"
        for rank_id in list(self.ranks):
            self.end_rank(rank_id, is_abandoned=False)
        while self.jobs or self.spills:
            for job_id in list(self.jobs):
                self.step_job(job_id, is_failing=False, chunk_tokens=256)
            for entry_id in list(self.spills):
                self.end_spill(entry_id, is_stored=True)
        occupancy = self.machine.snapshot()
        assert (occupancy.open_tickets, occupancy.reserved_pages) == (0, 0)
        assert self.machine.deadline_ns() is None
        assert not self.pinned
        for owner in {key.owner: None for key in self.keys}:
            self.forget(owner)
        assert self.machine.snapshot().used_pages == 0, "pages leaked"
