import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaygr.domain.ticket import sign
from relaygr.errors import InvalidRequest
from relaygr.rpc.tickets import CLAIMS_BYTES_MAX, decode_ticket, encode_ticket, window_remaining_ns
from relaygr.v1.common_pb2 import Ticket, TicketClaims

KEY = b"0123456789abcdef"
CLAIMS = TicketClaims(ticket_id="t", tenant="a", user="u", instance_epoch=2**63, expires_unix_ns=1_000)


def refusal(ticket: Ticket, key: bytes = KEY) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        decode_ticket(ticket, key)
    assert caught.value.field == "ticket"
    return caught.value


def test_genuine_ticket_gives_its_claims_back() -> None:
    assert decode_ticket(encode_ticket(CLAIMS, KEY), KEY) == CLAIMS


def test_ticket_of_another_key_is_forged() -> None:
    assert "issued" in refusal(encode_ticket(CLAIMS, b"fedcba9876543210")).problem


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    ticket = encode_ticket(CLAIMS, KEY)
    whole = bytearray(ticket.claims + ticket.mac)
    whole[place % len(whole)] ^= change
    cut = len(ticket.claims)
    refusal(Ticket(claims=bytes(whole[:cut]), mac=bytes(whole[cut:])))


def test_empty_and_oversize_tickets_are_malformed() -> None:
    assert "malformed" in refusal(Ticket()).problem
    large = b"x" * (CLAIMS_BYTES_MAX + 1)
    assert "malformed" in refusal(Ticket(claims=large, mac=sign(large, KEY))).problem


def test_genuine_garbage_is_malformed() -> None:
    assert "malformed" in refusal(Ticket(claims=b"\xff\xff", mac=sign(b"\xff\xff", KEY))).problem


def test_window_that_has_closed_is_negative() -> None:
    assert window_remaining_ns(CLAIMS, 400) == 600
    assert window_remaining_ns(CLAIMS, 1_500) == -500
