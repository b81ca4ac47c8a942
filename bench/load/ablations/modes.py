"""The modes that a load is put on: the same services and traffic, one decision apart each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from demo.cluster import Cluster
from demo.processes import ProcessSpec

_ROUTER = ("-m", "bench.load.ablations.router", "--placement")
_TRIGGER = ("-m", "bench.load.ablations.trigger")


@dataclass(frozen=True, kw_only=True)
class Mode:
    """What is started, and what a caller does; the fields are those of ClusterPlan."""

    name: str
    what: str
    """In one sentence."""
    has_arrive: bool = True
    """Whether the caller announces its requests; otherwise it ranks, with a cut of its own."""
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    without: Collection[str] = ()
    extra: Callable[[Cluster], Sequence[ProcessSpec]] = lambda cluster: ()


_ALL = (
    Mode(
        name="full",
        what="Full inference inside ranking on the least loaded instance, without a pre-infer.",
        has_arrive=False,
        commands={"router": (*_ROUTER, "least_loaded")},
        without=("expander",),
    ),
    Mode(
        name="relay",
        what="The relay on device memory alone.",
        without=("expander",),
    ),
    Mode(
        name="relay_dram",
        what="The relay as shipped, with the DRAM tier.",
    ),
    Mode(
        name="no_trigger",
        what="As shipped, but everything that arrives is admitted.",
        commands={"trigger": _TRIGGER},
    ),
    Mode(
        name="no_affinity",
        what="As shipped, but a rank goes to a random instance, whatever its ticket says.",
        commands={"router": (*_ROUTER, "random")},
    ),
    Mode(
        name="ring_hash",
        what="As shipped, but users are bound by gRPC's header-keyed ring hash, without a bound on load.",
        commands={"router": (*_ROUTER, "ring_hash")},
    ),
    Mode(
        name="remote_pool",
        what="Psi live in a pool of another process; the least loaded instance fetches them over gRPC while ranking.",
        commands={
            "router": (*_ROUTER, "least_loaded_pooled"),
            "ranker": ("-m", "bench.load.ablations.pool_ranker"),
            # In the expander's place: at its address, with its byte budget.
            "expander": ("-m", "bench.load.ablations.pool"),
        },
    ),
)

MODES: Mapping[str, Mode] = MappingProxyType({mode.name: mode for mode in _ALL})
