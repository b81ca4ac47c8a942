from typing import Any

import grpc
import pytest

from relaygr.errors import (
    DeadlineTooShort,
    ForeignEpoch,
    InvalidRequest,
    NotHere,
    PeerFailed,
    Refused,
    RelayError,
    Stale,
    Unreachable,
)
from relaygr.rpc.status import ERROR_METADATA_KEY, MESSAGE_CHARACTERS_MAX, error_of, message_of, status_of


def failed(code: grpc.StatusCode, details: str | None = "d", **trailing: str) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*((key.replace("_", "-"), value) for key, value in trailing.items()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)


def test_subclass_outside_the_table_takes_its_parents_code() -> None:
    class CutGone(NotHere):
        """As another package would declare."""

    assert status_of(CutGone("x")) is grpc.StatusCode.NOT_FOUND
    assert status_of(RelayError("x")) is grpc.StatusCode.INTERNAL


def test_invalid_request_keeps_field_and_problem() -> None:
    error = error_of(failed(grpc.StatusCode.INVALID_ARGUMENT, "delta.actions: 3 values: too few"), "p")
    assert isinstance(error, InvalidRequest)
    assert (error.field, error.problem) == ("delta.actions", "3 values: too few")


def test_invalid_argument_of_another_kind_of_server_names_the_request() -> None:
    error = error_of(failed(grpc.StatusCode.INVALID_ARGUMENT, "nope"), "p")
    assert isinstance(error, InvalidRequest) and error.field == "request"


@pytest.mark.parametrize(
    ("trailing", "wanted"),
    [({}, Stale), ({"relaygr_error": "ForeignEpoch"}, ForeignEpoch), ({"relaygr_error": "Nonsense"}, Stale)],
)
def test_failed_precondition_is_stale_unless_named_foreign(trailing: dict[str, str], wanted: type) -> None:
    assert ERROR_METADATA_KEY == "relaygr-error"
    assert type(error_of(failed(grpc.StatusCode.FAILED_PRECONDITION, **trailing), "p")) is wanted


def test_named_class_that_does_not_fit_the_code_is_not_trusted() -> None:
    error = error_of(failed(grpc.StatusCode.DEADLINE_EXCEEDED, relaygr_error="ForeignEpoch"), "p")
    assert isinstance(error, DeadlineTooShort) and not error.is_definite


def test_deadline_is_definite_only_when_the_peer_refused_to_begin() -> None:
    named: Any = failed(grpc.StatusCode.DEADLINE_EXCEEDED, relaygr_error="DeadlineTooShort")
    assert error_of(named, "p").is_definite
    assert not error_of(failed(grpc.StatusCode.DEADLINE_EXCEEDED), "p").is_definite


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_is_an_error_of_the_tree(code: grpc.StatusCode) -> None:
    error = error_of(failed(code, None), "peer:1")
    assert isinstance(error, RelayError)
    if isinstance(error, PeerFailed | Unreachable):
        assert error.peer == "peer:1" and not error.is_definite


def test_server_that_cancels_is_unreachable_and_retryable() -> None:
    error = error_of(failed(grpc.StatusCode.CANCELLED), "p")
    assert isinstance(error, Unreachable) and error.is_retryable


def test_long_message_is_cut_to_what_headers_carry() -> None:
    assert len(message_of(Refused("x" * 100_000))) == MESSAGE_CHARACTERS_MAX
    assert message_of(Refused("full")) == "full"
    assert message_of(NotHere()) == "NotHere"
