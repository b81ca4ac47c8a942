"""What pool and rankers say to each other: bytes, in gRPC's own framing.

    Lookup   key -> content, empty when there is none
    Fetch    key -> chunks, in order; none when the entry is gone
    Store    key, chunks, content -> STORED or nothing
    Forget   prefix of keys -> nothing
    Counters nothing -> JSON

A key is the identity of a psi with lengths before its parts, so that a user's keys are
those that begin with the user's. Content is an EntryContent, as the expander has it.
"""

from __future__ import annotations

import struct

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment import identity_bytes

SERVICE = "relaygr.bench.Pool"
CHUNK_BYTES = 1024 * 1024
"""Of 0.25, 0.5, 1 and 4 MiB the quickest for psi of 16 MiB: 15 ms with the options below, on two shared cores."""
STORED = b"1"
OPTIONS = [
    # A chunk is some frames, and some chunks are under way at a time.
    ("grpc.http2.max_frame_size", CHUNK_BYTES),
    ("grpc.http2.lookahead_bytes", 8 * CHUNK_BYTES),
    ("grpc.max_receive_message_length", 2 * CHUNK_BYTES),
]


def key_bytes(key: PsiKey) -> bytes:
    """Name of a user's psi of one model and anchor."""
    return identity_bytes(key, b"")


def owner_bytes(owner: UserKey) -> bytes:
    """What all keys of a user begin with."""
    parts = (owner.tenant.encode(), owner.user.encode())
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def path_of(method: str) -> str:
    """A method's full name."""
    return f"/{SERVICE}/{method}"
