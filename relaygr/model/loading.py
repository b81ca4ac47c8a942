"""Loads the model to serve: ours from a directory, or a team's own by name."""

from __future__ import annotations

import importlib
from pathlib import Path

from relaygr.model import checkpoint
from relaygr.model.interface import RelayModel
from relaygr.model.kernels import KernelName, KvDtype


def load_model(
    source: str | Path,
    dtype: str | None = None,
    *,
    device: str = "cpu",
    kernel: KernelName = "auto",
    kv_dtype: KvDtype = "",
) -> RelayModel:
    """Load the model to serve.

    Args:
        source: a directory that `relaygr.model.checkpoint.save` wrote, or
            "package.module:factory" naming a function that returns a RelayModel.
        dtype: dtype to load a directory with; None for the one it was saved with.
        device: where to put the weights. A model of one's own is moved by its `to`, as modules have one.
        kernel: what a directory's model computes with; a model of one's own chooses for itself.
        kv_dtype: of its cached K/V, likewise.

    Raises:
        CorruptData: the directory does not hold a whole checkpoint.
        ValueError: the source names nothing loadable, or kernel or kv_dtype cannot serve it here.
    """
    if Path(source).is_dir():
        return checkpoint.load(Path(source), dtype, device=device, kernel=kernel, kv_dtype=kv_dtype)
    module_name, _, factory_name = str(source).partition(":")
    if not factory_name:
        raise ValueError(f"{source}: neither a directory nor package.module:factory")
    model = getattr(importlib.import_module(module_name), factory_name)()
    if not isinstance(model, RelayModel):
        raise ValueError(f"{source}: returned {type(model).__name__}, which lacks a part of RelayModel")
    if device != "cpu":
        if not callable(getattr(model, "to", None)):
            raise ValueError(f"{source}: returned {type(model).__name__}, which has no `to` that moves it to {device}")
        model.to(device)  # type: ignore[attr-defined]
    return model
