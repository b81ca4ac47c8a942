"""Values read from etcd: what a listing or a watch brings, through the router's discovery into its core.

An input is a line that says how it comes and under which prefix, and then etcd's answer. After each, users must still
be placed and ranked.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from relaygr.domain.slots import SLOTS
from relaygr.errors import Unreachable
from relaygr.registry import keys
from relaygr.registry.transport import etcdrpc
from relaygr.registry.watch import Watch, _GapError
from services.router.adapters.discovery import Discovery, pin_to_json
from services.router.core.events import Listed
from services.router.core.slots import SlotTable
from services.router.view import View
from tests.fuzz import messages, raw
from tests.fuzz.judge import Logged
from tests.fuzz.subject import Subject, choose
from tests.fuzz.targets.router import RECORDS, ROUTER, Fuzzed, rank, resolve, routing
from tests.fuzz.verdict import ACCEPTED, Kind, Verdict, crash, rejected

PREFIXES = {
    "instances": keys.INSTANCES_PREFIX,
    "slots": keys.SLOTS_PREFIX,
    "pins": keys.PINS_PREFIX,
    "triggers": keys.TRIGGERS_PREFIX,
}
LIST, WATCH = "list", "watch"
VALUES_MAX = 200
KeyValue: Any = etcdrpc.RangeResponse.DESCRIPTOR.fields_by_name["kvs"].message_type._concrete_class
IDS = tuple(one.instance_id for one in RECORDS)


class Silent:
    """An etcd that answers what it is told to, and nothing before."""

    timeout_s = 1.0
    peer = "fuzz"

    def __init__(self) -> None:
        self.answer: Any = None

    async def call(self, stub: str, method: str, request: Any, timeout_s: float | None = None) -> Any:
        if self.answer is None:
            await asyncio.Event().wait()
        return self.answer


class NearRegistry:
    """Makes watches by prefix that hear of nothing by themselves."""

    def __init__(self) -> None:
        self.transport: Any = Silent()
        self.watches: dict[str, Watch] = {}

    def watch_prefix(self, prefix: str, on_change: Any, **_: Any) -> Watch:
        self.watches[prefix] = Watch(self.transport, prefix, on_change)
        return self.watches[prefix]


class Etcd(Subject):
    """Answers of etcd."""

    def __init__(self, registry: NearRegistry, calls: Fuzzed, view: View, warned: Logged) -> None:
        self._registry, self._calls, self._view, self._warned = registry, calls, view, warned
        self._resolve = resolve(Random(1)).SerializeToString()
        self._rank = rank(Random(1)).SerializeToString()

    def draw(self, random: Random) -> bytes:
        name = choose(random, (5, "instances"), (3, "slots"), (3, "pins"), (1, "triggers"))
        way = random.choice((LIST, WATCH))
        answer = _answer(random, way, name)
        if random.random() < 0.08:
            messages.changed(random, answer, b"")
        written = answer.SerializeToString()
        if random.random() < 0.04:
            written = messages.mutated_bytes(random, written, written)
        return f"{way} {name}\n".encode() + written

    async def give(self, data: bytes) -> Verdict:
        head, _, written = data.partition(b"\n")
        way, _, name = head.decode("ascii", "replace").partition(" ")
        if name not in PREFIXES or way not in (LIST, WATCH):
            return rejected("no such prefix")
        try:
            answer = (etcdrpc.RangeResponse if way == LIST else etcdrpc.WatchResponse).FromString(written)
        except DecodeError:
            return rejected("gRPC's own parsing")
        self._warned.warnings.clear()
        self._warned.error = None
        verdict = await self._taken(way, PREFIXES[name], answer)
        if self._warned.error is not None:
            raise self._warned.error
        for path, request in (("Resolve", self._resolve), ("Rank", self._rank)):
            served = await self._calls.give(f"direct {ROUTER}/{path}\n".encode() + request)
            # Without an instance of the model there is nobody to ask, and that is said.
            if served is not ACCEPTED and (served.kind is not Kind.REJECTED or "UNAVAILABLE" not in served.detail):
                return crash(f"after it, {path} fails: {served.detail}")
        return verdict

    async def _taken(self, way: str, prefix: str, answer: Any) -> Verdict:
        watch = self._registry.watches[prefix]
        events = answer.kvs if way == LIST else [event.kv for event in answer.events]
        if not all(one.key.startswith(prefix.encode()) for one in events):
            return rejected("etcd answers with what was asked for")
        self._registry.transport.answer = answer
        watch._known = {}
        watch._revision = 0
        try:
            if way == LIST:
                await watch._list()
            else:
                watch._take(answer)
        except (_GapError, Unreachable) as error:
            return rejected(error)
        finally:
            self._registry.transport.answer = None
        return rejected(self._warned.warnings[0]) if self._warned.warnings else ACCEPTED

    async def settle(self) -> None:
        self._view.driver.feed(Listed(()))
        self._view.core.check()

    def sizes(self) -> dict[str, tuple[int, int]]:
        return self._view.core.sizes()

    async def still_serves(self) -> str:
        self._view.driver.feed(Listed(RECORDS))
        return await self._calls.still_serves()


def _answer(random: Random, way: str, name: str) -> Any:
    header = etcdrpc.ResponseHeader(cluster_id=1, revision=10)
    pairs = [_pair(random, name, number) for number in range(random.choice((0, 1, 1, 2, 5)))]
    if way == LIST:
        return etcdrpc.RangeResponse(header=header, kvs=pairs, count=len(pairs))
    kinds = [0 if random.random() < 0.8 else 1 for _ in pairs]
    events = [{"type": kind, "kv": pair} for kind, pair in zip(kinds, pairs, strict=True)]
    return etcdrpc.WatchResponse(header=header, events=[_event(one["type"], one["kv"]) for one in events])


def _event(kind: Any, pair: Any) -> Any:
    event = etcdrpc.WatchResponse().events.add()
    event.type = kind
    event.kv.CopyFrom(pair)
    return event


def _pair(random: Random, name: str, number: int) -> Any:
    key, value = _KINDS[name](random)
    if random.random() < 0.06:
        key = random.choice((b"", b"\xff\xfe", b"a/b/c", b"%zz%2f", "\u00e9".encode(), b"x" * 2_000))
    written = value if isinstance(value, bytes) else raw.json_bytes(random, value)
    if random.random() < 0.03:
        written = random.choice((b"", b"{}", b"[]", b"null", b"\xff", random.randbytes(40), b" " * 300_000))
    return KeyValue(key=PREFIXES[name].encode() + key, value=written, mod_revision=number + 1)


def _instance(random: Random) -> tuple[bytes, Any]:
    record = random.choice(RECORDS)
    return record.instance_id.encode(), json.loads(record.to_json())


def _slots(random: Random) -> tuple[bytes, Any]:
    model = RECORDS[0].model.key
    table = SlotTable(random.randrange(1, 9), tuple(IDS[slot % len(IDS)] for slot in range(SLOTS)))
    return random.choice((model, "other")).encode(), json.loads(table.to_json())


def _pin(random: Random) -> tuple[bytes, Any]:
    value = pin_to_json(random.choice(IDS), 1, random.choice((1, 2**62, 2**64 - 1)))
    return f"{random.randrange(VALUES_MAX):016x}".encode(), json.loads(value)


def _trigger(random: Random) -> tuple[bytes, Any]:
    name = f"trigger-{random.randrange(9)}"
    return name.encode(), {"trigger_id": name, "address": "t:1"}


_KINDS = {"instances": _instance, "slots": _slots, "pins": _pin, "triggers": _trigger}


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    warned = Logged()
    source = logging.getLogger("services.router")
    source.addHandler(warned)
    async with routing() as (calls, view):
        registry: Any = NearRegistry()
        Discovery(registry, view.driver.feed)
        view.driver.feed(Listed(RECORDS))
        try:
            yield Etcd(registry, calls, view, warned)
        finally:
            source.removeHandler(warned)
            await asyncio.gather(*(watch.closed() for watch in registry.watches.values()))
