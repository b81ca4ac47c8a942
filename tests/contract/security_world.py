"""A server with every service there is, certificates of all kinds, and ways to call every method."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import shutil
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

import relaygr.v1
from relaygr.rpc.channel import ChannelPool
from relaygr.rpc.server import RpcServer
from relaygr.security.authority import Authority
from relaygr.security.identity import Identity, Role, server_name_of
from relaygr.security.material import KeptMaterial, MaterialPaths
from relaygr.telemetry import Telemetry
from relaygr.v1.lane_pb2 import CallerFrame, LaneCall, OpenRequest, OpenResponse
from relaygr.v1.lane_pb2_grpc import LaneServiceStub
from tests.contract.lane_world import Bare

NEEDS_OPENSSL = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
DEPLOYMENT = "test"
SERVER_ROLE = Role.ROUTER
"""Of the server that has it all."""
SERVER_NAME = server_name_of(SERVER_ROLE, DEPLOYMENT)
BY_OTHERS = frozenset({"LaneService"})
"""Served by every server without being added."""
TIMEOUT_S = 5.0
REFUSED_WITHIN_S = 2.0


class Method(NamedTuple):
    """One method of one service."""

    name: str
    """package.Service/Method."""
    streams_requests: bool
    streams_responses: bool

    @property
    def is_unary(self) -> bool:
        return not self.streams_requests and not self.streams_responses


class Parties:
    """Certificates of the deployment, of a stranger's authority, and of those whose time is over."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.stranger = Authority(folder / "own"), Authority(folder / "stranger")
        self.authority.create()
        self.stranger.create()
        self._made: dict[tuple[str, str], MaterialPaths] = {}

    def of(self, role: str, kind: str = "good") -> MaterialPaths:
        """Files of a role: good, expired, of another deployment, nameless, or of a stranger's authority."""
        if (role, kind) not in self._made:
            self._made[role, kind] = self._issue(role, kind)
        return self._made[role, kind]

    def _issue(self, role: str, kind: str) -> MaterialPaths:
        identity = Identity.made("elsewhere" if kind == "elsewhere" else DEPLOYMENT, role, kind)
        if kind == "nameless":
            named = SimpleNamespace(
                deployment=DEPLOYMENT, role=Role(role), name=kind, uri="https://somewhere/", server_name="somewhere"
            )
            return self.authority.issue(named)  # type: ignore[arg-type]
        if kind == "stranger":
            paths = self.stranger.issue(identity)
            # It trusts whom it calls: only they do not trust it.
            return MaterialPaths(paths.certificate, paths.key, self.authority.certificate)
        return self.authority.issue(identity, -1 if kind == "expired" else 30)

    def kept(self, role: str) -> KeptMaterial:
        """What a process of a role has."""
        return KeptMaterial(self.of(role), look_s=0.0)

    def context(self, paths: MaterialPaths | None) -> ssl.SSLContext:
        """For a bare connection; None shows no certificate."""
        context = ssl.create_default_context(cafile=self.authority.certificate)
        if paths is not None:
            context.load_cert_chain(paths.certificate, paths.key)
        return context

    def channel(self, address: str, paths: MaterialPaths | None, *, name: str = SERVER_NAME) -> grpc.aio.Channel:
        """A channel that shows these files; None: none."""
        shown = (paths.key.read_bytes(), paths.certificate.read_bytes()) if paths is not None else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority.certificate.read_bytes(), *shown)
        return grpc.aio.secure_channel(address, credentials, options=[("grpc.ssl_target_name_override", name)])


@pytest.fixture(scope="session")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return Parties(tmp_path_factory.mktemp("certificates"))


class Served:
    """A server of all services, whose handlers count their calls and answer with nothing in it."""

    def __init__(self, tls: KeptMaterial | None, telemetry: Telemetry) -> None:
        self.server = RpcServer(service_name="everything", address="127.0.0.1:0", telemetry=telemetry, tls=tls)
        self.calls: list[str] = []
        self.peers: list[str] = []
        self.shown: list[dict[str, Any]] = []
        """What is known of the other end of each call; gRPC tells it during the call only."""
        self.before_answer: Callable[[], Awaitable[None]] = _nothing
        self.address = ""
        for service, add in services():
            servicer = SimpleNamespace(**{method.name: self._handler(method) for method in service.methods})
            self.server.add(add, servicer, service.full_name)

    async def start(self) -> None:
        self.address = f"127.0.0.1:{await self.server.start()}"

    def _handler(self, method: Any) -> Any:
        name, answer = f"{method.containing_service.full_name}/{method.name}", method.output_type._concrete_class

        async def answered(request: Any, context: Any) -> Any:
            self.calls.append(name)
            self.peers.append(context.peer())
            self.shown.append(context.auth_context())
            await self.before_answer()
            return answer()

        async def generated(request: Any, context: Any) -> Any:
            self.calls.append(name)
            yield answer()

        async def written(request: Any, context: Any) -> None:
            self.calls.append(name)
            await context.write(answer())

        if not method.server_streaming:
            return answered
        # Both ways of answering a stream that grpc.aio knows.
        return generated if method.client_streaming else written


async def _nothing() -> None:
    return


def services() -> Iterator[tuple[Any, Any]]:
    """Every service of the project's protos, and the function that adds it to a server."""
    for module in pkgutil.iter_modules(relaygr.v1.__path__):
        if module.name.endswith("_pb2"):
            found = importlib.import_module(f"relaygr.v1.{module.name}").DESCRIPTOR.services_by_name
            for name, service in found.items():
                if name not in BY_OTHERS:
                    grpc_module = importlib.import_module(f"relaygr.v1.{module.name}_grpc")
                    yield service, getattr(grpc_module, f"add_{name}Servicer_to_server")


@asynccontextmanager
async def serving(tls: KeptMaterial | None) -> AsyncIterator[Served]:
    telemetry, _ = Telemetry.for_tests()
    served = Served(tls, telemetry)
    await served.start()
    try:
        yield served
    finally:
        await served.server.stop(0)
        telemetry.shutdown()


@pytest.fixture
async def served(parties: Parties) -> AsyncIterator[Served]:
    async with serving(parties.kept(SERVER_ROLE)) as made:
        yield made


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    made, _ = Telemetry.for_tests()
    yield made
    made.shutdown()


@asynccontextmanager
async def pool_of(telemetry: Telemetry, tls: KeptMaterial, **options: Any) -> AsyncIterator[ChannelPool]:
    """Channels of a process with this material."""
    pool = ChannelPool(telemetry, tls=tls, peer_role=SERVER_ROLE, **options)
    try:
        yield pool
    finally:
        await pool.close()


def reflected(channel: grpc.Channel) -> list[Method]:
    """Every method of a server, by reflection; blocking."""
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    found = (method for name in database.get_services() for method in pool.FindServiceByName(name).methods)
    return sorted(
        Method(f"{one.containing_service.full_name}/{one.name}", one.client_streaming, one.server_streaming)
        for one in found
    )


async def methods_of(parties: Parties, served: Served) -> list[Method]:
    """Every method of the server, as an operator sees it, and the one that reflection does not show."""
    paths = parties.of(Role.OPERATOR)
    credentials = grpc.ssl_channel_credentials(
        parties.authority.certificate.read_bytes(), paths.key.read_bytes(), paths.certificate.read_bytes()
    )
    options = [("grpc.ssl_target_name_override", SERVER_NAME)]

    def asked() -> list[Method]:
        with grpc.secure_channel(served.address, credentials, options=options) as channel:
            return reflected(channel)

    return [*await asyncio.to_thread(asked), Method("relaygr.v1.LaneService/Open", False, False)]


async def outcome(channel: grpc.aio.Channel, method: Method) -> grpc.StatusCode:
    """Call a method of any kind with an empty request; how it ended."""
    path = f"/{method.name}"
    try:
        if method.is_unary:
            await channel.unary_unary(path)(b"", timeout=TIMEOUT_S)
        elif method.streams_requests:
            await _first(channel.stream_stream(path)(_one_in_time(), timeout=TIMEOUT_S))
        else:
            await _first(channel.unary_stream(path)(b"", timeout=TIMEOUT_S))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def _one_in_time() -> AsyncIterator[bytes]:
    """A request, once a refusal would have come: grpc.aio says INTERNAL of one that finds the call over."""
    await asyncio.sleep(REFUSED_WITHIN_S)
    yield b""
    await asyncio.Event().wait()


async def _first(call: Any) -> None:
    """One message is enough, or the end: a health watch never ends."""
    if await call.read() is grpc.aio.EOF:
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())
    call.cancel()


def certificate_in(auth_context: Any) -> str:
    """PEM."""
    return str(auth_context["x509_pem_cert"][0].decode().strip())


# Bare lanes


async def opened(parties: Parties, served: Served) -> OpenResponse:
    """Where the server takes lanes, as a party that may know is told."""
    async with parties.channel(served.address, parties.of(Role.CLIENT)) as channel:
        return await LaneServiceStub(channel).Open(OpenRequest(), timeout=TIMEOUT_S)


@asynccontextmanager
async def bare_tls(port: int, context: ssl.SSLContext | None, name: str = SERVER_NAME) -> AsyncIterator[Bare]:
    """A lane's connection under TLS; None: in plain text."""
    tls: dict[str, Any] = {} if context is None else {"ssl": context, "server_hostname": name}
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **tls)
    try:
        yield Bare(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def asking_for(call_id: int, method: str) -> CallerFrame:
    return CallerFrame(call_id=call_id, call=LaneCall(method=f"/{method}", request=b""))
