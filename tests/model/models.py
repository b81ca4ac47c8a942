"""Small models for the tests, and the kernels that they are tested with."""

import numpy as np
from hypothesis import settings

from relaygr.behaviours.columns import FeatureSpec
from relaygr.domain.identity import ModelLimits
from relaygr.model.checkpoint import random_model
from relaygr.model.config import ModelConfig
from relaygr.model.conformance import TOLERANCE, Subject
from relaygr.model.hstu import HstuModel
from relaygr.model.oracle import infer_full_float64
from relaygr.native import load

ITEM_IDS = np.arange(90, dtype=np.int64) * 11 - 100

EXACT_KERNELS = ("torch", "reference", *(("native/wide",) if load() else ()))
NEAR_KERNELS = (*EXACT_KERNELS, *(("native/int8",) if load() else ()))
KERNELS = (*NEAR_KERNELS, "torch/int8")
"""Makes of the inner loop. A new one joins every test of exactness by its name here.

native/wide rounds a model's widths up to what the native kernel takes; int8 has int8 pages besides.
"""

INT8_ERROR_MAX = 0.25
"""Of int8 against the definition on small random models: a bound against gross mistakes, as bfloat16's is."""

LANES = 16

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


def int8_relay_error_max(model: HstuModel) -> float:
    """Native is equal to the bit. Torch rounds by how many rows there are, and a rounding may move a quantum."""
    return TOLERANCE if model.kernel.startswith("native") else 0.05


def examples(count: int) -> int:
    """So many examples of a property; `make exact` asks for more of each."""
    return count * settings.default.max_examples // 100


def small_model(layer_form: str = "silu_uvqk", dtype: str = "float32", seed: int = 3, **changes) -> HstuModel:
    """A random model; the same weights for every dtype and kernel."""
    options = {name: changes.pop(name) for name in ("kernel", "kv_dtype", "isa", "page_tokens") if name in changes}
    kernel, _, variant = options.pop("kernel", "torch").partition("/")
    if variant:
        narrow = config(layer_form, **changes)
        changes |= {name: -(-getattr(narrow, name) // LANES) * LANES for name in ("width", "qk_dim", "v_dim")}
        options["kv_dtype"] = variant.removeprefix("wide")
    return random_model(config(layer_form, dtype, **changes), ITEM_IDS, seed, kernel=kernel, **options)


def small_subject(layer_form: str = "silu_uvqk", dtype: str = "float32", seed: int = 3, **changes) -> Subject:
    """A random model with its definition, and with its float32 twin when it rounds."""
    model = small_model(layer_form, dtype, seed, **changes)
    is_int8 = model.spec.identity.dtype == "int8"
    exact = model if dtype == "float32" else small_model(layer_form, seed=seed, **changes)
    return Subject(
        model=model,
        item_ids=ITEM_IDS,
        oracle=None if exact is model or is_int8 else exact,
        error_max=INT8_ERROR_MAX if is_int8 else None,
        relay_error_max=int8_relay_error_max(model) if is_int8 else None,
        reference=lambda inputs: infer_full_float64(exact.config, exact.state_dict(), exact.vocabulary, inputs),
    )
