"""The comparison of admissions: the flood is what it is said to be, and what returns is kept where room is short."""

from __future__ import annotations

import pytest

from bench.load.profile import load_profile
from bench.tiers import admission, policies, steps
from services.expander.core.admission import AdmissionPolicy

PROFILE = load_profile("default")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "REQUESTS", 1200)


def test_a_flood_is_of_users_who_come_once_among_users_who_return():
    requests = admission.flooded(PROFILE, 1, 1024)
    once = [one.user for one in requests if one.user >= admission._FLOOD_FIRST_USER]
    returning = [one.user for one in requests if one.user < admission._FLOOD_FIRST_USER]
    assert abs(len(once) / len(requests) - admission.FLOOD_SHARE) < 0.05
    assert len(set(once)) == len(once) and len(set(returning)) < 0.6 * len(returning)
    assert [one.arrives_ns for one in requests] == sorted(one.arrives_ns for one in requests)


def test_admission_keeps_who_returns_where_room_is_short_and_changes_nothing_where_it_is_not():
    requests = admission.flooded(PROFILE, 1, 1024)
    found = {
        (dram_mib, kind): policies.replayed(requests, 128, admission.POLICY, dram_mib, kind)
        for dram_mib in (256, 1024)
        for kind in AdmissionPolicy
    }
    short = [found[256, kind].from_dram for kind in (AdmissionPolicy.ALL, AdmissionPolicy.FREQUENCY)]
    enough = [found[1024, kind].to_json() for kind in AdmissionPolicy]
    assert short[1] > 1.5 * short[0]
    assert enough[0] == enough[1]


def test_gains_are_differences_between_the_same_cases():
    def case(kind: AdmissionPolicy, computed: int) -> admission.Case:
        return admission.Case(
            "default", "one", 64, kind.value, policies.Replayed(asked_tokens=100, computed_tokens=computed)
        )

    cases = [case(AdmissionPolicy.ALL, 90), case(AdmissionPolicy.FREQUENCY, 60)]
    assert admission.gains(cases) == {"default": {"best": 0.3, "worst": 0.3}}


def test_a_cold_pool_gives_every_page_before_any_again():
    pool = steps.ColdPool(4 * steps.PAGE_BYTES)
    like = steps.pages_of(3 * steps.PAGE_BYTES, 1)
    taken = [page.ctypes.data for _ in range(4) for page in pool.take(like)]
    assert all(len(set(taken[first : first + 4])) == 4 for first in range(len(taken) - 3))
    assert [page.nbytes for page in pool.take([like[0][:100]])] == [100]
