"""What docs/integration.md shows works: bodies parse, and reflection alone suffices to call."""

from __future__ import annotations

import ast
import asyncio
import importlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from relaygr.rpc.server import RpcServer
from relaygr.telemetry import Telemetry
from relaygr.testing.fake_router import FakeRouter
from relaygr.testing.fake_trigger import FakeTrigger
from relaygr.v1 import expander_pb2_grpc, ranker_pb2, ranker_pb2_grpc, router_pb2_grpc, trigger_pb2_grpc

PAGE = Path(__file__).resolve().parents[2] / "docs" / "integration.md"
JSON_BLOCK = re.compile(r"<!-- (relaygr\.v1\.\w+) -->\n```json\n(.*?)```", re.DOTALL)
PYTHON_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PACKAGES = ("trigger", "router", "ranker", "expander")


class Describing(ranker_pb2_grpc.RankerServiceServicer):
    async def Describe(self, request: Any, context: Any) -> Any:
        return ranker_pb2.DescribeResponse(instance_id="r-1", resident_entries=3)


SERVICES = {
    "relaygr.v1.TriggerService": (trigger_pb2_grpc.add_TriggerServiceServicer_to_server, FakeTrigger),
    "relaygr.v1.RouterService": (router_pb2_grpc.add_RouterServiceServicer_to_server, FakeRouter),
    "relaygr.v1.RankerService": (ranker_pb2_grpc.add_RankerServiceServicer_to_server, Describing),
    "relaygr.v1.ExpanderService": (
        expander_pb2_grpc.add_ExpanderServiceServicer_to_server,
        expander_pb2_grpc.ExpanderServiceServicer,
    ),
}


@asynccontextmanager
async def serving(name: str) -> AsyncIterator[str]:
    telemetry, _ = Telemetry.for_tests()
    add, servicer = SERVICES[name]
    server = RpcServer(service_name=name, address="127.0.0.1:0", telemetry=telemetry)
    server.add(add, servicer(), name)
    try:
        yield f"127.0.0.1:{await server.start()}"
    finally:
        await server.stop(0)
        telemetry.shutdown()


def generated(name: str) -> Any:
    """The service's descriptor in our own generated code."""
    for package in PACKAGES:
        module = importlib.import_module(f"relaygr.v1.{package}_pb2")
        if name.rpartition(".")[2] in module.DESCRIPTOR.services_by_name:
            return module.DESCRIPTOR.services_by_name[name.rpartition(".")[2]]
    raise AssertionError(f"no proto declares {name}")


def reflected(address: str, name: str) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Services listed, and a service's methods with the fields' names of request and response."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        found = descriptor_pool.DescriptorPool(database).FindServiceByName(name)
        return list(database.get_services()), methods(found)


def methods(service: Any) -> dict[str, tuple[str, str]]:
    return {
        method.name: (fields(method.input_type), fields(method.output_type))
        for method in service.methods_by_name.values()
    }


def fields(message: Any) -> str:
    return f"{message.full_name}({', '.join(field.name for field in message.fields)})"


def called(address: str, name: str, method_name: str, body: str) -> dict[str, Any]:
    """A call for which nothing was generated: as grpcurl makes it."""
    with grpc.insecure_channel(address) as channel:
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        method = pool.FindServiceByName(name).methods_by_name[method_name]
        request = json_format.Parse(body, message_factory.GetMessageClass(method.input_type)())
        call = channel.unary_unary(
            f"/{name}/{method_name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        return json_format.MessageToDict(call(request, timeout=5), preserving_proto_field_name=True)


@pytest.mark.parametrize("name", SERVICES)
async def test_reflection_lists_and_describes_every_method(name: str) -> None:
    async with serving(name) as address:
        listed, described = await asyncio.to_thread(reflected, address, name)
    assert name in listed and "grpc.health.v1.Health" in listed
    assert described == methods(generated(name)) and described


async def test_a_call_built_from_reflection_alone_works() -> None:
    name = "relaygr.v1.RankerService"
    async with serving(name) as address:
        answer = await asyncio.to_thread(called, address, name, "Describe", "{}")
    assert answer == {"instance_id": "r-1", "resident_entries": 3}


async def test_the_pages_arrive_is_answered() -> None:
    name = "relaygr.v1.TriggerService"
    body = dict(JSON_BLOCK.findall(PAGE.read_text()))["relaygr.v1.ArriveRequest"]
    async with serving(name) as address:
        answer = await asyncio.to_thread(called, address, name, "Arrive", body)
    assert answer["decision"]


async def test_the_pages_rank_is_answered() -> None:
    name = "relaygr.v1.RouterService"
    body = dict(JSON_BLOCK.findall(PAGE.read_text()))["relaygr.v1.RouterServiceRankRequest"]
    async with serving(name) as address:
        answer = await asyncio.to_thread(called, address, name, "Rank", body)
    assert answer["rank"]["tier"]


def test_every_body_on_the_page_says_its_message_and_parses_as_it() -> None:
    text = PAGE.read_text()
    bodies = JSON_BLOCK.findall(text)
    assert len(bodies) == text.count("```json") >= 3
    pool = descriptor_pool.Default()
    for name, body in bodies:
        message = json_format.Parse(body, message_factory.GetMessageClass(pool.FindMessageTypeByName(name))())
        assert message.ByteSize(), name


def test_every_python_block_on_the_page_compiles() -> None:
    blocks = PYTHON_BLOCK.findall(PAGE.read_text())
    assert len(blocks) >= 3
    for block in blocks:
        ast.parse(block)
