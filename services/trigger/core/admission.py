"""Who may pre-infer: the risk test, then the bounds, in one machine.

Theory of operation. Each arrival is counted into its instance's service times as if it
ran in full, assessed, and if at risk held against, in this order:

    EMPTY_PREFIX  nothing to infer ahead
    NO_GAIN       ranking on psi would hardly be quicker than full inference
    TOO_LATE      not ready when the rank comes: joining it would neither hold the budget nor beat full inference
    TABLE_FULL    a table of this trigger is full
    FOOTPRINT     bytes of open tickets on this boot of the instance exceed the share
    LOAD          pre-infer device time exceeds the share
    LOW_VALUE     either share is three quarters used, and the rest is kept for those that would miss more surely

Both shares are divided by the number of triggers, and scaled by what the instance tells of
its pre-infers (pressure.py); what is left of them has a price (price.py). A ticket's bytes count until its rank was
answered, as far as the router tells, and otherwise until its window ends, whatever the ranker
answered to the pre-infer: a share that counted only accepted tickets could be outgrown by
what is still on its way. Its device time is given back when the ranker found psi there, joined it
or did not start, and in part when it only had to append to what was there.

A restarted instance has a new epoch and so a new account; the old one fades.

Source: design, section 3 (trigger) and I1, I3, I7.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from itertools import islice

from services.trigger.core import risk, worth
from services.trigger.core.account import Account
from services.trigger.core.effects import Admit, Decline, DeclineReason, Effect, EndReservation, PassBy
from services.trigger.core.events import Arrived, Demand, Event, InstanceView, Outcome, PreInferAnswered, TicketsEnded
from services.trigger.core.price import Terms, price, used_of
from services.trigger.core.risk import Assessment

GAIN_MIN_PERCENT = 10
"""Least saving of ranking on psi against full inference. Below it, a pre-infer's fixed
cost and page outweigh what ranking saves."""

AccountKey = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRules:
    """Bounds and table sizes."""

    slo_quantile: float
    """Quantile at which ranking's budget must hold, in (0, 1)."""
    footprint_share: float
    """Share of an instance's device budget that open tickets of all triggers may hold."""
    pre_infer_share: float
    """Device seconds a second that pre-infers of all triggers may take on an instance."""
    load_burst_ns: int
    """The load bound holds over spans of about this length, times the square root of the number of triggers;
    shorter bursts pass."""
    tickets_max: int
    """Open tickets of this trigger."""
    unanswered_max: int
    """Admissions whose pre-infer is on its way."""
    accounts_max: int
    """Instances (by boot) remembered."""
    window_ns_max: int
    """Longest lifecycle window."""
    account_idle_ns: int
    """An account not seen for this long is dropped; longer than any window."""

    def __post_init__(self) -> None:
        assert 0 < self.slo_quantile < 1
        assert 0 < self.footprint_share <= 1
        assert 0 < self.pre_infer_share <= 1
        assert min(self.load_burst_ns, self.tickets_max, self.unanswered_max, self.accounts_max) >= 1
        assert self.account_idle_ns > self.window_ns_max > 0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the machine holds, for gauges."""

    open_tickets: int
    open_bytes: int
    unanswered: int
    accounts: int


@dataclass(slots=True)
class _Open:
    """One open ticket."""

    account: AccountKey
    psi_bytes: int
    share_bytes: int
    """The footprint share it was admitted under."""
    charged_ns: int


class Admission:
    """The trigger's machine; see the module."""

    def __init__(self, rules: AdmissionRules):
        self._rules = rules
        # Both dicts are ordered: tickets by admission, accounts by last arrival.
        self._tickets: dict[str, _Open] = {}
        self._accounts: dict[AccountKey, Account] = {}
        self._window_ends: list[tuple[int, int, str]] = []
        self._admissions = 0
        # Never iterated, so a set keeps the machine deterministic.
        self._unanswered: set[str] = set()

    @property
    def holdings(self) -> Holdings:
        """Totals over all instances."""
        open_bytes = sum(size for _, size in self.footprints())
        return Holdings(len(self._tickets), open_bytes, len(self._unanswered), len(self._accounts))

    def footprints(self) -> list[tuple[str, int]]:
        """Bytes of open tickets by instance, boots added up."""
        sizes: dict[str, int] = {}
        # A copy, since gauges are read on a thread of their own.
        for (instance_id, _), account in list(self._accounts.items()):
            sizes[instance_id] = sizes.get(instance_id, 0) + account.open_bytes
        return list(sizes.items())

    def scales(self) -> list[tuple[str, float, float]]:
        """What feedback leaves of the footprint and the load bound, by instance; of its boots, the one seen last."""
        last = {key[0]: account.pressure for key, account in list(self._accounts.items())}
        return [(instance_id, pressure.footprint, pressure.load) for instance_id, pressure in last.items()]

    def open_bytes(self, instance_id: str, epoch: int) -> int:
        """Bytes of open tickets on one boot of an instance."""
        account = self._accounts.get((instance_id, epoch))
        return account.open_bytes if account else 0

    def foresee(self, demand: Demand, instance: InstanceView) -> Assessment:
        """The assessment an arrival would get, without counting it."""
        account = self._accounts.get((instance.instance_id, instance.epoch))
        return self._assess(demand, instance, account or Account(0))

    @staticmethod
    def would_admit(demand: Demand, assessment: Assessment) -> bool:
        """Whether it would be admitted while no bound is met: what the router is told before it places the user."""
        return assessment.is_at_risk and demand.prefix_tokens > 1

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take one event and say what should be done."""
        ended = self.expire(now_ns)
        match event:
            case Arrived():
                return [*ended, self._arrived(event, now_ns)]
            case PreInferAnswered():
                self._answered(event)
                return ended
            case TicketsEnded(ticket_ids):
                return [*ended, *(self._close(each) for each in ticket_ids if each in self._tickets)]

    def deadline_ns(self) -> int | None:
        """When `expire` next has work, or None."""
        # Accounts need no timer of their own: they are dropped when something else happens.
        self._drop_ended()
        return self._window_ends[0][0] if self._window_ends else None

    def expire(self, now_ns: int) -> list[Effect]:
        """Close the windows that have ended, and forget instances long unseen."""
        ended: list[Effect] = []
        self._drop_ended()
        while self._window_ends and self._window_ends[0][0] <= now_ns:
            ended.append(self._close(heapq.heappop(self._window_ends)[2]))
            self._drop_ended()
        while self._accounts:
            key, account = next(iter(self._accounts.items()))
            if account.seen_ns + self._rules.account_idle_ns > now_ns:
                break
            del self._accounts[key]
        return ended

    def check_touched(self) -> None:
        """Assert the bounds, and the account of the last arrival: what one event can have broken."""
        rules = self._rules
        assert len(self._tickets) <= rules.tickets_max
        assert len(self._accounts) <= rules.accounts_max
        assert len(self._unanswered) <= rules.unanswered_max
        assert len(self._window_ends) <= 2 * rules.tickets_max + 1
        for account in islice(reversed(self._accounts.values()), 1):
            assert (account.open_bytes > 0) == (account.open_tickets > 0) and account.open_bytes >= 0
            assert account.load.debt_ns >= 0

    def check(self) -> None:
        """Assert the invariants: bounds held, books balanced, each window on the heap once."""
        rules = self._rules
        assert len(self._tickets) <= rules.tickets_max
        assert len(self._accounts) <= rules.accounts_max
        assert sorted(end[2] for end in self._window_ends if end[2] in self._tickets) == sorted(self._tickets)
        assert len(self._window_ends) <= 2 * rules.tickets_max + 1
        assert len(self._unanswered) <= rules.unanswered_max
        totals = {key: [0, 0] for key in self._accounts}
        share_bytes: dict[AccountKey, int] = {}
        for ticket in self._tickets.values():
            totals[ticket.account][0] += ticket.psi_bytes
            totals[ticket.account][1] += 1
            # All that is open now was open when the last of it was admitted.
            share_bytes[ticket.account] = ticket.share_bytes
        for key, account in self._accounts.items():
            assert [account.open_bytes, account.open_tickets] == totals[key]
            assert account.open_bytes <= share_bytes.get(key, 0), "footprint bound (I1, I3)"
            assert account.load.debt_ns >= 0
            account.pressure.check()

    def _arrived(self, event: Arrived, now_ns: int) -> Effect:
        assert event.ticket_id not in self._tickets, "ticket ids are unique"
        assert 0 < event.demand.window_ns <= self._rules.window_ns_max
        key = (event.instance.instance_id, event.instance.epoch)
        account = self._seen(key, now_ns)
        is_listed = account is not None
        account = account or Account(now_ns)
        account.service_times.observe(risk.full_ns(event.demand, event.instance.cost))
        account.pressure.observe(event.instance.feedback, account.typical.window_ns, now_ns)
        assessment = self._assess(event.demand, event.instance, account)
        if not assessment.is_at_risk:
            return PassBy(event.ticket_id, assessment)
        reason = self._hopeless(event, assessment)
        if reason is None and (not is_listed or self._is_full()):
            reason = DeclineReason.TABLE_FULL
        if reason is not None:
            return Decline(event.ticket_id, reason, assessment)
        terms = self._terms(event, account, assessment, now_ns)
        reason = self._over_bound(account, assessment, terms)
        if reason is not None:
            return Decline(event.ticket_id, reason, assessment, terms)
        return self._admit(event, key, account, assessment, terms, now_ns)

    def _assess(self, demand: Demand, instance: InstanceView, account: Account) -> Assessment:
        quantile = self._rules.slo_quantile
        wait_ns = risk.wait_quantile_ns(
            instance.rank_rate_hz, account.service_times, quantile, cap_ns=demand.rank_budget_ns
        )
        return risk.assess(demand, instance.cost, wait_ns)

    def _seen(self, key: AccountKey, now_ns: int) -> Account | None:
        """The account, moved to the end of the order; None when the table is full."""
        account = self._accounts.pop(key, None)
        if account is None:
            if len(self._accounts) >= self._rules.accounts_max:
                oldest = next(iter(self._accounts))
                if self._accounts[oldest].open_tickets:
                    return None
                del self._accounts[oldest]
            account = Account(now_ns)
        account.seen_ns = now_ns
        self._accounts[key] = account
        return account

    def _is_full(self) -> bool:
        return len(self._tickets) >= self._rules.tickets_max or len(self._unanswered) >= self._rules.unanswered_max

    def _hopeless(self, event: Arrived, assessment: Assessment) -> DeclineReason | None:
        """Why a pre-infer could not help this request, whatever the bounds say."""
        demand = event.demand
        if demand.prefix_tokens <= 1:
            return DeclineReason.EMPTY_PREFIX
        saved_ns = assessment.full_ns - assessment.rank_on_psi_ns
        if saved_ns * 100 < GAIN_MIN_PERCENT * assessment.full_ns:
            return DeclineReason.NO_GAIN
        expected = assessment.expected
        if worth.late_ns(event, assessment) + expected.rank_on_psi_ns <= demand.rank_budget_ns:
            return None
        return None if worth.join_ns(event, assessment) < expected.full_ns else DeclineReason.TOO_LATE

    def _footprint_share_bytes(self, instance: InstanceView, scale: float) -> int:
        return int(instance.device_budget_bytes * self._rules.footprint_share * scale) // instance.trigger_count

    def _terms(self, event: Arrived, account: Account, assessment: Assessment, now_ns: int) -> Terms:
        """What the bounds leave for this request, and what they ask for it."""
        rules, instance, pressure, typical = self._rules, event.instance, account.pressure, account.typical
        pre_infer_ns = assessment.expected.pre_infer_ns
        typical.observe(assessment.psi_bytes, pre_infer_ns, event.demand.window_ns)
        bound_bytes = self._footprint_share_bytes(instance, pressure.footprint)
        load_share = rules.pre_infer_share * pressure.load / instance.trigger_count
        # Of N triggers each sees an Nth of the requests, whose swings are only a root of Nth of them all: an Nth of
        # the burst would not hold one long pre-infer. What N such bursts come to together is a root of N of one.
        burst_ns = int(rules.load_burst_ns * load_share * math.sqrt(instance.trigger_count))
        account.load.drain(load_share, now_ns)
        footprint_used = used_of(account.open_bytes, bound_bytes)
        load_used = used_of(account.load.debt_ns, burst_ns)
        least = 1.0 - rules.slo_quantile
        return Terms(
            footprint_bound_bytes=bound_bytes,
            load_burst_ns=burst_ns,
            load_share=load_share,
            footprint_used=footprint_used,
            load_used=load_used,
            footprint_scale=pressure.footprint,
            load_scale=pressure.load,
            miss_saved=worth.miss_saved(event, account.service_times, assessment),
            price=max(
                price(footprint_used, least) * assessment.psi_bytes / typical.psi_bytes,
                price(load_used, least) * pre_infer_ns / typical.pre_infer_ns,
            ),
        )

    def _over_bound(self, account: Account, assessment: Assessment, terms: Terms) -> DeclineReason | None:
        if account.open_bytes + assessment.psi_bytes > terms.footprint_bound_bytes:
            return DeclineReason.FOOTPRINT
        if not account.load.can_charge(assessment.expected.pre_infer_ns, terms.load_burst_ns):
            return DeclineReason.LOAD
        return None if terms.is_worth_it else DeclineReason.LOW_VALUE

    def _admit(
        self, event: Arrived, key: AccountKey, account: Account, assessment: Assessment, terms: Terms, now_ns: int
    ) -> Effect:
        account.load.charge(assessment.expected.pre_infer_ns)
        account.open_bytes += assessment.psi_bytes
        account.open_tickets += 1
        self._tickets[event.ticket_id] = _Open(
            account=key,
            psi_bytes=assessment.psi_bytes,
            share_bytes=terms.footprint_bound_bytes,
            charged_ns=assessment.expected.pre_infer_ns,
        )
        self._admissions += 1
        self._unanswered.add(event.ticket_id)
        # The count breaks ties, so that equal ends close in order of admission.
        heapq.heappush(self._window_ends, (now_ns + event.demand.window_ns, self._admissions, event.ticket_id))
        if len(self._window_ends) > 2 * self._rules.tickets_max:
            self._window_ends = [end for end in self._window_ends if end[2] in self._tickets]
            heapq.heapify(self._window_ends)
        return Admit(event.ticket_id, *key, event.demand.window_ns, assessment, terms)

    def _answered(self, event: PreInferAnswered) -> None:
        self._unanswered.discard(event.ticket_id)
        ticket = self._tickets.get(event.ticket_id)
        # An unreachable instance may have begun all the same; and a closed window is past refunds.
        if ticket is None:
            return
        match event.outcome:
            case Outcome.RESIDENT | Outcome.JOINED | Outcome.DECLINED:
                due_ns = 0
            case Outcome.STARTED if event.production_ns is not None:
                due_ns = event.production_ns
            case _:
                due_ns = ticket.charged_ns
        refund_ns = max(0, ticket.charged_ns - due_ns)
        self._accounts[ticket.account].load.refund(refund_ns)
        ticket.charged_ns -= refund_ns

    def _drop_ended(self) -> None:
        """Of tickets that ended before their window, take the ends that have come to the front."""
        while self._window_ends and self._window_ends[0][2] not in self._tickets:
            heapq.heappop(self._window_ends)

    def _close(self, ticket_id: str) -> EndReservation:
        ticket = self._tickets.pop(ticket_id)
        account = self._accounts[ticket.account]
        account.open_bytes -= ticket.psi_bytes
        account.open_tickets -= 1
        return EndReservation(ticket_id, ticket.account[0], ticket.psi_bytes)
