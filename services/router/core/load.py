"""How busy each instance is, as this router can tell.

load = what is known to be queued there, in device nanoseconds. Replies carry the
instance's whole backlog, which includes our own calls; from then on it drains by one
nanosecond per nanosecond, and calls begun after the reply are added. Our own calls in
flight are a lower bound, however old the last reply is, but for what the instance has set aside: with that, an
instance that is past an overload would look busy until the last late rank has ended, and nobody would pre-infer there.

Being wrong here costs balance, never correctness, so nothing of it is shared or kept.

Source: design, section 3 (router).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from relaygr.domain.feedback import Feedback
from services.router.core.total import Line, LoadTotal

RATE_MEMORY_NS = 10_000_000_000
"""Time over which ranks per second are smoothed."""
PROMISE_NS = 50_000_000
"""Work that was promised and has not come by then is not coming: its trigger declined. Without an end, an
instance that looks busy by promises alone would be sent nothing, and so never say that it is not."""


class Queues(NamedTuple):
    """What an instance says about itself in a reply; a tuple, since one is made for every reply."""

    rank_jobs: int = 0
    full_jobs: int = 0
    pre_infer_jobs: int = 0
    backlog_ns: int = 0
    device_used_bytes: int = 0
    device_budget_bytes: int = 0
    rank_rate_hz: float = 0.0
    """Ranks a second that reach it, from everybody; 0: it does not say."""
    aside_ns: int = 0
    """Device time of ranks that are past their budgets and make way for all others; no part of the backlog."""


@dataclass(slots=True)
class _Instance:
    queues: Queues = field(default_factory=Queues)
    reported_ns: int = 0
    reports: int = 0
    """Replies so far; says whether a call began before or after the last."""
    in_flight_ns: int = 0
    since_report_ns: int = 0
    due_ns: int = 0
    """Of ranks that are to come, by their tickets."""
    promised_ns: int = 0
    """Of users placed there whose pre-infer has not come by yet."""
    promised_until_ns: int = 0
    heard_ns: int = 0
    rank_rate_hz: float = 0.0
    rate_ns: int = 0
    feedback: Feedback | None = None

    def take(self, queues: Queues, now_ns: int) -> None:
        self.queues, self.reported_ns, self.since_report_ns = queues, now_ns, 0
        self.promised_ns = 0
        self.reports += 1
        self.heard_ns = now_ns

    def promised_at(self, now_ns: int) -> int:
        return self.promised_ns if now_ns < self.promised_until_ns else 0

    def load_at(self, now_ns: int) -> int:
        return self.promised_at(now_ns) + max(self._least_ns, self._drained_at(now_ns) + self.since_report_ns)

    def line_at(self, now_ns: int) -> Line:
        """The load from now on, until something happens or the line ends."""
        load_ns, drained_ns = self.load_at(now_ns), self._drained_at(now_ns)
        ends = [self.promised_until_ns] if self.promised_at(now_ns) else []
        left_ns = min(drained_ns, drained_ns + self.since_report_ns - self._least_ns)
        falls = left_ns > 0 and now_ns >= self.reported_ns
        if left_ns > 0:
            ends.append(now_ns + left_ns if falls else self.reported_ns)
        return Line(load_ns + falls * now_ns, falls, min(ends, default=None))

    @property
    def _least_ns(self) -> int:
        """Own calls in flight, without those that the instance has set aside: nobody waits for these."""
        return max(0, self.in_flight_ns - self.queues.aside_ns)

    def _drained_at(self, now_ns: int) -> int:
        return max(0, self.queues.backlog_ns - max(0, now_ns - self.reported_ns))

    def rate_at(self, now_ns: int) -> float:
        return self.rank_rate_hz * math.exp(-max(0, now_ns - self.rate_ns) / RATE_MEMORY_NS)


class _Call(NamedTuple):
    instance_id: str
    expected_ns: int
    reports: int


@dataclass(frozen=True, slots=True)
class _Due:
    instance_id: str
    rank_ns: int
    until_ns: int


class LoadView:
    """In-flight work and reported queues by instance.

    Args:
        calls_max: calls tracked at once; those beyond are not counted.
        instances_max: instances tracked at once.
    """

    def __init__(self, *, calls_max: int = 8192, instances_max: int = 1024) -> None:
        self._calls_max = calls_max
        self._instances_max = instances_max
        self._instances: dict[str, _Instance] = {}
        self._calls: dict[int, _Call] = {}
        self._next_call = 0
        self._due: OrderedDict[str, _Due] = OrderedDict()
        """Ranks to come by user hash, in the order of their placing. (A plain dict is slow to give its first away.)"""
        self._totals: dict[str, tuple[Mapping[str, object], LoadTotal]] = {}
        """By group: whose loads, and their sum."""
        self._total_of: dict[str, LoadTotal] = {}

    def begin(self, instance_id: str, expected_ns: int, now_ns: int, *, is_rank: bool = False) -> int:
        """A call begins; returns its number for `end`."""
        instance = self._changing(instance_id)
        self._next_call += 1
        if instance is None:
            return self._next_call
        if is_rank:
            instance.rank_rate_hz = instance.rate_at(now_ns) + 1e9 / RATE_MEMORY_NS
            instance.rate_ns = now_ns
        else:
            instance.promised_ns = max(0, instance.promised_ns - expected_ns)
        if len(self._calls) < self._calls_max:
            self._calls[self._next_call] = _Call(instance_id, expected_ns, instance.reports)
            instance.in_flight_ns += expected_ns
            instance.since_report_ns += expected_ns
        return self._next_call

    def promise(self, instance_id: str, expected_ns: int, now_ns: int) -> None:
        """A user was placed: so much work is about to come. Forgotten soon; the next reply knows better."""
        instance = self._changing(instance_id)
        # Nothing promised (a returning user) must not keep alive what was promised before.
        if instance is not None and expected_ns:
            instance.promised_ns = instance.promised_at(now_ns) + expected_ns
            instance.promised_until_ns = now_ns + PROMISE_NS

    def expect_rank(self, user_hash: str, instance_id: str, rank_ns: int, until_ns: int, now_ns: int) -> None:
        """A user was placed for a ticket: its rank will come here, at the latest by `until_ns`."""
        self.rank_came(user_hash)
        instance = self._instance(instance_id)
        while self._due:
            first = next(iter(self._due))
            if self._due[first].until_ns > now_ns and len(self._due) < self._calls_max:
                break
            self.rank_came(first)
        if instance is not None:
            self._due[user_hash] = _Due(instance_id, rank_ns, until_ns)
            instance.due_ns += rank_ns

    def rank_came(self, user_hash: str) -> None:
        """The user's rank is here, or will not be; repeatable."""
        due = self._due.pop(user_hash, None)
        instance = self._instances.get(due.instance_id) if due else None
        if due is not None and instance is not None:
            instance.due_ns -= due.rank_ns

    def end(
        self, call_number: int, now_ns: int, queues: Queues | None = None, feedback: Feedback | None = None
    ) -> None:
        """A call ended; with what its reply said, if it had one. Repeatable."""
        call = self._calls.pop(call_number, None)
        if call is None:
            return
        if call.instance_id not in self._instances:
            return
        instance = self._changing(call.instance_id)
        assert instance is not None
        instance.in_flight_ns -= call.expected_ns
        if call.reports == instance.reports:
            instance.since_report_ns -= call.expected_ns
        if queues is not None:
            instance.take(queues, now_ns)
        instance.feedback = feedback or instance.feedback

    def report(self, instance_id: str, queues: Queues, now_ns: int) -> None:
        """An instance said how long its queues are."""
        instance = self._changing(instance_id)
        if instance is not None:
            instance.take(queues, now_ns)

    def heard(self, instance_id: str, now_ns: int) -> None:
        """An instance answered something, be it a refusal; a late answer of one that is gone means nothing."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            instance.heard_ns = now_ns

    def has_spoken_since(self, instance_id: str, since_ns: int) -> bool:
        """True when the instance answered anybody after `since_ns`."""
        instance = self._instances.get(instance_id)
        return instance is not None and instance.heard_ns > since_ns

    def load_ns(self, instance_id: str, now_ns: int) -> int:
        """Device time queued at an instance."""
        instance = self._instances.get(instance_id)
        return instance.load_at(now_ns) if instance else 0

    def total_ns(self, group: str, instances: Mapping[str, object], now_ns: int) -> int:
        """The sum of some instances' loads; cheap as long as it is asked for the same object.

        Args:
            group: a name for them; an instance is in one group at a time.
            instances: by id.
            now_ns: now.
        """
        kept = self._totals.get(group)
        if kept is None or kept[0] is not instances:
            kept = (instances, LoadTotal(instances, self._line_of))
            self._totals[group] = kept
            self._total_of.update(dict.fromkeys(instances, kept[1]))
        return kept[1].at(now_ns)

    def drop_totals(self) -> None:
        """The instances are others now: no group is as it was."""
        self._totals.clear()
        self._total_of.clear()

    def pressure_ns(self, instance_id: str, now_ns: int) -> int:
        """Device time queued at an instance, and that of the ranks whose tickets were issued for it."""
        instance = self._instances.get(instance_id)
        return self.load_ns(instance_id, now_ns) + (instance.due_ns if instance else 0)

    def queues(self, instance_id: str, now_ns: int) -> Queues:
        """The last reported queues, with today's backlog."""
        instance = self._instances.get(instance_id)
        said = instance.queues if instance else Queues()
        # By its parts: a replace() takes several times as long, and each request asks.
        return Queues(
            said.rank_jobs,
            said.full_jobs,
            said.pre_infer_jobs,
            self.load_ns(instance_id, now_ns),
            said.device_used_bytes,
            said.device_budget_bytes,
        )

    def rank_rate_hz(self, instance_id: str, now_ns: int) -> float:
        """Ranks a second that reach an instance, smoothed: as it last said, and no less than what is sent from here.

        Other routers send to it as well, so that what is sent from here is a part of them. What it said fades like a
        rate that nothing is added to.
        """
        instance = self._instances.get(instance_id)
        if instance is None:
            return 0.0
        faded = math.exp(-max(0, now_ns - instance.reported_ns) / RATE_MEMORY_NS)
        return max(instance.rate_at(now_ns), instance.queues.rank_rate_hz * faded)

    def feedback(self, instance_id: str) -> Feedback | None:
        """How pre-infers have fared at an instance, as it last told; None when it has not."""
        instance = self._instances.get(instance_id)
        return instance.feedback if instance else None

    def forget(self, instance_id: str) -> None:
        """The instance is gone, or another boot of it came: start from nothing."""
        if instance_id in self._instances:
            self._changing(instance_id)
            del self._instances[instance_id]
            self._calls = {n: call for n, call in self._calls.items() if call.instance_id != instance_id}
            self._due = OrderedDict((user, due) for user, due in self._due.items() if due.instance_id != instance_id)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, what is in it and the most that may be."""
        return {
            "load.instances": (len(self._instances), self._instances_max),
            "load.calls": (len(self._calls), self._calls_max),
            "load.due": (len(self._due), self._calls_max),
        }

    def check_bounds(self) -> None:
        """Assert that the tables are no larger than they may be."""
        assert len(self._calls) <= self._calls_max
        assert len(self._instances) <= self._instances_max
        assert len(self._due) <= self._calls_max

    def check(self) -> None:
        """Assert the invariants."""
        self.check_bounds()
        due_ns = dict.fromkeys(self._instances, 0)
        for due in self._due.values():
            due_ns[due.instance_id] += due.rank_ns
        in_flight = dict.fromkeys(self._instances, 0)
        since_report = dict.fromkeys(self._instances, 0)
        for call in self._calls.values():
            in_flight[call.instance_id] += call.expected_ns
            if call.reports == self._instances[call.instance_id].reports:
                since_report[call.instance_id] += call.expected_ns
        for instance_id, instance in self._instances.items():
            assert instance.in_flight_ns == in_flight[instance_id]
            assert instance.since_report_ns == since_report[instance_id]
            assert instance.promised_ns >= 0
            assert instance.due_ns == due_ns[instance_id]

    def _line_of(self, instance_id: str, now_ns: int) -> Line:
        instance = self._instances.get(instance_id)
        return instance.line_at(now_ns) if instance else Line(0, False, None)

    def _changing(self, instance_id: str) -> _Instance | None:
        """An instance whose load is about to change."""
        total = self._total_of.get(instance_id)
        if total is not None:
            total.change(instance_id)
        return self._instance(instance_id)

    def _instance(self, instance_id: str) -> _Instance | None:
        instance = self._instances.get(instance_id)
        if instance is None and len(self._instances) < self._instances_max:
            instance = self._instances[instance_id] = _Instance()
        return instance
