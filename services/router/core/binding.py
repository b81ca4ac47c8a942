"""Where a request goes: by ticket, else by pin, else where the user was lately, else by slot.

Theory of operation. Both halves of a relay must meet, so everything that is certain
about a user's place comes first: the ticket names it; a pin overrides the slot map for
users placed elsewhere lately; the slot map says the rest, and each slot has an order of
further instances behind its owner. Only `resolve` places a user: an owner busier than
c times the mean makes way for the next in the slot's order, and a user placed off its
slot for a ticket is pinned for the window. A user of whom no psi is known anywhere costs as
much on one instance as on another, so it is placed on the less busy of the first two in its
slot's order, and remembered: two choices keep queues short where one would leave collisions to
chance. A rank without a ticket follows the same
bound, since nothing binds it, but pins nobody.

A request that names a model stays with that model, whoever else is there.

A choice is a filter (who can), then an order (who should), then a bound (who may). None of the three looks all
instances over: who can is kept until the instances change (able.py), the order of a slot is kept as far as it is
ever walked (orders.py), and the mean load is a sum that runs along (total.py) and is asked for above the floor only.

Source: design, section 3 (router).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from relaygr.domain.identity import UserKey
from relaygr.domain.instance import InstanceRecord
from relaygr.domain.slots import slot_of
from services.router.core.able import Able
from services.router.core.effects import ChangeMembers, Effect, ForgetPeer, PinUser
from services.router.core.events import Event, PinDropped, PinRead, TableRead, UserPlaced
from services.router.core.handover import Handovers
from services.router.core.load import LoadView
from services.router.core.membership import Member, Membership
from services.router.core.orders import SlotOrders
from services.router.core.pins import Pin, Pins
from services.router.core.recent import Place, Recent
from services.router.core.slots import SlotTable, assign

BOUND = 1.25
"""c of the bounded load: an instance may have this many times the mean."""
LIGHTER_BY_NS = 1_000_000
"""A newcomer leaves its slot's instance for one that has less queued by this; what is less is noise."""


class Branch(Enum):
    """How an instance was chosen; names as in router.proto."""

    TICKET = "TICKET"
    PIN = "PIN"
    RECENT = "RECENT"
    SLOT = "SLOT"
    LIGHTER = "LIGHTER"
    SPILL = "SPILL"
    REROUTED = "REROUTED"


class Refusal(Enum):
    """Why a pre-infer's ticket leads nowhere."""

    FOREIGN_TICKET = "FOREIGN_TICKET"
    UNREACHABLE = "UNREACHABLE"


class Subject(NamedTuple):
    """Whose request it is."""

    user: UserKey
    user_hash: str
    """Keyed hash of the user, as pins are named."""


class TicketRef(NamedTuple):
    """Where a ticket points."""

    instance_id: str
    epoch: int
    model_key: str


class Placement(NamedTuple):
    """The instance chosen."""

    record: InstanceRecord
    branch: Branch
    pin: PinUser | None = None
    """Set when it should be remembered, here and by the other routers."""


class Binding:
    """The router's core: members, slots, pins and load, and the choice between them.

    Args:
        spill_floor_ns: an instance with less device time queued than this never spills.
        pins_max: pins kept.
        members_max: instances kept.
        calls_max: calls tracked for load.
        tables_max: slot tables kept, one a model.
        warm_up_ns: how long a slot takes to move to another owner while the one before is there; 0: no time.
    """

    def __init__(
        self,
        *,
        spill_floor_ns: int = 50_000_000,
        pins_max: int = 65_536,
        members_max: int = 1024,
        calls_max: int = 8192,
        tables_max: int = 32,
        warm_up_ns: int = 0,
    ) -> None:
        self.members = Membership(members_max=members_max)
        self.load = LoadView(calls_max=calls_max, instances_max=members_max)
        self.pins = Pins(pins_max=pins_max)
        self.recent = Recent(users_max=pins_max)
        self._spill_floor_ns = spill_floor_ns
        self._tables_max = tables_max
        self._tables: dict[str, SlotTable] = {}
        self._default_tables: dict[str, tuple[str, ...]] = {}
        self._handovers = Handovers(warm_up_ns=warm_up_ns)
        self._able = Able(self.members)
        self._orders: dict[str, SlotOrders] = {}
        self._stale_orders: set[str] = set()

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take one event."""
        match event:
            case TableRead(model_key, table):
                self._set_table(model_key, table, now_ns)
                return []
            case PinRead(user_hash, instance_id, epoch, expires_ns):
                if expires_ns > now_ns:
                    self.pins.put(user_hash, Pin(instance_id, epoch, expires_ns))
                return []
            case PinDropped(user_hash):
                self.pins.drop(user_hash)
                self.recent.drop(user_hash)
                return []
            case UserPlaced(user_hash, instance_id, epoch):
                self.recent.put(user_hash, Place(instance_id, epoch, now_ns))
                self.load.promise(instance_id, event.production_ns, now_ns)
                self.load.expect_rank(user_hash, instance_id, event.rank_ns, now_ns + event.window_ns, now_ns)
                return []
            case _:
                return self._settle(self.members.handle(event, now_ns))

    def deadline_ns(self) -> int | None:
        """When a pin expires or a doubted member is to be checked."""
        return min((ns for ns in (self.members.deadline_ns(), self.pins.deadline_ns()) if ns is not None), default=None)

    def expire(self, now_ns: int) -> list[Effect]:
        """Do what has fallen due."""
        self.pins.expire(now_ns)
        return self._settle(self.members.expire(now_ns))

    def check_touched(self) -> None:
        """Assert the bounds: what needs no look at the tables."""
        self.load.check_bounds()
        self.pins.check()
        self.recent.check()
        assert len(self._tables) <= self._tables_max

    def check(self) -> None:
        """Assert the invariants."""
        self.members.check()
        self.load.check()
        self.pins.check()
        self.recent.check()
        for model_key in self._orders.keys() - self._stale_orders:
            self._orders[model_key].check()
        assert len(self._tables) <= self._tables_max

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table that could grow with users, instances or models: what is in it and the most that may be."""
        return {
            "members": (len(self.members), self.members.members_max),
            "tables": (len(self._tables), self._tables_max),
            **self.load.sizes(),
            **self.pins.sizes(),
            **self.recent.sizes(),
        }

    def resolve(
        self, subject: Subject, *, will_admit: bool = False, window_ns: int = 0, now_ns: int
    ) -> Placement | None:
        """Place a user; None when no instance is known. Changes nothing: a pin comes back as an event.

        Args:
            subject: whose request.
            will_admit: a ticket will be issued: a user off its slot is pinned.
            window_ns: for how long.
            now_ns: now.
        """
        model_key = self.default_model()
        if model_key is None:
            return None
        member, branch = self._choose(subject, model_key, (), now_ns, may_spill=True)
        if member is None:
            return None
        if branch is Branch.SLOT and will_admit:
            member, branch = self._lighter(subject, model_key, member, now_ns)
        is_exception = branch in (Branch.PIN, Branch.SPILL, Branch.REROUTED)
        if not (is_exception and will_admit and window_ns > 0):
            return Placement(member.record, branch)
        pin = PinUser(subject.user_hash, member.record.instance_id, member.record.epoch, window_ns)
        return Placement(member.record, branch, pin)

    def route_pre_infer(self, ticket: TicketRef) -> InstanceRecord | Refusal:
        """The instance that a ticket names, or why it cannot be there: nobody else will do."""
        member = self._named_by(ticket)
        if member is None:
            return Refusal.FOREIGN_TICKET
        return member.record if member.is_usable else Refusal.UNREACHABLE

    def route_rank(
        self, subject: Subject, ticket: TicketRef | None, tried: Collection[str], now_ns: int
    ) -> Placement | None:
        """The instance to rank on; None when none is left.

        Args:
            subject: whose request.
            ticket: where its ticket points, if it has one; decides the model.
            tried: instances that failed this request already.
            now_ns: now.
        """
        if ticket is not None and ticket.instance_id not in tried:
            named = self._named_by(ticket)
            if named is not None and named.is_usable:
                return Placement(named.record, Branch.TICKET)
        model_key = ticket.model_key if ticket else self.default_model(tried)
        if model_key is None:
            return None
        is_bound = ticket is not None or bool(tried)
        member, branch = self._choose(subject, model_key, tried, now_ns, may_spill=not is_bound)
        if member is None:
            return None
        if branch is Branch.SLOT and not is_bound:
            member, branch = self._lighter(subject, model_key, member, now_ns)
        return Placement(member.record, Branch.REROUTED if is_bound else branch)

    def candidates(self, model_key: str | None, tried: Collection[str] = ()) -> list[Member]:
        """Who can take a request: of the model, not tried, best state first, fenced only when nobody else is there."""
        return list(self._able.of(model_key, tried).values())

    def default_model(self, tried: Collection[str] = ()) -> str | None:
        """The model for requests that name none: the one with the largest device budget at hand."""
        return self._able.default_model(tried)

    def weights(self, model_key: str) -> dict[str, int]:
        """Device budget of each instance that should own slots of a model."""
        return {
            member.record.instance_id: member.record.device_budget_bytes
            for member in self.members
            if member.is_ready and member.model_key == model_key
        }

    def models(self) -> list[str]:
        """Models that instances serve, in order."""
        return sorted({member.model_key for member in self.members})

    def table(self, model_key: str) -> SlotTable | None:
        """The slot table last read from etcd."""
        return self._tables.get(model_key)

    def _choose(
        self, subject: Subject, model_key: str, tried: Collection[str], now_ns: int, *, may_spill: bool
    ) -> tuple[Member | None, Branch]:
        able = self._able.of(model_key, tried)
        if not able:
            return None, Branch.REROUTED
        slot = slot_of(subject.user)
        named, branch = self._owner(subject, model_key, slot, now_ns)
        if named not in able:
            named = next(self._able_in_order(model_key, slot, able))
            branch = Branch.REROUTED
        if may_spill and len(able) > 1:
            other = self._spill_to(named, able, model_key, slot, now_ns)
            if other is not None:
                return able[other], Branch.SPILL
        return able[named], branch

    def _lighter(self, subject: Subject, model_key: str, owner: Member, now_ns: int) -> tuple[Member, Branch]:
        """For a newcomer: its slot's instance, or the next in order when that is less busy."""
        able = self._able.of(model_key)
        named = owner.record.instance_id
        other = next(self._able_in_order(model_key, slot_of(subject.user), able, besides=named), None)
        if other is None:
            return owner, Branch.SLOT
        if self.load.pressure_ns(named, now_ns) - self.load.pressure_ns(other, now_ns) < LIGHTER_BY_NS:
            return owner, Branch.SLOT
        return able[other], Branch.LIGHTER

    def _owner(self, subject: Subject, model_key: str, slot: int, now_ns: int) -> tuple[str, Branch]:
        """Who should have the user, by pin, memory or slot; may be fenced or gone."""
        pin = self.pins.get(subject.user_hash, now_ns)
        if pin is not None and self._is_there(pin.instance_id, pin.epoch, model_key):
            return pin.instance_id, Branch.PIN
        place = self.recent.get(subject.user_hash, now_ns)
        if place is not None and self._is_there(place.instance_id, place.epoch, model_key, is_ready=True):
            return place.instance_id, Branch.RECENT
        before = self._handovers.holder(model_key, slot, subject.user, now_ns)
        if before is not None and before in self._able.of(model_key):
            return before, Branch.SLOT
        return self._owners(model_key)[slot], Branch.SLOT

    def _is_there(self, instance_id: str, epoch: int, model_key: str, *, is_ready: bool = False) -> bool:
        """True when the same boot of an instance serves the model, can be reached and, if asked, takes new users."""
        member = self.members.get(instance_id)
        if member is None or member.record.epoch != epoch or member.model_key != model_key:
            return False
        return member.is_usable and (member.is_ready or not is_ready)

    def _spill_to(self, named: str, able: Mapping[str, Member], model_key: str, slot: int, now_ns: int) -> str | None:
        """The next instance with room when the named one has more than its bound."""
        named_ns = self.load.load_ns(named, now_ns)
        if named_ns <= self._spill_floor_ns:
            return None
        bound_ns = max(self._spill_floor_ns, BOUND * self.load.total_ns(model_key, able, now_ns) / len(able))
        if named_ns <= bound_ns:
            return None
        for each in self._able_in_order(model_key, slot, able, besides=named):
            if self.load.load_ns(each, now_ns) <= bound_ns:
                return each
        return None

    def _named_by(self, ticket: TicketRef) -> Member | None:
        member = self.members.get(ticket.instance_id)
        if member is None or member.record.epoch != ticket.epoch or member.model_key != ticket.model_key:
            return None
        return member

    def _owners(self, model_key: str) -> tuple[str, ...]:
        """The table from etcd; before there is one, what every router would plan from nothing."""
        table = self._tables.get(model_key)
        if table is not None:
            return table.owners
        if model_key not in self._default_tables:
            weights = self.weights(model_key) or {m.record.instance_id: 1 for m in self.candidates(model_key)}
            self._default_tables[model_key] = assign(None, weights)
        return self._default_tables[model_key]

    def _order(self, model_key: str, slot: int) -> Iterator[str]:
        orders = self._orders.get(model_key)
        if orders is None or model_key in self._stale_orders:
            orders = self._orders.setdefault(model_key, SlotOrders())
            self._stale_orders.discard(model_key)
            of_model = (m.record for m in self.members if m.model_key == model_key)
            orders.renew({record.instance_id: record.device_budget_bytes for record in of_model})
        return orders.walk(slot)

    def _able_in_order(
        self, model_key: str, slot: int, able: Mapping[str, Member], *, besides: str | None = None
    ) -> Iterator[str]:
        """Those who can take a request, in the order in which they are tried for a slot.

        A function of its own: compiled, an expression would look at all of them before it gives the first.
        """
        for each in self._order(model_key, slot):
            if each in able and each != besides:
                yield each

    def _set_table(self, model_key: str, table: SlotTable | None, now_ns: int) -> None:
        before = self._tables.pop(model_key, None)
        if table is None:
            self._handovers.drop(model_key)
            return
        if before is not None:
            self._handovers.begin(model_key, before.owners, table.owners, now_ns)
        if len(self._tables) >= self._tables_max:
            served = set(self.models())
            unserved = [key for key in self._tables if key not in served] or list(self._tables)
            del self._tables[unserved[0]]
            self._handovers.drop(unserved[0])
        self._tables[model_key] = table

    def _settle(self, effects: list[Effect]) -> list[Effect]:
        """Drop what was derived from the members before; tell of their change once."""
        for effect in effects:
            if isinstance(effect, ForgetPeer):
                self.load.forget(effect.instance_id)
        others = [effect for effect in effects if not isinstance(effect, ChangeMembers)]
        if len(others) == len(effects):
            return effects
        self._default_tables.clear()
        self.load.drop_totals()
        served = set(self.models())
        self._orders = {key: orders for key, orders in self._orders.items() if key in served}
        self._stale_orders = set(self._orders)
        return [*others, ChangeMembers()]
