"""The core's bounds and times: every table has a maximum and every entry an end.

Source: design, section 3 (expander), invariant I3.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.expander.core.admission import AdmissionPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class TieringLimits:
    """Maxima and times to live."""

    block_bytes: int
    block_count: int
    owners_max: int = 64
    entries_max: int = 65_536
    pins_max: int = 4_096
    pinned_blocks_max: int
    """Blocks under pins; below block_count, so that readers can never starve stores."""
    stores_max: int = 64
    stores_per_owner_max: int = 16
    staging_blocks_max: int
    """Blocks of stores in flight; below block_count, so that stores cannot evict everything."""
    tenant_blocks_max: int
    owner_blocks_max: int | None = None
    """Blocks of one ranker's stores, in flight, in quarantine and published; None: as many as there are."""
    admission: AdmissionPolicy = AdmissionPolicy.FREQUENCY
    tombstones_max: int = 65_536
    owner_lapse_ns: int = 2_000_000_000
    """An owner not heard of for so long is retired."""
    probe_ns: int = 250_000_000
    """Period of looking at a retired owner's lock."""
    pin_ns: int = 2_000_000_000
    store_ns: int = 10_000_000_000
    entry_age_ns: int = 900_000_000_000
    tombstone_ns: int = 600_000_000_000

    @property
    def owner_blocks(self) -> int:
        """Most blocks of one ranker."""
        return self.block_count if self.owner_blocks_max is None else self.owner_blocks_max

    def __post_init__(self) -> None:
        assert self.block_bytes > 0 and self.block_count > 0
        assert 0 < self.pinned_blocks_max <= self.block_count
        assert 0 < self.staging_blocks_max <= self.block_count
        assert 0 < self.tenant_blocks_max <= self.block_count
        assert self.owner_blocks_max is None or 0 < self.owner_blocks_max <= self.block_count
        assert 0 < self.stores_per_owner_max <= self.stores_max
        assert min(self.owners_max, self.entries_max, self.pins_max, self.tombstones_max) > 0
        assert min(self.owner_lapse_ns, self.probe_ns, self.pin_ns, self.store_ns) > 0
        assert min(self.entry_age_ns, self.tombstone_ns) > 0
