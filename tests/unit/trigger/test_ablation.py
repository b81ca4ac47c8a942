"""A trigger without its tests and bounds."""

from bench.load.ablations.trigger import AdmitEverything
from services.trigger.core.effects import Admit, Decline, DeclineReason
from services.trigger.core.events import Arrived
from tests.unit.trigger.test_admission import MS, Bench


class Open(Bench):
    def __init__(self, values, **rules):
        super().__init__(values)
        self.machine = AdmitEverything(values.with_rules(**rules))


def test_what_is_not_at_risk_hopeless_or_over_a_bound_is_admitted(values):
    bench = Open(values)
    unwanted = (
        {"demand": values.with_demand(rank_budget_ns=1_000 * MS)},
        {"demand": values.with_demand(prefix_tokens=1)},
        {"demand": values.with_demand(candidate_count=100_000)},
        {"backlog_ns": 1_000 * MS},
        {"device_budget_bytes": 1},
    )
    assert [type(Bench(values).arrive(**one)) for one in unwanted].count(Admit) == 0
    assert [type(bench.arrive(**one)) for one in unwanted] == [Admit] * len(unwanted)
    # More pre-infers at once than a device does in a minute.
    assert {type(bench.arrive()) for _ in range(90)} == {Admit}


def test_its_predictions_are_the_triggers_own(values):
    event = Arrived("t", values.demand, values.instance)
    [admitted], [own] = AdmitEverything(values.rules).handle(event, 0), Bench(values).machine.handle(event, 0)
    for name in ("full_ns", "rank_on_psi_ns", "pre_infer_ns", "queue_ns", "rank_budget_ns", "psi_bytes"):
        assert getattr(admitted.assessment, name) == getattr(own.assessment, name)


def test_its_tables_are_still_bounded(values):
    bench = Open(values, tickets_max=3)
    assert [type(bench.arrive()) for _ in range(3)] == [Admit] * 3
    assert bench.arrive() == Decline("t4", DeclineReason.TABLE_FULL, bench.arrive().assessment)
