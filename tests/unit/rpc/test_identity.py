import pytest

from relaygr.domain.cost import CostModel
from relaygr.domain.identity import ModelIdentity, ModelLimits, UserKey
from relaygr.errors import InvalidRequest
from relaygr.rpc.identity import (
    checked_request_id,
    cost_from_pb,
    cost_to_pb,
    limits_from_pb,
    limits_to_pb,
    model_from_pb,
    model_to_pb,
    user_key_of,
)

# Each field has another value, so that a swapped pair is noticed.
MODEL = ModelIdentity("n", "v", "w", "float32", "l", 7)
LIMITS = ModelLimits(1, 2, 3, 4)
COST = CostModel(1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7, 8)


def test_identity_limits_and_cost_survive_the_wire() -> None:
    assert model_from_pb(model_to_pb(MODEL)) == MODEL
    assert limits_from_pb(limits_to_pb(LIMITS)) == LIMITS
    assert cost_from_pb(cost_to_pb(COST)) == COST


def test_every_field_of_the_messages_is_filled() -> None:
    for message in (model_to_pb(MODEL), limits_to_pb(LIMITS), cost_to_pb(COST)):
        assert len(message.ListFields()) == len(message.DESCRIPTOR.fields)


def test_empty_tenant_is_the_default_one() -> None:
    assert user_key_of("", "u") == UserKey("default", "u")
    assert user_key_of("t", "u") == UserKey("t", "u")


@pytest.mark.parametrize(
    ("tenant", "user", "field"),
    [
        ("t", "", "user"),
        ("t", "u" * 129, "user"),
        ("t", "\u00e9" * 65, "user"),
        ("t" * 65, "u", "tenant"),
        ("t\x00", "u", "tenant"),
        ("t", "\x00u", "user"),
    ],
)
def test_bad_user_names_its_field(tenant: str, user: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        user_key_of(tenant, user)
    assert caught.value.field == field
    assert not user or user not in str(caught.value)


def test_long_request_id_is_refused() -> None:
    assert checked_request_id("r" * 128) == "r" * 128
    with pytest.raises(InvalidRequest, match="request_id"):
        checked_request_id("r" * 129)
