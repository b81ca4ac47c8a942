"""Which models, lengths, threads and kernels are measured, and under which names.

A case is named model/tokens/threads/kernel; `--only` takes patterns of that. Kernel
"dense" is the plain torch baseline: it is one case for all kernels of the same sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

NATIVE, TORCH, DENSE = "native", "torch", "dense"
KERNELS = (NATIVE, TORCH, DENSE)
TOKENS = (1024, 2048, 4096, 8192)
THREADS = (1, 2)
TOKENS_QUICK, THREADS_QUICK = (4096,), (1,)

CANDIDATES = (128, 512, 2048)
CANDIDATES_TYPICAL = 512
APPEND_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an HSTU stack that its cost depends on; layer form silu_uvqk, bfloat16."""

    width: int
    heads: int
    head_dim: int
    """Width of a query, key or value of one head."""
    layers: int

    @property
    def heads_width(self) -> int:
        """Width of all heads side by side: of U, V, Q and K each."""
        return self.heads * self.head_dim

    @property
    def token_bytes(self) -> int:
        """K/V of one token over all layers, bfloat16."""
        return 2 * 2 * self.layers * self.heads_width


SHAPES = {"d256_h4x64_l4": Shape(256, 4, 64, 4), "d512_h4x128_l5": Shape(512, 4, 128, 5)}
SMALL, LARGE = SHAPES


@dataclass(frozen=True, slots=True)
class Case:
    """One process of the benchmark."""

    model: str
    tokens: int
    threads: int
    kernel: str

    @property
    def name(self) -> str:
        """model/tokens/threads/kernel."""
        return f"{self.model}/{self.tokens}/{self.threads}/{self.kernel}"

    @property
    def shape(self) -> Shape:
        """Sizes of its model."""
        return SHAPES[self.model]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def cases(*, quick: bool = False, only: Sequence[str] = ()) -> list[Case]:
    """The grid, kernels of the same sizes next to one another; `only` keeps what matches one of its patterns."""
    grid = [
        Case(model, tokens, threads, kernel)
        for threads in (THREADS_QUICK if quick else THREADS)
        for tokens in (TOKENS_QUICK if quick else TOKENS)
        for model in SHAPES
        for kernel in KERNELS
    ]
    return [case for case in grid if not only or any(fnmatch(case.name, pattern) for pattern in only)]
