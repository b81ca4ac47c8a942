"""Requests of a trace that the load generator planned: arrivals, users, lengths and gaps of a measured probe."""

from __future__ import annotations

from collections.abc import Sequence

from bench.load.traffic import PlannedRequest
from relaygr.domain.identity import TENANT_DEFAULT, ModelLimits, UserKey
from relaygr.domain.window import anchor_of
from services.router.core.binding import Subject
from sim.chains import LogChain
from sim.messages import Request

USER_TOKENS = 1
"""A prefix begins with a token of the user itself."""


class Planned:
    """Gives a trace's requests one after the other."""

    def __init__(self, requests: Sequence[PlannedRequest], limits: ModelLimits) -> None:
        self._left = iter(requests)
        self._limits = limits

    def next(self) -> Request | None:
        """The next request; None when there are no more."""
        planned = next(self._left, None)
        if planned is None:
            return None
        anchor = anchor_of(planned.behaviours, self._limits)
        tokens = planned.behaviours + USER_TOKENS - anchor
        return Request(
            planned.index,
            planned.user,
            Subject(UserKey(TENANT_DEFAULT, str(planned.user)), str(planned.user)),
            planned.arrives_ns,
            planned.due_ns,
            planned.delta,
            planned.candidates,
            planned.visit,
            LogChain(planned.user, tokens),
            anchor,
        )
