"""Data to store to split to model to files; what is there already is used again.

    DIR/store/          behaviour store of the whole log
    DIR/replay.jsonl    requests of the later part, in order of time
    DIR/titles.json     item id -> title, where there are titles
    DIR/checkpoint/     the model
    DIR/metrics.json    held-out quality, and the digest of all that led to it

A step's outputs are used again when the digest of its inputs and options is equal.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from relaygr.behaviours.store import FileStore
from relaygr.model import checkpoint
from trainer.data import Dataset
from trainer.evaluate import measure, model_scorer, popularity_scorer, thinned
from trainer.requests import ReplayOptions, ReplayRequest, read_requests, replay_requests, write_requests
from trainer.split import TRAIN_SHARE, Split, split_store
from trainer.train import Trained, TrainOptions, model_config, train

RECIPE = 2
"""Raised when the code changes what comes out for equal inputs."""
EVALUATED_MAX = 600

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """All that the outputs depend on besides the data."""

    train_share: float = TRAIN_SHARE
    replay: ReplayOptions = field(default_factory=ReplayOptions)
    training: TrainOptions = field(default_factory=TrainOptions)


@dataclass(frozen=True)
class Prepared:
    """The data side: everything but the model."""

    digest: str
    store: FileStore
    split: Split
    requests: list[ReplayRequest]


def prepare(dataset: Dataset, out: Path, options: PipelineOptions, say: Say) -> Prepared:
    """Build store, replay list and titles, or use those that are there."""
    digest = _digest(RECIPE, dataset.name, dataset.digest, options.train_share, asdict(options.replay))
    marker = out / "prepared.json"
    if _marked(marker) == digest:
        store = FileStore(out / "store")
        say(f"reusing the behaviour store and replay list in {out}")
        return Prepared(digest, store, split_store(store, options.train_share), read_requests(out / "replay.jsonl"))
    out.mkdir(parents=True, exist_ok=True)
    meta = dataset.build_store(out / "store")
    say(f"{dataset.name}: {meta.behaviours} behaviours of {meta.users} users")
    if meta.timestamp_divisor > 1:
        say(f"timestamps were divided by {meta.timestamp_divisor} to become seconds")
    store = FileStore(out / "store")
    split = split_store(store, options.train_share)
    requests = replay_requests(split, options.replay)
    write_requests(requests, out / "replay.jsonl")
    titles = {str(item): title for item, title in sorted(dataset.titles.items())}
    (out / "titles.json").write_text(json.dumps(titles, ensure_ascii=False, indent=0) + "\n")
    marker.write_text(json.dumps({"digest": digest}) + "\n")
    say(f"{len(requests)} requests to replay, from {requests[0].time_s if requests else split.time_s} on")
    return Prepared(digest, store, split, requests)


def train_once(dataset: Dataset, prepared: Prepared, out: Path, options: PipelineOptions, say: Say) -> dict[str, Any]:
    """Train, export and measure, or give the metrics of the checkpoint that is there."""
    digest = _digest(prepared.digest, asdict(options.training))
    if _marked(out / "metrics.json") == digest and (out / "checkpoint").is_dir():
        say(f"reusing the checkpoint in {out / 'checkpoint'}")
        return json.loads((out / "metrics.json").read_text())
    config = model_config(dataset.name, prepared.split, options.training, dataset.user_categorical)
    (out / "metrics.json").unlink(missing_ok=True)
    trained = train(config, prepared.split, prepared.store, options.training)
    weights_digest = checkpoint.save(trained.model, out / "checkpoint")
    metrics = _measured(prepared, trained, out) | {"weights_digest": weights_digest, "digest": digest}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    return metrics


def _measured(prepared: Prepared, trained: Trained, out: Path) -> dict[str, Any]:
    # The checkpoint is read back: measured is what will be served.
    model = checkpoint.load(out / "checkpoint")
    requests = thinned(prepared.requests, EVALUATED_MAX)
    start_s = time.monotonic()
    found = measure(requests, model_scorer(model, prepared.store), model.spec.tasks)
    evaluation_s = time.monotonic() - start_s
    popular = measure(requests, popularity_scorer(prepared.split), ())
    metrics: dict[str, Any] = {name: _rounded(value) for name, value in found.items()}
    metrics |= {f"{name}_popularity": _rounded(popular[name]) for name in ("auc", "auc_pooled", "hit_rate_10")}
    return metrics | {
        "requests": len(requests),
        "positives": sum(len(request.positives) for request in requests),
        "validation_auc": _rounded(trained.validation_auc),
        "loss": _rounded(trained.loss),
        "steps": trained.steps,
        "train_s": round(trained.seconds, 1),
        "evaluation_s": round(evaluation_s, 1),
        "split_time_s": prepared.split.time_s,
        "tasks": list(model.spec.tasks),
        "items": len(prepared.split.catalogue),
    }


def _rounded(value: float) -> float | None:
    """Four digits; JSON has no NaN."""
    return round(value, 4) if math.isfinite(value) else None


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _marked(path: Path) -> str | None:
    try:
        return json.loads(path.read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
