"""SiLU attention over cached and new tokens, in more than one make; one signature.

    attend(q_HRK, k_HTK, v_HTV, cached, self_only, scale, normaliser) -> av_RE

T new tokens follow the cached ones; queries are given for the last R of them. The last
`self_only` tokens are candidates: each sees everything cached, all causal tokens and
itself. The others are causal. There is no softmax, hence no row sum and no rescaling:

    av_r = sum over visible j of SiLU(scale * q_r . k_j) * v_j / normaliser

Returned with heads side by side (E = heads * width of a value) in the dtype of q.
`reference` is the oracle and builds the whole mask, `torch` is tiles of torch operators slice by
slice and runs everywhere (`tiled` is that in one go), `native` is C++ and closest to the
machine's limit. `npu` is Ascend's operator, where it is installed; a model on such a device
chooses it once it has been tried there.

Source: design, section 4, conditions 1 and 3.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from torch import Tensor

from relaygr.model.ops import blocks, native, reference
from relaygr.model.pages import CachedKV

Attention = Callable[[Tensor, Tensor, Tensor, CachedKV, int, float, int], Tensor | Generator[None, None, Tensor]]
"""Done at once, or a generator that yields where it may be preempted."""

ATTENTIONS: dict[str, Attention] = {
    "reference": reference.attend,
    "torch": blocks.attend,
    "native": native.attend,
}
