"""Which instances there are, as far as this router may believe.

Theory of operation. Discovery says who is registered; calls say who answers. The first
failed call fences an instance at once, ahead of its lease: a fenced instance is not
chosen while another is there. Discovery decides its return (a new epoch), or a health
check that it answers. Refusals and bad requests are answers, and never fence.

Discovery itself may be wrong: an etcd that lost its data, or that was cut off from the
instances, shows them gone while all of them serve. So a loss of more than a fifth of
the members within a short time is doubted: each of them stays, and is checked, until a
health check confirms its loss or discovery shows it again.

    ABSENT ──Registered──► MEMBER ──CallFailed──► FENCED ──new epoch, health──► MEMBER
                             │ one of too many losses
                             └──────────► DOUBTED ──health fails──► ABSENT
                                             └──Registered──► MEMBER

Source: design, section 3 (router), invariant I8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relaygr.domain.instance import InstanceRecord, InstanceState
from services.router.core.effects import ChangeMembers, ConfirmLoss, Effect, ForgetPeer, StartProbe
from services.router.core.events import (
    CallFailed,
    Departed,
    Event,
    FenceReason,
    HealthAnswered,
    Listed,
    Registered,
)

GUARD_WINDOW_NS = 10_000_000_000
"""Losses this close together count as one."""
GUARD_SHARE = 5
"""More than one in this many, and at least two, is too many."""
DOUBT_CHECK_NS = 5_000_000_000
"""Pause between two checks of an instance that serves without being registered."""
PROBE_FIRST_NS = 100_000_000
"""First check of a fenced instance; doubled for each fence in the last minute."""
PROBE_MAX_NS = 5_000_000_000
STRIKE_MEMORY_NS = 60_000_000_000


@dataclass(slots=True)
class Member:
    """One instance in the local view."""

    record: InstanceRecord
    fence: FenceReason | None = None
    strikes: int = 0
    """Fences of this epoch, each less than a minute after the one before."""
    struck_ns: int = 0
    doubt_check_ns: int | None = None
    """Set while doubted: when it is checked next."""
    model_key: str = field(init=False)
    """Kept, since it is a hash and every choice asks for it."""

    def __post_init__(self) -> None:
        self.model_key = self.record.model.key

    def renew(self, record: InstanceRecord) -> None:
        """Another record of the same boot."""
        self.record, self.model_key, self.doubt_check_ns = record, record.model.key, None

    @property
    def is_ready(self) -> bool:
        """Takes new users."""
        return self.record.state is InstanceState.READY

    @property
    def is_usable(self) -> bool:
        """Nothing speaks against calling it."""
        return self.fence is None


class Membership:
    """The instances, their fences and the doubts about their loss."""

    def __init__(self, *, members_max: int = 1024) -> None:
        self.members_max = members_max
        self._members: dict[str, Member] = {}
        self._losses_ns: deque[int] = deque()
        self._doubted: dict[str, None] = {}
        self.refused_records = 0
        """Registrations beyond `members_max`, ignored."""
        self.version = 0
        """Another number after anything that decides who can be chosen: joins, leaves, fences, changed records."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        """Members in the order of their ids."""
        return iter(self._members.values())

    def get(self, instance_id: str) -> Member | None:
        """A member by id."""
        return self._members.get(instance_id)

    def is_current(self, instance_id: str, epoch: int) -> bool:
        """True when this boot of this instance is a member."""
        member = self._members.get(instance_id)
        return member is not None and member.record.epoch == epoch

    def is_fenced(self, instance_id: str, epoch: int) -> bool:
        """True while this boot of this instance is fenced."""
        return self.is_current(instance_id, epoch) and not self._members[instance_id].is_usable

    def handle(self, event: Event, now_ns: int) -> list[Effect]:
        """Take one event; those about slots and pins mean nothing here."""
        match event:
            case Listed(records):
                return self._listed(records, now_ns)
            case Registered(record):
                return self._registered(record)
            case Departed(instance_id):
                return self._departed([instance_id], now_ns)
            case CallFailed(instance_id, epoch, reason):
                return self._failed(instance_id, epoch, reason, now_ns)
            case HealthAnswered(instance_id, epoch, is_serving):
                return self._checked(instance_id, epoch, is_serving, now_ns)
            case _:
                return []

    def deadline_ns(self) -> int | None:
        """When the next doubted member is to be checked."""
        checks = (self._members[each].doubt_check_ns for each in self._doubted)
        return min((check_ns for check_ns in checks if check_ns is not None), default=None)

    def expire(self, now_ns: int) -> list[Effect]:
        """Ask for the checks that are due."""
        doubted = [self._members[each] for each in sorted(self._doubted)]
        due = [m for m in doubted if m.doubt_check_ns is not None and m.doubt_check_ns <= now_ns]
        return [self._confirm(member, now_ns) for member in due]

    def check(self) -> None:
        """Assert the invariants."""
        assert len(self._members) <= self.members_max
        assert len(self._losses_ns) <= self.members_max
        assert list(self._members) == sorted(self._members)
        assert set(self._doubted) == {m.record.instance_id for m in self if m.doubt_check_ns is not None}
        for instance_id, member in self._members.items():
            assert member.model_key == member.record.model.key
            assert member.record.instance_id == instance_id
            assert member.strikes >= (0 if member.is_usable else 1)

    def _listed(self, records: Sequence[InstanceRecord], now_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for record in records:
            effects += self._registered(record)
        shown = {record.instance_id for record in records}
        effects += self._departed([each for each in sorted(self._members) if each not in shown], now_ns)
        return effects

    def _registered(self, record: InstanceRecord) -> list[Effect]:
        member = self._members.get(record.instance_id)
        if member is None:
            if len(self._members) >= self.members_max:
                self.refused_records += 1
                return []
            self.version += 1
            self._members[record.instance_id] = Member(record)
            # In order at each change, so that no choice has to sort.
            self._members = dict(sorted(self._members.items()))
            return [ChangeMembers()]
        before = member.record
        member.renew(record)
        self._doubted.pop(record.instance_id, None)
        if before == record:
            return []
        self.version += 1
        if before.epoch == record.epoch:
            return [ChangeMembers()]
        self._members[record.instance_id] = Member(record)
        return [ForgetPeer(before.instance_id, before.epoch, before.address), ChangeMembers()]

    def _departed(self, instance_ids: Sequence[str], now_ns: int) -> list[Effect]:
        gone = [self._members[each] for each in instance_ids if each in self._members]
        # An instance that announced its leaving is believed at once.
        effects = [effect for member in gone if not member.is_ready for effect in self._remove(member)]
        sudden = [member for member in gone if member.is_ready and member.doubt_check_ns is None]
        if not sudden:
            return effects
        if self._are_too_many(len(sudden), now_ns):
            return effects + [self._confirm(member, now_ns) for member in sudden]
        for member in sudden:
            self._count_loss(now_ns)
            effects += self._remove(member)
        return effects

    def _are_too_many(self, losses: int, now_ns: int) -> bool:
        while self._losses_ns and now_ns - self._losses_ns[0] > GUARD_WINDOW_NS:
            self._losses_ns.popleft()
        recent = len(self._losses_ns)
        total = losses + recent
        return total >= 2 and total * GUARD_SHARE > len(self._members) + recent

    def _count_loss(self, now_ns: int) -> None:
        self._losses_ns.append(now_ns)
        if len(self._losses_ns) > self.members_max:
            self._losses_ns.popleft()

    def _confirm(self, member: Member, now_ns: int) -> Effect:
        member.doubt_check_ns = now_ns + DOUBT_CHECK_NS
        self._doubted[member.record.instance_id] = None
        return ConfirmLoss(member.record.instance_id, member.record.epoch, member.record.address)

    def _failed(self, instance_id: str, epoch: int, reason: FenceReason, now_ns: int) -> list[Effect]:
        if not self.is_current(instance_id, epoch):
            return []
        member = self._members[instance_id]
        if not member.is_usable:
            return []
        if now_ns - member.struck_ns > STRIKE_MEMORY_NS:
            member.strikes = 0
        delay_ns = min(PROBE_MAX_NS, PROBE_FIRST_NS << min(member.strikes, 16))
        self.version += 1
        member.fence = reason
        member.strikes += 1
        member.struck_ns = now_ns
        return [StartProbe(instance_id, epoch, member.record.address, reason, delay_ns)]

    def _checked(self, instance_id: str, epoch: int, is_serving: bool, now_ns: int) -> list[Effect]:
        if not self.is_current(instance_id, epoch):
            return []
        member = self._members[instance_id]
        if is_serving:
            self.version += member.fence is not None
            member.fence = None
            if member.doubt_check_ns is not None:
                member.doubt_check_ns = now_ns + DOUBT_CHECK_NS
            return []
        if member.doubt_check_ns is None:
            return []
        self._count_loss(now_ns)
        return self._remove(member)

    def _remove(self, member: Member) -> list[Effect]:
        record = member.record
        self.version += 1
        self._doubted.pop(record.instance_id, None)
        del self._members[record.instance_id]
        return [ForgetPeer(record.instance_id, record.epoch, record.address), ChangeMembers()]
