"""Settings of a router, from RELAYGR_ROUTER_<FIELD>."""

from __future__ import annotations

from dataclasses import dataclass

from relaygr.security.settings import TransportSettings

_MS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class RouterConfig(TransportSettings):
    """One router process."""

    ticket_key: bytes
    """Hex; the deployment's key for ticket MACs, at least 16 bytes. The same for all services."""
    address: str = "127.0.0.1:7002"
    """host:port to serve on; port 0 takes a free one."""
    advertised_address: str = ""
    """host:port others reach this router at; empty: the address served on."""
    lane_port: int | None = 0
    """Port for lanes, connections that carry many calls, at the same host: 0 takes a free one, empty takes no lanes."""
    router_id: str = ""
    """Stable name of this router; empty: drawn at start."""
    registry: tuple[str, ...] = ("127.0.0.1:2379",)
    """etcd endpoints, host:port."""
    registry_ttl_s: float = 5.0
    """Lease of the registration and of the election, seconds."""
    registry_timeout_s: float = 2.0
    """Longest wait for one answer of etcd, seconds; never on a request's path."""
    registry_ca: str = ""
    """Path of etcd's certificate authority; with it TLS is used."""
    registry_cert: str = ""
    """Path of the client certificate for etcd."""
    registry_cert_key: str = ""
    """Path of the key of that certificate."""
    registry_user: str = ""
    """User at etcd; empty: none."""
    registry_password: str = ""
    """Password at etcd."""
    start_wait_s: float = 2.0
    """Health is NOT_SERVING until an instance is known, but no longer than this, seconds."""
    spill_floor_ms: float = 50.0
    """An instance with less device time queued than this never spills, milliseconds."""
    warm_up_s: float = 30.0
    """A slot moves to an instance that joined over this time, user by user; 0: at once. Seconds."""
    table_settle_ms: float = 500.0
    """Rest after a change of the instances before slots are planned anew, milliseconds."""
    suspect_timeout_ms: float = 300.0
    """Health check of an instance that lets calls wait, milliseconds; no answer fences it."""
    margin_ms: float = 2.0
    """Kept back of a caller's deadline for this hop, milliseconds."""
    forget_timeout_ms: float = 2000.0
    """Longest wait for one instance's part of a Forget, milliseconds."""
    pins_max: int = 65536
    """Most pins known."""
    pin_writes_max: int = 4096
    """Most pins waiting to be written to etcd; those beyond are not shared with other routers."""
    members_max: int = 1024
    """Most instances known."""
    calls_max: int = 8192
    """Most calls tracked for load; those beyond are forwarded uncounted."""
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
        assert len(self.ticket_key) >= 16, "ticket_key must be at least 16 bytes"
        assert self.registry, "registry must name at least one etcd endpoint"
        assert self.registry_ttl_s >= 1, "registry_ttl_s must be at least 1"
        assert 0 <= self.margin_ms, "margin_ms must not be negative"
        assert 0 <= self.warm_up_s, "warm_up_s must not be negative"
        assert 0 < self.suspect_timeout_ms, "suspect_timeout_ms must be positive"
        assert min(self.pins_max, self.pin_writes_max, self.members_max, self.calls_max) > 0, (
            "a maximum must be positive"
        )

    @property
    def margin_ns(self) -> int:
        """The margin in nanoseconds."""
        return int(self.margin_ms * _MS)

    @property
    def warm_up_ns(self) -> int:
        """The warm-up in nanoseconds."""
        return int(self.warm_up_s * 1e9)

    @property
    def spill_floor_ns(self) -> int:
        """The spill floor in nanoseconds."""
        return int(self.spill_floor_ms * _MS)
