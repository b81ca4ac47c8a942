"""The bytes of an identity, which digests and the presence filter take."""

from __future__ import annotations

import struct

from relaygr.domain.identity import PsiKey


def identity_bytes(key: PsiKey, chain_digest: bytes) -> bytes:
    """Every field of the identity with its length before it, so that no two identities share bytes."""
    parts = (
        key.owner.tenant.encode(),
        key.owner.user.encode(),
        key.model_key.encode(),
        key.anchor.to_bytes(8, "little"),
        chain_digest,
    )
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)
