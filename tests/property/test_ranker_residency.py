"""Random callers, a late and failing engine, and what must hold whatever they do.

The oracle knows every token of every history and what was really written to each page, so
a rank that is pointed at one token that is not its own is seen at once (I5); and it knows
which open tickets' psi was complete, so that a lost one is seen too (I1).
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from services.ranker.core import events as ev
from services.ranker.core.residency import RELOAD_WORTH_NS
from tests.property.ranker_world import World
from tests.unit.ranker_core.histories import key, residency, user

USERS = ("ann", "bob")
LENGTHS = (1, 60, 128, 129, 200, 300, 400)

users = st.sampled_from(USERS)
lengths = st.sampled_from(LENGTHS)
variants = st.sampled_from((0, 0, 0, 0, 1, 2, 3))
anchors = st.sampled_from((0, 0, 0, 128))
picks = st.integers(0, 1 << 16)
rarely = st.sampled_from((False, False, False, True))
budgets_ns = st.sampled_from((500, 15_000, 30_000, 60_000, 400_000))
windows_ns = st.sampled_from((3_000, 200_000, 2_000_000))
suffixes = st.integers(1, 50)


class Relays(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tickets = 0

    @initialize(
        pages_total=st.integers(3, 9),
        entries_max=st.integers(2, 5),
        tickets_max=st.integers(2, 6),
        ranks_max=st.integers(3, 8),
        spills_max=st.integers(1, 2),
        rest_tokens=st.sampled_from((0, 2, 80)),
        reload_worth_ns=st.sampled_from((0, 2_000, RELOAD_WORTH_NS)),
        is_attached=st.booleans(),
    )
    def begin(
        self, pages_total, entries_max, tickets_max, ranks_max, spills_max, rest_tokens, reload_worth_ns, is_attached
    ):
        self.world = World(
            residency(
                pages_total=pages_total,
                entries_max=entries_max,
                tickets_max=tickets_max,
                ranks_max=ranks_max,
                spills_max=spills_max,
                tombstone_ns=10_000,
                rest_tokens=rest_tokens,
                reload_worth_ns=reload_worth_ns,
            ),
            rest_tokens,
        )
        if is_attached:
            self.world.attach_dram(True)

    @rule(name=users, tokens=lengths, variant=variants, anchor=anchors, window_ns=windows_ns)
    def pre_infer(self, name, tokens, variant, anchor, window_ns):
        self.tickets += 1
        asked = self.world.history(name, tokens, variant)
        self.world.pre_infer(f"t{self.tickets}", key(name, anchor), asked, window_ns)

    @rule(back=st.integers(0, 3), name=users, tokens=lengths, window_ns=windows_ns)
    def pre_infer_again(self, back, name, tokens, window_ns):
        ticket_id = f"t{self.tickets - back}"
        self.world.pre_infer(ticket_id, key(name), self.world.history(name, tokens, 0), window_ns)

    @rule(name=users, tokens=lengths, variant=variants, anchor=anchors, budget_ns=budgets_ns, suffix=suffixes)
    def rank_without_ticket(self, name, tokens, variant, anchor, budget_ns, suffix):
        self.world.rank(key(name, anchor), self.world.history(name, tokens, variant), None, budget_ns, suffix)

    @rule(back=st.integers(-1, 4), name=users, tokens=lengths, variant=variants, budget_ns=budgets_ns, suffix=suffixes)
    def rank_with_any_ticket(self, back, name, tokens, variant, budget_ns, suffix):
        asked = self.world.history(name, tokens, variant)
        self.world.rank(key(name), asked, f"t{self.tickets - back}", budget_ns, suffix)

    @precondition(lambda self: self.world.open)
    @rule(pick=picks, budget_ns=budgets_ns, suffix=suffixes)
    def rank_with_ticket(self, pick, budget_ns, suffix):
        ticket_id = list(self.world.open)[pick % len(self.world.open)]
        known = self.world.open[ticket_id]
        self.world.rank(known.key, known.chain, ticket_id, budget_ns, suffix)

    @precondition(lambda self: self.world.ranks)
    @rule(pick=picks, is_abandoned=rarely)
    def end_rank(self, pick, is_abandoned):
        self.world.end_rank(list(self.world.ranks)[pick % len(self.world.ranks)], is_abandoned=is_abandoned)

    @precondition(lambda self: self.world.jobs)
    @rule(pick=picks, is_failing=rarely, chunk_tokens=st.sampled_from((64, 128, 256)))
    def step_job(self, pick, is_failing, chunk_tokens):
        job_id = list(self.world.jobs)[pick % len(self.world.jobs)]
        self.world.step_job(job_id, is_failing=is_failing, chunk_tokens=chunk_tokens)

    @precondition(lambda self: self.world.jobs)
    @rule(pick=picks)
    def finish_job(self, pick):
        job_id = list(self.world.jobs)[pick % len(self.world.jobs)]
        while job_id in self.world.jobs:
            self.world.step_job(job_id, is_failing=False, chunk_tokens=256)

    @precondition(lambda self: self.world.spills)
    @rule(pick=picks, is_stored=st.booleans())
    def end_spill(self, pick, is_stored):
        entry_id = list(self.world.spills)[pick % len(self.world.spills)]
        self.world.end_spill(entry_id, is_stored=is_stored)

    @precondition(lambda self: self.world.open)
    @rule(pick=picks)
    def release(self, pick):
        self.world.release(list(self.world.open)[pick % len(self.world.open)])

    @rule(ahead=st.integers(1, 2))
    def release_before_pre_infer(self, ahead):
        self.world.release(f"t{self.tickets + ahead}")

    @rule(name=users, is_meant=rarely)
    def forget(self, name, is_meant):
        if is_meant:
            self.world.forget(user(name))

    @rule(is_draining=rarely)
    def drain(self, is_draining):
        self.world.feed(ev.DrainSet(is_draining))

    @rule(is_lost=rarely)
    def dram(self, is_lost):
        self.world.attach_dram(not is_lost)

    @rule(name=users, tokens=lengths, variant=variants)
    def store_elsewhere(self, name, tokens, variant):
        """Another instance of the host left psi in DRAM."""
        self.world.store_in_dram(key(name), self.world.history(name, tokens, variant))

    @rule(by_ns=st.sampled_from((500, 3_000, 20_000)))
    def advance(self, by_ns):
        self.world.advance(by_ns)

    def teardown(self):
        """I6, I7: let everything end; nobody waits any more and nothing is held."""
        if hasattr(self, "world"):
            self.world.let_everything_end()


TestRelays = Relays.TestCase
TestRelays.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
