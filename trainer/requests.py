"""The replay list: requests made of the later part of the log.

A request of a user at a time sees what the log held before that second. Its positives are
the next items the user turned to; its candidates are these and items drawn uniformly from
the catalogue that the user never turned to, in random order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.split import History, Split

HISTORY_MIN = 50
"""Behaviours before a request, so that there is a history to relay; fewer when a log has no such users."""
REQUESTS_ENOUGH = 600


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """One recommendation request of the replay."""

    user: str
    time_s: int
    """The request's own time; behaviours before this second belong to it."""
    history_count: int
    positives: tuple[int, ...]
    actions: tuple[int, ...]
    """What the user did with each positive."""
    candidates: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """How requests are made."""

    candidates: int = 64
    positives_max: int = 10
    history_min: int = HISTORY_MIN
    seed: int = 1


def replay_requests(split: Split, options: ReplayOptions) -> list[ReplayRequest]:
    """Requests from the later part in order of time.

    When too few have `history_min` behaviours, the least that a request needs is lowered
    step by step, down to none.
    """
    requests: list[ReplayRequest] = []
    for history_min in dict.fromkeys((options.history_min, options.history_min // 3, 1, 0)):
        rng = np.random.default_rng(options.seed)
        requests = []
        for history in split.histories:
            requests += requests_of(history, history.train_count, split.catalogue, options, history_min, rng)
        if len(requests) >= REQUESTS_ENOUGH:
            break
    return sorted(requests, key=lambda request: (request.time_s, request.user))


def requests_of(
    history: History,
    first: int,
    catalogue: NDArray[np.int64],
    options: ReplayOptions,
    history_min: int,
    rng: np.random.Generator,
) -> list[ReplayRequest]:
    """Requests of one user, from behaviour `first` on, whose positives do not overlap."""
    items, times_s = history.behaviours.item_ids, history.behaviours.timestamps_s
    strange = np.setdiff1d(catalogue, items, assume_unique=False)
    requests, at = [], first
    while at < len(items):
        # Behaviours of the request's own second are not before it.
        at = int(np.searchsorted(times_s, times_s[at], "left"))
        end = min(at + options.positives_max, len(items))
        if at >= history_min:
            positives, places = np.unique(items[at:end], return_index=True)
            actions = history.behaviours.actions[at:end][places]
            drawn = min(options.candidates - len(positives), len(strange))
            candidates = np.concatenate([positives, rng.choice(strange, max(drawn, 0), replace=False)])
            requests.append(
                ReplayRequest(
                    str(history.user),
                    int(times_s[at]),
                    at,
                    tuple(positives.tolist()),
                    tuple(actions.tolist()),
                    tuple(rng.permutation(candidates).tolist()),
                )
            )
        at = int(np.searchsorted(times_s, times_s[end - 1], "right"))
    return requests


def write_requests(requests: Iterable[ReplayRequest], path: Path) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(asdict(request), separators=(",", ":")) + "\n" for request in requests))


def read_requests(path: Path) -> list[ReplayRequest]:
    """The inverse of `write_requests`."""
    return [_request(json.loads(line)) for line in path.read_text().splitlines()]


def _request(values: dict[str, object]) -> ReplayRequest:
    return ReplayRequest(**{name: _frozen(value) for name, value in values.items()})  # type: ignore[arg-type]


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
