import numpy as np
import pytest

from demo.budget import RANK_BUDGET_LEAST_NS, psi_bytes, rank_budget_ns
from demo.outcome import Outcome, quantile, totals
from demo.plan import Traffic, plan
from demo.report import broken, promises
from relaygr.behaviours.build import build_store
from relaygr.behaviours.store import FileStore
from relaygr.domain.cost import CostModel
from relaygr.domain.identity import UserKey
from trainer.requests import ReplayRequest

PER_USER = 60
STEP_S = 100


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    rows = [f"{user},{n + 1},{1_600_000_000 + n * STEP_S}" for user in range(5) for n in range(PER_USER)]
    (folder / "log.csv").write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    build_store(folder / "log.csv", folder / "store")
    return FileStore(folder / "store")


def asked_of(count: int) -> list[ReplayRequest]:
    return [
        ReplayRequest(
            user=str(n % 5),
            time_s=1_600_000_000 + (20 + n) * STEP_S,
            history_count=20 + n,
            positives=(1,),
            actions=(1,),
            candidates=tuple(range(1, 33)),
        )
        for n in range(count)
    ]


def test_the_same_seed_plans_the_same_replay(store):
    first, second = (plan(asked_of(30), store, Traffic(requests=20, rate_hz=10, seed=3)) for _ in range(2))
    assert first == second
    assert first != plan(asked_of(30), store, Traffic(requests=20, rate_hz=10, seed=4))


def test_the_longest_histories_are_replayed_each_users_in_order(store):
    planned = plan(asked_of(30), store, Traffic(requests=20, rate_hz=10, seed=3))
    assert min(request.asked.history_count for request in planned) == 30
    for user in range(5):
        counts = [request.asked.history_count for request in planned if request.asked.user == str(user)]
        assert counts == sorted(counts) and len(counts) == 4


def test_arrivals_are_in_order_at_about_the_rate(store):
    planned = plan(asked_of(40), store, Traffic(requests=40, rate_hz=20, seed=1))
    times = [request.arrives_s for request in planned]
    assert times == sorted(times) and 1.0 < times[-1] < 4.0
    assert all(0.0 < request.ranks_s - request.arrives_s <= 0.18 for request in planned)


def test_what_is_known_on_arrival_is_what_the_store_says_at_that_second(store):
    planned = plan(asked_of(30), store, Traffic(requests=20, rate_hz=10, seed=3))
    for request in planned:
        key = UserKey(store.meta.tenant, request.asked.user)
        assert store.head(key, request.arrive_as_of_s).log_count == request.arrive_count
        assert store.head(key, request.asked.time_s).log_count == request.asked.history_count
    assert {request.delta_count for request in planned} == {3}


def test_more_requests_than_the_log_gives_are_refused(store):
    with pytest.raises(ValueError, match="gives 10 requests, not 11"):
        plan(asked_of(10), store, Traffic(requests=11, rate_hz=1, seed=1))


def cost(scale: float = 1.0) -> CostModel:
    return CostModel(
        fixed_ns=1e6 * scale,
        token_ns=1e4 * scale,
        pair_ns=10 * scale,
        reload_fixed_ns=0,
        reload_byte_ns=0,
        relative_error=0.2,
        token_bytes=100,
        candidates_typical=32,
    )


def test_the_budget_puts_about_half_of_the_requests_at_risk(store):
    planned = plan(asked_of(40), store, Traffic(requests=40, rate_hz=1, seed=1))
    budget_ns = rank_budget_ns(planned, [cost(), cost()], 1.0)
    full_ns = [
        cost().upper_ns(cost().full_ns(len(one.asked.candidates), one.delta_count, 1 + one.arrive_count))
        for one in planned
    ]
    assert 0.45 <= np.mean([value > budget_ns for value in full_ns]) <= 0.65


def test_the_budget_has_a_floor_on_a_fast_machine_and_grows_with_the_load(store):
    planned = plan(asked_of(40), store, Traffic(requests=40, rate_hz=1, seed=1))
    assert rank_budget_ns(planned, [cost(1e-6)], 1.0) == RANK_BUDGET_LEAST_NS
    assert rank_budget_ns(planned, [cost(10.0)], 20.0) > rank_budget_ns(planned, [cost(10.0)], 1.0)


def test_psi_is_counted_once_a_user_in_whole_pages(store):
    planned = plan(asked_of(5), store, Traffic(requests=5, rate_hz=1, seed=1))
    assert psi_bytes(planned, 100) == 5 * 128 * 100


def outcome(store, index: int, **more) -> Outcome:
    planned = plan(asked_of(5), store, Traffic(requests=5, rate_hz=1, seed=1))[index % 5]
    given = {"decision": "ADMITTED", "tier": "DEVICE", "scores": np.zeros((2, 1), "f4"), "rank_ns": index * 1_000_000}
    return Outcome(planned=planned, **(given | more))


def test_totals_count_every_admitted_ticket_that_lost_its_psi(store):
    outcomes = [outcome(store, n) for n in range(8)]
    outcomes.append(outcome(store, 8, tier="FULL", fallback="ABSENT"))
    outcomes.append(outcome(store, 9, scores=None, tier="", error="DeadlineTooShort"))
    outcomes.append(outcome(store, 10, decision="NOT_AT_RISK", tier="FULL"))
    seen = totals(outcomes)
    assert (seen.requests, seen.answered, seen.errors, seen.admitted) == (11, 10, 1, 10)
    assert seen.survival == 0.8
    assert seen.at_risk == 10 / 11
    assert seen.tiers == {"device": 8, "dram": 0, "joined": 0, "full": 2}
    assert sum(seen.tiers.values()) == seen.answered


def test_quantiles_are_values_that_occurred():
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 100.0], 0.99) == 100.0
    assert quantile([], 0.5) == 0.0


GOOD = {
    "requests": 600,
    "answered": 600,
    "errors": 0,
    "tiers": {"device": 200, "dram": 90, "joined": 10, "full": 300},
    "at_risk": 0.5,
    "admitted": 300,
    "survival": 1.0,
    "score_diff_max": 1e-6,
    "wrong_psi_diff": 0.3,
    "auc": 0.85,
    "auc_popularity": 0.8,
}
BAD = {
    "requests": 499,
    "answered": 599,
    "errors": 1,
    "tiers": {"device": 200, "dram": 0, "joined": 10, "full": 300},
    "at_risk": 0.29,
    "survival": 0.98,
    "score_diff_max": 2e-5,
    "wrong_psi_diff": 9e-4,
    "auc": 0.8,
    "admitted": 0,
}


def test_all_promises_are_kept_by_a_good_run():
    assert not broken(promises(GOOD, 600), own_data=False, killed=False)


@pytest.mark.parametrize("field", BAD)
def test_each_promise_can_be_broken(field):
    held = promises(GOOD | {field: BAD[field]}, 600)
    assert any(field.split("_")[0] in text or field == "tiers" for text in broken(held, own_data=False, killed=False))


def test_what_depends_on_the_log_or_on_calm_does_not_count_without_it():
    held = promises(GOOD | {"auc": 0.7, "survival": 0.9}, 600)
    assert [text.split()[0] for text in broken(held, own_data=True, killed=False)] == ["survival"]
    assert [text.split()[0] for text in broken(held, own_data=False, killed=True)] == ["auc"]
