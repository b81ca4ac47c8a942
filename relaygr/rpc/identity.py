"""Identity, limits and cost models: protobuf to domain values and back."""

from __future__ import annotations

from relaygr.domain.cost import CostModel
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


def model_to_pb(model: ModelIdentity) -> common_pb2.ModelIdentity:
    """Domain to protobuf."""
    return common_pb2.ModelIdentity(
        name=model.name,
        version=model.version,
        weights_digest=model.weights_digest,
        dtype=model.dtype,
        layout=model.layout,
        normaliser=model.normaliser,
    )


def model_from_pb(model: common_pb2.ModelIdentity) -> ModelIdentity:
    """Protobuf to domain."""
    return ModelIdentity(
        name=model.name,
        version=model.version,
        weights_digest=model.weights_digest,
        dtype=model.dtype,
        layout=model.layout,
        normaliser=model.normaliser,
    )


def limits_to_pb(limits: ModelLimits) -> common_pb2.ModelLimits:
    """Domain to protobuf."""
    return common_pb2.ModelLimits(
        window_behaviours_max=limits.window_behaviours_max,
        window_step_behaviours=limits.window_step_behaviours,
        delta_behaviours_max=limits.delta_behaviours_max,
        candidates_max=limits.candidates_max,
    )


def limits_from_pb(limits: common_pb2.ModelLimits) -> ModelLimits:
    """Protobuf to domain."""
    return ModelLimits(
        window_behaviours_max=limits.window_behaviours_max,
        window_step_behaviours=limits.window_step_behaviours,
        delta_behaviours_max=limits.delta_behaviours_max,
        candidates_max=limits.candidates_max,
    )


def cost_to_pb(cost: CostModel) -> common_pb2.CostModel:
    """Domain to protobuf."""
    return common_pb2.CostModel(
        fixed_ns=cost.fixed_ns,
        token_ns=cost.token_ns,
        pair_ns=cost.pair_ns,
        reload_fixed_ns=cost.reload_fixed_ns,
        reload_byte_ns=cost.reload_byte_ns,
        relative_error=cost.relative_error,
        token_bytes=cost.token_bytes,
        candidates_typical=cost.candidates_typical,
    )


def cost_from_pb(cost: common_pb2.CostModel) -> CostModel:
    """Protobuf to domain."""
    return CostModel(
        fixed_ns=cost.fixed_ns,
        token_ns=cost.token_ns,
        pair_ns=cost.pair_ns,
        reload_fixed_ns=cost.reload_fixed_ns,
        reload_byte_ns=cost.reload_byte_ns,
        relative_error=cost.relative_error,
        token_bytes=cost.token_bytes,
        candidates_typical=cost.candidates_typical,
    )


def user_key_of(tenant: str, user: str) -> UserKey:
    """The user a request names; an empty tenant is the default one.

    Raises:
        InvalidRequest: field "tenant" or "user".
    """
    if not user:
        raise InvalidRequest("user", "must not be empty")
    if len(user.encode()) > USER_BYTES_MAX:
        raise InvalidRequest("user", f"longer than {USER_BYTES_MAX} bytes")
    if len(tenant.encode()) > TENANT_BYTES_MAX:
        raise InvalidRequest("tenant", f"longer than {TENANT_BYTES_MAX} bytes")
    if "\x00" in user or "\x00" in tenant:
        # Tenant and user are hashed with a zero byte between them.
        raise InvalidRequest("tenant" if "\x00" in tenant else "user", "holds a zero byte")
    return UserKey(tenant=tenant or TENANT_DEFAULT, user=user)


def checked_request_id(request_id: str) -> str:
    """The request id as given.

    Raises:
        InvalidRequest: field "request_id"; too long.
    """
    if len(request_id.encode()) > REQUEST_ID_BYTES_MAX:
        raise InvalidRequest("request_id", f"longer than {REQUEST_ID_BYTES_MAX} bytes")
    return request_id
