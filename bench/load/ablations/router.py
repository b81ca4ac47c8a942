"""Starts a router that places otherwise: `python -m bench.load.ablations.router --placement NAME`.

Settings come from RELAYGR_ROUTER_*, as for the router itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial

# gRPC reads it once; without it the hash key in a header is ignored and users are spread at random.
os.environ["GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY"] = "true"

from bench.load.ablations.placement import LeastLoaded, UniformlyRandom
from bench.load.ablations.ring import Ring, RingBinding, RingRankers, RingService
from relaygr.telemetry import Telemetry
from services.router.__main__ import main as serve
from services.router.assembly import Router
from services.router.config import RouterConfig

Build = Callable[[RouterConfig, Telemetry], Router]


def ring_hash(config: RouterConfig, telemetry: Telemetry) -> Router:
    """A router whose two calls of a relay go where gRPC's ring leads."""
    ring = Ring(telemetry)
    return Router(
        config,
        telemetry,
        binding=partial(RingBinding, ring=ring),
        rankers=partial(RingRankers, ring=ring, ticket_key=config.ticket_key),
        service=partial(RingService, ring=ring),
    )


def build_of(placement: str, seed: int) -> Build:
    """What puts the router together.

    Raises:
        KeyError: no such placement.
    """
    builds: dict[str, Build] = {
        "least_loaded": partial(Router, binding=LeastLoaded),
        "least_loaded_pooled": partial(Router, binding=partial(LeastLoaded, tickets_anywhere=True)),
        "random": partial(Router, binding=partial(UniformlyRandom, seed=seed)),
        "ring_hash": ring_hash,
    }
    return builds[placement]


def main(arguments: list[str]) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="bench.load.ablations.router", description=__doc__)
    placements = ("least_loaded", "least_loaded_pooled", "random", "ring_hash")
    parser.add_argument("--placement", required=True, choices=placements)
    parser.add_argument("--seed", type=int, default=7, help="of the random placement")
    options = parser.parse_args(arguments)
    serve(build_of(options.placement, options.seed))


if __name__ == "__main__":
    main(sys.argv[1:])
