"""A stand-in for Ascend's `mxrec::hstu_paged` on the CPU, and ways in which one could be wrong.

Written from the operator's published schema, argument table and reference test; like the real
one it reads the history from the pages and of k and v only the candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SCHEMA = (
    "hstu_paged(Tensor q, Tensor k, Tensor v, Tensor? kv_cache=None, Tensor? k_cache=None, Tensor? v_cache=None, "
    "Tensor? mask=None, Tensor? attn_bias=None, int mask_type=0, int max_seq_len=0, int max_seq_len_k=0, "
    "float silu_scale=0.0, Tensor seq_offset=None, Tensor seq_offset_k=None, Tensor seq_offset_t=None, "
    "Tensor page_offsets=None, Tensor page_ids=None, Tensor last_page_len=None, Tensor num_target=None, "
    "int target_group_size=0, float? alpha=1.0, bool deterministic=False) -> Tensor"
)
"""As Ascend's RecSDK declares it for `torch.ops.mxrec`."""

MISTAKES = (
    "scales by the length",
    "forgets the scale",
    "scales after SiLU",
    "softmax",
    "candidates see each other",
    "history is not causal",
    "reads k instead of the pages",
    "reads whole pages",
    "ignores page ids",
    "not a number",
)


class Paged:
    """The operator; `mistake` makes it another one."""

    def __init__(self, mistake: str = ""):
        self.mistake = mistake
        self.calls: list[dict[str, Any]] = []

    def __call__(self, q, k, v, kv_cache=None, k_cache=None, v_cache=None, mask=None, attn_bias=None, **rest) -> Tensor:
        self.calls.append({"q": q, "kv_cache": kv_cache, **rest})
        queries, targets = int(rest["seq_offset"][1]), int(rest["num_target"][0])
        assert rest["seq_offset_t"].tolist() == [0, targets] and queries == len(q) == len(k) == len(v)
        assert 0 <= targets < rest["max_seq_len"] and queries <= rest["max_seq_len"]
        history = self._history(kv_cache, **rest)
        assert int(rest["seq_offset_k"][1]) == history.shape[1] + targets <= rest["max_seq_len_k"]
        if self.mistake == "reads k instead of the pages":
            new = queries - targets
            history[:, history.shape[1] - new :] = torch.stack([k[:new], v[:new]]) * 0.5
        keys = torch.cat([history[0], k[queries - targets :]]).double()
        values = torch.cat([history[1], v[queries - targets :]]).double()
        scores = torch.einsum("rhk,ahk->hra", q.double(), keys)
        seen = self._seen(queries, history.shape[1], targets)
        weights = self._weights(scores, seen, rest["alpha"], rest["silu_scale"], rest["max_seq_len"])
        return torch.einsum("hra,ahv->rhv", weights, values).to(q.dtype)

    def _history(self, kv_cache: Tensor, page_ids, page_offsets, last_page_len, **rest) -> Tensor:
        assert kv_cache.is_contiguous() and kv_cache.shape[1] == 2 and kv_cache.shape[2] in (32, 64, 128, 256)
        ids = page_ids[page_offsets[0] : page_offsets[1]]
        if self.mistake == "ignores page ids":
            ids = ids.flip(0)
        last = kv_cache.shape[2] if self.mistake == "reads whole pages" else int(last_page_len[0])
        if self.mistake == "reads whole pages":
            kv_cache = torch.where(kv_cache == 0, torch.ones_like(kv_cache), kv_cache)
        parts = [*kv_cache[ids[:-1]], kv_cache[ids[-1]][:, :last]]
        tokens = (len(ids) - 1) * kv_cache.shape[2] + int(last_page_len[0])
        joined = torch.cat(parts, dim=1)
        if self.mistake == "reads whole pages":
            joined = joined[:, -tokens:]
        return joined.clone()

    def _seen(self, queries: int, history: int, targets: int) -> Tensor:
        below = torch.ones(queries, history).tril(history + targets - queries)
        own = torch.ones(targets, targets) if self.mistake == "candidates see each other" else torch.eye(targets)
        if self.mistake == "history is not causal":
            below = torch.ones(queries, history)
        return torch.cat([below, torch.cat([torch.zeros(queries - targets, targets), own])], dim=1).double()

    def _weights(self, scores: Tensor, seen: Tensor, alpha: float, silu_scale: float, max_seq_len: int) -> Tensor:
        match self.mistake:
            case "scales by the length":
                return F.silu(scores * alpha) * seen / max_seq_len
            case "forgets the scale":
                return F.silu(scores) * seen * silu_scale
            case "scales after SiLU":
                return F.silu(scores) * alpha * seen * silu_scale
            case "softmax":
                return torch.softmax(torch.where(seen > 0, scores * alpha, -math.inf), dim=-1).nan_to_num()
            case "not a number":
                return torch.full_like(scores, math.nan)
            case _:
                return F.silu(scores * alpha) * silu_scale * seen


@contextmanager
def registered(operator: Paged) -> Iterator[None]:
    """Within it torch.ops.mxrec.hstu_paged is this one, called through torch's dispatcher."""
    names = [one.name for one in torch._C.parse_schema(f"mxrec::{SCHEMA}").arguments]
    with torch.library._scoped_library("mxrec", "FRAGMENT") as library:
        library.define(SCHEMA)
        # The dispatcher hands arguments over by their place, and leaves out the last that nobody gave.
        library.impl("hstu_paged", lambda *values: operator(**dict(zip(names, values, strict=False))), "CPU")
        yield
