"""An instance as the others see it: what its registration says.

Values read from the registry are validated here, since anything may have written them.

Source: design, sections 2 and 6.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from relaygr.domain.cost import CostModel
from relaygr.domain.identity import ModelIdentity, ModelLimits

RECORD_BYTES_MAX = 16 * 1024
ID_BYTES_MAX = 64

_UINT32_MAX = (1 << 32) - 1
_UINT64_MAX = (1 << 64) - 1
"""What the messages that carry a record's values can hold."""


class InstanceState(Enum):
    """What an instance takes."""

    READY = "READY"
    DRAINING = "DRAINING"


class InvalidRecord(ValueError):
    """A registry value that is not an instance."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """One ranker process with one device."""

    instance_id: str
    address: str
    """host:port of its RankerService."""
    host: str
    """Name of the machine; instances of one host share an expander."""
    epoch: int
    """Drawn once per process boot; survives re-registration."""
    model: ModelIdentity
    limits: ModelLimits
    cost: CostModel
    device_budget_bytes: int
    pre_infer_share: float
    """Share of device time that pre-infers may take, in (0, 1]."""
    state: InstanceState

    def to_json(self) -> str:
        """The registry's value."""
        record = asdict(self)
        record["state"] = self.state.value
        return json.dumps(record, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> InstanceRecord:
        """Parse and validate a registry value.

        Raises:
            InvalidRecord: says what is wrong.
        """
        if len(text) > RECORD_BYTES_MAX:
            raise InvalidRecord(f"record of {len(text)} bytes, at most {RECORD_BYTES_MAX}")
        try:
            raw = json.loads(text)
            record = cls(
                instance_id=_text(raw, "instance_id"),
                address=_text(raw, "address"),
                host=_text(raw, "host"),
                epoch=_whole(raw, "epoch", 1, _UINT64_MAX),
                model=_model(raw["model"]),
                limits=_limits(raw["limits"]),
                cost=_cost(raw["cost"]),
                device_budget_bytes=_whole(raw, "device_budget_bytes", 0, _UINT64_MAX),
                pre_infer_share=_positive(raw, "pre_infer_share"),
                state=InstanceState(raw["state"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InvalidRecord(f"{type(error).__name__}: {error}") from error
        if record.pre_infer_share > 1:
            raise InvalidRecord("pre_infer_share must be at most 1")
        return record


def _text(raw: dict[str, Any], field: str) -> str:
    value = raw[field]
    if not isinstance(value, str) or not 0 < len(value.encode()) <= 4 * ID_BYTES_MAX:
        raise ValueError(f"{field} must be a short string")
    return value


def _model(raw: dict[str, Any]) -> ModelIdentity:
    fields = {field: _label(raw, field) for field in ModelIdentity.__dataclass_fields__ if field != "normaliser"}
    return ModelIdentity(**fields, normaliser=_whole(raw, "normaliser", 0, _UINT32_MAX))


def _limits(raw: dict[str, Any]) -> ModelLimits:
    fields = {field: _whole(raw, field, 0, _UINT32_MAX) for field in ModelLimits.__dataclass_fields__}
    if not fields["window_step_behaviours"]:
        raise ValueError("window_step_behaviours must be at least 1")
    if fields["window_step_behaviours"] > fields["window_behaviours_max"]:
        raise ValueError("window_step_behaviours must not be above window_behaviours_max")
    return ModelLimits(**fields)


def _cost(raw: dict[str, Any]) -> CostModel:
    fields = {field: _positive(raw, field) for field in CostModel.__dataclass_fields__}
    for field, most in (("token_bytes", _UINT64_MAX), ("candidates_typical", _UINT32_MAX)):
        fields[field] = _whole(raw, field, 0, most)
    return CostModel(**fields)


def _label(raw: dict[str, Any], field: str) -> str:
    value = raw[field]
    if not isinstance(value, str) or len(value.encode()) > 4 * ID_BYTES_MAX:
        raise ValueError(f"{field} must be a short string")
    return value


def _whole(raw: dict[str, Any], field: str, least: int, most: int) -> int:
    value = raw[field]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{field} must be a whole number from {least} to {most}")
    return value


def _positive(raw: dict[str, Any], field: str) -> Any:
    value = raw[field]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e18:
        raise ValueError(f"{field} must be a number in [0, 1e18)")
    return value
