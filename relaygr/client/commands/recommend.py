"""`relaygr recommend`: one user's recommendation through the whole relay."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from relaygr.behaviours.ids import id_of
from relaygr.behaviours.store import FileStore, StoreError
from relaygr.client.client import RelayClient
from relaygr.client.commands.cluster import Cluster
from relaygr.client.commands.report import CommandError, Report, table
from relaygr.client.ranking import Ranking
from relaygr.client.relay import Relay
from relaygr.domain.identity import UserKey
from relaygr.telemetry import Telemetry

CANDIDATES_MAX = 512
ARRIVE_TIMEOUT_MS = 1000.0
"""Generous: a person waits, and the connection is opened on the way."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("--user", required=True, help="whose recommendation")
    parser.add_argument("--k", type=int, default=10, help="how many items to show (10)")
    parser.add_argument("--tenant", default="default", help="whose user (default)")
    parser.add_argument("--as-of", type=int, default=0, metavar="UNIX_S", help="history before this second; 0: all")
    parser.add_argument("--candidates", default="", metavar="ID,ID", help="items to score, instead of the catalogue")
    parser.add_argument(
        "--pause-ms", type=float, default=80.0, help="stand-in for retrieval and pre-processing, milliseconds (80)"
    )
    parser.add_argument("--verify", action="store_true", help="rank once more in full and show the largest difference")


async def run(arguments: argparse.Namespace, cluster: Cluster) -> Report:
    """Arrive, wait as retrieval would, rank, tell."""
    user = UserKey(arguments.tenant, arguments.user)
    telemetry = Telemetry.setup("relaygr-cli", "relaygr-cli", cluster.otlp, b"relaygr-development")
    addresses = cluster.need("trigger"), cluster.need("router")
    try:
        async with RelayClient(
            *addresses,
            tenant=arguments.tenant,
            telemetry=telemetry,
            arrive_timeout_ms=ARRIVE_TIMEOUT_MS,
            rank_deadline_ms=10_000.0,
            **cluster.tls,
        ) as client:
            relay = await client.arrive(
                user=arguments.user,
                as_of_s=arguments.as_of,
                candidate_count=expected_count(arguments.candidates),
                time_to_rank_ms=arguments.pause_ms,
            )
            async with relay:
                with relay.stage("retrieval"):
                    paused = asyncio.create_task(asyncio.sleep(arguments.pause_ms / 1e3))
                    chosen, seen = choose(arguments.candidates, cluster, user, arguments.as_of)
                    await paused
                ranking = await relay.rank(chosen, verify=arguments.verify)
    finally:
        await asyncio.to_thread(telemetry.shutdown)
    return Report(tell(arguments, cluster, relay, ranking, seen))


def expected_count(given: str) -> int:
    """Candidates to announce before they are chosen."""
    return given.count(",") + 1 if given else CANDIDATES_MAX


def choose(given: str, cluster: Cluster, user: UserKey, as_of_s: int) -> tuple[NDArray[np.int64], int]:
    """Candidates: those given, or the catalogue's first without what the user has seen.

    Returns:
        Item ids, and how many behaviours the user's log has here.
    """
    history = seen_items(cluster.store_dir, user, as_of_s)
    if given:
        return np.array([id_of(item.strip()) for item in given.split(",") if item.strip()], "<i8"), len(history)
    catalogue = cluster.load_catalogue()
    fresh = catalogue[~np.isin(catalogue, history)]
    if not len(fresh):
        raise CommandError("the user has seen the whole catalogue; give --candidates ID,ID")
    return fresh[:CANDIDATES_MAX], len(history)


def seen_items(store_dir: str, user: UserKey, as_of_s: int) -> NDArray[np.int64]:
    """Items of the user's log; none without a store."""
    if not store_dir:
        return np.zeros(0, "<i8")
    try:
        store = FileStore(store_dir)
    except StoreError as error:
        raise CommandError(f"{error}; start the cluster anew with: make up") from error
    head = store.head(user, as_of_s)
    return store.read(user, 0, head.log_count, head.generation).item_ids


def tell(arguments: argparse.Namespace, cluster: Cluster, relay: Relay, ranking: Ranking, seen: int) -> str:
    """The answer as text."""
    titles = cluster.load_titles()
    rows = [
        (place + 1, int(ranking.items[i]), titles.get(int(ranking.items[i]), ""), *_scores(ranking, i))
        for place, i in enumerate(ranking.order()[: arguments.k])
    ]
    lines = [
        f"user {arguments.user}: {seen} behaviours, {len(ranking.items)} candidates",
        "",
        table(("#", "item", "title", *ranking.tasks), rows),
        "",
        f"decision  {_decision(relay)}",
        f"tier      {ranking.tier}{f' ({ranking.fallback})' if ranking.fallback else ''}, on {ranking.instance_id}",
        f"took      {_stages(ranking)}",
        f"trace     {ranking.trace_id}{f' in {cluster.traces}' if cluster.traces else ''}",
    ]
    if ranking.score_difference is not None:
        lines.append(f"verified  largest difference from full inference {ranking.score_difference:.1e}")
    if not seen and cluster.store_dir:
        lines.append("note      this user has no history here; the items are the model's guess for anybody")
    return "\n".join(lines)


def _scores(ranking: Ranking, index: int) -> Sequence[str]:
    return [f"{score:+.4f}" for score in ranking.scores[index]]


def _decision(relay: Relay) -> str:
    if relay.arrive_error is not None:
        return f"none: {relay.arrive_error}"
    predicted = relay.arrived.predictions
    text = f"{relay.decision} ({relay.reason})"
    if not predicted.rank_budget_ns:
        return text
    full_ms, budget_ms = (predicted.full_ns + predicted.queue_ns) / 1e6, predicted.rank_budget_ns / 1e6
    on_psi_ms = predicted.rank_on_psi_ns / 1e6
    return f"{text}: in full {full_ms:.1f} ms, on psi {on_psi_ms:.1f} ms, budget {budget_ms:.1f} ms"


def _stages(ranking: Ranking) -> str:
    return ", ".join(f"{name} {took:.1f} ms" for name, took in ranking.timings_ms.items() if took >= 0.05)
