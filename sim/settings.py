"""What is simulated: sizes, traffic, times. The services' own bounds are their defaults, which a test compares.

Source: design, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.load.profile import Lengths, Profile, load_profile
from bench.tiers.policies import COST
from relaygr.domain.cost import CostModel
from relaygr.domain.identity import ModelIdentity, ModelLimits
from services.expander.core.limits import TieringLimits
from services.trigger.core.admission import AdmissionRules
from sim.kernel import MS, SECOND

MIB = 1 << 20
LIMITS = ModelLimits(4096, 1024, 512, 2048)


def model_of(version: str) -> ModelIdentity:
    """The model of an instance; another version is another model."""
    return ModelIdentity("sim", version, "0" * 64, "bfloat16", "p128", 1024)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One run."""

    seed: int = 1
    instances: int = 4
    rate_hz: float = 80.0
    """Arrivals a second, all together."""
    seconds: float = 30.0
    warmup_s: float = 0.0
    """Not counted, at the start."""
    has_faults: bool = False
    triggers: int = 1
    routers: int = 1
    instances_per_host: int = 4
    """They share an expander."""
    users: int = 10_000_000
    zipf: float = 0.0
    """Exponent by which users are drawn; 0: visits and gaps as in the profile."""
    phases: tuple[tuple[float, float], ...] = ()
    """Seconds and multiple of the rate of each; they add up to `seconds`. None: one rate throughout."""
    direct_share: float = 0.0
    """Of the requests, those whose caller asks for a rank without having announced it."""
    lengths: Lengths | None = None
    """None: the profile's."""
    profile: Profile = field(default_factory=lambda: load_profile("default"))
    cost: CostModel = COST
    limits: ModelLimits = LIMITS
    device_budget_bytes: int = 256 * MIB
    dram_budget_bytes: int = 2048 * MIB
    """Of each host."""
    has_dram: bool = True
    ablation: str = ""
    """What is left out; see ablations."""
    checks: str = "full"
    """full: after each event the whole of what it touched; some: the touched parts, and one whole process in turn."""

    # Network and machines: round figures for one data centre.
    delay_ns: int = 100_000
    """One way between hosts, median."""
    delay_spread: float = 0.3
    local_ns: int = 30_000
    loop_ns: int = 50_000
    """From a device's end to the event loop, and for reading a request."""
    skew_ns: int = 5 * MS
    """Standard deviation of wall clocks."""
    layers: int = 4
    """A device yields after each layer of a chunk."""
    chunk_tokens: int = 256
    rest_tokens: int = 32
    link_bytes_per_s: float = 3.125e9
    """Of each host in each direction, for what is fetched from a remote pool: 25 Gbit/s."""

    # The services' defaults.
    lease_ns: int = 5 * SECOND
    settle_ns: int = 500 * MS
    warm_up_ns: int = 30 * SECOND
    margin_ns: int = 2 * MS
    suspect_timeout_ns: int = 300 * MS
    check_timeout_ns: int = 1 * SECOND
    resolve_timeout_ns: int = 50 * MS
    pre_infer_timeout_ns: int = 1 * SECOND
    heartbeat_ns: int = 500 * MS
    owner_lapse_ns: int = 2 * SECOND
    dram_timeout_ns: int = 50 * MS
    rank_overhead_share: float = 0.1
    spill_floor_ns: int = 50 * MS
    tickets_max: int = 4096
    entries_max: int = 65536
    jobs_max: int = 1024
    spills_max: int = 2
    tombstone_ns: int = 60 * SECOND
    block_bytes: int = 64 * 1024

    @property
    def rank_timeout_ns(self) -> int:
        """How long a client waits for a rank."""
        return int(self.profile.deployment.rank_timeout_ms * MS)

    @property
    def window_ns(self) -> int:
        """Lifecycle window that clients ask for."""
        return int(self.profile.deployment.rank_latest_ms * MS)

    @property
    def time_to_rank_ns(self) -> int:
        """Stages before ranking, as clients announce them."""
        return int((self.profile.stages.retrieval_ms + self.profile.stages.pre_processing_ms) * MS)

    @property
    def rules(self) -> AdmissionRules:
        """The triggers' bounds."""
        return AdmissionRules(
            slo_quantile=self.profile.slo.quantile,
            footprint_share=self.profile.deployment.footprint_share,
            pre_infer_share=self.profile.deployment.pre_infer_share,
            load_burst_ns=1 * SECOND,
            tickets_max=16384,
            unanswered_max=1024,
            accounts_max=4096,
            window_ns_max=30 * SECOND,
            account_idle_ns=90 * SECOND,
        )

    @property
    def tiering(self) -> TieringLimits:
        """The expanders' bounds."""
        count = self.dram_budget_bytes // self.block_bytes
        return TieringLimits(
            block_bytes=self.block_bytes,
            block_count=count,
            pinned_blocks_max=max(1, count * 3 // 4),
            staging_blocks_max=max(1, count // 4),
            tenant_blocks_max=count,
            owner_lapse_ns=self.owner_lapse_ns,
        )

    @property
    def hosts(self) -> int:
        """Machines with instances."""
        return -(-self.instances // self.instances_per_host)
