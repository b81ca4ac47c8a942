"""Settings of a ranker, from RELAYGR_RANKER_<FIELD>."""

from __future__ import annotations

import re
from dataclasses import dataclass

from relaygr.security.settings import TransportSettings


@dataclass(frozen=True, kw_only=True)
class RankerConfig(TransportSettings):
    """One instance: one process, one device."""

    model: str
    """Directory of a checkpoint, or package.module:factory of a team's own model."""
    ticket_key: bytes
    """Hex; the deployment's key for ticket MACs, at least 16 bytes. The same for all services."""
    address: str = "127.0.0.1:0"
    """host:port to serve on; port 0 takes a free one."""
    advertised_address: str = ""
    """host:port others reach this instance at; empty: the address served on."""
    lane_port: int | None = 0
    """Port for lanes, connections that carry many calls, at the same host: 0 takes a free one, empty takes no lanes."""
    instance_id: str = ""
    """Stable name of this instance; empty: drawn at start."""
    host: str = "localhost"
    """Name of the machine; instances of one host share an expander."""
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
    expander: str = ""
    """host:port of this host's expander; empty: no DRAM tier, unless `expander_remote` is set."""
    expander_remote: str = ""
    """host:port of an expander on another host, in place of `expander`: slower, and psi crosses the network, as plain
    text unless TLS is set; empty: none."""
    device: str = "cpu"
    """cpu, cuda or npu; of several, the one with a number: cuda:1."""
    threads: int = 1
    """Compute threads of the CPU device."""
    dtype: str = "float32"
    """Element type of weights and K/V: float32 or bfloat16."""
    kernel: str = "auto"
    """What computes: native, torch, reference, or auto for native where it can serve."""
    kv_dtype: str = ""
    """int8 to keep K/V at half of bfloat16's bytes, at a measured cost in scores; empty: as dtype."""
    dram_dtype: str = ""
    """int8 to keep psi in the DRAM tier at half of bfloat16's bytes, at a measured cost in scores; empty: as on the
    device."""
    device_budget_bytes: int = 512 * 1024 * 1024
    """Hard bound of the K/V arena, bytes."""
    chunk_tokens: int = 256
    """Tokens of one pre-infer chunk; a psi's length advances by whole chunks."""
    rest_tokens: int = 32
    """Psi that misses fewer tokens than this of a history is used as it is, and a rank infers the rest; 0: never."""
    pre_infer_share: float = 0.5
    """Share of device time that admissions may plan for pre-infers, in (0, 1]."""
    tickets_max: int = 4096
    """Most open tickets."""
    entries_max: int = 65536
    """Most psi held."""
    jobs_max: int = 1024
    """Most jobs waiting for the device."""
    spills_max: int = 2
    """Most copies to DRAM in flight."""
    tombstone_s: float = 60.0
    """How long a forgotten user's late stores are refused, seconds."""
    rank_deadline_default_ms: float = 1000.0
    """Deadline of a Rank that came without one, milliseconds."""
    rank_budget_ms: float = 50.0
    """Ranking budget of a Rank whose ticket tells none, milliseconds: what cannot be answered within it goes behind
    what can; 0: nothing does."""
    otlp_endpoint: str = ""
    """host:port of an OTLP gRPC collector; empty: no export."""
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
        are_both = self.expander and self.expander_remote
        assert not are_both, "expander and expander_remote: a ranker has one DRAM tier, set one of them"
        assert self.chunk_tokens > 0 and self.chunk_tokens % 128 == 0, "chunk_tokens must be a multiple of 128"
        assert self.rest_tokens >= 0, "rest_tokens must not be negative"
        assert 0 < self.pre_infer_share <= 1, "pre_infer_share must be in (0, 1]"
        assert self.rank_budget_ms >= 0, "rank_budget_ms must not be negative"
        assert self.device_budget_bytes > 0, "device_budget_bytes must be positive"
        assert re.fullmatch(r"cpu|(cuda|npu)(:\d{1,3})?", self.device), "device must be cpu, cuda, npu or like cuda:1"
        assert self.dtype in ("float32", "bfloat16"), "dtype must be float32 or bfloat16"
        kernels = ("auto", "native", "torch", "reference")
        assert self.kernel in kernels, f"kernel must be one of {', '.join(kernels)}"
        assert self.kv_dtype in ("", "int8"), "kv_dtype must be empty or int8"
        assert self.dram_dtype in ("", "int8"), "dram_dtype must be empty or int8"
        assert not (self.dram_dtype and self.kv_dtype), "dram_dtype halves what kv_dtype has halved: set one of them"
