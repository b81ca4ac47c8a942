"""The exactness suite: what any model behind the interface must hold before it is served.

Plain functions that raise AssertionError with numbers, so that any test runner will do:

    from relaygr.model.conformance import CHECKS, Subject

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_model_is_exact(check):
        check(Subject(model=my_model(), item_ids=my_item_ids), seed=1)

contract.py holds the interface's own promises, relays.py every way to split a history,
memory.py everything that happens to pages, candidates.py what may change a score, users.py
requests side by side, shows.py that a mistake of the caller's is seen in the scores.

float32: cached against full within 1e-5. bfloat16: give the same weights in float32 as
`oracle`; the error of any relay then must not exceed that of full bfloat16 against it.
Quantised K/V: state `relay_error_max` and `error_max`. Give `reference`, your model's definition written plainly
in float64, and full inference is held to it too: nothing else finds a wrong constant.

Source: design, section 4.
"""

from __future__ import annotations

from collections.abc import Callable

from relaygr.model.conformance import candidates, contract, memory, relays, shows, users
from relaygr.model.conformance.bench import Bench
from relaygr.model.conformance.subject import DIFFERENCE_MIN, TOLERANCE, Subject

__all__ = ["CHECKS", "DIFFERENCE_MIN", "TOLERANCE", "Bench", "Check", "Subject"]

Check = Callable[[Subject, int], None]

CHECKS: tuple[Check, ...] = (
    contract.check_contract,
    contract.check_prefix_depends_on_itself_alone,
    contract.check_full_equals_reference,
    relays.check_relay_equals_full,
    relays.check_any_chunking,
    relays.check_append_equals_one_pass,
    relays.check_token_by_token_over_a_page_edge,
    relays.check_truncated_psi,
    memory.check_pages_in_any_order,
    memory.check_tail_garbage_is_never_read,
    memory.check_stale_slots_are_never_read,
    memory.check_reused_pages,
    memory.check_evict_and_recompute,
    memory.check_spill_and_reload,
    memory.check_writes_only_where_told,
    candidates.check_micro_batches,
    candidates.check_candidate_order,
    candidates.check_other_candidates_do_not_show,
    candidates.check_request_time,
    users.check_interleaved_runs,
    users.check_order_of_users,
    shows.check_another_psi_shows,
    shows.check_torn_psi_shows,
    shows.check_wrong_count_shows,
    shows.check_moved_anchor_shows,
    shows.check_wrong_positions_show,
    shows.check_another_request_time_shows,
)
