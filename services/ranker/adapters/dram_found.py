"""What a lookup in the DRAM tier found."""

from __future__ import annotations

from dataclasses import dataclass, field

from relaygr.domain.identity import PsiKey
from services.ranker.adapters.dram_attachment import Attachment


@dataclass(slots=True)
class Found:
    """A pinned entry. To be ended once, by `load` or `abandon`."""

    key: PsiKey
    token_count: int
    chain_digest: bytes
    length_bytes: int
    producer_traceparent: str
    content_digest: bytes = field(repr=False)
    pin_id: int
    generation: int
    blocks: tuple[int, ...] = field(repr=False)
    """Where its bytes lie while the pin holds, or nothing when the expander did not say."""
    attachment: Attachment = field(repr=False)
    is_spent: bool = False
