"""A console as a process, and requests that are told to it as services tell them."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from relaygr.telemetry import Telemetry, names

STARTED = re.compile(r"page on (http://\S+), OTLP on (\S+)")
POLL_S = 0.1
SHOWN_S = 15.0
"""Export interval, quiet time and a margin for a busy machine."""


@dataclass
class Running:
    """A console that serves."""

    process: asyncio.subprocess.Process
    url: str
    otlp: str
    session: aiohttp.ClientSession
    services: dict[str, Telemetry] = field(default_factory=dict)

    async def get(self, path: str, status: int = 200) -> Any:
        async with self.session.get(self.url + path) as answer:
            assert answer.status == status, await answer.text()
            return await (answer.json() if answer.content_type == "application/json" else answer.text())

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """The first answer that holds; the last one when time is up."""
        for _ in range(int(SHOWN_S / POLL_S)):
            if holds(found := await self.get(path)):
                break
            await asyncio.sleep(POLL_S)
        assert holds(found), found
        return found

    def service(self, name: str, instance: str) -> Telemetry:
        if instance not in self.services:
            self.services[instance] = Telemetry.setup(f"relaygr-{name}", instance, f"http://{self.otlp}", b"test")
        return self.services[instance]

    def tell(self, *, tier: str = "DEVICE", decision: str = "ADMITTED", request_id: str = "r-1") -> str:
        """A recommendation of a client, a trigger and a ranker; its trace id."""
        client, trigger, ranker = (
            self.service("client", "client"),
            self.service("trigger", "trigger-1"),
            self.service("ranker", "ranker-1"),
        )
        ranked = {names.ATTR_RANK_TIER: tier, names.ATTR_REQUEST_ID: request_id, names.ATTR_RANK_PSI_TOKENS: 300}
        admitted = {names.ATTR_TRIGGER_DECISION: decision, names.ATTR_TRIGGER_BUDGET_MS: 50.0}
        with client.span(names.SPAN_RECOMMEND) as root:
            with trigger.span("relaygr.v1.TriggerService/Arrive", kind=SpanKind.SERVER):
                with trigger.span(names.SPAN_TRIGGER_ADMISSION, admitted):
                    pass
            with client.span(names.SPAN_RECOMMEND_STAGE, {names.ATTR_RECOMMEND_STAGE: "rank"}):
                with ranker.span("relaygr.v1.RankerService/Rank", ranked, kind=SpanKind.SERVER):
                    pass
        return trace.format_trace_id(root.get_span_context().trace_id)


@asynccontextmanager
async def console(*arguments: str) -> AsyncIterator[Running]:
    command = (sys.executable, "-m", "console", "--otlp", "127.0.0.1:0", "--http", "127.0.0.1:0", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            found = None
            while found is None:
                line = (await process.stderr.readline()).decode()
                assert line, "the console ended before it served"
                found = STARTED.search(line)
            running = Running(process, found[1], found[2], session)
            try:
                yield running
            finally:
                for service in running.services.values():
                    await asyncio.to_thread(service.shutdown)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
