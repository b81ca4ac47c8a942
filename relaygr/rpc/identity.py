"""Identity, limits and cost models: protobuf to domain values and back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from relaygr.domain.cost import CostModel
from relaygr.domain.feedback import Feedback
from relaygr.domain.identity import (
    REQUEST_ID_BYTES_MAX,
    TENANT_BYTES_MAX,
    TENANT_DEFAULT,
    USER_BYTES_MAX,
    ModelIdentity,
    ModelLimits,
    UserKey,
)
from relaygr.errors import InvalidRequest
from relaygr.v1 import common_pb2

MODELS_MAX = 128
"""Whose keys are remembered; a deployment serves a few."""


def model_to_pb(model: ModelIdentity) -> common_pb2.ModelIdentity:
    """Domain to protobuf."""
    return common_pb2.ModelIdentity(**_values(model, ModelIdentity))


def model_from_pb(model: common_pb2.ModelIdentity) -> ModelIdentity:
    """Protobuf to domain."""
    return ModelIdentity(**_values(model, ModelIdentity))


def model_key_of(model: common_pb2.ModelIdentity) -> str:
    """The key of a model; remembered, since every ticket names one of a few and a key is a hash."""
    return _model_key(model.name, model.version, model.weights_digest, model.dtype, model.layout, model.normaliser)


@lru_cache(maxsize=MODELS_MAX)
def _model_key(*fields: Any) -> str:
    return ModelIdentity(*fields).key


def limits_to_pb(limits: ModelLimits) -> common_pb2.ModelLimits:
    """Domain to protobuf."""
    return common_pb2.ModelLimits(**_values(limits, ModelLimits))


def limits_from_pb(limits: common_pb2.ModelLimits) -> ModelLimits:
    """Protobuf to domain."""
    return ModelLimits(**_values(limits, ModelLimits))


def cost_to_pb(cost: CostModel) -> common_pb2.CostModel:
    """Domain to protobuf."""
    return common_pb2.CostModel(**_values(cost, CostModel))


def cost_from_pb(cost: common_pb2.CostModel) -> CostModel:
    """Protobuf to domain."""
    return CostModel(**_values(cost, CostModel))


def feedback_to_pb(feedback: Feedback) -> common_pb2.Feedback:
    """Domain to protobuf."""
    return common_pb2.Feedback(**_values(feedback, Feedback))


def feedback_from_pb(feedback: common_pb2.Feedback) -> Feedback:
    """Protobuf to domain."""
    return Feedback(**_values(feedback, Feedback))


def _values(source: Any, shape: type) -> dict[str, Any]:
    """The fields that a message and its domain class share, name for name."""
    return {name: getattr(source, name) for name in shape.__dataclass_fields__}  # type: ignore[attr-defined]


def user_key_of(tenant: str, user: str, within: str = "") -> UserKey:
    """The user a request names; an empty tenant is the default one.

    Args:
        tenant: its field.
        user: its field.
        within: path of the message that holds both, with a dot at its end; empty: the request itself.

    Raises:
        InvalidRequest: field "tenant" or "user", below `within`.
    """
    if not user:
        raise InvalidRequest(f"{within}user", "must not be empty")
    if len(user.encode()) > USER_BYTES_MAX:
        raise InvalidRequest(f"{within}user", f"longer than {USER_BYTES_MAX} bytes")
    if len(tenant.encode()) > TENANT_BYTES_MAX:
        raise InvalidRequest(f"{within}tenant", f"longer than {TENANT_BYTES_MAX} bytes")
    if "\x00" in user or "\x00" in tenant:
        # Tenant and user are hashed with a zero byte between them.
        raise InvalidRequest(within + ("tenant" if "\x00" in tenant else "user"), "holds a zero byte")
    return UserKey(tenant=tenant or TENANT_DEFAULT, user=user)


def checked_request_id(request_id: str) -> str:
    """The request id as given.

    Raises:
        InvalidRequest: field "request_id"; too long.
    """
    if len(request_id.encode()) > REQUEST_ID_BYTES_MAX:
        raise InvalidRequest("request_id", f"longer than {REQUEST_ID_BYTES_MAX} bytes")
    return request_id
