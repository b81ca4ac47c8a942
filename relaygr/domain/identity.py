"""Who psi belongs to and what it was made by.

Two psi are interchangeable only when key, token count and chained digest are equal;
`Chain` (chain.py) supplies the digest.

Source: design, section 4 (identity and exactness).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

TENANT_BYTES_MAX = 64
USER_BYTES_MAX = 128
REQUEST_ID_BYTES_MAX = 128
TENANT_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a score depends on besides the request."""

    name: str
    version: str
    weights_digest: str
    """SHA-256 over the weights file, lower-case hex."""
    dtype: str
    """Element type of cached K/V: "float32" or "bfloat16"."""
    layout: str
    """Page layout of cached K/V."""
    normaliser: int
    """N of SiLU(QK^T)/N, tokens."""

    @property
    def key(self) -> str:
        """A short name for etcd keys and logs; equal exactly when the identities are."""
        fields = (self.name, self.version, self.weights_digest, self.dtype, self.layout, str(self.normaliser))
        digest = hashlib.blake2b("\x00".join(fields).encode(), digest_size=8).hexdigest()
        return f"{self.name}-{digest}"


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What one request may ask of a model."""

    window_behaviours_max: int
    window_step_behaviours: int
    delta_behaviours_max: int
    candidates_max: int


@dataclass(frozen=True, slots=True)
class UserKey:
    """A user of a tenant."""

    tenant: str
    user: str

    def __hash__(self) -> int:
        """Few users of two tenants have one name; a string keeps its hash, a tuple does not."""
        return hash(self.user)

    def hashed(self, key: bytes) -> str:
        """Keyed hash for spans and logs; user ids never appear there in the clear."""
        text = f"{self.tenant}\x00{self.user}".encode()
        return hashlib.blake2b(text, key=key[:64], digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class PsiKey:
    """One line of production: at most one producer at a time per key and instance (I4)."""

    owner: UserKey
    model_key: str
    anchor: int
    """Index of the first behaviour of the prefix in the user's whole log."""

    def __hash__(self) -> int:
        """Of what differs: a process knows few models."""
        return hash((self.owner.user, self.anchor))
