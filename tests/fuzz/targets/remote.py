"""What an expander on another host answers a ranker: finds, chunks, grants and outcomes, message by message.

An input is a line that says which stream, and then messages, each behind its length. A message that cannot be parsed
comes as callers of gRPC get it: as None. What does not fit must leave the ranker with a miss, never with wrong bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.rpc.channel import ChannelPool
from relaygr.segment import ContentDigest, identity_bytes
from relaygr.v1 import transfer_pb2 as pb
from relaygr.v1.expander_pb2 import EntryContent
from services.ranker.adapters.dram_remote import RemoteDramTier
from tests.fuzz import ground, messages, raw
from tests.fuzz.subject import Subject, choose
from tests.fuzz.targets.expander import CHAIN, MODEL
from tests.fuzz.verdict import ACCEPTED, Verdict, crash, rejected

RESPONSES: dict[str, Any] = {"Fetch": pb.FetchResponse, "Store": pb.StoreResponse}
KEY = PsiKey(UserKey("t", "u"), MODEL.key, 0)
DATA = bytes(range(250)) * 40
PAGES = 4
TOKENS = 300
LENGTH_BYTES = 4


class Stream:
    """One stream's answers."""

    def __init__(self, kind: Any, said: list[bytes]) -> None:
        self._kind, self._said = kind, list(said)

    async def write(self, message: Any) -> None:
        message.SerializeToString()

    async def done_writing(self) -> None:
        pass

    async def read(self) -> Any:
        if not self._said:
            return grpc.aio.EOF
        try:
            return self._kind.FromString(self._said.pop(0))
        except DecodeError:
            return None

    def cancel(self) -> bool:
        return True

    def add_done_callback(self, call: Any) -> None:
        asyncio.get_running_loop().call_soon(call, self)


class Remote(Subject):
    """A ranker's remote tier."""

    def __init__(self, tier: RemoteDramTier) -> None:
        self._tier = tier

    def draw(self, random: Random) -> bytes:
        method = choose(random, (3, "Fetch"), (1, "Store"))
        said = _honest(method)
        kinds = (20, "honest"), (45, "changed"), (10, "dropped"), (10, "doubled"), (5, "mixed"), (10, "bytes")
        what = choose(random, *kinds)
        at = random.randrange(len(said))
        if what == "changed":
            for _ in range(random.choice((1, 1, 2))):
                messages.changed(random, random.choice(said), ground.KEY)
        elif what == "dropped":
            del said[at]
        elif what == "doubled":
            said.insert(at, said[at])
        elif what == "mixed":
            random.shuffle(said)
        written = [message.SerializeToString() for message in said]
        if what == "bytes":
            written[at] = raw.mutated(random, written[at])
        return f"{method}\n".encode() + b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in written)

    async def give(self, data: bytes) -> Verdict:
        method, said = _parts(data)
        if method not in RESPONSES:
            return rejected("no such stream")
        stub: Any = SimpleNamespace(**{method: lambda timeout: Stream(RESPONSES[method], said)})
        self._tier._transfer = stub
        pages = [np.zeros(len(DATA) // PAGES, dtype=np.uint8) for _ in range(PAGES)]
        if method == "Store":
            stored = await self._tier.store(KEY, TOKENS, CHAIN, pages)
            return ACCEPTED if stored else rejected("not stored")
        found = await self._tier.lookup(KEY)
        if found is None:
            return rejected("not found")
        if not await self._tier.load(found, pages):
            return rejected("not loaded")
        # What identity it has is said by the same expander, and compared with the request's by the ranker's core.
        is_right = _digest(b"".join(page.tobytes() for page in pages), found) == found.content_digest
        return ACCEPTED if is_right else crash("wrong bytes were taken for right ones")

    def smaller(self, data: bytes) -> Iterator[bytes]:
        head = data.partition(b"\n")[0] + b"\n"
        said = _parts(data)[1]
        for at in range(len(said)):
            yield head + b"".join(len(one).to_bytes(LENGTH_BYTES, "big") + one for one in said[:at] + said[at + 1 :])

    def sizes(self) -> dict[str, tuple[int, int]]:
        return {"streams": (len(self._tier._streams), 0), "stores": (len(self._tier._stores), 0)}

    async def settle(self) -> None:
        await asyncio.sleep(0)

    async def still_serves(self) -> str:
        for method in RESPONSES:
            said = b"".join(
                len(one).to_bytes(LENGTH_BYTES, "big") + one
                for one in (message.SerializeToString() for message in _honest(method))
            )
            verdict = await self.give(f"{method}\n".encode() + said)
            if verdict is not ACCEPTED:
                return f"{method}: {verdict.detail}"
        return ""


def _digest(data: bytes, found: Any) -> bytes:
    digest = ContentDigest(identity_bytes(KEY, found.chain_digest), found.token_count, found.length_bytes)
    digest.update(np.frombuffer(data, dtype=np.uint8))
    return digest.digest()


def _honest(method: str) -> list[Any]:
    if method == "Store":
        return [pb.StoreResponse(grant=pb.StoreGrant()), pb.StoreResponse(outcome=pb.StoreOutcome(published=True))]
    content = EntryContent(token_count=TOKENS, chain_digest=CHAIN, length_bytes=len(DATA))
    content.content_digest = _digest(DATA, content)
    half = len(DATA) // 2
    return [
        pb.FetchResponse(begin=pb.FetchBegin(found=True, content=content)),
        pb.FetchResponse(chunk=pb.Chunk(offset_bytes=0, data=DATA[:half])),
        pb.FetchResponse(chunk=pb.Chunk(offset_bytes=half, data=DATA[half:])),
        pb.FetchResponse(end=pb.FetchEnd(held=True)),
    ]


def _parts(data: bytes) -> tuple[str, list[bytes]]:
    head, _, rest = data.partition(b"\n")
    said = []
    while len(rest) >= LENGTH_BYTES:
        length = int.from_bytes(rest[:LENGTH_BYTES], "big")
        said.append(rest[LENGTH_BYTES : LENGTH_BYTES + length])
        rest = rest[LENGTH_BYTES + length :]
    return head.decode("ascii", "replace"), said


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    channels = ChannelPool(ground.quiet())
    tier = RemoteDramTier("127.0.0.1:1", channels, "r1", 1, MODEL)
    reach: Any = SimpleNamespace(is_reached=True, suspend=lambda: None)
    tier._reach = reach
    try:
        yield Remote(tier)
    finally:
        tier._digesting.shutdown()
        await channels.close()
