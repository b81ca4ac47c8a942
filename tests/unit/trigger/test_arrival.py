"""What an ArriveRequest asks for, with the defaults filled in."""

from __future__ import annotations

import pytest

from relaygr.v1.trigger_pb2 import ArriveRequest, StageBudgets
from services.trigger.arrival import parse_arrival
from services.trigger.config import TriggerConfig

MS = 1_000_000
KEY = b"k" * 16


def budget_ns(config: TriggerConfig, **budgets: int) -> int:
    return parse_arrival(ArriveRequest(user="u", budgets=StageBudgets(**budgets)), config).budgets.rank_budget_ns


def test_the_device_has_the_ranking_budget_less_the_share_for_what_is_no_device_time():
    config = TriggerConfig(ticket_key=KEY, rank_budget_ms=50.0, rank_overhead_share=0.1)
    assert budget_ns(config) == 45 * MS
    assert budget_ns(config, rank_budget_ns=20 * MS) == 18 * MS
    assert budget_ns(TriggerConfig(ticket_key=KEY, rank_overhead_share=0.0), rank_budget_ns=20 * MS) == 20 * MS


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_is_refused(share):
    with pytest.raises(AssertionError, match="rank_overhead_share"):
        TriggerConfig(ticket_key=KEY, rank_overhead_share=share)
