"""Ascend's paged HSTU operator behind the signature of the others.

The operator is `torch.ops.mxrec.hstu_paged` of Ascend's RecSDK. Its Python package `rec_ops`
is built from source for a CANN release; a wheel of fbgemm-ascend registers `fbgemm`
operators only (1.5.0 holds nothing of HSTU), and is asked second. What the operator does,
as its published source and tests say:

    q, k, v         [new tokens, heads, width], those of all new tokens or of the last ones
    kv_cache        [pages, 2, tokens of a page, heads, width]: the whole history, also the new
                    causal tokens; of k and v only the candidates' rows are read
    mask_type 0     causal by position in the history; the last `num_target` queries, in groups of
                    `target_group_size`, see the history and their own group
    alpha           factor on QK^T inside SiLU: our scale
    silu_scale      factor on SiLU's value: 1 / N, one constant of the model

Our pages have heads before tokens, so each call gathers the history into pages of the
operator's order: K/V of the context are read and written twice (once to join the parts, once
to interleave K and V), which is small beside the products while queries are many.

A wrong operator must never score. Before it serves it has to reproduce the oracle on shapes
that tell its likely mistakes apart, on this device and in this dtype; else torch serves.

Not run on hardware: the tests run this file over a stand-in of the operator on the CPU.

Source: design, sections 4 and 9.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from relaygr.model.ops import reference, tiled
from relaygr.model.pages import CachedKV

LOG = logging.getLogger(__name__)

PROVIDERS = ("rec_ops", "fbgemm_ascend")
"""Packages whose import may register the operator, in this order."""
PAGE_TOKENS = 128
"""The operator takes pages of 32, 64, 128 or 256."""
HEADS_MAX = 16
WIDTH_STEP, WIDTH_MAX = 16, 512
TOKENS_MAX = 20480
TARGETS_MAX = 512
MASK_CAUSAL = 0
"""With targets; 2 is none, 3 is one handed over."""

TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
"""Largest error against the largest value; a mistake of meaning is of the order of 1."""
TRIALS = ((0, 40, 0, 40), (131, 5, 3, 8), (131, 5, 3, 3), (300, 270, 40, 310), (128, 0, 9, 9))
"""Cached, causal, candidate tokens and queries: no cache, a part of a page, candidates alone, blocks of
more than 256 rows, and a whole page with nothing causal after it."""

Operator = Callable[..., Tensor]


class PagedAttention:
    """The operator with the signature of ops/__init__.py."""

    name = "npu/hstu_paged"

    def __init__(self, operator: Operator):
        self._operator = operator

    def __call__(
        self,
        q_HRK: Tensor,
        k_HTK: Tensor,
        v_HTV: Tensor,
        cached: CachedKV,
        self_only: int,
        scale: float,
        normaliser: int,
    ) -> Tensor:
        """As ops/__init__.py says; what the operator does not take is computed with torch."""
        queries, tokens = q_HRK.shape[1], k_HTK.shape[1]
        causal = tokens - self_only
        history = sum(part.shape[1] for part in cached.k_HSK) + causal
        targets = min(self_only, queries)
        if not takes(q_HRK.shape[0], q_HRK.shape[2], v_HTV.shape[2], history, queries, targets):
            return tiled.attend(q_HRK, k_HTK, v_HTV, cached, self_only, scale, normaliser)
        kv_P2SHK = torch.stack(
            [
                in_pages((*cached.k_HSK, k_HTK[:, :causal])),
                in_pages((*cached.v_HSV, v_HTV[:, :causal])),
            ],
            dim=1,
        )
        numbers = numbers_of(queries, history, targets, q_HRK.device)
        av_RHV = self._operator(
            q=by_token(q_HRK),
            k=by_token(k_HTK[:, tokens - queries :]),
            v=by_token(v_HTV[:, tokens - queries :]),
            kv_cache=kv_P2SHK,
            mask_type=MASK_CAUSAL,
            # Larger than the targets, as the operator asks for, also when all queries are candidates.
            max_seq_len=max(queries, targets + 1),
            max_seq_len_k=history + targets,
            silu_scale=1.0 / normaliser,
            target_group_size=1,
            alpha=scale,
            **numbers,
        )
        return av_RHV.reshape(queries, -1).to(k_HTK.dtype)


def takes(heads: int, qk_width: int, v_width: int, history: int, queries: int, targets: int) -> bool:
    """Whether these sizes are within what the operator states."""
    widths_fit = qk_width == v_width and qk_width % WIDTH_STEP == 0 and qk_width <= WIDTH_MAX
    tokens_fit = 0 < history and 0 < queries and history + targets <= TOKENS_MAX and targets <= TARGETS_MAX
    return widths_fit and tokens_fit and heads <= HEADS_MAX


def by_token(rows_HTK: Tensor) -> Tensor:
    """Heads beside each other in every token."""
    return rows_HTK.transpose(0, 1).contiguous()


def in_pages(parts_HSK: tuple[Tensor, ...]) -> Tensor:
    """Parts of a history one after the other, [pages, tokens of a page, heads, width]; the last page ends in zeros."""
    heads, width = parts_HSK[0].shape[0], parts_HSK[0].shape[2]
    joined_AHK = torch.cat([part.transpose(0, 1) for part in parts_HSK])
    padding = -joined_AHK.shape[0] % PAGE_TOKENS
    return F.pad(joined_AHK, (0, 0, 0, 0, 0, padding)).view(-1, PAGE_TOKENS, heads, width)


@lru_cache(maxsize=16)
def numbers_of(queries: int, history: int, targets: int, device: torch.device) -> dict[str, Tensor]:
    """Offsets of the one sequence; moved to the device at once, and kept, since every layer asks for them."""
    pages = -(-history // PAGE_TOKENS)
    lists = {
        "seq_offset": [0, queries],
        "seq_offset_k": [0, history + targets],
        "seq_offset_t": [0, targets],
        "page_offsets": [0, pages],
        "page_ids": list(range(pages)),
        "last_page_len": [history - (pages - 1) * PAGE_TOKENS],
        "num_target": [targets],
    }
    flat = torch.tensor([number for numbers in lists.values() for number in numbers]).to(device)
    return dict(zip(lists, flat.split([len(numbers) for numbers in lists.values()]), strict=True))


def attention_on(
    device: torch.device, dtype: torch.dtype, heads: int, qk_width: int, v_width: int
) -> PagedAttention | None:
    """The operator, if it is installed and right for a model of these sizes; else None, and why is logged."""
    operator = find_operator()
    if operator is None:
        LOG.info("no paged HSTU operator: neither of %s registers one; torch serves", ", ".join(PROVIDERS))
        return None
    if dtype not in TOLERANCES or not takes(heads, qk_width, v_width, 1, 1, 1):
        sizes = f"{heads} heads of {qk_width} and {v_width} in {dtype}"
        LOG.info("the paged HSTU operator does not take %s; torch serves", sizes)
        return None
    return verified(operator, device, dtype, heads, qk_width)


def find_operator() -> Operator | None:
    """`mxrec.hstu_paged` of whichever package registers it; imported here and nowhere else."""
    for provider in PROVIDERS:
        try:
            importlib.import_module(provider)
        except (ImportError, OSError, RuntimeError) as error:
            LOG.debug("%s: %s", provider, error)
        if hasattr(torch.ops.mxrec, "hstu_paged"):
            operator: Operator = torch.ops.mxrec.hstu_paged
            return operator
    return None


def verified(
    operator: Operator, device: torch.device, dtype: torch.dtype, heads: int, width: int
) -> PagedAttention | None:
    """The operator, unless it fails or differs from the oracle on this device."""
    attention = PagedAttention(operator)
    try:
        error = max(trial_error(attention, device, dtype, heads, width, *trial) for trial in TRIALS)
    except Exception as failure:
        # Whatever an operator of another release may raise: it does not serve.
        LOG.warning("the paged HSTU operator failed its trial, torch serves: %s", failure)
        return None
    # Not a number is no agreement.
    if not error <= TOLERANCES[dtype]:
        LOG.warning("the paged HSTU operator differs from the definition by %.3g, torch serves", error)
        return None
    LOG.info("the paged HSTU operator agrees with the definition to %.3g", error)
    return attention


def trial_error(
    attention: PagedAttention,
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    width: int,
    cached_tokens: int,
    causal: int,
    self_only: int,
    queries: int,
) -> float:
    """Largest difference from the oracle in float64, against the largest value."""
    generator = torch.Generator().manual_seed(cached_tokens + causal)
    tokens = causal + self_only

    def rows(count: int) -> Tensor:
        # Scores are then about 1, where SiLU bends: far out a factor inside it is as one outside.
        return torch.randn(heads, count, width, generator=generator).to(dtype)

    q, k, v = rows(queries), rows(tokens), rows(tokens)
    parts = [rows(min(PAGE_TOKENS, cached_tokens - first)) for first in range(0, cached_tokens, PAGE_TOKENS)]
    values = [rows(part.shape[1]) for part in parts]
    # The normaliser is no length of this trial.
    rest: tuple[Any, ...] = (self_only, 1.3 * width**-0.5, 777)
    wide = CachedKV(tuple(part.double() for part in parts), tuple(part.double() for part in values))
    wanted = reference.attend(q.double(), k.double(), v.double(), wide, *rest)
    there = CachedKV(tuple(part.to(device) for part in parts), tuple(part.to(device) for part in values))
    got = attention(q.to(device), k.to(device), v.to(device), there, *rest).cpu().double()
    return float((got - wanted).abs().max() / wanted.abs().max())
