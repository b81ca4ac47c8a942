"""Settings of an expander, from RELAYGR_EXPANDER_<FIELD>."""

from __future__ import annotations

from dataclasses import dataclass

from relaygr.security.settings import TransportSettings
from relaygr.segment import Geometry
from relaygr.segment.files import DEPLOYMENT_RULE, is_deployment
from services.expander.core.admission import AdmissionPolicy
from services.expander.core.limits import TieringLimits

_MS = 1_000_000
_OF_ITS_LIFE = 0.8
"""Share of the life of a pin or grant that a stream may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """Bounds of the streams of rankers on other hosts."""

    streams_max: int
    """Open at a time, of all kinds."""
    entry_bytes_max: int
    """Of one entry."""
    fetch_s: float
    """Longest fetch."""
    store_s: float
    """Longest store."""


@dataclass(frozen=True, kw_only=True)
class ExpanderConfig(TransportSettings):
    """One expander process."""

    address: str = "127.0.0.1:7004"
    """host:port to serve on; port 0 takes a free one. Loopback serves this host's rankers, which is enough for most; an
    address that others reach lets theirs in too, and needs TLS, or `insecure`: psi then crosses the network as plain
    text."""
    lane_port: int | None = 0
    """Port for lanes, connections that carry many calls, at the same host: 0 takes a free one, empty takes no lanes."""
    expander_id: str = "expander"
    """Name of this expander in telemetry."""
    deployment: str = "local"
    """Part of the segment's file name; left-over segments of the same deployment are removed at start."""
    segment_directory: str = "/dev/shm"  # noqa: S108
    """Where the segment lies: a tmpfs that this process and the rankers share, under one user."""
    segment_bytes: int = 1024 * 1024 * 1024
    """Byte budget of the segment, allocated in full at start."""
    block_bytes: int = 64 * 1024
    """Bytes of one block, a multiple of 4096; an entry wastes half a block on average."""
    owners_max: int = 64
    """Most rankers of the host, stopped ones included."""
    entries_max: int = 65536
    """Most entries."""
    pins_max: int = 4096
    """Most pins."""
    pinned_share: float = 0.75
    """Share of the blocks that pins may hold, in (0, 1]; the rest stays evictable, so that stores go on."""
    stores_max: int = 64
    """Most stores in flight."""
    stores_per_owner_max: int = 16
    """Most stores in flight of one ranker, quarantined ones included."""
    staging_share: float = 0.25
    """Share of the blocks that stores in flight may hold, in (0, 1]."""
    tenant_share: float = 1.0
    """Share of the blocks that one tenant may hold, in (0, 1]; beyond it, it evicts its own entries."""
    owner_share: float = 1.0
    """Share of the blocks that one ranker's stores may hold, in (0, 1]; beyond it, it evicts what it stored itself."""
    admission: str = "frequency"
    """Which stores may push others out: `frequency` (asked for more often than what may still be wanted), or `all`."""
    tombstones_max: int = 65536
    """Most forgotten users remembered; beyond it, nobody's psi is stored until the oldest ends."""
    heartbeat_ms: float = 500.0
    """Period of a ranker's heartbeat, milliseconds."""
    owner_lapse_ms: float = 2000.0
    """A ranker that is silent for so long loses its pins, and its stores are quarantined; milliseconds."""
    probe_ms: float = 250.0
    """Period of looking whether a silent ranker is gone, milliseconds."""
    pin_ms: float = 2000.0
    """Longest life of a pin, milliseconds: a reload takes a few."""
    store_ms: float = 10000.0
    """Longest life of a store in flight, milliseconds."""
    transfer_streams_max: int = 32
    """Most streams of rankers on other hosts, all kinds together."""
    entry_age_s: float = 900.0
    """An entry is dropped at this age, seconds, used or not."""
    tombstone_s: float = 600.0
    """How long a forgotten user's stores are refused, seconds."""
    otlp_endpoint: str = ""
    """Address of an OTLP gRPC collector, for example http://127.0.0.1:4317; empty: no export."""
    trace_sample_ratio: float = 1.0
    """Share of traces recorded when the caller did not decide."""
    user_hash_key: bytes = b"relaygr-development"
    """Hex; key of the user hashes in telemetry."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    def __post_init__(self) -> None:
        """Refuse impossible combinations at the start."""
        self.check_transport(self.address)
        assert is_deployment(self.deployment), f"deployment {self.deployment!r}: {DEPLOYMENT_RULE}"
        for name in ("pinned_share", "staging_share", "tenant_share", "owner_share"):
            assert 0 < getattr(self, name) <= 1, f"{name} must be in (0, 1]"
        assert self.transfer_streams_max > 0, "transfer_streams_max must be positive"
        assert 0 < 2 * self.heartbeat_ms <= self.owner_lapse_ms, "owner_lapse_ms must hold two heartbeats"
        policies = [policy.value for policy in AdmissionPolicy]
        assert self.admission in policies, f"admission must be one of {', '.join(policies)}"
        assert self.limits  # asserts its own relations

    @property
    def geometry(self) -> Geometry:
        """Blocks of the segment."""
        return Geometry.within(self.segment_bytes, self.block_bytes)

    @property
    def transfer_limits(self) -> TransferLimits:
        """Bounds of streams: they end by themselves before what they hold does."""
        limits = self.limits
        return TransferLimits(
            streams_max=self.transfer_streams_max,
            entry_bytes_max=min(limits.staging_blocks_max, limits.tenant_blocks_max) * self.block_bytes,
            fetch_s=_OF_ITS_LIFE * self.pin_ms / 1000,
            store_s=_OF_ITS_LIFE * self.store_ms / 1000,
        )

    @property
    def limits(self) -> TieringLimits:
        """The core's bounds."""
        count = self.geometry.block_count
        return TieringLimits(
            block_bytes=self.block_bytes,
            block_count=count,
            owners_max=self.owners_max,
            entries_max=self.entries_max,
            pins_max=self.pins_max,
            pinned_blocks_max=max(1, int(count * self.pinned_share)),
            stores_max=self.stores_max,
            stores_per_owner_max=self.stores_per_owner_max,
            staging_blocks_max=max(1, int(count * self.staging_share)),
            tenant_blocks_max=max(1, int(count * self.tenant_share)),
            owner_blocks_max=max(1, int(count * self.owner_share)),
            admission=AdmissionPolicy(self.admission),
            tombstones_max=self.tombstones_max,
            owner_lapse_ns=int(self.owner_lapse_ms * _MS),
            probe_ns=int(self.probe_ms * _MS),
            pin_ns=int(self.pin_ms * _MS),
            store_ns=int(self.store_ms * _MS),
            entry_age_ns=int(self.entry_age_s * 1000 * _MS),
            tombstone_ns=int(self.tombstone_s * 1000 * _MS),
        )
