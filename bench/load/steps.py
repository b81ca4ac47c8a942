"""Times the steps of a request on an idle machine: `python -m bench.load.steps SPEC`.

The engine runs them as a ranker does (chunks of the served size, one thread), without services
and without queues. What comes out is the work that no placement and no schedule can take away.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.engine.reload import MIB, measure_reload
from bench.engine.subject import NOW_S, SERVED_CHUNK_TOKENS, random_behaviours
from bench.load.ground import ITEMS
from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.model import checkpoint
from relaygr.model.hstu import HstuModel
from relaygr.model.interface import TORCH_DTYPES, PageView, new_arena
from relaygr.model.run import RankInputs, append, infer_full, pre_infer, rank_on_psi, run

ROUNDS = 12
WARM_ROUNDS = 2


class Steps:
    """The steps of one length."""

    def __init__(self, model: HstuModel, tokens: int, appended: int, candidates: int) -> None:
        rng = np.random.default_rng(tokens)
        self._model, self._tokens, self._appended = model, tokens, appended
        self._log = random_behaviours(tokens - 1 + appended, rng)
        self._prefix = self._log.slice(0, tokens - 1)
        pages = -(-(tokens + appended) // PAGE_TOKENS)
        self._empty = PageView(new_arena(model, pages), tuple(range(pages)), 0)
        self._psi = PageView(self._empty.arena, self._empty.page_ids, tokens)
        self._inputs = RankInputs(
            profile=Profile.empty(),
            prefix=self._prefix,
            delta=Behaviours.empty(),
            cross=Cross.empty(),
            candidates=Candidates.of(rng.integers(0, ITEMS, candidates)),
            request_time_s=NOW_S + 60,
        )

    def times_ms(self) -> dict[str, float]:
        """Median of each, milliseconds."""
        jobs: dict[str, Callable[[], object]] = {
            "pre_infer_ms": self._pre_infer,
            "append_ms": self._append,
            "rank_ms": lambda: run(rank_on_psi(self._model, self._inputs, self._psi)),
            "full_ms": lambda: run(infer_full(self._model, self._inputs)),
        }
        times: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(WARM_ROUNDS + ROUNDS):
            for name, job in jobs.items():
                begun_ns = time.perf_counter_ns()
                job()
                if number >= WARM_ROUNDS:
                    times[name].append((time.perf_counter_ns() - begun_ns) / 1e6)
        return {name: round(float(np.median(values)), 3) for name, values in times.items()}

    def _pre_infer(self) -> object:
        profile = Profile.empty()
        return run(pre_infer(self._model, profile, self._prefix, self._empty, chunk_tokens=SERVED_CHUNK_TOKENS))

    def _append(self) -> object:
        profile = Profile.empty()
        return run(append(self._model, profile, self._log, self._psi, chunk_tokens=self._appended))


def main(arguments: list[str]) -> None:
    """Time the lengths that the spec asks for; one JSON document."""
    spec: dict[str, Any] = json.loads(arguments[0])
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = checkpoint.load(spec["model"], spec["dtype"])
    model.take_threads(spec["threads"])
    with torch.inference_mode():
        found = {
            str(tokens): Steps(model, tokens, spec["appended"], spec["candidates"]).times_ms()
            for tokens in spec["tokens"]
        }
    gbps = measure_reload(total_bytes=64 * MIB, rounds=7)["reload_gbps"]
    for tokens, times_ms in found.items():
        pages_bytes = -(-int(tokens) // PAGE_TOKENS) * PAGE_TOKENS * token_bytes(model)
        times_ms["reload_ms"] = round(pages_bytes / gbps / 1e6, 3)
    print(json.dumps(found))


def token_bytes(model: HstuModel) -> int:
    """K/V of one token over all layers."""
    return int(model.token_elements * TORCH_DTYPES[model.spec.identity.dtype].itemsize)


if __name__ == "__main__":
    main(sys.argv[1:])
