"""`relaygr describe` and `relaygr drain`: the rankers themselves."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import grpc

from relaygr.client.commands.cluster import NOT_RUNNING, Cluster
from relaygr.client.commands.report import CommandError, Report, mebibytes, table
from relaygr.errors import RelayError
from relaygr.rpc.status import error_of
from relaygr.security.identity import Role
from relaygr.telemetry import Telemetry
from relaygr.v1.ranker_pb2 import DescribeRequest, DescribeResponse, DrainRequest, InstanceState
from relaygr.v1.ranker_pb2_grpc import RankerServiceStub

TIMEOUT_S = 2.0


def add_drain_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `drain` takes."""
    parser.add_argument("--instance", required=True, help="id, as `relaygr describe` lists it")
    parser.add_argument("--undo", action="store_true", help="take pre-infers again")


async def describe(arguments: argparse.Namespace, cluster: Cluster) -> Report:
    """A row for each instance."""
    answers = await _described(cluster)
    rows = [_row(address, answer) for address, answer in answers.items()]
    header = ("instance", "address", "state", "model", "kernel", "device used", "psi", "tickets", "queued ms", "DRAM")
    counters = [
        f"{answer.instance_id}: " + ", ".join(f"{each.name} {each.value}" for each in answer.counters if each.value)
        for answer in answers.values()
        if isinstance(answer, DescribeResponse) and any(each.value for each in answer.counters)
    ]
    failed = any(isinstance(answer, RelayError) for answer in answers.values())
    return Report("\n".join([table(header, rows), *([""] if counters else []), *counters]), int(failed))


async def drain(arguments: argparse.Namespace, cluster: Cluster) -> Report:
    """Stop, or take up again, admissions of one instance."""
    answers = await _described(cluster)
    known = {answer.instance_id: at for at, answer in answers.items() if isinstance(answer, DescribeResponse)}
    address = known.get(arguments.instance)
    if address is None:
        raise CommandError(f"no instance {arguments.instance}; there are: {', '.join(sorted(known)) or 'none'}")
    response = await _call(cluster, address, "Drain", DrainRequest(undo=arguments.undo))
    state = InstanceState.Name(response.state).removeprefix("INSTANCE_STATE_")
    return Report(f"{arguments.instance} is {state}, {response.open_tickets} tickets open")


async def _described(cluster: Cluster) -> dict[str, DescribeResponse | RelayError]:
    if not cluster.rankers:
        raise CommandError(NOT_RUNNING)
    calls = (_call(cluster, address, "Describe", DescribeRequest()) for address in cluster.rankers)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, RelayError):
            raise answer
    return dict(zip(cluster.rankers, answers, strict=True))  # type: ignore[arg-type]


async def _call(cluster: Cluster, address: str, method: str, request: Any) -> Any:
    telemetry = Telemetry.setup("relaygr-cli", "relaygr-cli", None, b"relaygr-cli")
    pool = cluster.channels(telemetry)
    try:
        return await getattr(pool.stub(RankerServiceStub, address, Role.RANKER), method)(request, timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        raise error_of(error, address) from error
    finally:
        await pool.close()
        telemetry.shutdown()


def _row(address: str, answer: DescribeResponse | RelayError) -> tuple[object, ...]:
    if isinstance(answer, RelayError):
        return ("?", address, type(answer).__name__, *[""] * 7)
    load = answer.load
    return (
        answer.instance_id,
        address,
        InstanceState.Name(answer.state).removeprefix("INSTANCE_STATE_"),
        f"{answer.model.name} {answer.model.version}",
        answer.kernel or "its own",
        f"{mebibytes(load.device_used_bytes)} of {mebibytes(load.device_budget_bytes)}",
        answer.resident_entries,
        answer.open_tickets,
        f"{load.backlog_ns / 1e6:.1f}",
        "attached" if answer.dram_attached else "none",
    )
