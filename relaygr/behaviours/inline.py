"""The history a request carries inline: serialised once by the client, parsed once by the ranker."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from relaygr.behaviours.columns import Behaviours, FeatureSpec, Profile
from relaygr.behaviours.wire import bad
from relaygr.v1 import common_pb2


def parse_inline(
    data: bytes, features: FeatureSpec, *, count_max: int, field: str = "history.inline"
) -> tuple[Profile, Behaviours]:
    """The user token's features and the prefix's behaviours.

    Raises:
        InvalidRequest: names the field.
    """
    try:
        pb = common_pb2.InlineHistory.FromString(data)
    except DecodeError as error:
        raise bad(field, "not an InlineHistory message") from error
    profile = Profile.from_pb(
        pb.profile,
        features.user_dense,
        len(features.user_categorical),
        f"{field}.profile",
        categorical_sizes=features.user_categorical,
    )
    behaviours = Behaviours.from_pb(
        pb.behaviours,
        features.behaviour_dense,
        len(features.behaviour_categorical),
        f"{field}.behaviours",
        count_max=count_max,
        categorical_sizes=features.behaviour_categorical,
    )
    return profile, behaviours


def inline_bytes(profile: Profile, behaviours: Behaviours) -> bytes:
    """The serialised InlineHistory."""
    return common_pb2.InlineHistory(profile=profile.to_pb(), behaviours=behaviours.to_pb()).SerializeToString()
