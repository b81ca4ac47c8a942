"""Scenarios: the same account word for word, the rule that each is there for, and what is said of a mistake."""

from functools import cache

import pytest

from sim.recovery import met_share, recovery_s
from sim.scenario import GOLDEN, main, play
from sim.story import SCENARIOS, ScenarioError, names, read, scenario_of

BOUND = 1.25
RECOVERED_S = 5.0


@cache
def played(name):
    account = play(read(name))
    return account.text(), account.figures()


@pytest.mark.parametrize("name", names())
def test_a_scenario_gives_the_account_that_was_kept(name):
    """When a decision was changed on purpose: python -m sim.scenario --renew, and read the difference."""
    assert played(name)[0] == (GOLDEN / f"{name}.txt").read_text()


def test_each_account_kept_is_of_a_scenario():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == names()


@pytest.mark.parametrize(
    ("name", "phase"),
    (
        ("flash_crowd", "after"),
        ("overload", "again"),
        ("lose_tenth", "lost"),
        ("rolling_restart", "restarts"),
        ("rolling_restart", "after"),
        ("scale_out", "joined"),
        ("etcd_loss", "gone"),
        ("etcd_loss", "back"),
        ("partition", "healed"),
        ("slow_device", "after"),
    ),
)
def test_it_is_over_within_five_seconds(name, phase):
    found = played(name)[1][phase]["recovery_s"]
    assert found is not None and found <= RECOVERED_S


def test_twice_the_load_leaves_as_many_in_time_as_once():
    once, twice = (played("overload")[1][phase] for phase in ("once", "twice"))
    assert twice["in_time_hz"] >= 0.99 * once["in_time_hz"]
    assert twice["decisions"].get("LOAD", 0) + twice["decisions"].get("TOO_LATE", 0) > 0, "pre-infers are declined"


@pytest.mark.parametrize("name", ("steady", "skewed_users", "scale_out"))
def test_psi_survive_and_are_met_while_nothing_is_lost(name):
    for figures in list(played(name)[1].values())[1:]:
        assert figures["survival"] >= 0.999 and figures["affinity"] >= 0.999
        assert figures["max_over_mean_load"] <= BOUND
        assert not figures["errors"]


@pytest.mark.parametrize("name", ("etcd_loss", "rolling_restart", "partition", "lose_tenth", "slow_device"))
def test_what_goes_wrong_is_no_error_to_a_caller(name):
    assert not any(figures["errors"] for figures in played(name)[1].values())


def test_requests_go_on_as_before_while_etcd_is_gone():
    before, gone = (played("etcd_loss")[1][phase] for phase in ("before", "gone"))
    assert gone["slo_met"] >= 0.99 * before["slo_met"] and gone["survival"] >= 0.999


def tenths(*shares):
    """Ten requests in each tenth of a second."""
    return {at: [10, round(10 * each)] for at, each in enumerate(shares)}


def test_recovery_ends_with_the_first_of_two_seconds_as_good_as_before():
    seen = tenths(*[1.0] * 20, *[0.0] * 7, *[1.0] * 30)
    assert recovery_s(seen, (0.0, 2.0), 2.0) == 1.7


def test_a_good_second_among_bad_ones_is_no_recovery():
    seen = tenths(*[1.0] * 20, *[0.0] * 5, *[1.0] * 12, *[0.0] * 5, *[1.0] * 30)
    assert recovery_s(seen, (0.0, 2.0), 2.0) == 3.2


def test_a_run_that_ends_too_soon_has_not_recovered():
    assert recovery_s(tenths(*[1.0] * 20, *[0.0] * 40), (0.0, 2.0), 2.0) is None
    assert met_share(tenths(), 0, 10) == 1.0


GOOD = {"what": "A test.", "instances": 4, "rate_hz": 1.0, "phases": [{"name": "one", "seconds": 1.0}]}


@pytest.mark.parametrize(
    ("change", "text"),
    (
        ({"instanzes": 4}, "instanzes: unknown; known are what, instances"),
        ({"instances": "4"}, "instances: must be int, not '4'"),
        ({"instances": True}, "instances: must be int, not True"),
        ({"instances": 1}, "at least two instances"),
        ({"rate_hz": -1.0}, "rate_hz: must not be negative"),
        ({"phases": []}, "phases: missing"),
        ({"phases": {"name": "one"}}, r"phases: write \[\[phases\]\] above each of them"),
        ({"phases": [{"name": "one"}]}, r"phases\[0\].seconds: missing"),
        ({"phases": [{"name": "one", "seconds": 0.5}]}, r"phases\[0\].seconds: at least 1"),
        ({"phases": [{"name": "one", "seconds": 1.0}] * 2}, "two are named 'one'"),
        ({"phases": [3]}, r"phases\[0\]: must be a table"),
        ({"users": {"zipff": 1.0}}, "users.zipff: unknown"),
        ({"arrivals": "even"}, "arrivals: poisson or bursty, not 'even'"),
        ({"faults": [{"at": "two", "kind": "etcd_loss"}]}, r"faults\[0\].at: no phase is named 'two'"),
        ({"faults": [{"at": "one", "kind": "fire"}]}, r"faults\[0\].kind: 'fire' is unknown; known are lose_tenth"),
    ),
)
def test_a_mistake_in_a_scenario_is_named(change, text):
    with pytest.raises(ScenarioError, match=text):
        scenario_of("x", GOOD | change)


def test_a_value_that_is_missing_is_named():
    with pytest.raises(ScenarioError, match="rate_hz: missing"):
        scenario_of("x", {key: value for key, value in GOOD.items() if key != "rate_hz"})


def test_a_file_that_is_no_scenario_is_named(tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text("what = ")
    with pytest.raises(ScenarioError, match=r"mine.toml: not TOML"):
        read(str(path))
    assert main(["nothing"]) == 2
    assert "nothing: there is no such scenario; there are etcd_loss, flash_crowd" in capsys.readouterr().err
    assert SCENARIOS.is_dir()
