"""Everything that can happen to a host with both tiers, as a state machine."""

from __future__ import annotations

import sys
from collections import Counter

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relaygr.domain.identity import PsiKey
from services.ranker.core import events as ev
from tests.property.tiers_histories import ANCHORS, LENGTHS, OWNERS, history, variant_of
from tests.property.tiers_ranker import Ranker, Sizes
from tests.property.tiers_world import GHOSTS_MAX, NAMES, STEPS_MAX, World

names = st.sampled_from(NAMES)
owners = st.sampled_from(OWNERS)
lengths = st.sampled_from(LENGTHS)
variants = st.sampled_from((0, 0, 0, 0, 1, 2, 3))
anchors = st.sampled_from((*[ANCHORS[0]] * 2, *ANCHORS))
model_keys = st.sampled_from(("m1", "m1", "m1", "m2"))
windows_ns = st.sampled_from((3_000, 60_000, 250_000))
budgets_ns = st.sampled_from((500, 15_000, 30_000, 60_000, 250_000))
spans_ns = st.sampled_from((500, 3_000, 10_000, 25_000, 70_000))
stalls_ns = st.sampled_from((10_000, 45_000, 70_000, 70_000))
suffixes = st.integers(1, 50)
picks = st.integers(0, 1 << 16)
rarely = st.sampled_from((False, False, False, True))
mostly = st.sampled_from((True, True, True, False))
begun = st.sampled_from((1, 3, 4, 5, STEPS_MAX))
step_counts = st.sampled_from((1, 2, 3, 5, 8, STEPS_MAX))
sizes = st.builds(
    Sizes,
    pages_total=st.integers(5, 9),
    entries_max=st.integers(2, 5),
    tickets_max=st.integers(2, 6),
    ranks_max=st.integers(3, 8),
    spills_max=st.integers(1, 2),
    rest_tokens=st.sampled_from((0, 0, 2, 80)),
    reload_worth_ns=st.sampled_from((0, 20_000, 10_000_000)),
    chunk_tokens=st.sampled_from((64, 128, 256)),
)

MISHAPS = ("crash", "crash", "stop", "stop", "end expander", "kill expander")

STEPS: Counter[str] = Counter()
"""Rules that ran in this process, and worlds that came to their end."""


class Tiers(RuleBasedStateMachine):
    """Two rankers, one expander, their callers, and whatever befalls them."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None

    @initialize(sizes=sizes, model_keys=st.tuples(st.just("m1"), model_keys))
    def begin(self, sizes, model_keys):
        self.world = World(sizes, model_keys)

    def running(self, pick: int) -> Ranker | None:
        running = self.world.running
        return running[pick % len(running)] if running else None

    def key(self, ranker: Ranker, owner, anchor: int) -> PsiKey:
        return PsiKey(owner, ranker.model_key, anchor)

    # Callers

    @rule(
        pick=picks,
        back=st.sampled_from((None, None, None, 0, 1, 3)),
        owner=owners,
        tokens=lengths,
        variant=variants,
        anchor=anchors,
        window_ns=windows_ns,
    )
    def pre_infer(self, pick, back, owner, tokens, variant, anchor, window_ns):
        """With a new ticket, or with one that may have been used."""
        ranker = self.running(pick)
        ticket_id = self.world.next_ticket() if back is None else f"t{self.world.tickets - back}"
        if ranker is not None:
            ranker.callers.pre_infer(ticket_id, self.key(ranker, owner, anchor), history(tokens, variant), window_ns)

    @rule(pick=picks, owner=owners, tokens=lengths, variant=variants, anchor=anchors, copy_steps=begun)
    def relay(self, pick, owner, tokens, variant, anchor, copy_steps):
        ranker = self.running(pick)
        if ranker is not None and len(ranker.callers.ranks) < self.world.rankers[ranker.name].sizes.ranks_max:
            self.world.relay(ranker, owner, anchor, tokens, variant, copy_steps=copy_steps)

    @precondition(lambda self: self.world.expander is not None and self.world.expander.published())
    @rule(pick=picks, by=picks, more=st.integers(0, 2), window_ns=windows_ns, steps=begun)
    def return_of_one_in_dram(self, pick, by, more, window_ns, steps):
        """A pre-infer of what the DRAM tier has, or of what it has and more; rather where the device has it not."""
        expander = self.world.expander
        bad = [entry for entry in expander.published() if entry.generation in expander.corrupted]
        found = bad or expander.published()
        entry = found[pick % len(found)]
        able = [ranker for ranker in self.world.running if ranker.model_key == entry.key.model_key]
        able = [ranker for ranker in able if not ranker.has(entry.key)] or able
        if able:
            longer = [tokens for tokens in LENGTHS if tokens >= entry.content.tokens]
            asked = history(longer[more % len(longer)], variant_of(entry.content.chain_digest))
            ranker = able[by % len(able)]
            ranker.callers.pre_infer(self.world.next_ticket(), entry.key, asked, window_ns)
            self.world.tick(ranker, steps)

    @rule(
        pick=picks,
        back=st.integers(-1, 6),
        owner=owners,
        tokens=lengths,
        variant=variants,
        budget_ns=budgets_ns,
        suffix=suffixes,
    )
    def rank_with_any_ticket(self, pick, back, owner, tokens, variant, budget_ns, suffix):
        ranker = self.running(pick)
        if ranker is not None:
            ticket_id = None if back > 4 else f"t{self.world.tickets - back}"
            key, asked = self.key(ranker, owner, 0), history(tokens, variant)
            ranker.callers.rank(key, asked, ticket_id, budget_ns, suffix)

    @precondition(lambda self: any(ranker.callers.open for ranker in self.world.running))
    @rule(pick=picks, budget_ns=budgets_ns, suffix=suffixes)
    def rank_with_ticket(self, pick, budget_ns, suffix):
        found = [(ranker, ticket) for ranker in self.world.running for ticket in ranker.callers.open.items()]
        ranker, (ticket_id, known) = found[pick % len(found)]
        ranker.callers.rank(known.key, known.chain, ticket_id, budget_ns, suffix)

    @precondition(lambda self: any(ranker.callers.ranks for ranker in self.world.running))
    @rule(pick=picks, count=st.sampled_from((1, 1, 3)), how=st.sampled_from(("end", "end", "hang up", "abandon")))
    def end_ranks(self, pick, count, how):
        found = [(ranker, rank_id) for ranker in self.world.running for rank_id in ranker.callers.ranks]
        first = pick % len(found)
        for ranker, rank_id in found[first : first + count]:
            match how:
                case "end":
                    ranker.callers.end_rank(rank_id)
                case "abandon":
                    ranker.callers.abandon_rank(rank_id)
                case _:
                    ranker.callers.hang_up(rank_id)

    @precondition(lambda self: any(ranker.callers.open for ranker in self.world.running))
    @rule(pick=picks)
    def release(self, pick):
        found = [(ranker, ticket_id) for ranker in self.world.running for ticket_id in ranker.callers.open]
        ranker, ticket_id = found[pick % len(found)]
        ranker.callers.release(ticket_id)

    # Work

    @precondition(lambda self: any(self.world.work_of(ranker) for ranker in self.world.running))
    @rule(pick=picks, count=step_counts)
    def work(self, pick, count):
        found = [(ranker, steps) for ranker in self.world.running for steps in self.world.work_of(ranker)]
        ranker, steps = found[pick % len(found)]
        self.world.advance(ranker, steps, count)

    @precondition(lambda self: any(self.world.work_of(ranker) for ranker in self.world.running))
    @rule(count=step_counts)
    def tick(self, count):
        for ranker in self.world.running:
            self.world.tick(ranker, count)

    @precondition(lambda self: any(ranker.spills for ranker in self.world.running))
    @rule(pick=picks, count=step_counts)
    def spill(self, pick, count):
        found = [(ranker, spill) for ranker in self.world.running for spill in ranker.spills.values()]
        ranker, spill = found[pick % len(found)]
        self.world.advance(ranker, spill.steps, count)

    @precondition(lambda self: any(job.phase == "compute" for r in self.world.running for job in r.jobs.values()))
    @rule(pick=picks)
    def fail_compute(self, pick):
        running = self.world.running
        found = [(r, job_id) for r in running for job_id, job in r.jobs.items() if job.phase == "compute"]
        ranker, job_id = found[pick % len(found)]
        ranker.fail(job_id)

    @precondition(lambda self: self.world.ghosts)
    @rule(pick=picks, count=step_counts, is_killed=rarely)
    def ghost_wakes_up(self, pick, count, is_killed):
        """A replaced process goes on with its copies, and knows of nothing, for a while."""
        ghost = self.world.ghosts[pick % len(self.world.ghosts)]
        for copy in ghost.dram.copies:
            for _ in range(count):
                copy.step()
        if is_killed:
            self.world.kill_ghost(ghost)

    # Time, processes, memory

    @rule(
        by_ns=st.sampled_from((500, 3_000, 10_000, 25_000, 70_000)),
        is_beating=mostly,
    )
    def pass_time(self, by_ns, is_beating):
        self.world.pass_time(by_ns, is_beating=is_beating)

    @rule(what=st.sampled_from(("deliver", "sweep", "beat", "drain", "fill", "release", "lose a call")), pick=picks)
    def chore(self, what, pick):
        """Small things."""
        world, ranker = self.world, self.running(pick)
        match what:
            case "deliver":
                world.deliver()
            case "sweep":
                world.sweep()
            case "lose a call":
                world.fate = ("request lost", "reply lost")[pick // 2 % 2]
            case _ if ranker is None:
                pass
            case "beat":
                ranker.dram.beat()
            case "drain" | "fill":
                ranker.feed(ev.DrainSet(what == "drain" and pick % 4 == 0))
            case "release":
                ranker.callers.release(f"t{world.tickets + 1 + pick // 2 % 2}")

    @precondition(lambda self: self.world.running)
    @rule(pick=picks, owner=owners, is_busy=mostly, is_meant=st.booleans())
    def forget(self, pick, owner, is_busy, is_meant):
        """Rather somebody whose psi is being copied or made."""
        first, running = self.running(pick), self.world.running
        busy = [spill.key.owner for ranker in running for spill in ranker.spills.values()]
        busy = busy or [job.key.owner for ranker in running for job in ranker.jobs.values()]
        if is_meant:
            self.world.forget(busy[pick % len(busy)] if busy and is_busy else owner, first)

    @rule(what=st.sampled_from(MISHAPS), name=names, model_key=model_keys, is_meant=st.booleans())
    def mishap(self, what, name, model_key, is_meant):
        """What ends much at once; rather in the middle of a copy."""
        world = self.world
        name = next((ranker.name for ranker in world.running if ranker.dram.copies), name)
        match what if is_meant else "":
            case "crash":
                world.crash_ranker(name, model_key)
            case "stop":
                world.stop_ranker(name)
            case "end expander" | "kill expander" if world.expander is not None:
                world.end_expander(is_killed=what == "kill expander")

    @precondition(lambda self: any(ranker.dram.copies for ranker in self.world.running))
    @rule(pick=picks, by_ns=stalls_ns, tokens=st.sampled_from(LENGTHS[-3:]))
    def stall(self, pick, by_ns, tokens):
        """In the middle of a copy."""
        found = [ranker.name for ranker in self.world.running if ranker.dram.copies]
        self.world.stall(found[pick % len(found)], by_ns, tokens)

    @precondition(lambda self: self.world.running)
    @rule(pick=picks, tokens=lengths, is_meant=rarely)
    def crowd(self, pick, tokens, is_meant):
        if is_meant:
            self.world.crowd(self.running(pick), tokens)

    @precondition(lambda self: len(self.world.running) < len(NAMES))
    @rule(pick=picks, model_key=model_keys, is_replaced=st.booleans())
    def resume_or_replace_ranker(self, pick, model_key, is_replaced):
        stopped = [name for name, ranker in self.world.rankers.items() if ranker.is_stopped]
        name = stopped[pick % len(stopped)]
        if is_replaced and len(self.world.ghosts) < GHOSTS_MAX:
            self.world.replace_ranker(name, model_key)
        else:
            self.world.resume_ranker(name)

    @precondition(lambda self: self.world.expander is None)
    @rule()
    def start_expander(self):
        self.world.start_expander()

    @precondition(lambda self: self.world.expander is not None and self.world.expander.published())
    @rule(pick=picks, position=picks, is_stamp=st.booleans(), is_meant=st.booleans())
    def corrupt(self, pick, position, is_stamp, is_meant):
        found = self.world.expander.published()
        if is_meant:
            self.world.expander.corrupt(found[pick % len(found)], position, is_stamp=is_stamp)

    @invariant()
    def holds(self):
        if self.world is not None:
            STEPS["steps"] += 1
            self.world.check()

    def teardown(self):
        if self.world is None:
            return
        try:
            if sys.exc_info()[0] is None:
                self.world.let_everything_end()
                STEPS["worlds"] += 1
        finally:
            self.world.close()


IS_LONG = settings.get_current_profile_name() == "tiers-exact"
RUN = settings(
    max_examples=5 * settings.default.max_examples // 2,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""Of one run; a profile with more examples makes it longer."""
SEARCH = settings(
    RUN, database=None, derandomize=True, print_blob=False, report_multiple_bugs=False, phases=(Phase.generate,)
)
"""For a bug that is known to be there."""
