"""Device work as generators: what runs between two preemption points.

The compositions are the model package's own; here they report chunks and name the parts
of a request. Nothing waits, locks or decides; the executor's thread drives them.

Source: design, section 3 (ranker).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch

from relaygr.behaviours.columns import Behaviours, Candidates, Cross
from relaygr.model.interface import PageView, RelayModel
from relaygr.model.run import RankInputs, pre_infer_chunk, rank_on_psi
from services.ranker.prefix import Prefix


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a production that has been computed."""

    tokens: int
    """Tokens that psi covers now."""
    begun_unix_ns: int
    ended_unix_ns: int


@dataclass(frozen=True, slots=True)
class Suffix:
    """What follows the prefix in one rank."""

    delta: Behaviours
    cross: Cross
    candidates: Candidates
    request_time_s: int

    @property
    def causal_tokens(self) -> int:
        """Delta tokens: short-term behaviours and cross features."""
        return len(self.delta) + len(self.cross)


def produce(
    model: RelayModel,
    prefix: Prefix,
    psi: PageView,
    to_tokens: int,
    chunk_tokens: int,
    report: Callable[[Chunk], None],
) -> Generator[None, None, PageView]:
    """Extend psi to `to_tokens`, one chunk after the other; `report` hears of each.

    The last report must not be taken for the end: the job holds the device until the
    generator returns.
    """
    while psi.token_count < to_tokens:
        begun_unix_ns = time.time_ns()
        end = min(to_tokens, (psi.token_count // chunk_tokens + 1) * chunk_tokens)
        psi = yield from pre_infer_chunk(model, prefix.profile, prefix.behaviours, psi, end)
        report(Chunk(psi.token_count, begun_unix_ns, time.time_ns()))
    return psi


def rank(
    model: RelayModel, prefix: Prefix, suffix: Suffix, psi: PageView | None
) -> Generator[None, None, torch.Tensor]:
    """Logits of the candidates, float32 [candidates, tasks] on the host."""
    inputs = RankInputs(
        profile=prefix.profile,
        prefix=prefix.behaviours,
        delta=suffix.delta,
        cross=suffix.cross,
        candidates=suffix.candidates,
        request_time_s=suffix.request_time_s,
    )
    logits_CK = yield from rank_on_psi(model, inputs, psi)
    return logits_CK.cpu()
