"""A request's prefix: where its behaviours come from, checked and digested.

The digest is always computed from the behaviours at hand, never believed from the wire:
a psi is used only where the request's own tokens say so (I5).

Source: design, section 4 (the cut), invariant I5.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from relaygr.behaviours.columns import Behaviours, FeatureSpec, Profile, chain_of
from relaygr.behaviours.store import BehaviourStore, CutGone
from relaygr.domain.chain import Chain
from relaygr.domain.identity import ModelLimits, UserKey
from relaygr.domain.window import anchor_of
from relaygr.errors import InvalidRequest
from relaygr.v1 import common_pb2 as pb

PREFIXES_MAX = 512
"""Prefixes of the store kept between a PreInfer and its Rank: views of mapped columns, and links of 16 bytes a page."""


@dataclass(slots=True, eq=False)
class Prefix:
    """The user token and the behaviours before the cut."""

    profile: Profile
    behaviours: Behaviours
    chain: Chain
    anchor: int
    store_generation: str
    """Of the store that was read; empty for an inline history."""
    unknown_count: int | None = None
    """Behaviours whose items the model does not know, once somebody has counted them."""

    @property
    def tokens(self) -> int:
        """User token and behaviours."""
        return len(self.behaviours) + 1

    @property
    def end_index(self) -> int:
        """Index, in the user's whole log, of the first behaviour after the cut."""
        return self.anchor + len(self.behaviours)


class PrefixReader:
    """Reads histories as a model declares them."""

    def __init__(self, features: FeatureSpec, limits: ModelLimits, store: BehaviourStore | None):
        """`store` is None when only inline histories are served."""
        self._features = features
        self._limits = limits
        self._store = store
        self._kept: OrderedDict[tuple[UserKey, int, int, str], Prefix] = OrderedDict()

    def forget(self, owner: UserKey) -> None:
        """Keep nothing of a user."""
        for name in [name for name in self._kept if name[0] == owner]:
            del self._kept[name]

    def read(self, owner: UserKey, history: pb.History, field: str) -> Prefix:
        """The prefix that a history names.

        Raises:
            InvalidRequest: names the field below `field`.
            CutGone: the store can no longer reproduce the cut.
        """
        if history.as_of_s < 0:
            raise InvalidRequest(f"{field}.as_of_s", "must not be negative")
        if history.HasField("cut"):
            count = history.cut.behaviour_count
            if count > self._limits.window_behaviours_max:
                most = self._limits.window_behaviours_max
                raise InvalidRequest(f"{field}.cut.behaviour_count", f"{count} behaviours, at most {most}")
        if history.inline:
            return self._read_inline(history, field)
        return self._read_stored(owner, history, field)

    def read_anew(self, owner: UserKey, as_of_s: int, field: str) -> Prefix:
        """The prefix at the store's present head: what a rank falls back to when its cut is gone."""
        return self._read_stored(owner, pb.History(as_of_s=as_of_s), field)

    def read_delta(self, owner: UserKey, prefix: Prefix, as_of_s: int) -> Behaviours:
        """Behaviours of the store from the cut to `as_of_s`; the newest ones when there are too many.

        Raises:
            CutGone: the store is of another generation than the prefix.
        """
        assert self._store is not None
        end = self._store.head(owner, as_of_s).log_count
        first = max(prefix.end_index, end - self._limits.delta_behaviours_max)
        return self._store.read(owner, min(first, end), end, prefix.store_generation)

    def _read_inline(self, history: pb.History, field: str) -> Prefix:
        inline = pb.InlineHistory()
        try:
            inline.ParseFromString(history.inline)
        except Exception as error:
            raise InvalidRequest(f"{field}.inline", "not a serialised InlineHistory") from error
        spec = self._features
        behaviours = Behaviours.from_pb(
            inline.behaviours,
            spec.behaviour_dense,
            len(spec.behaviour_categorical),
            f"{field}.inline.behaviours",
            count_max=self._limits.window_behaviours_max,
            categorical_sizes=spec.behaviour_categorical,
        )
        profile = Profile.from_pb(
            inline.profile,
            spec.user_dense,
            len(spec.user_categorical),
            f"{field}.inline.profile",
            categorical_sizes=spec.user_categorical,
        )
        chain = chain_of(profile, behaviours)
        if history.HasField("cut"):
            _check_cut(history.cut, chain, field)
        return Prefix(profile, behaviours, chain, history.cut.anchor, "")

    def _read_stored(self, owner: UserKey, history: pb.History, field: str) -> Prefix:
        if self._store is None:
            raise InvalidRequest(f"{field}.inline", "this instance has no behaviour store; send the history inline")
        if history.HasField("cut"):
            anchor, count = history.cut.anchor, history.cut.behaviour_count
            generation = history.cut.store_generation
        else:
            head = self._store.head(owner, history.as_of_s)
            anchor = anchor_of(head.log_count, self._limits)
            count, generation = head.log_count - anchor, head.generation
        behaviours = self._store.read(owner, anchor, anchor + count, generation)
        if len(behaviours) != count:
            raise CutGone(f"{len(behaviours)} of {count} behaviours are left")
        profile = self._store.profile(owner)
        name = (owner, anchor, count, generation)
        kept = self._kept.get(name)
        if kept is None or kept.behaviours != behaviours or kept.profile != profile:
            # What was just read is compared, not only its name: a digest is always that of the tokens at hand.
            kept = self._kept[name] = Prefix(profile, behaviours, chain_of(profile, behaviours), anchor, generation)
            while len(self._kept) > PREFIXES_MAX:
                self._kept.popitem(last=False)
        self._kept.move_to_end(name)
        return kept


def _check_cut(cut: pb.Cut, chain: Chain, field: str) -> None:
    if cut.behaviour_count != chain.token_count - 1:
        raise InvalidRequest(
            f"{field}.cut.behaviour_count", f"{cut.behaviour_count}, but {chain.token_count - 1} were sent"
        )
    if cut.digest and cut.digest != chain.digest:
        problem = "does not match the behaviours and profile sent; give the client the model's features"
        raise InvalidRequest(f"{field}.cut.digest", problem)


def cut_of(prefix: Prefix) -> pb.Cut:
    """The cut that reproduces this prefix."""
    return pb.Cut(
        anchor=prefix.anchor,
        behaviour_count=len(prefix.behaviours),
        store_generation=prefix.store_generation,
        digest=prefix.chain.digest,
    )
