"""Figures that are measured beside the grid: reload from DRAM, and how long a rank waits for a preemption.

Each lives in a module of its own with one function of that name; where a build lacks the
module, the figure is absent and the reason is given.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from bench.engine.subject import Unavailable

FUNCTIONS = {"reload": "measure_reload", "preempt": "measure_preempt"}


def measure(name: str) -> dict[str, Any]:
    """What bench.engine.NAME measures.

    Raises:
        Unavailable: there is no such module.
    """
    module_name = f"bench.engine.{name}"
    if importlib.util.find_spec(module_name) is None:
        raise Unavailable(f"this build has no {module_name}")
    return dict(getattr(importlib.import_module(module_name), FUNCTIONS[name])())
