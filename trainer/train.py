"""Trains a small HSTU on the earlier part of a log, for a given time.

Two tasks: "click", the next items against drawn ones; "like", a high rating among the
next items, left out when the log has no ratings. The model that ranked a few held-aside users best is kept.

Shapes: B users, S scored positions, M candidates, K tasks.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from relaygr.behaviours.columns import FeatureSpec
from relaygr.behaviours.store import FileStore
from relaygr.domain.identity import ModelLimits
from relaygr.model.config import ModelConfig
from relaygr.model.hstu import HstuModel
from relaygr.model.init import new_model
from relaygr.model.training import training_logits
from trainer.evaluate import measure, model_scorer, thinned
from trainer.requests import ReplayOptions, ReplayRequest, requests_of
from trainer.samples import Labelled, SampleOptions, Sampler, Track, track_of
from trainer.split import History, Split
from trainer.warm import warm_up

TASKS = ("click", "like")
ACTIONS_MAX = 64


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The recipe."""

    layers: int = 6
    width: int = 192
    heads: int = 4
    head_width: int = 128
    normaliser: int = 512
    window: int = 1024
    """Behaviours of a prefix; the anchor moves in steps of a quarter."""
    minutes: float = 3.0
    steps: int | None = None
    """Stop after so many steps instead of after `minutes`: the same weights for the same seed."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    like_weight: float = 0.3
    validation_share: float = 0.06
    """Users held aside to choose the best weights."""
    validations: int = 8
    seed: int = 1
    samples: SampleOptions = field(default_factory=SampleOptions)


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    model: HstuModel
    steps: int
    seconds: float
    validation_auc: float
    loss: float


def model_config(name: str, split: Split, options: TrainOptions, user_categorical: tuple[int, ...]) -> ModelConfig:
    """The model that is trained on a log."""
    actions = max((int(history.behaviours.actions.max(initial=0)) for history in split.histories), default=0) + 1
    limits = ModelLimits(options.window, options.window // 4, 64, 512)
    return ModelConfig(
        name=f"hstu-{name}",
        version="1",
        layers=options.layers,
        width=options.width,
        heads=options.heads,
        qk_dim=options.width // options.heads,
        v_dim=options.width // options.heads,
        normaliser=options.normaliser,
        items=len(split.catalogue),
        actions=min(actions, ACTIONS_MAX),
        positions=options.window + 1,
        tasks=TASKS if split.has_likes else TASKS[:1],
        features=FeatureSpec(user_categorical=user_categorical),
        limits=limits,
        head_width=options.head_width,
    )


def train(config: ModelConfig, split: Split, store: FileStore, options: TrainOptions) -> Trained:
    """Train and return the best model, ready to be saved."""
    model = new_model(config, split.catalogue, options.seed)
    warm_up(model, split, options.seed)
    learners, validation = _divided(split, options)
    tracks = [_track(model, history) for history in learners if history.train_count > 1]
    sampler = Sampler(tracks, split, config.limits, options.samples, options.seed)
    run = _Run(model, validation, store, options)
    # Dropout draws from torch's own generator; it is given back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        for labelled in sampler.batches():
            if not run.step(labelled):
                break
    return run.finish()


class _Run:
    """One training under way: optimiser, clock, best weights so far."""

    def __init__(self, model: HstuModel, validation: list[ReplayRequest], store: FileStore, options: TrainOptions):
        self._model, self._options = model, options
        self._validation, self._store = validation, store
        self._optimiser = torch.optim.AdamW(
            model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.98)
        )
        self._best: dict[str, Tensor] = {}
        self._best_auc = -math.inf
        self._loss, self._steps, self._validated = float("nan"), 0, 0
        self._start_s = time.monotonic()
        layout = "{desc}: {percentage:3.0f}%|{bar:30}| {elapsed}{postfix}"
        # A log file gets a line now and then, a terminal a moving bar.
        interval_s = 0.5 if sys.stderr.isatty() else 20.0
        self._bar = tqdm(total=100, desc="training", bar_format=layout, mininterval=interval_s)

    def step(self, labelled: Labelled) -> bool:
        """Learn from a batch; False when the time is over."""
        progress = self._progress()
        for group in self._optimiser.param_groups:
            group["lr"] = self._options.learning_rate * _schedule(progress)
        loss = loss_of(self._model, labelled, self._options)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimiser.step()
        self._steps += 1
        value = float(loss.detach())
        self._loss = value if math.isnan(self._loss) else 0.98 * self._loss + 0.02 * value
        progress = self._progress()
        # The early weights are not worth a look.
        if progress >= (self._validated + 1) / self._options.validations:
            self._validate()
        self._show(progress)
        return progress < 1.0

    def finish(self) -> Trained:
        """Restore the best weights."""
        if not self._best:
            self._validate()
        self._bar.close()
        self._model.load_state_dict(self._best)
        return Trained(self._model, self._steps, time.monotonic() - self._start_s, self._best_auc, self._loss)

    def _show(self, progress: float) -> None:
        best = f", validation AUC {self._best_auc:.4f}" if self._best else ""
        self._bar.set_postfix_str(f"step {self._steps}, loss {self._loss:.4f}{best}", refresh=False)
        self._bar.update(min(100.0, progress * 100) - self._bar.n)

    def _progress(self) -> float:
        if self._options.steps is not None:
            return self._steps / self._options.steps
        return (time.monotonic() - self._start_s) / (60 * self._options.minutes)

    def _validate(self) -> None:
        self._validated += 1
        found = measure(self._validation, model_scorer(self._model, self._store), ())["auc"]
        # Without anything to validate on, the last weights are the best.
        if math.isnan(found) or found > self._best_auc:
            self._best_auc = found
            self._best = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}


def loss_of(model: HstuModel, labelled: Labelled, options: TrainOptions) -> Tensor:
    """Mean loss of a batch: clicks everywhere, likes where there is a rating."""
    logits_BSMK = training_logits(model, labelled.batch, dropout=options.dropout)
    click = F.binary_cross_entropy_with_logits(logits_BSMK[..., 0], labelled.is_click_BSM.float())
    rated = labelled.is_rated_BSM
    if not rated.any():
        return click
    like = F.binary_cross_entropy_with_logits(logits_BSMK[..., 1][rated], labelled.is_like_BSM[rated].float())
    return click + options.like_weight * like


def _schedule(progress: float) -> float:
    """Warm up over a twentieth, then along a cosine to a twentieth."""
    warm = min(1.0, progress / 0.05 + 0.02)
    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def _divided(split: Split, options: TrainOptions) -> tuple[list[History], list[ReplayRequest]]:
    """Users to learn from, and requests of the others, made like the replay's but of the earlier part."""
    histories = [history for history in split.histories if history.train_count > 1]
    rng = np.random.default_rng(options.seed)
    aside = set(rng.permutation(len(histories))[: max(1, int(len(histories) * options.validation_share))].tolist())
    replay = ReplayOptions(candidates=100)
    requests: list[ReplayRequest] = []
    for place in sorted(aside):
        history = histories[place]
        early = History(history.user, history.profile, history.behaviours.slice(0, history.train_count), 0)
        requests += requests_of(early, 0, split.catalogue, replay, min(10, history.train_count // 2), rng)
    learners = [history for place, history in enumerate(histories) if place not in aside]
    return learners or histories, thinned(requests, 150)


def _track(model: HstuModel, history: History) -> Track:
    early = history.behaviours.slice(0, history.train_count)
    return track_of(model.item_rows(early.item_ids), early, history.profile)
