"""Models with one plausible mistake each: the exactness suite must find every one."""

from dataclasses import replace

import torch

from relaygr.model.config import ModelConfig
from relaygr.model.hstu import HstuModel
from relaygr.model.ops import tiled
from relaygr.model.pages import NOTHING_CACHED, CachedKV


class NormalisesByLength(HstuModel):
    """Divides by the tokens at hand, not by the model's constant."""

    def extend(self, x_TD, self_only, context, write):
        self.config = replace(self.config, normaliser=len(x_TD) + (context.token_count if context else 0))
        return super().extend(x_TD, self_only, context, write)


class CountsPositionsFromTheEnd(HstuModel):
    def embed_prefix(self, profile, behaviours, first_token, end_token):
        x_TD = super().embed_prefix(profile, behaviours, first_token, end_token)
        from_end = len(behaviours) + 1 - torch.arange(first_token, end_token)
        return x_TD + self.tokens.position(from_end.clamp(max=self.config.positions - 1))


class MeasuresGapsInsideTheChunk(HstuModel):
    """Forgets the behaviour before a chunk's first one."""

    def _behaviours(self, behaviours, first, before_s):
        return super()._behaviours(behaviours, first, None)


class LetsCandidatesSeeEachOther(HstuModel):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.attention = lambda q, k, v, cached, self_only, *rest: tiled.attend(q, k, v, cached, 0, *rest)


class ReadsOneSlotTooFar(HstuModel):
    def extend(self, x_TD, self_only, context, write):
        if context and context.token_count % 128:
            context = replace(context, token_count=context.token_count + 1)
        return super().extend(x_TD, self_only, context, write)


class ForgetsTheLastPage(HstuModel):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)

        def attend(q, k, v, cached, *rest):
            kept = CachedKV(cached.k_HSK[:1], cached.v_HSV[:1]) if len(cached.k_HSK) > 1 else cached
            return tiled.attend(q, k, v, kept, *rest)

        self.attention = attend


class WritesWhenRanking(HstuModel):
    def extend(self, x_TD, self_only, context, write):
        return super().extend(x_TD, self_only, context, write or context)


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


class IgnoresTheHistory(HstuModel):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.attention = lambda q, k, v, cached, *rest: tiled.attend(q, torch.zeros_like(k), v, NOTHING_CACHED, *rest)


BROKEN = {
    NormalisesByLength: "check_relay_equals_full",
    CountsPositionsFromTheEnd: "check_prefix_depends_on_itself_alone",
    MeasuresGapsInsideTheChunk: "check_any_chunking",
    LetsCandidatesSeeEachOther: "check_candidate_order",
    ReadsOneSlotTooFar: "check_stale_slots_are_never_read",
    ForgetsTheLastPage: "check_relay_equals_full",
    WritesWhenRanking: "check_writes_only_where_told",
    KeepsTheContextOnTheModule: "check_interleaved_runs",
    IgnoresTheHistory: "check_another_psi_shows",
}
"""Each mistake and the check that is there to find it; others may fail too."""


def broken_model(kind: type[HstuModel], config: ModelConfig, sound: HstuModel) -> HstuModel:
    """A broken model with a sound one's weights."""
    model = kind(config, sound.vocabulary, weights_digest=sound.weights_digest)
    model.load_state_dict(sound.state_dict())
    return model.requires_grad_(False).eval()
