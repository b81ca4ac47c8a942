"""Tickets on the wire: claims under the deployment's key.

Only genuineness is decided here. Whether a ticket still fits (epoch, model, window) is
the business of the ranker's core, and a stale one is no error to the caller.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from relaygr.domain.ticket import is_genuine, sign
from relaygr.errors import InvalidRequest
from relaygr.v1.common_pb2 import Ticket, TicketClaims

CLAIMS_BYTES_MAX = 4096
"""Claims are under 1 KiB; more was not made by us, and is not hashed."""


def encode_ticket(claims: TicketClaims, key: bytes) -> Ticket:
    """Sign claims with the deployment's ticket key (at least 16 bytes)."""
    raw = claims.SerializeToString()
    return Ticket(claims=raw, mac=sign(raw, key))


def decode_ticket(ticket: Ticket, key: bytes, field: str = "ticket") -> TicketClaims:
    """The claims of a genuine ticket.

    Raises:
        InvalidRequest: names `field`; forged or malformed.
    """
    if not ticket.claims or len(ticket.claims) > CLAIMS_BYTES_MAX:
        raise InvalidRequest(field, "malformed")
    if not is_genuine(ticket.claims, ticket.mac, key):
        raise InvalidRequest(field, "not issued by this deployment")
    try:
        return TicketClaims.FromString(ticket.claims)
    except DecodeError:
        raise InvalidRequest(field, "malformed") from None


def window_remaining_ns(claims: TicketClaims, unix_now_ns: int) -> int:
    """Time until the lifecycle window closes; negative when it has closed.

    Tickets are the one place where hosts compare wall clocks: they must agree to within
    a small part of the window.
    """
    return int(claims.expires_unix_ns) - unix_now_ns
