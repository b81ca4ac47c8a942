"""The console: batches of spans and metrics as it receives them, and requests for its page.

An input is a line that says which, and then an OTLP message or the bytes of an HTTP request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from console.keeper import Keeper
from console.receiver import MetricReceiver, TraceReceiver
from console.shelf import Shelf
from console.text import text_of
from console.web import application
from relaygr.telemetry import names
from tests.fuzz import messages, raw
from tests.fuzz.subject import Subject, choose
from tests.fuzz.verdict import ACCEPTED, Verdict, crash, rejected

TRACES_MAX, SPANS_MAX = 20, 30
KINDS: dict[str, Any] = {"spans": ExportTraceServiceRequest, "metrics": ExportMetricsServiceRequest}
SPAN_NAMES = (names.SPAN_RECOMMEND, "relaygr.v1.RouterService/Rank", "relaygr.v1.TriggerService/Arrive")
SPAN_NAMES += ("relaygr.v1.RankerService/Rank", names.SPAN_RANK_COMPUTE, names.SPAN_PRE_INFER_PRODUCE, "rank", "x")
ATTRIBUTES = tuple(value for name, value in vars(names).items() if name.startswith("ATTR_"))
METRICS = tuple(names.INSTRUMENTS)
PATHS = (
    "/",
    "/healthz",
    "/api/overview",
    "/api/requests",
    "/api/requests?filter=slow&limit=10",
    "/api/requests/slowest",
)
PATHS += ("/api/requests/slowest/text?width=80", "/api/signals", "/static/console.js", "/api/requests/" + "ab" * 16)
ODD_PATHS = (
    "/api/requests?limit=" + "9" * 5_000,
    "/api/requests?filter=%00",
    "/static/../__main__.py",
    "/static/%2e%2e/web.py",
)
ODD_PATHS += (
    "//",
    "/api/requests/%ff",
    "/api/requests/" + "a" * 9_000,
    "*",
    "http://[::1",
    "/api/requests/x/text?width=-1",
)
ODD_PATHS += ("/static/", "/static/console.js%00", "/api/requests?limit=%D9%A3", "/api/requests/..%2f..%2f/text", "")
READ_S = 0.05
"""For the first line of an answer; a request that is not whole gets none."""


class Console(Subject):
    """A receiver, what it keeps, the files it writes and the page it serves."""

    logged = (BadHttpMessage,)

    def __init__(self, directory: Path, port: int, keeper: Keeper) -> None:
        self._port, self._keeper = port, keeper
        self._shelf = Shelf(directory / "shelf")
        self._receivers = {"spans": TraceReceiver(keeper), "metrics": MetricReceiver(keeper)}
        self._now_ns = 0

    def draw(self, random: Random) -> bytes:
        kind = choose(random, (5, "spans"), (4, "metrics"), (2, "http"))
        if kind == "http":
            return b"http\n" + _http(random)
        example = _spans(random) if kind == "spans" else _metrics(random)
        if random.random() < 0.7:
            for _ in range(random.choice((1, 1, 2, 4))):
                messages.changed(random, example, b"")
        written = example.SerializeToString()
        if random.random() < 0.1:
            written = messages.mutated_bytes(random, written, written)
        return kind.encode() + b"\n" + written

    async def give(self, data: bytes) -> Verdict:
        head, _, written = data.partition(b"\n")
        kind = head.decode("ascii", "replace")
        if kind == "http":
            return await self._asked(written)
        if kind not in KINDS:
            return rejected("no such input")
        try:
            request = KINDS[kind].FromString(written)
        except DecodeError:
            return rejected("gRPC's own parsing")
        context: Any = None
        await self._receivers[kind].Export(request, context)
        self._now_ns += 1
        due = self._keeper.settle(self._now_ns)
        self._keeper.check()
        self._shelf.put(due)
        for trace_id, spans in due.written.items():
            _dumped(self._keeper.request(trace_id))
            text_of(spans, 80)
        if self._now_ns % 8 == 0:
            self._show()
        return ACCEPTED

    def _show(self) -> None:
        _dumped(self._keeper.overview(self._now_ns, self._now_ns + 10**18))
        _dumped(self._keeper.requests("all", 10))
        _dumped(self._keeper.signals())

    async def _asked(self, written: bytes) -> Verdict:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(written)
        head = b""
        with suppress(TimeoutError, ConnectionError, ValueError):
            async with asyncio.timeout(READ_S):
                head = await reader.readline()
        writer.transport.abort()
        status = head.split(b" ")[1:2]
        if status and status[0].startswith(b"5"):
            return crash(f"HTTP {status[0].decode()}")
        return ACCEPTED if status and status[0].startswith(b"2") else rejected(head)

    async def settle(self) -> None:
        # More traces than are kept, so that all that was said before is given up.
        random = Random(2)
        for _ in range(3 * TRACES_MAX):
            await self._receivers["spans"].Export(_spans(random), None)
        self._shelf.put(self._keeper.settle(self._now_ns))
        await asyncio.sleep(0.05)

    def sizes(self) -> dict[str, tuple[int, int]]:
        files = sum(1 for _ in self._shelf._folder.iterdir())
        return {
            "traces": (len(self._keeper._traces), TRACES_MAX),
            "requests": (len(self._keeper._requests._rows), TRACES_MAX),
            "files": (files, 2 * TRACES_MAX + 1),
        }

    async def still_serves(self) -> str:
        for path in PATHS[:4]:
            verdict = await self._asked(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            if verdict is not ACCEPTED:
                return f"{path}: {verdict.detail}"
        return ""


def _dumped(value: Any) -> None:
    """As a browser reads it, which knows no NaN."""
    json.dumps(value, allow_nan=False)


def _attribute(into: Any, random: Random) -> None:
    pair = into.add(key=random.choice(ATTRIBUTES))
    match random.randrange(5):
        case 0:
            pair.value.int_value = random.choice((0, 1, 5, 10**9))
        case 1:
            pair.value.double_value = random.choice((0.0, 1.5, 1e9))
        case 2:
            pair.value.bool_value = True
        case 3:
            pair.value.array_value.values.add(string_value="a")
        case _:
            pair.value.string_value = random.choice(("DEVICE", "FULL", "ADMITTED", "DECLINED", "x"))


def _named(resource: Any, random: Random) -> None:
    for key, value in (("service.name", "relaygr-ranker"), ("service.instance.id", f"r{random.randrange(3)}")):
        resource.attributes.add(key=key).value.string_value = value


def _spans(random: Random) -> ExportTraceServiceRequest:
    batch = ExportTraceServiceRequest()
    resource = batch.resource_spans.add()
    _named(resource.resource, random)
    scope = resource.scope_spans.add()
    trace_id = random.randbytes(16)
    begin_ns = 10**18
    for number in range(random.choice((1, 2, 5))):
        span = scope.spans.add(
            trace_id=trace_id,
            span_id=(number + 1).to_bytes(8, "big"),
            parent_span_id=b"" if number == 0 else (1).to_bytes(8, "big"),
            name=SPAN_NAMES[0] if number == 0 else random.choice(SPAN_NAMES),
            kind=random.randrange(6),
            start_time_unix_nano=begin_ns + number * 1_000_000,
            end_time_unix_nano=begin_ns + (number + 9) * 1_000_000,
        )
        for _ in range(random.choice((0, 1, 4))):
            _attribute(span.attributes, random)
    return batch


def _metrics(random: Random) -> ExportMetricsServiceRequest:
    batch = ExportMetricsServiceRequest()
    resource = batch.resource_metrics.add()
    _named(resource.resource, random)
    scope = resource.scope_metrics.add()
    for _ in range(random.choice((1, 2, 4))):
        metric = scope.metrics.add(name=random.choice(METRICS))
        kind = choose(random, (3, "gauge"), (3, "sum"), (3, "histogram"))
        if kind == "histogram":
            point = metric.histogram.data_points.add(
                count=9, bucket_counts=[4, 5, 0], explicit_bounds=[0.1, 0.2], max=0.2
            )
        else:
            point = getattr(metric, kind).data_points.add(as_double=random.choice((0.0, 1.5)))
        for _ in range(random.choice((0, 1, 2))):
            _attribute(point.attributes, random)
    return batch


def _http(random: Random) -> bytes:
    path = random.choice(PATHS) if random.random() < 0.6 else random.choice(ODD_PATHS)
    method = random.choice(("GET",) * 6 + ("HEAD", "POST", "BREW", "OPTIONS"))
    host = random.choice(
        ("localhost",) * 6 + ("127.0.0.1", "evil.example", "", "[::1", "a" * 300, "localhost:99999999")
    )
    more = random.choice(
        ("",) * 6 + ("Content-Length: -1\r\n", "Content-Length: 5\r\n\r\nabc", "Range: bytes=9-1\r\n", "X: \x00\r\n")
    )
    written = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode()
    return raw.mutated(random, written) if random.random() < 0.15 else written


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    keeper = Keeper(traces_max=TRACES_MAX, spans_max=SPANS_MAX, quiet_ns=0)
    runner = web.AppRunner(application(keeper), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1)
    await site.start()
    try:
        yield Console(directory, runner.addresses[0][1], keeper)
    finally:
        await runner.cleanup()
