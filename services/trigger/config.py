"""Settings of a trigger, from RELAYGR_TRIGGER_<FIELD>."""

from __future__ import annotations

from dataclasses import dataclass

from relaygr.security.settings import TransportSettings
from services.trigger.core.admission import AdmissionRules

_MS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class TriggerConfig(TransportSettings):
    """One trigger process."""

    ticket_key: bytes
    """Hex; the deployment's key for ticket MACs, at least 16 bytes. The same for all services."""
    address: str = "127.0.0.1:0"
    """host:port to serve on; port 0 takes a free one."""
    advertised_address: str = ""
    """host:port others reach this trigger at; empty: the address served on."""
    lane_port: int | None = 0
    """Port for lanes, connections that carry many calls, at the same host: 0 takes a free one, empty takes no lanes."""
    router: str = "127.0.0.1:7002"
    """host:port of the router; of several, separated by commas, the next is asked once one is lost."""
    trigger_id: str = ""
    """Stable name of this trigger; empty: drawn at start."""
    registry: tuple[str, ...] = ()
    """etcd endpoints, host:port; empty: do not register."""
    registry_ttl_s: float = 5.0
    """Lease of the registration, seconds."""
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
    store: str = ""
    """Directory of the behaviour store; empty: only inline histories are served."""
    store_timeout_ms: float = 50.0
    """Longest wait for the length of a user's log, milliseconds."""
    resolve_timeout_ms: float = 50.0
    """Longest wait for the router to name an instance, milliseconds."""
    pre_infer_timeout_ms: float = 1000.0
    """Longest wait for a pre-infer's acceptance, milliseconds; Arrive does not wait for it."""
    slo_quantile: float = 0.99
    """Quantile at which ranking's budget must hold."""
    rank_budget_ms: float = 50.0
    """Ranking budget of a request that names none, milliseconds."""
    rank_overhead_share: float = 0.1
    """Share of a ranking budget kept back for what is no device time: hops, reading, answering; in [0, 1)."""
    time_to_rank_ms: float = 100.0
    """Retrieval and pre-processing of a request that names no time, milliseconds."""
    rank_latest_ms: float = 2000.0
    """Lifecycle window of a request that names none, milliseconds."""
    window_max_ms: float = 30000.0
    """Longest lifecycle window a request may ask for, milliseconds."""
    footprint_share: float = 0.5
    """Share of an instance's device bytes for open tickets, all triggers together, in (0, 1]."""
    pre_infer_share: float = 0.5
    """Share of an instance's device time for pre-infers, all triggers together, in (0, 1]."""
    load_burst_ms: float = 1000.0
    """Span over which the device-time share holds, milliseconds; shorter bursts pass."""
    tickets_max: int = 16384
    """Most open tickets."""
    unanswered_max: int = 1024
    """Most pre-infers on their way."""
    instances_max: int = 4096
    """Most instances remembered."""
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
        assert 0 < self.rank_budget_ms, "rank_budget_ms must be positive"
        assert 0 <= self.rank_overhead_share < 1, "rank_overhead_share must be in [0, 1)"
        assert 0 <= self.time_to_rank_ms <= self.rank_latest_ms, "time_to_rank_ms must be within rank_latest_ms"
        assert 0 < self.rank_latest_ms <= self.window_max_ms, "rank_latest_ms must be within window_max_ms"
        assert self.rules  # asserts its own relations

    @property
    def rules(self) -> AdmissionRules:
        """The core's bounds."""
        return AdmissionRules(
            slo_quantile=self.slo_quantile,
            footprint_share=self.footprint_share,
            pre_infer_share=self.pre_infer_share,
            load_burst_ns=int(self.load_burst_ms * _MS),
            tickets_max=self.tickets_max,
            unanswered_max=self.unanswered_max,
            accounts_max=self.instances_max,
            window_ns_max=int(self.window_max_ms * _MS),
            account_idle_ns=int(self.window_max_ms * _MS) + 60_000 * _MS,
        )
