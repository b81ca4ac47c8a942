"""The streams of rankers on other hosts: finds, takes, stores and probes, message by message.

An input is a line that says which way and which method, and then messages, each behind its length.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import numpy as np

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.rpc.server import RpcServer
from relaygr.segment import ContentDigest, identity_bytes
from relaygr.v1 import transfer_pb2 as pb
from relaygr.v1.expander_pb2 import EntryContent
from relaygr.v1.transfer_pb2_grpc import add_TransferServiceServicer_to_server
from services.expander.adapters.local_owner import LocalOwner
from services.expander.metrics import TransferMetrics
from services.expander.transfer import TransferService
from tests.fuzz import ground, messages, raw
from tests.fuzz.calls import DIRECT, GRPC, judged
from tests.fuzz.subject import Subject, choose
from tests.fuzz.targets.expander import CHAIN, MODEL, key, world
from tests.fuzz.verdict import ACCEPTED, Verdict, rejected

SERVICE = "/relaygr.v1.TransferService"
REQUESTS: dict[str, Any] = {"Fetch": pb.FetchRequest, "Store": pb.StoreRequest, "Probe": pb.ProbeRequest}
OVER_THE_WIRE = 0.01
CUT_OFF = "Internal error from Core"
"""Of a caller's own gRPC, which was still writing when the status came."""
LENGTH_BYTES = 4


class Aborted(Exception):
    """A stream has its status."""


class Context:
    """What a stream's handler is told, with the caller's messages at hand."""

    def __init__(self, kind: Any, sent: list[bytes]) -> None:
        self._kind, self._sent = kind, list(sent)
        self.status: tuple[grpc.StatusCode, str] | None = None

    def time_remaining(self) -> float:
        return 1.0

    async def read(self) -> Any:
        return self._kind.FromString(self._sent.pop(0)) if self._sent else grpc.aio.EOF

    async def write(self, message: Any) -> None:
        message.SerializeToString()

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> None:
        self.status = code, details
        raise Aborted


class Transfers(Subject):
    """Streams, straight to their handlers and now and then over gRPC."""

    def __init__(self, service: TransferService, channel: grpc.aio.Channel, made: Any) -> None:
        self._service, self._channel, self._made = service, channel, made

    def draw(self, random: Random) -> bytes:
        method = choose(random, (5, "Store"), (4, "Fetch"), (1, "Probe"))
        way = choose(random, (1 - OVER_THE_WIRE, DIRECT), (OVER_THE_WIRE, GRPC))
        sent = [message.SerializeToString() for message in wronged(random, method, honest(random, method))]
        if sent and random.random() < 0.12:
            at = random.randrange(len(sent))
            sent[at] = messages.mutated_bytes(random, sent[at], random.choice(sent))
        written = b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in sent)
        return f"{way} {method}\n".encode() + (raw.mutated(random, written) if random.random() < 0.02 else written)

    async def give(self, data: bytes) -> Verdict:
        way, method, sent = _parts(data)
        if method not in REQUESTS or (method == "Probe" and len(sent) != 1):
            return rejected("no such stream")
        if way == GRPC and (verdict := await self._over_grpc(method, sent)) is not None:
            return verdict
        context: Any = Context(REQUESTS[method], sent)
        try:
            if method == "Probe":
                await self._service.Probe(_parsed(context, sent[0]), context)
            else:
                await getattr(self._service, method)(None, context)
        except Aborted:
            return judged(REQUESTS[method], *context.status)
        except Unread:
            return rejected("cannot be parsed")
        return ACCEPTED

    async def _over_grpc(self, method: str, sent: list[bytes]) -> Verdict | None:
        """None when the status got lost on the way."""
        if method == "Probe":
            call = self._channel.unary_stream(f"{SERVICE}/Probe", _same, _same)(sent[0], timeout=1)
        else:
            call = self._channel.stream_stream(f"{SERVICE}/{method}", _same, _same)(timeout=1)
            await _written(call, sent)
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        code = await call.code()
        if await call.details() == CUT_OFF:
            return None
        return ACCEPTED if code is grpc.StatusCode.OK else judged(REQUESTS[method], code, await call.details() or "")

    def smaller(self, data: bytes) -> Iterator[bytes]:
        head = data.partition(b"\n")[0] + b"\n"
        sent = _parts(data)[2]
        for at in range(len(sent)):
            kept = sent[:at] + sent[at + 1 :]
            yield head + b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in kept)
        yield from (head + one for one in super().smaller(data[len(head) :]))

    async def settle(self) -> None:
        async with asyncio.timeout(5):
            while self._service._open.total():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        self._made.tiering.check()

    def sizes(self) -> dict[str, tuple[int, int]]:
        seen = self._made.tiering.occupancy()
        return {
            "pins": (seen.pins, 0),
            "staging_blocks": (seen.staging_blocks, 0),
            "streams": (self._service._open.total(), 0),
            "storing": (len(self._service._storing), 0),
        }

    async def still_serves(self) -> str:
        random = Random(1)
        for method in ("Store", "Fetch", "Probe"):
            sent = [one.SerializeToString() for one in honest(random, method)]
            written = b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in sent)
            verdict = await self.give(f"{DIRECT} {method}\n".encode() + written)
            if verdict is not ACCEPTED:
                return f"{method}: {verdict.kind.value} {verdict.detail}"
        return ""


class Unread(Exception):
    """gRPC would not have called the handler."""


def honest(random: Random, method: str) -> list[Any]:
    """The messages of a caller that does as it should."""
    if method == "Probe":
        return [pb.ProbeRequest(length_bytes=random.choice((1, 1000, 300_000)))]
    wanted = key(random)
    if method == "Fetch":
        return [
            pb.FetchRequest(find=wanted),
            pb.FetchRequest(take=pb.FetchTake()),
            pb.FetchRequest(finish=pb.FetchFinish()),
        ]
    data = random.randbytes(random.choice((1, 4096, 5_000)))
    psi = PsiKey(UserKey(wanted.tenant, wanted.user), MODEL.key, wanted.anchor)
    tokens = random.randrange(1, 400)
    digest = ContentDigest(identity_bytes(psi, CHAIN), tokens, len(data))
    digest.update(np.frombuffer(data, dtype=np.uint8))
    content = EntryContent(
        token_count=tokens, chain_digest=CHAIN, length_bytes=len(data), content_digest=digest.digest()
    )
    half = len(data) // 2
    chunks = [(0, data[:half]), (half, data[half:])] if half else [(0, data)]
    begin = pb.StoreRequest(begin=pb.StoreBegin(key=wanted, content=content))
    return [begin, *(pb.StoreRequest(chunk=pb.Chunk(offset_bytes=at, data=part)) for at, part in chunks)]


def wronged(random: Random, method: str, sent: list[Any]) -> list[Any]:
    """Messages changed, left out, doubled, or in another order."""
    what = choose(random, (25, "honest"), (50, "changed"), (6, "dropped"), (6, "doubled"), (6, "mixed"), (7, "filled"))
    at = random.randrange(len(sent))
    if what == "changed":
        for _ in range(random.choice((1, 1, 2, 4))):
            messages.changed(random, random.choice(sent), ground.KEY)
    elif what == "dropped" and len(sent) > 1:
        del sent[at]
    elif what == "doubled":
        sent.insert(at, sent[at])
    elif what == "mixed":
        random.shuffle(sent)
    elif what == "filled":
        sent[at] = messages.filled(random, REQUESTS[method]())
    return sent


async def _written(call: Any, sent: list[bytes]) -> None:
    """Say it all; a server that has refused the first of it does not take the rest."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        for one in sent:
            await call.write(one)
        await call.done_writing()


def _parts(data: bytes) -> tuple[str, str, list[bytes]]:
    head, _, rest = data.partition(b"\n")
    way, _, method = head.decode("ascii", "replace").partition(" ")
    sent = []
    while len(rest) >= LENGTH_BYTES:
        length = int.from_bytes(rest[:LENGTH_BYTES], "big")
        sent.append(rest[LENGTH_BYTES : LENGTH_BYTES + length])
        rest = rest[LENGTH_BYTES + length :]
    return way, method, sent


def _parsed(context: Context, request: bytes) -> Any:
    if _is_broken(request):
        raise Unread
    return pb.ProbeRequest.FromString(request)


def _is_broken(request: bytes) -> bool:
    try:
        pb.ProbeRequest.FromString(request)
    except Exception:
        return True
    return False


def _same(data: bytes) -> bytes:
    return data


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    async with world(directory) as made:
        owner = LocalOwner(made.tiering, made.segment, 0.04)
        limits, metrics = made.config.transfer_limits, TransferMetrics(made.telemetry)
        service = TransferService(made.tiering, made.segment, owner, limits, metrics)
        server = RpcServer(service_name="expander", address="127.0.0.1:0", telemetry=made.telemetry)
        server.add(add_TransferServiceServicer_to_server, service, "relaygr.v1.TransferService")
        port = await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Transfers(service, channel, made)
        finally:
            await server.stop(0)
            await owner.close()
