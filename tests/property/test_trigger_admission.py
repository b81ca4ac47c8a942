"""For any sequence of arrivals: both bounds hold, windows free exactly, and no oscillation."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from relaygr.domain.cost import CostModel
from services.trigger.core.admission import Admission, AdmissionRules
from services.trigger.core.effects import Admit, Decline, EndReservation, PassBy
from services.trigger.core.events import Arrived, Demand, InstanceView, Outcome, PreInferAnswered, TicketsEnded

MS = 1_000_000
SHARE = 0.5
BURST_NS = 200 * MS
BUDGET_BYTES = 20_000_000
COST = CostModel(
    fixed_ns=100_000.0,
    token_ns=10_000.0,
    pair_ns=1.0,
    reload_fixed_ns=0.0,
    reload_byte_ns=0.0,
    relative_error=0.1,
    token_bytes=1_000,
    candidates_typical=100,
)
RULES = AdmissionRules(
    slo_quantile=0.99,
    footprint_share=SHARE,
    pre_infer_share=SHARE,
    load_burst_ns=BURST_NS,
    tickets_max=12,
    unanswered_max=8,
    accounts_max=3,
    window_ns_max=5_000 * MS,
    account_idle_ns=6_000 * MS,
)

demands = st.builds(
    Demand,
    prefix_tokens=st.integers(1, 6_000),
    delta_tokens=st.integers(0, 50),
    candidate_count=st.integers(1, 500),
    rank_budget_ns=st.integers(1 * MS, 100 * MS),
    time_to_rank_ns=st.integers(0, 200 * MS),
    window_ns=st.integers(1, 5_000 * MS),
)
instances = st.builds(
    InstanceView,
    instance_id=st.sampled_from(["a", "b", "c"]),
    epoch=st.integers(1, 2),
    cost=st.just(COST),
    device_budget_bytes=st.just(BUDGET_BYTES),
    backlog_ns=st.integers(0, 100 * MS),
    rank_rate_hz=st.floats(0, 500),
    trigger_count=st.integers(1, 3),
)


class Arrivals(RuleBasedStateMachine):
    """A shadow ledger beside the machine: what is open, what was charged, what was told."""

    @initialize()
    def start(self):
        self.machine = Admission(RULES)
        self.now_ns = 0
        self.count = 0
        self.open = {}  # ticket id -> (account, bytes, end)
        self.unanswered = []
        self.charges = []  # (time, account, device ns), refunds negative
        self.charged = {}
        self.ended = set()
        self.named = set()

    def _feed(self, event):
        effects = self.machine.handle(event, self.now_ns)
        return self._settle(effects)

    def _settle(self, effects):
        rest = []
        for effect in effects:
            if not isinstance(effect, EndReservation):
                rest.append(effect)
                continue
            assert effect.ticket_id not in self.ended, "a reservation ends once"
            self.ended.add(effect.ticket_id)
            _, psi_bytes, end_ns = self.open.pop(effect.ticket_id)
            assert effect.psi_bytes == psi_bytes
            assert end_ns <= self.now_ns or effect.ticket_id in self.named, "and not before its window, unless told"
        return rest

    @rule(demand=demands, instance=instances)
    def arrive(self, demand, instance):
        self.count += 1
        ticket_id = f"t{self.count}"
        (effect,) = self._feed(Arrived(ticket_id, demand, instance))
        assert effect.ticket_id == ticket_id
        if isinstance(effect, Admit):
            account = (instance.instance_id, instance.epoch)
            psi_bytes, device_ns = effect.assessment.psi_bytes, effect.assessment.expected.pre_infer_ns
            self.open[ticket_id] = (account, psi_bytes, self.now_ns + demand.window_ns)
            held = sum(size for owner, size, _ in self.open.values() if owner == account)
            assert held <= BUDGET_BYTES * SHARE / instance.trigger_count
            self.unanswered.append(ticket_id)
            self.charges.append((self.now_ns, account, device_ns))
            self.charged[ticket_id] = (account, device_ns)
        else:
            assert isinstance(effect, Decline | PassBy)
            assert effect.assessment.is_at_risk == isinstance(effect, Decline)

    @rule(data=st.data(), outcome=st.sampled_from(Outcome))
    def answer(self, data, outcome):
        if not self.unanswered:
            return
        ticket_id = self.unanswered.pop(data.draw(st.integers(0, len(self.unanswered) - 1)))
        account, charged_ns = self.charged[ticket_id]
        production_ns = data.draw(st.none() | st.integers(0, 2 * charged_ns))
        assert self._feed(PreInferAnswered(ticket_id, outcome, production_ns)) == []
        if outcome in (Outcome.RESIDENT, Outcome.JOINED, Outcome.DECLINED):
            self.charges.append((self.now_ns, account, -charged_ns))
        elif outcome is Outcome.STARTED and production_ns is not None:
            self.charges.append((self.now_ns, account, min(0, production_ns - charged_ns)))

    @rule(data=st.data())
    def end(self, data):
        known = [*self.open, *self.ended, "nobody's"]
        self.named = set(data.draw(st.lists(st.sampled_from(known), max_size=4)))
        due = self.named & self.open.keys()
        assert self._feed(TicketsEnded(tuple(self.named))) == []
        assert not due & self.open.keys(), "what has ended is not counted"

    @rule(step_ns=st.integers(0, 400 * MS))
    def pass_time(self, step_ns):
        self.now_ns += step_ns

    @rule()
    def run_the_timer(self):
        if (deadline_ns := self.machine.deadline_ns()) is not None:
            self.now_ns = max(self.now_ns, deadline_ns)
            before = len(self.open)
            assert self._settle(self.machine.expire(self.now_ns)) == []
            assert len(self.open) < before, "a due timer does something"

    @invariant()
    def books_balance(self):
        self.machine.check()
        held = self.machine.holdings
        assert held.open_tickets == len(self.open)
        assert held.open_bytes == sum(size for _, size, _ in self.open.values())
        assert held.unanswered == len(self.unanswered)
        ends = [end_ns for _, _, end_ns in self.open.values()]
        assert self.machine.deadline_ns() == (min(ends) if ends else None)

    @invariant()
    def load_bound_holds_over_every_span(self):
        now_ns = self.now_ns
        for first, (since_ns, account, _) in enumerate(self.charges):
            span = [charge for _, owner, charge in self.charges[first:] if owner == account]
            # Refunds of earlier charges give back room as well.
            spent_ns = sum(charge for charge in span if charge > 0)
            room_ns = SHARE * (now_ns - since_ns) - sum(charge for charge in span if charge < 0)
            room_ns += max(BURST_NS * SHARE, *(charge for charge in span if charge > 0), 0) + len(span)
            assert spent_ns <= room_ns

    def teardown(self):
        if not hasattr(self, "machine"):
            return
        self.now_ns += RULES.window_ns_max
        self._settle(self.machine.expire(self.now_ns))
        assert not self.open, "every window frees what it held"
        assert self.machine.holdings.open_bytes == 0


TestArrivals = Arrivals.TestCase
TestArrivals.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    history=st.lists(demands, min_size=1, max_size=40),
    probe=demands,
    rate_hz=st.floats(0, 500),
    busy_ns=st.integers(0, 1_000 * MS),
)
@settings(max_examples=60, deadline=None)
def test_emptying_the_queues_does_not_change_the_risk_decision(history, probe, rate_hz, busy_ns):
    """A relay that works empties the real queues; the same request is judged as before."""

    def judge(backlog_ns):
        machine = Admission(RULES)
        instance = InstanceView("a", 1, COST, BUDGET_BYTES, backlog_ns, rate_hz, 1)
        for number, demand in enumerate(history):
            machine.handle(Arrived(f"h{number}", demand, instance), number * MS)
        return machine.handle(Arrived("probe", probe, instance), len(history) * MS)[-1].assessment

    assert judge(busy_ns) == judge(0)


@given(history=st.lists(demands, min_size=1, max_size=40), probe=demands, rate_hz=st.floats(0, 500))
@settings(max_examples=60, deadline=None)
def test_admitting_others_does_not_change_the_risk_decision(history, probe, rate_hz):
    """Whether earlier requests were admitted or refused, they count as if they ran in full."""

    def judge(budget_bytes):
        machine = Admission(RULES)
        instance = InstanceView("a", 1, COST, budget_bytes, 0, rate_hz, 1)
        for number, demand in enumerate(history):
            machine.handle(Arrived(f"h{number}", demand, instance), number * MS)
        return machine.handle(Arrived("probe", probe, instance), len(history) * MS)[-1].assessment

    assert judge(BUDGET_BYTES) == judge(0)
