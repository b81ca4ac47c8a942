"""A TCP proxy that harms what passes: it holds connections up, delays them, or resets them, by a seed.

Between each caller and each callee stands one link. It listens on a loopback address of its own and on the callee's own
port numbers, so that a server that tells its other port (as lanes do) is reached through the link there too.

* *cut*: nothing passes in either direction, and what was sent waits; a connection that is made meanwhile is accepted
  and stays silent. When the cut ends, all of it passes: a network that dropped packets for a while.
* *delay*: each piece passes so much later, and up to half as much again, in order.
* *reset*: open connections are reset at once, each new one after a few hundred bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

PIECE_BYTES = 64 * 1024
PIECES_MAX = 256
"""On their way in one direction of a connection; further ones wait in the sockets."""
RESET_BYTES_MAX = 600
JITTER = 0.5
FIRST_HOST = 16
"""127.0.0.16 is the first link's."""


@dataclass(frozen=True, slots=True)
class Harm:
    """What is done to a link; nothing by default."""

    is_cut: bool = False
    delay_ms: float = 0.0
    is_reset: bool = False


WHOLE = Harm()


class Link:
    """One caller's way to one callee; lives on one event loop."""

    def __init__(self, host: str, target_host: str, seed: int) -> None:
        self._host = host
        self._target_host = target_host
        self._chance = Random(seed)
        self._harm = WHOLE
        self._passing = asyncio.Event()
        self._passing.set()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.connections = 0
        """So far."""
        self.resets = 0

    async def listen(self, port: int) -> None:
        """Carry connections to this port.

        Raises:
            OSError: the port is taken on this link's address.
        """
        server = await asyncio.start_server(lambda r, w: self._begin(port, r, w), self._host, port)
        self._servers.append(server)

    def set(self, harm: Harm) -> None:
        """Do this from now on, to open connections too."""
        self._harm = harm
        if harm.is_cut:
            self._passing.clear()
        else:
            self._passing.set()
        if harm.is_reset:
            for writer in tuple(self._writers):
                self._reset(writer)

    async def close(self) -> None:
        """End all connections."""
        for server in self._servers:
            server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _begin(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._carry(port, reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # The other end has gone, or the proxy ends.
        finally:
            self._tasks.discard(task)

    async def _carry(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._kept(writer):
            await self._passing.wait()
            there_reader, there_writer = await asyncio.open_connection(self._target_host, port)
            with self._kept(there_writer):
                ways = [
                    asyncio.create_task(self._pass(reader, there_writer)),
                    asyncio.create_task(self._pass(there_reader, writer)),
                ]
                try:
                    # The end of one direction ends both: gRPC and lanes know no half-open connection.
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    @contextlib.contextmanager
    def _kept(self, writer: asyncio.StreamWriter) -> Any:
        self._writers.add(writer)
        try:
            yield
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction: read at once, write when it is due."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES_MAX)
        reading = asyncio.create_task(self._read(reader, pieces))
        passed_bytes, limit_bytes = 0, self._chance.randrange(RESET_BYTES_MAX)
        try:
            while True:
                due_s, piece = await pieces.get()
                if not piece:
                    return
                await asyncio.sleep(due_s - loop.time())
                await self._passing.wait()
                passed_bytes += len(piece)
                if self._harm.is_reset and passed_bytes > limit_bytes:
                    self._reset(writer)
                    return
                writer.write(piece)
                await writer.drain()
        except OSError:
            return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        loop, due_s, piece = asyncio.get_running_loop(), 0.0, b"."
        while piece:
            try:
                piece = await reader.read(PIECE_BYTES)
            except OSError:
                piece = b""
            late_s = self._harm.delay_ms / 1e3 * self._chance.uniform(1.0, 1.0 + JITTER) if self._harm.delay_ms else 0.0
            due_s = max(due_s, loop.time() + late_s)  # Never before the piece ahead of it.
            await pieces.put((due_s, piece))

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        """RST instead of FIN."""
        self.resets += 1
        found = writer.get_extra_info("socket")
        if found is not None:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class Proxy:
    """All links of a cluster, on a thread of their own: a cluster's start holds up the thread that calls it.

    Args:
        seed: of all that chance decides.
        more_ports: by callee, ports beside the one of its address.
    """

    def __init__(self, seed: int, more_ports: Mapping[str, Sequence[int]]) -> None:
        self._seed = seed
        self._more_ports = more_ports
        self._links: dict[tuple[str, str], tuple[str, Link]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def reach(self, caller: str, callee: str, address: str) -> str:
        """The address at which this caller finds this callee; its link is made now.

        Raises:
            OSError: a port of the callee is taken on the link's address.
        """
        target_host, _, port = address.rpartition(":")
        if (caller, callee) not in self._links:
            host = f"127.0.0.{FIRST_HOST + len(self._links)}"
            made = self._run(self._made(host, target_host, (int(port), *self._more_ports.get(callee, ()))))
            self._links[caller, callee] = host, made
        return f"{self._links[caller, callee][0]}:{port}"

    def set(self, caller: str, callee: str, harm: Harm) -> None:
        """Harm a link, or make it whole."""
        self._run(self._set(self._links[caller, callee][1], harm))

    def link(self, caller: str, callee: str) -> Link:
        """To read its counts."""
        return self._links[caller, callee][1]

    def close(self) -> None:
        """End all links."""
        self._run(self._closed())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _made(self, host: str, target_host: str, ports: Sequence[int]) -> Link:
        link = Link(host, target_host, self._seed + len(self._links))
        for port in ports:
            await link.listen(port)
        return link

    async def _set(self, link: Link, harm: Harm) -> None:
        link.set(harm)

    async def _closed(self) -> None:
        for _, link in self._links.values():
            await link.close()

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10.0)
