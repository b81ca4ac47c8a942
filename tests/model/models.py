"""Small models for the tests."""

import numpy as np

from relaygr.behaviours.columns import FeatureSpec
from relaygr.domain.identity import ModelLimits
from relaygr.model.checkpoint import random_model
from relaygr.model.config import ModelConfig
from relaygr.model.hstu import HstuModel

ITEM_IDS = np.arange(90, dtype=np.int64) * 11 - 100

FEATURES = FeatureSpec(
    behaviour_dense=2,
    behaviour_categorical=(5, 3),
    candidate_dense=1,
    candidate_categorical=(4,),
    user_dense=3,
    user_categorical=(2,),
    cross_dense=4,
)


def config(layer_form: str = "silu_uvqk", dtype: str = "float32", features: FeatureSpec = FEATURES, **changes):
    """A config that is small but has no two sizes alike."""
    fields = {
        "name": "small",
        "version": "1",
        "layers": 3,
        "width": 24,
        "heads": 2,
        "qk_dim": 8,
        "v_dim": 12,
        "normaliser": 200,
        "layer_form": layer_form,
        "items": len(ITEM_IDS),
        "actions": 4,
        "positions": 250,
        "gap_buckets": 20,
        "tasks": ("click", "like"),
        "features": features,
        "limits": ModelLimits(500, 100, 50, 100),
        "dtype": dtype,
        "head_width": 16,
    }
    return ModelConfig(**{**fields, **changes})


def small_model(layer_form: str = "silu_uvqk", dtype: str = "float32", seed: int = 3, **changes) -> HstuModel:
    """A random model; the same weights for every dtype."""
    options = {name: changes.pop(name) for name in ("kernel", "kv_dtype", "isa", "page_tokens") if name in changes}
    return random_model(config(layer_form, dtype, **changes), ITEM_IDS, seed, **options)
