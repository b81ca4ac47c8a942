"""What the tracing benchmark makes of its phases."""

from types import SimpleNamespace

import pytest

from bench.load.tracing import PHASES, SETTINGS, Seen, cost_ms_per_hop, order_of, summed, table


def ranked(*rank_ms: float) -> list:
    return [SimpleNamespace(timings_ms={"rank": each}) for each in rank_ms]


def seen_of(**rounds: list[float]) -> dict[str, Seen]:
    """Rounds of one median each."""
    seen = {name: Seen() for name in PHASES}
    for name, medians in rounds.items():
        for median in medians:
            seen[name].add(ranked(median), sent=1, cpu_ms=1.0)
    return seen


def test_every_round_has_all_settings_in_an_order_that_turns():
    orders = [[setting.name for setting in order_of(number)] for number in range(3)]
    assert all(sorted(order) == sorted(setting.name for setting in SETTINGS) for order in orders)
    assert {order[0] for order in orders} == {setting.name for setting in SETTINGS}


def test_every_phase_is_of_some_setting():
    assert sorted(PHASES) == sorted(name for one in SETTINGS for name in (one.name, *one.disturbed))


def test_a_hop_costs_what_the_median_grows_by_in_the_middle_round_over_its_hops():
    seen = seen_of(off=[10.0, 10.0, 10.0], on=[11.0, 10.4, 30.0], sampled=[10.0, 10.2, 10.1])
    assert cost_ms_per_hop(seen, "on") == 0.5
    assert cost_ms_per_hop(seen, "sampled") == 0.05


def test_a_round_that_ranked_nothing_leaves_no_cost():
    seen = seen_of(off=[10.0, 10.0], on=[11.0])
    seen["on"].add([], sent=5, cpu_ms=0.0)
    assert cost_ms_per_hop(seen, "on") is None
    assert summed(seen)["errors"] == 5


def test_the_last_line_has_what_every_phase_saw():
    found = summed(seen_of(**{name: [float(place), float(place)] for place, name in enumerate(PHASES, 1)}))
    assert found["errors"] == 0 and found["counts"] == dict.fromkeys(PHASES, 2)
    assert found["p99_ms"] == {name: float(place) for place, name in enumerate(PHASES, 1)}


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_that_ranked_nothing_has_a_row_all_the_same(name):
    seen = seen_of(**{each: [5.0] for each in PHASES if each != name})
    seen[name].add([], sent=3, cpu_ms=0.0)
    (row,) = [line for line in table(seen).splitlines() if line.split()[0] == name]
    assert "nothing was ranked" in row and row.endswith("3")
