"""The HSTU ranking model: RelayGR's own implementation of the model interface.

The module keeps weights only. Contexts come in as page views, so one model serves any
number of interleaved computations.

Shapes: T new tokens, C candidates, D hidden width, H heads, K tasks.

Source: design, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, Profile
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import ModelIdentity
from relaygr.model import codes
from relaygr.model.config import ModelConfig
from relaygr.model.embed import FeatureEmbedding, TokenEmbedding
from relaygr.model.inference import inference, inference_steps
from relaygr.model.interface import ModelSpec, PageView, Steps
from relaygr.model.kernels import KernelName, KvDtype, choose
from relaygr.model.layer import NORM_EPSILON, HstuLayer
from relaygr.model.native_rows import GapCodes, NativeRows
from relaygr.model.native_stack import Part
from relaygr.model.ops import Attention, blocks
from relaygr.model.vocabulary import Vocabulary


class Head(nn.Module):
    """Logits of all tasks from a hidden row; float32 whatever the rest is."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPSILON)
        self.hidden = nn.Linear(config.width, config.head_width)
        self.logits = nn.Linear(config.head_width, len(config.tasks))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., K]."""
        hidden = hidden.to(self.hidden.weight.dtype)
        return self.logits(F.silu(self.hidden(self.norm(hidden))))


class HstuModel(nn.Module):
    """An HSTU model with its vocabulary.

    Args:
        config: the model; weights are left uninitialised (see checkpoint.py, init.py).
        vocabulary: the known item ids, sorted, as many as config.items.
        weights_digest: SHA-256 of the weights file, for the identity.
        kernel: "auto", "native", "torch", or "reference" to check them against; see kernels.py.
        kv_dtype: "" for cached K/V in the model's dtype, or "int8".
        device: kind of device it will serve on; with kernel and widths it decides how pages are divided.
        isa: a lower instruction set than the machine's for the native kernel; for tests.
        page_tokens: of its pages; ranker and chain count in pages of the default.

    Raises:
        ValueError: the kernel cannot serve this model here, or its pages cannot hold kv_dtype.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary: NDArray[np.int64],
        *,
        weights_digest: str = "",
        kernel: KernelName = "auto",
        kv_dtype: KvDtype = "",
        device: str = "cpu",
        isa: str = "",
        page_tokens: int = PAGE_TOKENS,
    ):
        super().__init__()
        assert len(vocabulary) == config.items, f"{len(vocabulary)} ids, {config.items} items configured"
        self.config = config
        self.vocabulary = vocabulary
        self._rows = Vocabulary(vocabulary)
        self.weights_digest = weights_digest
        self.kv_dtype = kv_dtype or config.dtype
        self.tokens = TokenEmbedding(config)
        self.layers = nn.ModuleList(HstuLayer(config) for _ in range(config.layers))
        self.scorer = Head(config)
        chosen = choose(
            config,
            self.layers,
            kernel=kernel,
            kv_dtype=kv_dtype,
            device=device,
            isa=isa,
            page_tokens=page_tokens,
        )
        self.layout, self._stack = chosen.layout, chosen.stack
        self._gaps = GapCodes(config.gap_buckets)
        self.attention: Attention = chosen.attention
        self.kernel = chosen.name
        """Which kernel serves: "native/avx512-bf16", "torch" or "reference"."""

    @property
    def spec(self) -> ModelSpec:
        """Identity, tasks, features and limits."""
        config = self.config
        identity = ModelIdentity(
            config.name, config.version, self.weights_digest, self.kv_dtype, self.layout.name, config.normaliser
        )
        return ModelSpec(identity, config.tasks, config.features, config.limits)

    @property
    def token_elements(self) -> int:
        """K/V elements of one token over all layers."""
        return self.layout.token_elements

    @property
    def page_elements(self) -> int:
        """K/V elements of one page."""
        return self.layout.page_tokens * self.layout.token_elements

    @property
    def page_tokens(self) -> int:
        """Tokens of one page."""
        return self.layout.page_tokens

    def take_threads(self, count: int) -> int:
        """Compute with so many threads; returns how many of them are left to torch.

        Torch's threads spin for milliseconds after each operator. Beside the native kernel's own they
        cost more than they give: with two of each on two cores a prefix of 1024 tokens takes 29 ms, not 18.
        """
        if self._stack is None:
            return count
        self._stack.threads = count
        return 1

    @property
    def ask_to_yield(self) -> Callable[[bool], None] | None:
        """How to have a running step yield soon (True), or run its time again (False); None where steps are short."""
        return self._stack.ask_to_yield if self._stack else None

    def part_ns(self) -> dict[str, int]:
        """Where the native kernel spent its time, by part of a layer; empty for other kernels."""
        return self._stack.part_ns() if self._stack else {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokens.user.device

    def item_rows(self, item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the item table; 0 for items out of vocabulary."""
        return self._rows.rows_of(item_ids)

    def known_items(self, item_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these items are in the vocabulary."""
        return self.item_rows(item_ids) > 0

    @inference
    def embed_prefix(self, profile: Profile, behaviours: Behaviours, first_token: int, end_token: int) -> Tensor:
        """Rows of tokens [first_token, end_token) of a prefix; see the interface."""
        assert 0 <= first_token <= end_token <= len(behaviours) + 1
        first, end = max(first_token - 1, 0), max(end_token - 1, 0)
        before_s = int(behaviours.timestamps_s[first - 1]) if first else None
        x_TD = self._behaviours(behaviours.slice(first, end), first, before_s)
        if first_token > 0 or end_token == 0:
            return x_TD
        user_D = self.tokens.users(self._tensor(profile.dense), self._tensor(profile.categorical))
        return torch.cat([user_D[None], x_TD])

    @inference
    def embed_suffix(
        self,
        prefix_behaviour_count: int,
        last_prefix_timestamp_s: int | None,
        delta: Behaviours,
        cross: Cross,
        candidates: Candidates,
        request_time_s: int,
    ) -> tuple[Tensor, Tensor]:
        """Rows of the delta and of the candidates; see the interface."""
        before_s = last_prefix_timestamp_s if prefix_behaviour_count else None
        # Most ranks have no delta, and a dozen operators on nothing take as long as on a few rows.
        x_delta_TD = self._behaviours(delta, prefix_behaviour_count, before_s) if len(delta) else self._no_rows()
        if len(cross):
            x_delta_TD = torch.cat([x_delta_TD, self.tokens.cross_tokens(self._tensor(cross.dense))])
        last_s = int(delta.timestamps_s[-1]) if len(delta) else before_s
        place = prefix_behaviour_count + len(delta)
        return x_delta_TD, self._candidates(candidates, place, request_time_s, last_s)

    @inference_steps
    def extend(self, x_TD: Tensor, self_only: int, context: PageView | None, write: PageView | None) -> Steps:
        """Run the layers over new tokens; see the interface."""
        if self._stack is not None:
            (hidden_CD,) = yield from self._stack.extend([Part(x_TD, self_only, context, write)])
            return hidden_CD
        return (yield from self._extend_in_torch(x_TD, self_only, context, write))

    @inference_steps
    def extend_many(self, parts: Sequence[Part]) -> Generator[None, None, list[Tensor]]:
        """Extends of several users as one, packed without padding; each part's candidates' rows.

        Only the native kernel packs. Others run the parts one after the other.
        """
        if self._stack is not None:
            return (yield from self._stack.extend(parts))
        hidden = []
        for part in parts:
            rows_CD = yield from self._extend_in_torch(part.x_TD, part.self_only, part.context, part.write)
            hidden.append(rows_CD)
        return hidden

    def _extend_in_torch(self, x_TD: Tensor, self_only: int, context: PageView | None, write: PageView | None) -> Steps:
        tokens, first = x_TD.shape[0], context.token_count if context else 0
        causal = tokens - self_only
        scale, normaliser = self.config.scale, self.config.normaliser
        for index, layer in enumerate(self.layers):
            made = yield from blocks.by_rows(layer.project, x_TD)
            if write:
                self.layout.store(write, index, first, made.k_HTK[:, :causal], made.v_HTV[:, :causal])
            if causal:
                # What new rows see of each other is what later ones will see of them.
                made = made._replace(k_HTK=self._kept(made.k_HTK, causal), v_HTV=self._kept(made.v_HTV, causal))
            # Of the last layer, nobody reads what causal rows gather: only their K/V.
            skipped = causal if index == len(self.layers) - 1 else 0
            if skipped == tokens:
                x_TD = x_TD[tokens:]
            else:
                q_HRK, cached = made.q_HTK[:, skipped:], self.layout.cached(context, index)
                av_RE = self.attention(q_HRK, made.k_HTK, made.v_HTV, cached, self_only, scale, normaliser)
                if not isinstance(av_RE, Tensor):
                    av_RE = yield from av_RE
                x_TD = yield from blocks.by_rows(layer.combine, x_TD[skipped:], made.u_TE[skipped:], av_RE)
        return x_TD

    def _kept(self, rows_HTX: Tensor, causal: int) -> Tensor:
        kept_HTX = self.layout.as_kept(rows_HTX[:, :causal])
        if kept_HTX.data_ptr() == rows_HTX.data_ptr():
            return rows_HTX
        return torch.cat([kept_HTX, rows_HTX[:, causal:]], dim=1)

    @inference
    def head(self, hidden_CD: Tensor) -> Tensor:
        """Logits of candidates' hidden rows, [C, K] float32."""
        return self.scorer(hidden_CD).float()

    def _candidates(self, candidates: Candidates, place: int, request_time_s: int, last_s: int | None) -> Tensor:
        if self._stack is not None:
            return self._candidates_natively(self._stack.rows, candidates, place, request_time_s, last_s)
        times_s = torch.tensor([request_time_s])
        gap = codes.sequence_gap_codes(times_s, last_s, self.config.gap_buckets).to(self.device)
        return self.tokens.candidates(
            self._tensor(self.item_rows(candidates.item_ids)),
            torch.tensor([place], device=self.device),
            gap,
            self._tensor(candidates.dense),
            self._tensor(candidates.categorical),
        )

    def _candidates_natively(
        self, rows: NativeRows, candidates: Candidates, place: int, request_time_s: int, last_s: int | None
    ) -> Tensor:
        tokens, count = self.tokens, len(candidates)
        position = np.full(count, min(place, tokens.position.num_embeddings - 1))
        gap = np.full(count, self._gaps.of(np.array([request_time_s]), last_s)[0])
        tables = (tokens.item.weight, tokens.position.weight, tokens.gap.weight)
        x_CD = rows.sum(tables, (self.item_rows(candidates.item_ids), position, gap))
        return self._with_features(tokens.candidate_features, x_CD, candidates)

    def _behaviours_natively(
        self, rows: NativeRows, behaviours: Behaviours, first: int, before_s: int | None
    ) -> Tensor:
        tokens, actions = self.tokens, behaviours.actions
        known = (actions >= 0) & (actions < tokens.action.num_embeddings)
        positions = np.minimum(np.arange(first, first + len(behaviours)), tokens.position.num_embeddings - 1)
        x_TD = rows.sum(
            (tokens.item.weight, tokens.action.weight, tokens.position.weight, tokens.gap.weight),
            (
                self.item_rows(behaviours.item_ids),
                np.where(known, actions, 0),
                positions,
                self._gaps.of(behaviours.timestamps_s, before_s),
            ),
        )
        return self._with_features(tokens.behaviour_features, x_TD, behaviours)

    def _with_features(self, features: FeatureEmbedding, x_TD: Tensor, columns: Behaviours | Candidates) -> Tensor:
        if features.is_empty and not columns.dense.shape[1] and not columns.categorical.shape[1]:
            return x_TD
        return features.add_to(x_TD, self._tensor(columns.dense), self._tensor(columns.categorical))

    def _behaviours(self, behaviours: Behaviours, first: int, before_s: int | None) -> Tensor:
        if self._stack is not None:
            return self._behaviours_natively(self._stack.rows, behaviours, first, before_s)
        times_s = torch.from_numpy(behaviours.timestamps_s.copy())
        gaps = codes.sequence_gap_codes(times_s, before_s, self.config.gap_buckets)
        return self.tokens.behaviours(
            self._tensor(self.item_rows(behaviours.item_ids)),
            self._tensor(behaviours.actions),
            torch.arange(first, first + len(behaviours), device=self.device),
            gaps.to(self.device),
            self._tensor(behaviours.dense),
            self._tensor(behaviours.categorical),
        )

    def _no_rows(self) -> Tensor:
        return self.tokens.user.new_empty(0, self.config.width)

    def _tensor(self, column: NDArray) -> Tensor:
        # Copied, because columns may be read-only views of a message.
        return torch.from_numpy(column.copy()).to(self.device)
