"""The router's choices written so that they look everybody over: what the quick ones must be equal to."""

from __future__ import annotations

import math

from relaygr.domain.slots import SLOTS, slot_of
from services.router.core.binding import BOUND, LIGHTER_BY_NS, Binding, Branch
from services.router.core.slots import Scores, ring_order


class WalkingBinding(Binding):
    """Keeps nothing between two choices."""

    def candidates(self, model_key, tried=()):
        able = [
            member
            for member in self.members
            if member.record.instance_id not in tried and model_key in (None, member.model_key)
        ]
        free = [member for member in able if member.is_usable]
        return [member for member in free if member.is_ready] or free or able

    def default_model(self, tried=()):
        budgets = {}
        for member in self.candidates(None, tried):
            key = member.model_key
            budgets[key] = budgets.get(key, 0) + member.record.device_budget_bytes + 1
        return max(budgets, key=lambda key: (budgets[key], key), default=None)

    def _choose(self, subject, model_key, tried, now_ns, *, may_spill):
        able = {member.record.instance_id: member for member in self.candidates(model_key, tried)}
        if not able:
            return None, Branch.REROUTED
        slot = slot_of(subject.user)
        order = self._whole_order(model_key, slot)
        named, branch = self._owner(subject, model_key, slot, now_ns)
        if named not in able:
            named, branch = next(each for each in order if each in able), Branch.REROUTED
        if may_spill and len(able) > 1:
            loads = {each: self.load.load_ns(each, now_ns) for each in able}
            bound_ns = max(self._spill_floor_ns, BOUND * sum(loads.values()) / len(loads))
            others = [each for each in order if each in able and each != named and loads[each] <= bound_ns]
            if loads[named] > bound_ns and others:
                return able[others[0]], Branch.SPILL
        return able[named], branch

    def _lighter(self, subject, model_key, owner, now_ns):
        able = {member.record.instance_id: member for member in self.candidates(model_key)}
        named = owner.record.instance_id
        order = self._whole_order(model_key, slot_of(subject.user))
        other = next((each for each in order if each in able and each != named), None)
        if other is None:
            return owner, Branch.SLOT
        if self.load.pressure_ns(named, now_ns) - self.load.pressure_ns(other, now_ns) < LIGHTER_BY_NS:
            return owner, Branch.SLOT
        return able[other], Branch.LIGHTER

    def _whole_order(self, model_key, slot):
        of_model = (member.record for member in self.members if member.model_key == model_key)
        return ring_order(slot, {record.instance_id: record.device_budget_bytes for record in of_model})


def walking_assign(previous, weights):
    """`assign`, looking at all instances for each slot."""
    total = sum(weights.values())
    shares = {each: SLOTS * weight / total if total > 0 else SLOTS / len(weights) for each, weight in weights.items()}
    scores = Scores(weights)
    held = {each: [] for each in sorted(weights)}
    orphans = []
    for slot in range(SLOTS):
        owner = previous[slot] if previous else None
        is_kept = owner in held and len(held[owner]) < math.ceil(shares[owner])
        (held[owner] if is_kept else orphans).append(slot)
    for slot in orphans:
        held[max(held, key=lambda each: (shares[each] - len(held[each]), scores.of(slot, each)))].append(slot)
    for joiner in held:
        if joiner not in set(previous or ()) or len(held[joiner]) < shares[joiner] / 2 - 1:
            _take(joiner, held, shares, scores)
    owner_of = {slot: each for each, slots in held.items() for slot in slots}
    return tuple(owner_of[slot] for slot in range(SLOTS))


def _take(joiner, held, shares, scores):
    while len(held[joiner]) < math.floor(shares[joiner]):
        giver = max(held, key=lambda each: (len(held[each]) - shares[each], each))
        if giver == joiner or len(held[giver]) <= shares[giver] - 1:
            return
        slot = max(held[giver], key=lambda each: scores.of(each, joiner))
        held[giver].remove(slot)
        held[joiner].append(slot)
