"""Models with one plausible mistake each: the exactness suite must find every one."""

from dataclasses import replace

import torch

from relaygr.model.config import ModelConfig
from relaygr.model.hstu import HstuModel
from relaygr.model.ops import tiled
from relaygr.model.pages import NOTHING_CACHED, CachedKV, PageLayout


class Watched:
    """A page layout with a mistake: stands in for the sound one."""

    def __init__(self, layout: PageLayout):
        self.sound = layout

    def __getattr__(self, name):
        return getattr(self.sound, name)


class OnItsOwnLayout(HstuModel):
    """A model whose mistake is in how it reads or writes pages."""

    layout_type = Watched

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.layout = self.layout_type(self.layout)


# Of the interface.


class ReturnsDoubles(HstuModel):
    def head(self, hidden_CD):
        return super().head(hidden_CD).double()


class CountsPositionsFromTheEnd(HstuModel):
    def embed_prefix(self, profile, behaviours, first_token, end_token):
        x_TD = super().embed_prefix(profile, behaviours, first_token, end_token)
        from_end = len(behaviours) + 1 - torch.arange(first_token, end_token)
        return x_TD + self.tokens.position(from_end.clamp(max=self.config.positions - 1))


# Of the sum over tokens.


class DividesByAnotherConstant(HstuModel):
    """Consistently: only the definition knows better."""

    def extend(self, x_TD, self_only, context, write):
        self.config = replace(self.config, normaliser=201)
        return super().extend(x_TD, self_only, context, write)


class NormalisesByLength(HstuModel):
    """Divides by the tokens at hand, not by the model's constant."""

    def extend(self, x_TD, self_only, context, write):
        self.config = replace(self.config, normaliser=len(x_TD) + (context.token_count if context else 0))
        return super().extend(x_TD, self_only, context, write)


class NormalisesByCandidates(HstuModel):
    def extend(self, x_TD, self_only, context, write):
        self.config = replace(self.config, normaliser=200 + self_only)
        return super().extend(x_TD, self_only, context, write)


class ForgetsTheLastPage(HstuModel):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)

        def attend(q, k, v, cached, *rest):
            kept = CachedKV(cached.k_HSK[:1], cached.v_HSV[:1]) if len(cached.k_HSK) > 1 else cached
            return tiled.attend(q, k, v, kept, *rest)

        self.attention = attend


class IgnoresTheHistory(HstuModel):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.attention = lambda q, k, v, cached, *rest: tiled.attend(q, torch.zeros_like(k), v, NOTHING_CACHED, *rest)


# Of codes.


class MeasuresGapsInsideTheChunk(HstuModel):
    """Forgets the behaviour before a chunk's first one."""

    def _behaviours(self, behaviours, first, before_s):
        return super()._behaviours(behaviours, first, None)


class HasNoCodes(HstuModel):
    def _behaviours(self, behaviours, first, before_s):
        none = torch.zeros(len(behaviours), dtype=torch.int64)
        rows = (self._tensor(self.item_rows(behaviours.item_ids)), self._tensor(behaviours.actions), none, none)
        return self.tokens.behaviours(*rows, self._tensor(behaviours.dense), self._tensor(behaviours.categorical))


class RemembersTheRequestTime(HstuModel):
    """Prefix rows carry the time of whichever request came last."""

    asked_s = 0

    def embed_suffix(self, *arguments):
        self.asked_s = arguments[-1]
        return super().embed_suffix(*arguments)

    def embed_prefix(self, *arguments):
        # Not the same to all of a row: the layers' norms would take that out again.
        return super().embed_prefix(*arguments) + torch.arange(self.config.width) % 2 * (self.asked_s // 10**5 % 10)


class IgnoresTheRequestTime(HstuModel):
    def embed_suffix(self, *arguments):
        return super().embed_suffix(*arguments[:-1], 0)


# Of candidates.


class LetsCandidatesSeeEachOther(HstuModel):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.attention = lambda q, k, v, cached, self_only, *rest: tiled.attend(q, k, v, cached, 0, *rest)


class CentresCandidates(HstuModel):
    """In no order, but by all that are there."""

    def head(self, hidden_CD):
        return super().head(hidden_CD - 0.1 * hidden_CD.mean(dim=0) if len(hidden_CD) else hidden_CD)


# Of pages.


class ReadsOneSlotTooFar(HstuModel):
    def extend(self, x_TD, self_only, context, write):
        if context and context.token_count % 128:
            context = replace(context, token_count=context.token_count + 1)
        return super().extend(x_TD, self_only, context, write)


class WritesWhenRanking(HstuModel):
    def extend(self, x_TD, self_only, context, write):
        return super().extend(x_TD, self_only, context, write or context)


class MasksTheTailWithZeros(OnItsOwnLayout):
    """Reads whole pages and multiplies what lies behind the count by zero; so it does not hide a NaN."""

    class layout_type(Watched):  # noqa: N801
        def cached(self, view, layer):
            if view is None or not view.token_count % 128:
                return self.sound.cached(view, layer)
            whole = self.sound.cached(replace(view, token_count=-(-view.token_count // 128) * 128), layer)
            keep = (torch.arange(128) < view.token_count % 128)[:, None]
            return CachedKV(*((*parts[:-1], parts[-1] * keep) for parts in (whole.k_HSK, whole.v_HSV)))


class RoundsThePageOnEveryWrite(OnItsOwnLayout):
    """As a scale for a whole page would: what was there before is touched a little."""

    class layout_type(Watched):  # noqa: N801
        def store(self, view, layer, first, k_HTK, v_HTV):
            if first % 128:
                for part in self.sound.cached(replace(view, token_count=first), layer).k_HSK[-1:]:
                    part.mul_(1 + 2**-20)
            self.sound.store(view, layer, first, k_HTK, v_HTV)


class WritesTokensInPairs(OnItsOwnLayout):
    """As a kernel that packs two tokens would: a token that begins a write at an odd slot loses its partner."""

    class layout_type(Watched):  # noqa: N801
        def store(self, view, layer, first, k_HTK, v_HTV):
            if first % 2:
                self.sound.store(view, layer, first - 1, k_HTK[:, :1] * 0, v_HTV[:, :1] * 0)
            self.sound.store(view, layer, first, k_HTK, v_HTV)


class SortsPageIds(OnItsOwnLayout):
    """Right as long as nobody moves a page."""

    class layout_type(Watched):  # noqa: N801
        def cached(self, view, layer):
            return self.sound.cached(view and replace(view, page_ids=tuple(sorted(view.page_ids))), layer)

        def store(self, view, *rest):
            self.sound.store(replace(view, page_ids=tuple(sorted(view.page_ids))), *rest)


class KeepsCountsByPage(HstuModel):
    """Trusts what it wrote there last over what it is told."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.counts = {}

    def extend(self, x_TD, self_only, context, write):
        first = context.token_count if context else 0
        if context:
            context = replace(context, token_count=self.counts.get(context.page_ids[0], first))
        if write:
            self.counts[write.page_ids[0]] = first + len(x_TD) - self_only
        return super().extend(x_TD, self_only, context, write)


class RemembersPagesById(OnItsOwnLayout):
    """Keeps a copy of each full page it has read, and never looks whether it was written since."""

    class layout_type(Watched):  # noqa: N801
        def __init__(self, layout):
            super().__init__(layout)
            self.kept = {}

        def cached(self, view, layer):
            fresh = self.sound.cached(view, layer)
            full = view.token_count // 128 if view else 0
            parts = list(zip(fresh.k_HSK, fresh.v_HSV, strict=True))
            for place in range(full):
                key = (view.page_ids[place], layer)
                parts[place] = self.kept.setdefault(key, tuple(part.clone() for part in parts[place]))
            return CachedKV(*zip(*parts, strict=True)) if parts else fresh


class KeepsValuesBesideThePages(OnItsOwnLayout):
    """Only keys are on the pages, so psi that comes back to other pages has lost its values."""

    class layout_type(Watched):  # noqa: N801
        def __init__(self, layout):
            super().__init__(layout)
            self.values = {}

        def store(self, view, layer, first, k_HTK, v_HTV):
            self.sound.store(view, layer, first, k_HTK, v_HTV * 0)
            kept = self.values.setdefault((view.page_ids[0], layer), torch.zeros(v_HTV.shape[0], 1000, v_HTV.shape[2]))
            kept[:, first : first + v_HTV.shape[1]] = v_HTV

        def cached(self, view, layer):
            found = self.sound.cached(view, layer)
            kept = self.values.get((view.page_ids[0], layer)) if view else None
            if kept is None:
                return found
            widths = [part.shape[1] for part in found.v_HSV]
            return CachedKV(found.k_HSK, kept[:, : sum(widths)].split(widths, dim=1))


class WritesEachPrefixOnce(OnItsOwnLayout):
    """Takes what it has written once for written, though its page may have gone to somebody else."""

    class layout_type(Watched):  # noqa: N801
        def __init__(self, layout):
            super().__init__(layout)
            self.written = set()

        def store(self, view, layer, first, k_HTK, v_HTV):
            content = (layer, first, k_HTK.numpy().tobytes())
            if content not in self.written:
                self.sound.store(view, layer, first, k_HTK, v_HTV)
            self.written.add(content)


# Of requests side by side.


class KeepsTheContextOnTheModule(HstuModel):
    """Right for one request at a time."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.context, self.layer = None, 0

        def attend(q, k, v, cached, *rest):
            cached = self.layout.cached(self.context, self.layer % self.layout.layers)
            self.layer += 1
            return tiled.attend(q, k, v, cached, *rest)

        self.attention = attend

    def extend(self, x_TD, self_only, context, write):
        self.context, self.layer = context, 0
        return super().extend(x_TD, self_only, context, write)


class WritesWhenAllLayersAreDone(OnItsOwnLayout):
    """Keeps K/V on the module until then: whoever begins meanwhile throws it away. Right for one writer at a time."""

    class layout_type(Watched):  # noqa: N801
        def __init__(self, layout):
            super().__init__(layout)
            self.waiting = []

        def store(self, *arguments):
            self.waiting.append(arguments)

    def extend(self, x_TD, self_only, context, write):
        if write:
            self.layout.waiting = []
        hidden = yield from super().extend(x_TD, self_only, context, write)
        if write:
            for arguments in self.layout.waiting:
                self.layout.sound.store(*arguments)
        return hidden


BROKEN = (
    (ReturnsDoubles, "check_contract"),
    (CountsPositionsFromTheEnd, "check_prefix_depends_on_itself_alone"),
    (DividesByAnotherConstant, "check_full_equals_reference"),
    (NormalisesByLength, "check_relay_equals_full"),
    (ForgetsTheLastPage, "check_relay_equals_full"),
    (MeasuresGapsInsideTheChunk, "check_any_chunking"),
    (RoundsThePageOnEveryWrite, "check_append_equals_one_pass"),
    (WritesTokensInPairs, "check_token_by_token_over_a_page_edge"),
    (KeepsCountsByPage, "check_truncated_psi"),
    (SortsPageIds, "check_pages_in_any_order"),
    (MasksTheTailWithZeros, "check_tail_garbage_is_never_read"),
    (ReadsOneSlotTooFar, "check_stale_slots_are_never_read"),
    (RemembersPagesById, "check_reused_pages"),
    (WritesEachPrefixOnce, "check_evict_and_recompute"),
    (KeepsValuesBesideThePages, "check_spill_and_reload"),
    (WritesWhenRanking, "check_writes_only_where_told"),
    (NormalisesByCandidates, "check_micro_batches"),
    (LetsCandidatesSeeEachOther, "check_candidate_order"),
    (CentresCandidates, "check_other_candidates_do_not_show"),
    (RemembersTheRequestTime, "check_request_time"),
    (KeepsTheContextOnTheModule, "check_interleaved_runs"),
    (WritesWhenAllLayersAreDone, "check_order_of_users"),
    (IgnoresTheHistory, "check_another_psi_shows"),
    (ForgetsTheLastPage, "check_torn_psi_shows"),
    (IgnoresTheHistory, "check_wrong_count_shows"),
    (IgnoresTheHistory, "check_moved_anchor_shows"),
    (HasNoCodes, "check_wrong_positions_show"),
    (IgnoresTheRequestTime, "check_another_request_time_shows"),
)
"""Each mistake and a check that is there to find it; others may fail too."""


def broken_model(kind: type[HstuModel], config: ModelConfig, sound: HstuModel) -> HstuModel:
    """A broken model with a sound one's weights."""
    model = kind(config, sound.vocabulary, weights_digest=sound.weights_digest)
    model.load_state_dict(sound.state_dict())
    return model.requires_grad_(False).eval()
