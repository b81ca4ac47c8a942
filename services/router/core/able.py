"""Who can take a request, kept until the instances change: a choice looks nobody over.

Source: design, section 3 (router).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from services.router.core.membership import Member, Membership


class Able:
    """The members that can take a request, by model.

    What is kept holds for one version of the members (`Membership.version`), which any join, leave, fence or
    change of state ends. Making it anew walks all members; asking for it does not. A request that failed
    somewhere already is looked at by itself, since its list is its own.
    """

    def __init__(self, members: Membership) -> None:
        self._members = members
        self._version = members.version
        self._kept: dict[str | None, Mapping[str, Member]] = {}
        self._default: str | None = None
        self._has_default = False

    def of(self, model_key: str | None, tried: Collection[str] = ()) -> Mapping[str, Member]:
        """Members by id, in the order of their ids; the same object until the members change, if nobody was tried.

        Args:
            model_key: the model they serve; None: any.
            tried: instances that failed the request already.
        """
        if tried:
            return _best(self._serving(model_key, tried))
        self._renew()
        able = self._kept.get(model_key)
        if able is None:
            able = _best(self._serving(model_key, ()))
            if able:  # A model that nobody serves is not kept: there is no end of those.
                self._kept[model_key] = able
        return able

    def default_model(self, tried: Collection[str] = ()) -> str | None:
        """The model with the largest device budget at hand; None when nobody is there."""
        if tried:
            return _largest(self.of(None, tried).values())
        self._renew()
        if not self._has_default:
            self._default, self._has_default = _largest(self.of(None).values()), True
        return self._default

    def _serving(self, model_key: str | None, tried: Collection[str]) -> list[Member]:
        return [
            member
            for member in self._members
            if member.record.instance_id not in tried and model_key in (None, member.model_key)
        ]

    def _renew(self) -> None:
        if self._version != self._members.version:
            self._version = self._members.version
            self._kept.clear()
            self._has_default = False


def _best(able: list[Member]) -> Mapping[str, Member]:
    """Those in the best state: ready and reachable, else reachable, else whoever is there."""
    free = [member for member in able if member.is_usable]
    best = [member for member in free if member.is_ready] or free or able
    return {member.record.instance_id: member for member in best}


def _largest(members: Iterable[Member]) -> str | None:
    budgets: dict[str, int] = {}
    for member in members:
        key = member.model_key
        budgets[key] = budgets.get(key, 0) + member.record.device_budget_bytes + 1
    return max(budgets, key=lambda key: (budgets[key], key), default=None)
