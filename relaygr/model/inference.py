"""`torch.inference_mode()` for what a device's thread calls thousands of times a second.

The thread is in that mode already, and entering it once more costs as much as a small operator, for a generator at each
of its steps. So these look first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Steps = Generator[None, None, _R]


def inference(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Call it in inference mode."""

    @functools.wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode():
            return function(*args, **kwargs)

    return called


def inference_steps(function: Callable[_P, _Steps[_R]]) -> Callable[_P, _Steps[_R]]:
    """Run each step of it in inference mode; who begins it in that mode takes all its steps in it."""
    guarded: Callable[_P, Any] = torch.inference_mode()(function)

    @functools.wraps(function)
    def begun(*args: _P.args, **kwargs: _P.kwargs) -> _Steps[_R]:
        steps: _Steps[_R] = (function if torch.is_inference_mode_enabled() else guarded)(*args, **kwargs)
        return steps

    return begun
