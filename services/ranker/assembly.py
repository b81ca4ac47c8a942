"""Builds a ranker out of its parts, and announces it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch

from relaygr.behaviours.columns import FeatureSpec
from relaygr.behaviours.freshness import keep_fresh
from relaygr.behaviours.store import FileStore, StoreError
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.cost import CostModel
from relaygr.domain.identity import ModelIdentity
from relaygr.domain.instance import InstanceRecord, InstanceState
from relaygr.model.interface import TORCH_DTYPES, RelayModel
from relaygr.model.kernels import KernelName, KvDtype
from relaygr.model.loading import load_model
from relaygr.registry.client import Registry
from relaygr.registry.keys import instance_key
from relaygr.registry.registration import Registration
from relaygr.registry.settings import connect
from relaygr.rpc.channel import ChannelPool
from relaygr.runtime.slices import ask_for_long_slices
from relaygr.security.identity import Role
from relaygr.security.material import KeptMaterial
from relaygr.telemetry import Telemetry
from services.ranker.adapters.calibration import measure
from services.ranker.adapters.device.accelerator import open_accelerator
from services.ranker.adapters.device.copies import PageCopies
from services.ranker.adapters.device.cpu import CpuDevice
from services.ranker.adapters.device.interface import Device
from services.ranker.adapters.dram import DramTier
from services.ranker.adapters.dram_format import LOADS_MAX, AsOnDevice, Int8Pages, PageFormat
from services.ranker.adapters.dram_format_int8 import Int8Codec, int8_codec
from services.ranker.adapters.dram_remote import RemoteDramTier
from services.ranker.adapters.dram_remote_reach import RemoteCost
from services.ranker.adapters.executor import Ending, Executor, Outcome
from services.ranker.answer import Instance
from services.ranker.config import RankerConfig
from services.ranker.core.costs import CostWatch
from services.ranker.core.eviction import LeastWorth
from services.ranker.core.residency import Residency
from services.ranker.core.schedule import Job, Schedule
from services.ranker.dram_work import DramWork
from services.ranker.engine import Engine
from services.ranker.metrics import RankerMetrics
from services.ranker.prefix import PrefixReader
from services.ranker.production import Productions
from services.ranker.service import RankerService

LOG = logging.getLogger(__name__)

LEAVE_S_MAX = 3.0
"""For open windows when told to stop; those that are longer end with the process."""
LEAVE_QUIET_S = 0.5
"""Nothing has come for so long: routers have heard that this instance leaves, and have no rank for it."""
LEAVE_LOOK_S = 0.02
USER_TOKENS = 1
"""Tokens of a psi beside its behaviours."""


def named(config: RankerConfig) -> RankerConfig:
    """The config with an instance id: the given one, or one drawn now."""
    return config if config.instance_id else replace(config, instance_id=f"ranker-{secrets.token_hex(4)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Makers:
    """What makes the parts that decide, answer and store."""

    dram: Callable[..., DramTier] = DramTier
    dram_remote: Callable[..., RemoteDramTier] = RemoteDramTier
    residency: Callable[..., Residency] = Residency
    engine: Callable[..., Engine] = Engine
    service: Callable[..., RankerService] = RankerService


@dataclass(slots=True)
class Ranker:
    """A ranker, ready to serve."""

    metrics: RankerMetrics
    costs: CostWatch
    servicer: RankerService
    engine: Engine
    productions: Productions
    copies: PageCopies
    page_format: PageFormat
    instance: Instance
    dram: DramTier | None
    channels: ChannelPool
    refresher: asyncio.Task[None] | None = None
    registry: Registry | None = None
    registration: Registration | None = None

    @classmethod
    def build(
        cls, config: RankerConfig, telemetry: Telemetry, makers: Makers | None = None, tls: KeptMaterial | None = None
    ) -> Ranker:
        """Load, measure and wire. Takes seconds: weights, arena, calibration. `tls`: shown to the expander."""
        loop, makers = asyncio.get_running_loop(), makers or Makers()
        model, device, arena, cost = prepare_device(config)
        store = _open_store(config.store, model.spec.features) if config.store else None
        instance = Instance(_record(config, model, arena, cost))
        channels = ChannelPool(telemetry, tls=tls, peer_role=Role.EXPANDER)
        page_format = _page_format(config, model, arena.shape[0])
        owner = config.instance_id, instance.record.epoch, page_format.identity
        dram = _dram(makers, config, channels, owner, lambda found: ranker.reloads_measured(cost, found))
        copies, metrics = PageCopies(device, arena), RankerMetrics(telemetry)
        executor = _executor(config, loop, model, device, lambda job, outcome: ranker.worked(job, outcome))
        residency = _residency(makers.residency, config, arena, cost)
        productions = Productions(
            model=model,
            arena=arena,
            executor=executor,
            dram_work=DramWork(dram, page_format, copies, telemetry, metrics, loop),
            cost=cost,
            chunk_tokens=config.chunk_tokens,
            telemetry=telemetry,
            metrics=metrics,
            loop=loop,
            sources_max=config.tickets_max,
        )
        engine = makers.engine(
            model=model,
            arena=arena,
            residency=residency,
            executor=executor,
            productions=productions,
            cost=cost,
            loop=loop,
        )
        metrics.observe(residency, engine.load)
        ranker: Ranker = cls(
            metrics=metrics,
            costs=CostWatch(cost),
            servicer=makers.service(
                engine=engine,
                model=model,
                reader=PrefixReader(model.spec.features, model.spec.limits, store),
                instance=instance,
                ticket_key=config.ticket_key,
                telemetry=telemetry,
                metrics=metrics,
                deadline_default_ns=int(config.rank_deadline_default_ms * 1e6),
                budget_default_ns=int(config.rank_budget_ms * 1e6),
                on_state=lambda: ranker.state_changed(),
            ),
            engine=engine,
            productions=productions,
            copies=copies,
            page_format=page_format,
            instance=instance,
            dram=dram,
            channels=channels,
            refresher=keep_fresh(store) if store is not None else None,
        )
        if dram is not None:
            dram.start(engine.dram_attached)
        return ranker

    def announce(self, config: RankerConfig, port: int) -> None:
        """Register under a lease, with the address that others reach; nothing without a registry."""
        address = config.advertised_address or f"{config.address.rpartition(':')[0]}:{port}"
        self.instance.record = replace(self.instance.record, address=address)
        if not config.registry:
            return
        self.registry = connect(config)
        self.registration = self.registry.keep_registered(
            instance_key(config.instance_id), lambda: self.instance.record.to_json(), config.registry_ttl_s
        )

    def state_changed(self) -> None:
        """Publish the record again."""
        if self.registration is not None:
            self.registration.update()

    def worked(self, job: Job, outcome: Outcome) -> None:
        """A job of the device has ended: count it, and publish what it says of the costs."""
        self.metrics.worked(job, outcome)
        if outcome.ending is not Ending.DONE:
            return
        cost = self.costs.ended(job.expected_ns, outcome.compute_ns)
        if cost is not None:
            self._publish(cost)

    def reloads_measured(self, alone: CostModel, found: RemoteCost) -> None:
        """What a reload from another host takes: the way here, and from here to the device as `alone` has it."""
        self._publish(self.costs.reloads_measured(found.fixed_ns, found.byte_ns + alone.reload_byte_ns))

    def _publish(self, cost: CostModel) -> None:
        LOG.info("cost model at work: %s", cost)
        self.instance.record = replace(self.instance.record, cost=cost)
        self.instance.cost_factor = self.costs.factor
        self.engine.residency.use_costs(cost)
        self.state_changed()

    async def leave(self) -> None:
        """Take no new pre-infers, serve out the windows that are open, and leave the registry.

        Ranks of those windows still come here meanwhile. Elsewhere they would run in full, and where this was the last
        instance of its model, nowhere. Until routers have heard of it, some come whose pre-infer was declined.
        """
        if self.registration is None:
            return
        self.servicer.set_draining(True)
        end_s = time.monotonic() + LEAVE_S_MAX
        while self._is_in_use() and time.monotonic() < end_s:  # noqa: ASYNC110 - windows close by time, too
            await asyncio.sleep(LEAVE_LOOK_S)
        await self.registration.withdraw()

    def _is_in_use(self) -> bool:
        quiet_s = (time.monotonic_ns() - self.servicer.called_ns) / 1e9
        return self.engine.residency.snapshot().open_tickets > 0 or quiet_s < LEAVE_QUIET_S

    async def close(self) -> None:
        """Stop everything; after the server has stopped."""
        if self.refresher is not None:
            self.refresher.cancel()
        if self.dram is not None:
            await self.dram.close()
        await self.productions.close()
        self.engine.close()
        self.copies.close()
        self.page_format.close()
        await self.channels.close()
        if self.registry is not None:
            await self.registry.close()


def prepare_device(config: RankerConfig) -> tuple[RelayModel, Device, torch.Tensor, CostModel]:
    """Load the model onto the device, allocate the arena within its budget and measure both."""
    device: Device = CpuDevice() if config.device == "cpu" else open_accelerator(config.device)
    model = load_model(
        config.model,
        config.dtype,
        device=str(device.torch_device),
        kernel=cast(KernelName, config.kernel),
        kv_dtype=cast(KvDtype, config.kv_dtype),
    )
    LOG.info("kernel %s, K/V pages %s", getattr(model, "kernel", "the model's own"), model.spec.identity.layout)
    dtype = TORCH_DTYPES[model.spec.identity.dtype]
    page_bytes = model.page_elements * dtype.itemsize
    pages = config.device_budget_bytes // page_bytes
    assert pages >= 1, f"device_budget_bytes {config.device_budget_bytes} holds no page of {page_bytes} bytes"
    arena = device.allocate(pages, model.page_elements, dtype, _psi_pages_max(model))
    begun = time.monotonic()
    with compute_settings(left_to_torch(model, config.threads), device):
        cost = measure(model, arena, device, _codec(config, model))
    LOG.info("%d pages of %d bytes; cost model in %.1f s: %s", pages, page_bytes, time.monotonic() - begun, cost)
    return model, device, arena, cost


def _psi_pages_max(model: RelayModel) -> int:
    return -(-(model.spec.limits.window_behaviours_max + USER_TOKENS) // PAGE_TOKENS)


def _codec(config: RankerConfig, model: RelayModel) -> Int8Codec | None:
    return int8_codec(model.spec.identity.dtype, model.page_elements) if config.dram_dtype else None


def _page_format(config: RankerConfig, model: RelayModel, arena_pages: int) -> PageFormat:
    """The DRAM tier's form of pages, with scratch memory for what may be in flight."""
    codec = _codec(config, model)
    if codec is None:
        return AsOnDevice(model.spec.identity)
    in_flight = config.spills_max + LOADS_MAX if config.expander or config.expander_remote else 0
    pages = Int8Pages(codec, model.spec.identity, min(arena_pages, in_flight * _psi_pages_max(model)))
    LOG.info("psi in DRAM as int8: %d bytes of scratch memory", pages.scratch_bytes)
    return pages


def left_to_torch(model: RelayModel, threads: int) -> int:
    """Torch's share of the compute threads; a model with threads of its own takes them first."""
    take_threads = getattr(model, "take_threads", None)
    return take_threads(threads) if take_threads is not None else threads


@contextmanager
def device_thread_settings(threads: int, device: Device) -> Iterator[None]:
    """For the one thread that serves: as below, and whoever wakes up goes before it."""
    if not ask_for_long_slices():
        LOG.info("the kernel takes no slices: threads that wake up may wait for those that compute")
    with compute_settings(threads, device):
        yield


@contextmanager
def compute_settings(threads: int, device: Device) -> Iterator[None]:
    """What torch keeps per thread: the device, inference mode, compute threads, no denormals."""
    device.bind()
    torch.set_num_threads(threads)
    # A denormal costs SiLU five to ten times a normal number.
    torch.set_flush_denormal(True)
    with torch.inference_mode():
        yield


def _dram(
    makers: Makers,
    config: RankerConfig,
    channels: ChannelPool,
    owner: tuple[str, int, ModelIdentity],
    on_measured: Callable[[RemoteCost], None],
) -> DramTier | None:
    """This host's DRAM tier or another's, when there is one."""
    if config.expander_remote:
        tier = makers.dram_remote(config.expander_remote, channels, *owner, on_measured=on_measured)
        # It has what the ranker uses of a tier, and nothing of the tier's own parts.
        return cast(DramTier, tier)
    return makers.dram(config.expander, channels, *owner) if config.expander else None


def _open_store(path: str, features: FeatureSpec) -> FileStore:
    """The behaviour store, refused when it holds other features than the model reads."""
    store = FileStore(path)
    wanted = {
        "dense": ("behaviour_dense", features.behaviour_dense),
        "categorical": ("behaviour_categorical", len(features.behaviour_categorical)),
        "profile_dense": ("user_dense", features.user_dense),
        "profile_categorical": ("user_categorical", len(features.user_categorical)),
    }
    for column, (feature, width) in wanted.items():
        found = store.column(column).shape[1]
        if found != width:
            raise StoreError(f"{path} holds {found} features of {feature}, the model reads {width}")
    return store


def _record(config: RankerConfig, model: RelayModel, arena: torch.Tensor, cost: CostModel) -> InstanceRecord:
    return InstanceRecord(
        instance_id=config.instance_id,
        address=config.address,
        host=config.host,
        epoch=secrets.randbits(52) + 1,
        model=model.spec.identity,
        limits=model.spec.limits,
        cost=cost,
        device_budget_bytes=arena.shape[0] * model.page_elements * arena.element_size(),
        pre_infer_share=config.pre_infer_share,
        state=InstanceState.READY,
    )


def _executor(
    config: RankerConfig,
    loop: asyncio.AbstractEventLoop,
    model: RelayModel,
    device: Device,
    observe: Callable[[Job, Outcome], None],
) -> Executor:
    return Executor(
        Schedule(config.jobs_max),
        loop,
        settings=lambda: device_thread_settings(left_to_torch(model, config.threads), device),
        observe=observe,
        step_ended=device.step_ended,
        ask_to_yield=getattr(model, "ask_to_yield", None) or (lambda is_asking: None),
    )


def _residency(make: Callable[..., Residency], config: RankerConfig, arena: torch.Tensor, cost: CostModel) -> Residency:
    return make(
        pages_total=arena.shape[0],
        tickets_max=config.tickets_max,
        entries_max=config.entries_max,
        ranks_max=config.jobs_max,
        spills_max=config.spills_max,
        tombstone_ns=int(config.tombstone_s * 1e9),
        cost=cost,
        rest_tokens=config.rest_tokens,
        policy=LeastWorth(),
        is_dram_remote=bool(config.expander_remote),
    )
