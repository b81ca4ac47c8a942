import gc
import sys

from relaygr.runtime.process import SWITCH_INTERVAL_S, YOUNG_MAX, settle_memory, share_interpreter


def test_the_event_loop_keeps_the_interpreter_for_less_than_a_slice_of_compute():
    before_s = sys.getswitchinterval()
    try:
        share_interpreter()
        assert sys.getswitchinterval() == SWITCH_INTERVAL_S < 0.001
    finally:
        sys.setswitchinterval(before_s)


def test_what_exists_after_the_start_is_not_looked_through_again():
    before = gc.get_threshold()
    try:
        settle_memory()
        assert gc.get_freeze_count() > 0 and gc.get_threshold()[0] == YOUNG_MAX
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
