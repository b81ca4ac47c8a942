"""The catalogue is whole: names, stages and processes are such as there are, and a choice depends on its seed alone."""

from tests.chaos.catalogue import ALL, ETCD_GONE_LONG_S, SHORT, chosen, lengthened
from tests.chaos.faults import _FAULTS
from tests.chaos.scenario import Kind
from tests.chaos.stage import STAGES

PROCESSES = {"etcd", "console", "trigger", "router", "router-2", "expander", "ranker-1", "ranker-2", "client", "otlp"}


def test_every_scenario_has_a_name_of_its_own():
    assert len({one.name for one in ALL}) == len(ALL)
    assert set(SHORT) <= {one.name for one in ALL}


def test_every_scenario_is_of_a_stage_and_processes_that_there_are():
    assert {one.stage for one in ALL} == set(STAGES)
    assert {name for one in ALL for name in one.on} <= PROCESSES


def test_every_kind_of_fault_is_played_and_can_be_done():
    assert {one.kind for one in ALL} == set(Kind) == set(_FAULTS)


def test_connections_are_harmed_only_where_they_pass_the_proxy():
    linked = {Kind.CUT, Kind.DELAY, Kind.RESET, Kind.COMPACT}
    assert {one.stage for one in ALL if one.kind in linked} == {"proxied"}


def test_a_choice_depends_on_its_seed_alone():
    assert chosen(ALL, 5, 7) == chosen(ALL, 5, 7) != chosen(ALL, 5, 8)
    assert len(chosen(ALL, 1000, 1)) == len(ALL)


def test_the_long_form_is_longer_for_etcd_alone():
    changed = [one for one in ALL if lengthened(one) != one]
    assert [one.name for one in changed] == ["etcd_gone"]
    assert lengthened(changed[0]).lasts_s == ETCD_GONE_LONG_S
