"""Small models for the tests, and the kernels that they are tested with."""

import numpy as np
from hypothesis import settings

from relaygr.behaviours.columns import FeatureSpec
from relaygr.domain.identity import ModelLimits
from relaygr.model.checkpoint import random_model
from relaygr.model.config import ModelConfig
from relaygr.model.conformance import Subject
from relaygr.model.hstu import HstuModel
from relaygr.model.oracle import infer_full_float64

ITEM_IDS = np.arange(90, dtype=np.int64) * 11 - 100

KERNELS = ("torch", "reference")
"""Makes of the inner loop. A new one joins every test of exactness by its name here.

"kernel+type" names a kernel on K/V of another type than the rest, as in "native+int8".
"""

KV_ERROR_MAX = {"int8": 0.2}
"""What quantised K/V may move a logit of these small models by.

K and V rounded to 127 steps of a token's and head's largest were measured at up to 0.015 on
histories of 280 and at 0.12 on one of three tokens, of which the norms make much.
"""

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


def kernel_options(kernel: str) -> dict[str, str]:
    """What to hand to `random_model` for a kernel's name."""
    name, _, kv_dtype = kernel.partition("+")
    return {"attention": {"torch": "tiled"}.get(name, name)} | ({"kv_dtype": kv_dtype} if kv_dtype else {})


def examples(count: int) -> int:
    """So many examples of a property; `make exact` asks for more of each."""
    return count * settings.default.max_examples // 100


def small_model(layer_form: str = "silu_uvqk", dtype: str = "float32", seed: int = 3, **changes) -> HstuModel:
    """A random model; the same weights for every dtype and kernel."""
    options = kernel_options(changes.pop("kernel", "torch"))
    return random_model(config(layer_form, dtype, **changes), ITEM_IDS, seed, **options)


def small_subject(layer_form: str = "silu_uvqk", dtype: str = "float32", seed: int = 3, **changes) -> Subject:
    """A random model with its definition, and with its float32 twin when it rounds."""
    model = small_model(layer_form, dtype, seed, **changes)
    kv_dtype = changes.pop("kernel", "").partition("+")[2]
    exact = model if dtype == "float32" and not kv_dtype else small_model(layer_form, seed=seed, **changes)
    return Subject(
        model=model,
        item_ids=ITEM_IDS,
        oracle=None if exact is model else exact,
        error_max=KV_ERROR_MAX.get(kv_dtype),
        reference=lambda inputs: infer_full_float64(exact.config, exact.state_dict(), exact.vocabulary, inputs),
    )
