"""What a lookup in the DRAM tier found."""

from __future__ import annotations

from dataclasses import dataclass, field

from relaygr.domain.identity import PsiKey
from services.ranker.adapters.dram_attachment import Attachment
from services.ranker.adapters.dram_known import Known

NO_PIN = 0


@dataclass(slots=True)
class Found:
    """An entry, pinned or remembered. To be ended once, by `load` or `abandon`."""

    key: PsiKey
    token_count: int
    chain_digest: bytes
    length_bytes: int
    producer_traceparent: str
    content_digest: bytes = field(repr=False)
    pin_id: int
    """NO_PIN for one that was remembered: stamps alone say whether it is still there."""
    generation: int
    blocks: tuple[int, ...] = field(repr=False)
    """Where its bytes lie while the pin holds, or nothing when the expander did not say."""
    attachment: Attachment = field(repr=False)
    is_spent: bool = False

    @property
    def is_pinned(self) -> bool:
        """False when nothing keeps the entry where it is."""
        return self.pin_id != NO_PIN

    @classmethod
    def of(cls, known: Known, key: PsiKey, pin_id: int, attachment: Attachment) -> Found:
        """From what is known of an entry."""
        return cls(
            key=key,
            token_count=known.token_count,
            chain_digest=known.chain_digest,
            length_bytes=known.length_bytes,
            producer_traceparent=known.producer_traceparent,
            content_digest=known.content_digest,
            pin_id=pin_id,
            generation=known.generation,
            blocks=known.blocks,
            attachment=attachment,
        )
