"""Models on disk: weights.safetensors and model.json in one directory.

The vocabulary travels with the weights, so one digest covers both. Nothing is unpickled;
names and shapes are checked before a weight is used.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from torch import Tensor

from relaygr.behaviours.columns import FeatureSpec
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.errors import CorruptData
from relaygr.model.config import ModelConfig
from relaygr.model.hstu import HstuModel
from relaygr.model.init import new_model
from relaygr.model.interface import TORCH_DTYPES
from relaygr.model.kernels import KernelName, KvDtype
from relaygr.model.ops import npu

FORMAT = 1
WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "model.json"
VOCABULARY = "vocabulary.item_ids"
_LENGTHS = (
    *("width", "heads", "qk_dim", "v_dim", "items", "actions", "positions", "gap_buckets", "head_width"),
    *(field.name for field in dataclasses.fields(FeatureSpec)),
)
"""Each of these is a length of some tensor, or a part of one."""


def save(model: HstuModel, directory: str | Path) -> str:
    """Write a model; returns its weights digest. An existing checkpoint is replaced file by file."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    weights = _serialised(model)
    document = {"format": FORMAT, "config": model.config.to_json()}
    _replace(directory / WEIGHTS_FILE, weights)
    _replace(directory / CONFIG_FILE, json.dumps(document, indent=2).encode() + b"\n")
    return hashlib.sha256(weights).hexdigest()


def load(
    directory: str | Path,
    dtype: str | None = None,
    *,
    device: str = "cpu",
    kernel: KernelName = "auto",
    kv_dtype: KvDtype = "",
) -> HstuModel:
    """Read a model, ready for inference.

    Args:
        directory: what `save` wrote.
        dtype: "float32" or "bfloat16"; None for the one in model.json.
        device: where to put the weights.
        kernel: as in HstuModel.
        kv_dtype: as in HstuModel.

    Raises:
        CorruptData: a file is missing or torn, or its weights are not those model.json describes.
        ValueError: the kernel or kv_dtype cannot serve this model here.
    """
    directory = Path(directory)
    try:
        weights = (directory / WEIGHTS_FILE).read_bytes()
        document = json.loads((directory / CONFIG_FILE).read_text())
        if document["format"] != FORMAT:
            raise CorruptData(f"{directory / CONFIG_FILE}: format {document['format']}, not {FORMAT}")
        config = ModelConfig.from_json(document["config"])
        tensors = safetensors.torch.load(weights)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CorruptData(f"{directory}: {error}") from error
    if dtype:
        config = ModelConfig.from_json({**config.to_json(), "dtype": dtype})
    options = {"kernel": kernel, "kv_dtype": kv_dtype, "device": torch.device(device).type}
    model = _assembled(config, tensors, hashlib.sha256(weights).hexdigest(), options).to(device)
    if kernel == "auto" and model.device.type == "npu":
        _use_operator(model)
    return model


def random_model(
    config: ModelConfig,
    item_ids: ArrayLike,
    seed: int,
    *,
    kernel: KernelName = "auto",
    kv_dtype: KvDtype = "",
    isa: str = "",
    page_tokens: int = PAGE_TOKENS,
) -> HstuModel:
    """A model with random weights and a true identity, as if saved and loaded; for tests and benchmarks."""
    weights = _serialised(new_model(config, item_ids, seed))
    options = {"kernel": kernel, "kv_dtype": kv_dtype, "isa": isa, "page_tokens": page_tokens}
    return _assembled(config, safetensors.torch.load(weights), hashlib.sha256(weights).hexdigest(), options)


def _use_operator(model: HstuModel) -> None:
    """Ascend's own attention, where it is installed and right; it is tried on the device, so after the weights."""
    config = model.config
    dtype = TORCH_DTYPES[config.dtype]
    operator = npu.attention_on(model.device, dtype, config.heads, config.qk_dim, config.v_dim)
    if operator is not None:
        model.attention, model.kernel = operator, operator.name


def _serialised(model: HstuModel) -> bytes:
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in model.state_dict().items()}
    tensors[VOCABULARY] = torch.from_numpy(np.array(model.vocabulary))
    return safetensors.torch.save(tensors)


def _assembled(config: ModelConfig, tensors: dict[str, Tensor], digest: str, options: dict[str, Any]) -> HstuModel:
    vocabulary = tensors.pop(VOCABULARY, None)
    if vocabulary is None or vocabulary.dtype != torch.int64 or vocabulary.shape != (config.items,):
        raise CorruptData(f"{VOCABULARY}: missing, or not int64 [{config.items}]")
    if bool((vocabulary[1:] <= vocabulary[:-1]).any()):
        raise CorruptData(f"{VOCABULARY}: not sorted, or holds duplicates")
    _check_counts(config, tensors)
    with torch.device("meta"):
        model = HstuModel(config, vocabulary.numpy(), weights_digest=digest, **options)
    _check_shapes(model, tensors)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(False).eval().to(TORCH_DTYPES[config.dtype])
    # Logits keep float32: rounding them would hide what the layers below differ by.
    model.scorer.float()
    return model


def _check_counts(config: ModelConfig, tensors: dict[str, Tensor]) -> None:
    """Refuse what the weights cannot be of, before a model of that size is made."""
    if config.layers > len(tensors):
        raise CorruptData(f"layers: {config.layers}, of {len(tensors)} tensors")
    longest = max((length for tensor in tensors.values() for length in tensor.shape), default=0)
    values = {**config.to_json(), **config.to_json()["features"]}
    for field in _LENGTHS:
        value = values[field]
        most = max(value, default=0) if isinstance(value, tuple) else value
        if most > longest:
            raise CorruptData(f"{field}: {most}, and no tensor is longer than {longest}")


def _check_shapes(model: HstuModel, tensors: dict[str, Tensor]) -> None:
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise CorruptData(f"{name}: missing")
        if name not in wanted:
            raise CorruptData(f"{name}: not a weight of this model")
        if tensors[name].shape != wanted[name].shape:
            raise CorruptData(f"{name}: shape {list(tensors[name].shape)}, wanted {list(wanted[name].shape)}")
        if tensors[name].dtype != torch.float32:
            raise CorruptData(f"{name}: {tensors[name].dtype}, wanted float32")


def _replace(path: Path, content: bytes) -> None:
    # A reader sees the old file or the new one, never half of it.
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
