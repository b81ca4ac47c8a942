"""What callers hold, as lists or arrays, to the messages that carry it.

An inline history is serialised and digested once, when the request arrives, and sent
twice: with Arrive (for the pre-infer) and with Rank (so that full inference never lacks it).

Source: design, section 4 (the cut), condition 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from relaygr.behaviours.columns import Behaviours, Candidates, Cross, FeatureSpec, Profile, chain_of
from relaygr.behaviours.inline import inline_bytes
from relaygr.domain.identity import ModelLimits
from relaygr.domain.window import anchor_of
from relaygr.errors import InvalidRequest
from relaygr.v1.common_pb2 import Cut, History

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

BehavioursLike = Behaviours | Mapping[str, Any]
"""Behaviours, or the arguments of Behaviours.of: item_ids, timestamps_s, and optional columns."""


@dataclass(frozen=True, slots=True)
class Window:
    """How to cut histories that are sent inline."""

    features: FeatureSpec
    """Feature columns the model declares: absent ones are sent as zeros, so that digests agree."""
    limits: ModelLimits | None
    """The model's window; None sends histories whole and lets over-long ones be refused."""


def inline_history(behaviours: BehavioursLike, profile: Profile | None, first_index: int, window: Window) -> History:
    """An inline history, cut by the window's rule.

    Args:
        behaviours: in time order.
        profile: the user token's features.
        first_index: index, in the user's whole log, of the first of `behaviours`.
        window: the rule.

    Raises:
        InvalidRequest: field "behaviours".
    """
    given = behaviours_of(behaviours, window.features, "behaviours")
    anchor = first_index
    if window.limits is not None:
        anchor = max(first_index, anchor_of(first_index + len(given), window.limits))
    given = given.slice(min(anchor - first_index, len(given)), len(given))
    features = window.features
    user = profile or Profile.empty(features.user_dense, len(features.user_categorical))
    digest = chain_of(user, given).digest
    cut = Cut(anchor=anchor, behaviour_count=len(given), digest=digest)
    return History(cut=cut, inline=inline_bytes(user, given))


def behaviours_of(given: BehavioursLike, features: FeatureSpec, field: str) -> Behaviours:
    """Behaviours with the declared feature columns.

    Raises:
        InvalidRequest: names the field.
    """
    made = given if isinstance(given, Behaviours) else _made(field, lambda: Behaviours.of(**given))
    dense, categorical = made.dense, made.categorical
    if not dense.shape[1]:
        dense = np.zeros((len(made), features.behaviour_dense), "<f4")
    if not categorical.shape[1]:
        categorical = np.zeros((len(made), len(features.behaviour_categorical)), "<i4")
    return Behaviours(made.item_ids, made.actions, made.timestamps_s, dense, categorical)


def candidates_of(given: Candidates | ArrayLike) -> Candidates:
    """Candidates from item ids.

    Raises:
        InvalidRequest: field "candidates".
    """
    return given if isinstance(given, Candidates) else _made("candidates", lambda: Candidates.of(given))


def cross_of(given: Cross | ArrayLike) -> Cross:
    """Cross features from rows.

    Raises:
        InvalidRequest: field "cross".
    """
    return given if isinstance(given, Cross) else _made("cross", lambda: Cross.of(given))


def _made(field: str, make: Any) -> Any:
    try:
        return make()
    except (TypeError, ValueError, OverflowError, AssertionError) as error:
        raise InvalidRequest(field, str(error) or "not columns of equal length") from error
