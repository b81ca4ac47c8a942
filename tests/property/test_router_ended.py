"""Ended tickets against a model that keeps everything: bounded, in order, each handed out at most once."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from relaygr.domain.ended import TAKEN_MAX, EndedTickets

TRIGGERS_MAX = 3
TICKETS_MAX = 4
triggers = st.sampled_from(["", "a", "b", "c", "d", "e"])


class Ends(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.ended = EndedTickets(triggers_max=TRIGGERS_MAX, tickets_max=TICKETS_MAX)
        self.kept: dict[str, list[str]] = {}
        self.told: list[str] = []
        """Triggers, the one told of longest ago first."""
        self.count = 0

    @rule(trigger_id=triggers)
    def put(self, trigger_id):
        self.count += 1
        self.ended.put(trigger_id, f"t{self.count}")
        if not trigger_id:
            return
        self.told = [each for each in self.told if each != trigger_id] + [trigger_id]
        self.kept[trigger_id] = [*self.kept.get(trigger_id, []), f"t{self.count}"][-TICKETS_MAX:]
        if len(self.told) > TRIGGERS_MAX:
            del self.kept[self.told.pop(0)]

    @rule(trigger_id=triggers)
    def take(self, trigger_id):
        taken = self.ended.take(trigger_id)
        kept = self.kept.get(trigger_id, [])
        assert taken == kept[:TAKEN_MAX]
        if kept:
            self.kept[trigger_id] = kept[TAKEN_MAX:]


TestEnds = Ends.TestCase
TestEnds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
