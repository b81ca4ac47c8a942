"""What an instance is: its cost model and its memory, from a file or a named example.

Examples are computed from published peak figures (examples/*.json); each says so and cites them. They stand for no
measurement of this project.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relaygr.domain.cost import CostModel
from relaygr.plan.demand import PlanError

EXAMPLES = Path(__file__).with_name("examples")
MEASURED = "measured by an instance"
OPTION = "--cost-model"
_WHOLE = ("token_bytes", "candidates_typical")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """One instance."""

    name: str
    cost: CostModel
    device_bytes: int
    """For psi, of each instance."""
    dram_bytes: int
    """For psi, of each host."""
    instances_per_host: int
    pre_infer_share: float = 0.7
    """Device seconds a second that productions may take."""
    footprint_share: float = 0.5
    """Share of the device's bytes that open tickets may hold."""
    label: str = MEASURED
    sources: tuple[str, ...] = ()


def names() -> list[str]:
    """Of the examples."""
    return sorted(path.stem for path in EXAMPLES.glob("*.json"))


def device_of(text: str) -> DeviceModel:
    """A named example, or a JSON file.

    A file is an instance's record as it stands in etcd, or a cost model alone: then its memory must be given.

    Raises:
        PlanError: names --cost-model.
    """
    path = EXAMPLES / f"{text}.json" if text in names() else Path(text)
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        known = ", ".join(names())
        raise PlanError(OPTION, f"{text!r} is no file and none of the examples {known} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise PlanError(OPTION, f"{path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise PlanError(OPTION, f"{path} must hold an object")
    sources = raw.get("sources", ())
    if not isinstance(sources, list | tuple):
        raise PlanError(OPTION, f"{path}: sources must be a list")
    return DeviceModel(
        name=str(raw.get("name", path.stem)),
        cost=_cost(path, raw.get("cost", raw)),
        device_bytes=int(_number(path, raw, "device_bytes", raw.get("device_budget_bytes", 0))),
        dram_bytes=int(_number(path, raw, "dram_bytes", 0)),
        instances_per_host=max(1, int(_number(path, raw, "instances_per_host", 1))),
        pre_infer_share=_number(path, raw, "pre_infer_share", 0.7),
        label=str(raw.get("label", MEASURED)),
        sources=tuple(str(source) for source in sources),
    )


def _cost(path: Path, raw: Any) -> CostModel:
    fields = CostModel.__dataclass_fields__
    if not isinstance(raw, Mapping):
        raise PlanError(OPTION, f"{path}: cost must be an object")
    missing = [field for field in fields if field not in raw]
    if missing:
        raise PlanError(OPTION, f"{path} lacks {', '.join(missing)}")
    values: dict[str, Any] = {field: _number(path, raw, field, 0) for field in fields}
    values |= {field: int(values[field]) for field in _WHOLE}
    if values["token_bytes"] < 1 or values["token_ns"] + values["pair_ns"] <= 0:
        raise PlanError(OPTION, f"{path}: token_bytes, and token_ns or pair_ns, must be positive")
    return CostModel(**values)


def _number(path: Path, raw: Mapping[str, Any], field: str, default: float) -> float:
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e18:
        raise PlanError(OPTION, f"{path}: {field} must be a number that is not negative")
    return float(value)
