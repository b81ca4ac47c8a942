"""Initial weights, the same for the same seed.

Scales keep a random model honest: each layer adds about as much as it was given, so what
a candidate's score gathers from the history is of the order of the score. A test that
reads the wrong history then fails loudly.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from relaygr.model.config import ModelConfig
from relaygr.model.hstu import HstuModel
from relaygr.model.kernels import KernelName

BIAS_STD = 0.02


def new_model(config: ModelConfig, item_ids: ArrayLike, seed: int, *, kernel: KernelName = "torch") -> HstuModel:
    """A float32 model with initial weights, ready for training.

    Args:
        config: its `items` must be the number of distinct ids.
        item_ids: the vocabulary, in any order.
        seed: of the weights.
        kernel: as in HstuModel.
    """
    vocabulary = np.unique(np.asarray(item_ids, np.int64))
    with torch.device("meta"):
        model = HstuModel(config, vocabulary, kernel=kernel)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            _reset(module, generator)
        model.tokens.user.normal_(0.0, config.width**-0.5, generator=generator)
    return model


def _reset(module: nn.Module, generator: torch.Generator) -> None:
    match module:
        case nn.Embedding():
            module.weight.normal_(0.0, module.embedding_dim**-0.5, generator=generator)
        case nn.Linear():
            module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
            if module.bias is not None:
                module.bias.normal_(0.0, BIAS_STD, generator=generator)
        case nn.LayerNorm():
            module.weight.fill_(1.0)
            module.bias.zero_()
        case _:
            pass
