"""What a lower precision costs: distance of logits on a random model, loss of AUC on a trained one.

Relay (pre-infer, then rank on psi) in the lower precision against full inference in
float32 on torch: the whole distance that a caller could see. Beside it full inference in
bfloat16, because the design bounds the relay by it.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.engine.shapes import NATIVE, SHAPES, SMALL, TORCH
from bench.engine.statistics import rounded
from bench.engine.subject import Subject, Unavailable, build_model, kernel_of, model_of
from relaygr.behaviours.store import FileStore
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model import checkpoint
from relaygr.model.error import logit_error
from relaygr.model.hstu import HstuModel
from relaygr.model.interface import PageView, new_arena
from relaygr.model.run import RankInputs, infer_full, pre_infer, rank_on_psi, run
from trainer import evaluate
from trainer.requests import read_requests

TOKENS = 1024
CANDIDATES = 512
PRECISIONS = {"bf16": "", "int8": "int8"}
"""Name -> K/V dtype asked for; hidden rows are bfloat16 in both."""
REQUESTS_MAX = 300

Result = dict[str, Any]


def measure(seed: int, trained: str | None) -> Result:
    """`score_err`, notes on what could not be measured, and `trained` where a directory is given."""
    exact = Subject(model_of(SMALL, SHAPES[SMALL], seed, kernel=TORCH, dtype="float32"), TOKENS, seed).full(CANDIDATES)
    errors: Result = {}
    notes: Result = {}
    for name, kv_dtype in PRECISIONS.items():
        try:
            model = best_of(partial(model_of, SMALL, SHAPES[SMALL], seed, kv_dtype=kv_dtype))
        except Unavailable as reason:
            errors[name], notes[name] = None, str(reason)
            continue
        subject = Subject(model, TOKENS, seed)
        subject.prefix()
        errors[name] = rounded(logit_error(subject.rank(CANDIDATES), exact))
        errors[f"{name}_full"] = rounded(logit_error(subject.full(CANDIDATES), exact))
        notes[name] = kernel_of(model)
    found = {"score_err": errors, "notes": notes, "tokens": TOKENS, "candidates": CANDIDATES}
    return found | ({"trained": measure_trained(Path(trained))} if trained else {})


def measure_trained(folder: Path) -> Result:
    """The same on a folder that trainer.pipeline wrote, over requests it kept for the replay."""
    store, requests = FileStore(folder / "store"), read_requests(folder / "replay.jsonl")
    saved = folder / "checkpoint"
    requests = evaluate.thinned(requests, REQUESTS_MAX)
    exact_model = build_model(checkpoint.load, saved, "float32", kernel=TORCH)
    asked = [evaluate.inputs_of(exact_model, store, request) for request in requests]
    exact = [full_of(exact_model, inputs) for inputs in asked]
    auc = auc_of(requests, exact)
    found: Result = {"requests": len(requests), "auc_float32": rounded(auc, 6)}
    for name, kv_dtype in PRECISIONS.items():
        try:
            model = best_of(partial(build_model, checkpoint.load, saved, "bfloat16", kv_dtype=kv_dtype))
        except Unavailable as reason:
            found[name] = {"skipped": str(reason)}
            continue
        relayed = [relay_of(model, inputs) for inputs in asked]
        worst = max(logit_error(got, wanted) for got, wanted in zip(relayed, exact, strict=True))
        found[name] = {"score_err": rounded(worst), "auc_loss": rounded(auc - auc_of(requests, relayed), 6)}
    return found


def best_of(build: Callable[..., HstuModel]) -> HstuModel:
    """Native where it runs, else torch."""
    try:
        return build(kernel=NATIVE)
    except Unavailable:
        return build(kernel=TORCH)


@torch.inference_mode()
def full_of(model: HstuModel, inputs: RankInputs) -> torch.Tensor:
    """Logits of full inference."""
    return run(infer_full(model, inputs))


@torch.inference_mode()
def relay_of(
    model: HstuModel, inputs: RankInputs, between: Callable[[PageView], None] = lambda psi: None
) -> torch.Tensor:
    """Logits on psi computed before; `between` may change the pages, as a way through DRAM does."""
    pages = -(-inputs.prefix_tokens // PAGE_TOKENS)
    empty = PageView(new_arena(model, pages), tuple(range(pages)), 0)
    psi = run(pre_infer(model, inputs.profile, inputs.prefix, empty, chunk_tokens=PAGE_TOKENS))
    between(psi)
    return run(rank_on_psi(model, inputs, psi))


def auc_of(requests: list[Any], logits: list[torch.Tensor]) -> float:
    """AUC over requests whose logits are already there."""
    scores = iter(logits)
    return evaluate.measure(requests, lambda _: next(scores).numpy(), ())["auc"]
