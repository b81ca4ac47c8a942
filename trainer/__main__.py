"""Data to model: `python -m trainer --data ml-100k|FILE --out DIR --minutes M`.

FILE is a CSV or Parquet log with columns user, item, timestamp and optionally action.
What DIR already holds for the same data and options is used again.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

# Threads that spin at each barrier cost several times their work when the machine has other
# things to do; torch reads this when it is imported, so it comes first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from relaygr.behaviours.log import LogError
from trainer.data import MOVIELENS, WHEEL_DIR, open_dataset
from trainer.pipeline import PipelineOptions, prepare, train_once
from trainer.requests import ReplayOptions
from trainer.train import TrainOptions


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 when done, 2 when the data cannot be used."""
    given = _parser().parse_args(arguments)
    torch.set_num_threads(given.threads)
    training = TrainOptions(
        minutes=given.minutes,
        steps=given.steps,
        layers=given.layers,
        width=given.width,
        seed=given.seed,
    )
    options = PipelineOptions(replay=ReplayOptions(candidates=given.candidates, seed=given.seed), training=training)
    try:
        dataset = open_dataset(given.data, given.wheels)
        prepared = prepare(dataset, given.out, options, _say)
        if not given.prepare_only:
            _report(train_once(dataset, prepared, given.out, options, _say))
    except LogError as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", default=MOVIELENS, help=f"{MOVIELENS}, or a CSV or Parquet file")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for store, replay list, checkpoint and metrics"
    )
    parser.add_argument("--minutes", type=float, default=TrainOptions.minutes, help="time to train")
    parser.add_argument("--steps", type=int, help="train so many steps instead; repeatable")
    parser.add_argument("--prepare-only", action="store_true", help="stop before training")
    parser.add_argument("--layers", type=int, default=TrainOptions.layers)
    parser.add_argument("--width", type=int, default=TrainOptions.width, help="of a token's row; four heads share it")
    parser.add_argument("--candidates", type=int, default=ReplayOptions.candidates, help="of a replayed request")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=TrainOptions.seed)
    parser.add_argument("--wheels", type=Path, default=WHEEL_DIR, help="where the recbole wheel is")
    return parser


def _report(metrics: dict[str, object]) -> None:
    rows = (("AUC", "auc"), ("hit rate at 10", "hit_rate_10"))
    print(f"{'held out':>16}  {'model':>8}  {'popularity':>10}")
    for label, name in rows:
        print(f"{label:>16}  {metrics[name]!s:>8}  {metrics[f'{name}_popularity']!s:>10}")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
