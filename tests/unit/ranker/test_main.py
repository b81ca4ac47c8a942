import sys

from services.ranker.__main__ import SWITCH_INTERVAL_S, share_interpreter


def test_the_event_loop_keeps_the_interpreter_for_less_than_a_slice_of_compute():
    before_s = sys.getswitchinterval()
    try:
        share_interpreter()
        assert sys.getswitchinterval() == SWITCH_INTERVAL_S < 0.001
    finally:
        sys.setswitchinterval(before_s)
