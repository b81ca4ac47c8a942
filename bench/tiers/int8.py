"""What int8 in the DRAM tier brings and costs: bytes, time of a reload, distance of scores, loss of AUC.

Distances are by the design's measure, on a random model of the small shape and, where there is a folder of
the trainer, on a trained one:

    score_err          rank on psi that went through int8 against full inference of the same model
    score_err_bf16     what bfloat16 itself costs: its relay against full inference in float32
    score_err_float32  rank on psi that went through int8 against full inference in float32

Source: design, section 4 (identity and exactness); docs/decisions/0015-int8-in-dram.md.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.engine.score_error import auc_of, best_of, full_of, relay_of
from bench.engine.shapes import SHAPES, SMALL, TORCH
from bench.engine.statistics import rounded
from bench.engine.subject import Subject, build_model, model_of
from bench.tiers.steps import DIGEST, MIB, MODEL, Pages, attached_tier
from relaygr.behaviours.store import FileStore
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey, UserKey
from relaygr.model import checkpoint
from relaygr.model.error import logit_error
from relaygr.model.interface import PageView
from services.ranker.adapters.dram import DramTier
from services.ranker.adapters.dram_format import AsOnDevice, Int8Pages, PageFormat
from services.ranker.adapters.dram_format_int8 import int8_codec
from trainer import evaluate
from trainer.requests import read_requests

TOKENS, CANDIDATES = 2000, 512
"""The last page is filled in part."""
REQUESTS_MAX = 300
SIZES_MIB = (8, 32)
"""Of bfloat16 on the device."""
PAGE_ELEMENTS = 256 * 1024
"""Of a page of the small shape."""
ROUNDS = 15

Result = dict[str, Any]


def measure_int8(seed: int, trained: Path | None) -> Result:
    """All of it; `auc_loss` is None without a trained model."""
    codec = int8_codec("bfloat16", PAGE_ELEMENTS)
    found: Result = {"capacity_gain": rounded(codec.page_bytes / codec.stored_bytes, 4)}
    found |= _score_errors(seed) | {"auc_loss": None}
    found |= _speeds() | {"reload_ms": asyncio.run(_reloads())}
    return found | (_trained(trained) if trained else {})


def through_int8(psi: PageView) -> None:
    """Replace psi's pages by what would come back from DRAM."""
    codec = int8_codec(str(psi.arena.dtype).removeprefix("torch."), psi.arena.shape[1])
    stored = np.empty(codec.stored_bytes, np.uint8)
    for page_id in psi.page_ids[: -(-psi.token_count // PAGE_TOKENS)]:
        page = psi.arena[page_id].view(torch.uint8).numpy()
        assert codec.encode(page, stored), "K/V that is not finite"
        codec.decode(stored, page)


def _score_errors(seed: int) -> Result:
    build = partial(model_of, SMALL, SHAPES[SMALL], seed)
    exact = Subject(build(kernel=TORCH, dtype="float32"), TOKENS, seed).full(CANDIDATES)
    subject = Subject(best_of(build), TOKENS, seed)
    psi, full = subject.prefix(), subject.full(CANDIDATES)
    as_it_was = subject.rank(CANDIDATES)
    through_int8(psi)
    lossy = subject.rank(CANDIDATES)
    return {
        "score_err": rounded(logit_error(lossy, full)),
        "score_err_bf16": rounded(logit_error(as_it_was, exact)),
        "score_err_float32": rounded(logit_error(lossy, exact)),
    }


def _trained(folder: Path) -> Result:
    """The same over requests that trainer.pipeline kept for the replay, and what is lost of the AUC in float32."""
    store, saved = FileStore(folder / "store"), folder / "checkpoint"
    requests = evaluate.thinned(read_requests(folder / "replay.jsonl"), REQUESTS_MAX)
    exact_model = build_model(checkpoint.load, saved, "float32", kernel=TORCH)
    model = best_of(partial(build_model, checkpoint.load, saved, "bfloat16"))
    asked = [evaluate.inputs_of(exact_model, store, request) for request in requests]
    exact, full = ([full_of(one, inputs) for inputs in asked] for one in (exact_model, model))
    lossy = [relay_of(model, inputs, through_int8) for inputs in asked]
    auc, auc_bf16, auc_int8 = (auc_of(requests, logits) for logits in (exact, full, lossy))
    errors = {"score_err": (lossy, full), "score_err_bf16": (full, exact), "score_err_float32": (lossy, exact)}
    found: Result = {name: rounded(max(map(logit_error, *pair))) for name, pair in errors.items()}
    found |= {"requests": len(requests), "auc_float32": rounded(auc, 6), "auc_loss_bf16": rounded(auc - auc_bf16, 6)}
    return {"auc_loss": rounded(auc - auc_int8, 6), "trained": found}


def _speeds() -> Result:
    """Bytes of bfloat16 in or out, on one core; more of them than caches hold."""
    codec = int8_codec("bfloat16", PAGE_ELEMENTS)
    pages = _pages(64 * MIB)
    stored = [np.ones(codec.stored_bytes, np.uint8) for _ in pages]
    encode_s, decode_s = [], []
    for _ in range(ROUNDS):
        encode_s.append(_timed(codec.encode, pages, stored))
        decode_s.append(_timed(codec.decode, stored, pages))
    gigabytes = sum(page.nbytes for page in pages) / 1e9
    return {
        "encode_gbps": rounded(gigabytes / statistics.median(encode_s)),
        "decode_gbps": rounded(gigabytes / statistics.median(decode_s)),
    }


def _timed(convert: Callable[..., object], sources: Pages, targets: Pages) -> float:
    begun_s = time.perf_counter()
    for source, target in zip(sources, targets, strict=True):
        convert(source, target)
    return time.perf_counter() - begun_s


async def _reloads() -> Result:
    """Medians, milliseconds, by size on the device: both forms in turns, through a real expander."""
    found: Result = {}
    async with attached_tier() as tier:
        for mib in SIZES_MIB:
            pages = _pages(mib * MIB)
            codec = int8_codec("bfloat16", PAGE_ELEMENTS)
            int8 = Int8Pages(codec, MODEL, len(pages))
            forms: dict[str, PageFormat] = {"as_is": AsOnDevice(MODEL), "int8": int8}
            times_ms: dict[str, list[float]] = {name: [] for name in forms}
            for number in range(ROUNDS + 1):
                for name, form in forms.items():
                    key = PsiKey(UserKey("default", f"{name}-{mib}-{number}"), MODEL.key, 0)
                    times_ms[name].append(1e3 * await _reload_s(tier, form, key, pages))
            int8.close()
            # The first round faults pages in.
            found[str(mib)] = {name: rounded(statistics.median(times[1:])) for name, times in times_ms.items()}
    return found


async def _reload_s(tier: DramTier, form: PageFormat, key: PsiKey, pages: Pages) -> float:
    """Store, then a reload from its lookup until the pages are the device's again."""
    async with form.room(pages) as stored:
        assert await form.encode(pages, stored)
        assert await tier.store(key, PAGE_TOKENS, DIGEST, stored, ""), "a store was refused"
    begun_s = time.perf_counter()
    hit = await tier.lookup(key)
    async with form.room(pages) as stored:
        assert hit is not None and await tier.load(hit, stored), "what was stored was not found"
        await form.decode(stored, pages)
    return time.perf_counter() - begun_s


def _pages(size_bytes: int) -> Pages:
    random = torch.Generator().manual_seed(size_bytes)
    arena = torch.randn(size_bytes // (2 * PAGE_ELEMENTS), PAGE_ELEMENTS, generator=random).to(torch.bfloat16)
    return [page.view(torch.uint8).numpy() for page in arena]


def rows(found: Result) -> Iterable[list[str]]:
    """For a table: reloads by size."""
    for mib, times in found["reload_ms"].items():
        yield [mib, *map(str, times.values())]
