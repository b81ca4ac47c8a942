"""`relaygr forget`: erase a user from both tiers of every instance."""

from __future__ import annotations

import argparse

from relaygr.client.client import RelayClient
from relaygr.client.commands.cluster import Cluster
from relaygr.client.commands.report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--user", required=True, help="whom to forget")
    parser.add_argument("--tenant", default="default", help="whose user (default)")


async def run(arguments: argparse.Namespace, cluster: Cluster) -> Report:
    """Forget, and say what was not reached."""
    addresses = cluster.trigger or "localhost:1", cluster.need("router")
    async with RelayClient(*addresses, tenant=arguments.tenant, **cluster.tls) as client:
        forgotten = await client.forget(arguments.user)
    text = f"erased {forgotten.device_entries} psi on devices, {forgotten.dram_entries} in DRAM"
    if not forgotten.unreached:
        return Report(text)
    return Report(f"{text}; not reached: {', '.join(forgotten.unreached)}. Call again until none is left", 1)
