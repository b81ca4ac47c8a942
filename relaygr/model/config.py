"""What fixes an HSTU model besides its weights, and its form as JSON.

Source: design, section 4, condition 1.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal

from relaygr.behaviours.columns import FeatureSpec
from relaygr.domain.identity import ModelLimits

LayerForm = Literal["silu_uvqk", "silu_u"]
Dtype = Literal["float32", "bfloat16"]

LAYER_FORMS = ("silu_uvqk", "silu_u")
DTYPES = ("float32", "bfloat16")
COUNT_MAX = 2**31 - 1
"""Of anything that is counted here; what multiplies two of these still fits 64 bits."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """An HSTU ranking model."""

    name: str
    version: str
    layers: int
    width: int
    """Width of a token's hidden row."""
    heads: int
    qk_dim: int
    """Width of a query or key of one head."""
    v_dim: int
    """Width of a value of one head."""
    normaliser: int
    """N of SiLU(alpha QK^T)/N, tokens: one constant for every request."""
    alpha: float = 0.0
    """Scale of QK^T; 0 stands for 1/sqrt(qk_dim)."""
    layer_form: LayerForm = "silu_uvqk"
    items: int
    """Known items. The item table has one row more: row 0 is for items out of vocabulary."""
    actions: int
    """Action codes; a code outside [0, actions) counts as 0."""
    positions: int
    """Rows of the position table; later positions share the last row."""
    gap_buckets: int = 34
    """Rows of the time-gap table; 34 tells gaps of up to 2^32 seconds apart."""
    tasks: tuple[str, ...]
    features: FeatureSpec = dataclasses.field(default_factory=FeatureSpec)
    limits: ModelLimits
    dtype: Dtype = "float32"
    """Of weights, hidden rows and cached K/V. Sums in attention and the head are float32 at least."""
    head_width: int

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        counts = ("layers", "width", "heads", "qk_dim", "v_dim", "normaliser", "items", "actions", "positions")
        for field in (*counts, "head_width"):
            _check_count(field, getattr(self, field), 1)
        for field in ("name", "version"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(f"{field}: must be a text")
        if not isinstance(self.alpha, numbers.Real) or not math.isfinite(self.alpha):
            raise ValueError(f"alpha: must be a finite number, is {self.alpha!r}")
        _check_numbers("features", self.features, 0)
        _check_numbers("limits", self.limits, 0)
        if not 0 < self.limits.window_step_behaviours <= self.limits.window_behaviours_max:
            raise ValueError("limits.window_step_behaviours: must be from 1 to window_behaviours_max")
        if not isinstance(self.gap_buckets, numbers.Integral) or self.gap_buckets < 3:
            raise ValueError(f"gap_buckets: must be at least 3, is {self.gap_buckets}")
        if not self.tasks or not all(isinstance(task, str) for task in self.tasks):
            raise ValueError("tasks: must name at least one")
        if self.layer_form not in LAYER_FORMS:
            raise ValueError(f"layer_form: must be one of {LAYER_FORMS}, is {self.layer_form!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype: must be one of {DTYPES}, is {self.dtype!r}")

    @property
    def scale(self) -> float:
        """The factor on QK^T."""
        return self.alpha or self.qk_dim**-0.5

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `json.dumps` takes them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_json`.

        Raises:
            ValueError: a field is missing, unknown or out of range.
        """
        try:
            features = FeatureSpec(**_with_tuples(values["features"]))
            limits = ModelLimits(**values["limits"])
            return cls(**{**_with_tuples(values), "features": features, "limits": limits})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a model configuration: {error}") from error


def _check_count(field: str, value: object, least: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not least <= int(value) <= COUNT_MAX:
        known = "must be positive" if least else "must not be negative"
        raise ValueError(f"{field}: {known} and a whole number below 2^31, is {value!r}")


def _check_numbers(name: str, values: FeatureSpec | ModelLimits, least: int) -> None:
    """Each field, or each value of a field that has several."""
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        for each in value if isinstance(value, tuple) else (value,):
            _check_count(f"{name}.{field.name}", each, 1 if isinstance(value, tuple) else least)


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    # JSON has no tuples; the frozen dataclasses have no lists.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
