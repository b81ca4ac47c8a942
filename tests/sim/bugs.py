"""Bugs put into the cores on purpose: what the simulator must find. Each replaces one method."""

from services.expander.core.stores import Stores
from services.expander.core.tiering import Tiering
from services.ranker.core.holding import Holding
from services.ranker.core.ranking import Ranking
from services.router.core.binding import Binding
from services.router.core.membership import Membership
from services.trigger.core.admission import Admission
from sim.faults import KINDS


def footprint_not_counted(monkeypatch):
    over_bound = Admission._over_bound

    def without_footprint(self, instance, account, assessment, now_ns):
        open_bytes, account.open_bytes = account.open_bytes, 0
        try:
            return over_bound(self, instance, account, assessment, now_ns)
        finally:
            account.open_bytes = open_bytes

    monkeypatch.setattr(Admission, "_over_bound", without_footprint)


def ticket_ends_twice(monkeypatch):
    expire = Admission.expire

    def again(self, now_ns):
        ended = expire(self, now_ns)
        return ended + ended

    monkeypatch.setattr(Admission, "expire", again)


def fence_is_forgotten(monkeypatch):
    failed = Membership._failed

    def unfenced(self, instance_id, epoch, reason, now_ns):
        effects = failed(self, instance_id, epoch, reason, now_ns)
        if self.is_current(instance_id, epoch):
            self._members[instance_id].fence = None
        return effects

    monkeypatch.setattr(Membership, "_failed", unfenced)


def epoch_is_ignored(monkeypatch):
    monkeypatch.setattr(Binding, "_named_by", lambda self, ticket: self.members.get(ticket.instance_id))


def lease_ends_early(monkeypatch):
    answer = Ranking._answer_on_psi

    def unleased(self, rank, entry, tokens, now_ns):
        answer(self, rank, entry, tokens, now_ns)
        entry.leases.pop(rank.rank_id)
        rank.state, rank.entry_id = type(rank.state).FULL, None

    monkeypatch.setattr(Ranking, "_answer_on_psi", unleased)


def ticketed_psi_is_evicted(monkeypatch):
    refresh = Holding.refresh

    def careless(self, entry):
        tickets, entry.tickets = entry.tickets, {}
        refresh(self, entry)
        entry.tickets = tickets

    monkeypatch.setattr(Holding, "refresh", careless)


def pin_is_kept(monkeypatch):
    monkeypatch.setattr(Tiering, "_let_go", lambda self, pin: self._pins.pop(pin.pin_id))


def quarantine_is_skipped(monkeypatch):
    monkeypatch.setattr(Stores, "quarantine", Stores.discard)


EVERY = (
    (footprint_not_counted, KINDS),
    (ticket_ends_twice, KINDS),
    (fence_is_forgotten, ("crash",)),
    (epoch_is_ignored, ("crash", "rolling_restart")),
    (lease_ends_early, ("slow",)),
    (ticketed_psi_is_evicted, KINDS),
    (pin_is_kept, ("slow",)),
    (quarantine_is_skipped, ("stop",)),
)
"""Two for each core, with the faults under which they matter."""
