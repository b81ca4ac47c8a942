"""A second process of a service, beside the one of a running cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from demo.cluster import Cluster, free_addresses, is_serving
from demo.processes import Supervisor


@contextmanager
def beside(cluster: Cluster, log_dir: Path, service: str, *command: str, **settings: str) -> Iterator[str]:
    """Run another command with the settings of a service, at an address of its own, which it yields."""
    [address] = free_addresses(1)
    original = cluster.supervisor.spec(service)
    every = {"address": address, f"{service}_id": f"{service}-beside", **settings}
    changed = {f"RELAYGR_{service.upper()}_{key.upper()}": value for key, value in every.items()}
    spec = replace(
        original,
        command=(sys.executable, *command),
        environment={**original.environment, **changed},
        is_ready=lambda: is_serving(address),
    )
    with Supervisor(log_dir) as supervisor:
        supervisor.start(spec)
        supervisor.wait_ready(service)
        yield address
