"""What the chaos suite harms with does what it says, and no more: the TCP proxy, and the limit on files."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest

from tests.chaos.limits import no_file_grows
from tests.chaos.proxy import RESET_BYTES_MAX, WHOLE, Harm, Proxy

WRITER = """
import sys
with open(sys.argv[1], "ab", buffering=0) as file:
    for line in sys.stdin:
        try:
            print(file.write(b"x" * 64), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
"""


@asynccontextmanager
async def proxied():
    """A server that says everything twice, behind a link."""

    async def answer(reader, writer):
        while piece := await reader.read(1000):
            writer.write(piece * 2)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = Proxy(1, {})
    try:
        yield proxy, proxy.reach("client", "server", f"127.0.0.1:{port}").split(":")
    finally:
        await asyncio.to_thread(proxy.close)
        server.close()


@asynccontextmanager
async def connected(way):
    reader, writer = await asyncio.open_connection(*way)
    try:
        yield reader, writer
    finally:
        writer.close()


async def said(reader, writer, text=b"ab"):
    writer.write(text)
    return await asyncio.wait_for(reader.readexactly(2 * len(text)), 5.0)


async def test_a_whole_link_carries_both_ways():
    async with proxied() as (_, way), connected(way) as ends:
        assert await said(*ends) == b"abab"


async def test_a_cut_holds_everything_up_and_its_end_lets_it_pass():
    async with proxied() as (proxy, way), connected(way) as (reader, writer):
        assert await said(reader, writer) == b"abab"
        proxy.set("client", "server", Harm(is_cut=True))
        writer.write(b"cd")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        async with connected(way) as (late_reader, late_writer):
            late_writer.write(b"ef")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(late_reader.read(1), 0.3)
            proxy.set("client", "server", WHOLE)
            assert await asyncio.wait_for(reader.readexactly(4), 5.0) == b"cdcd"
            assert await asyncio.wait_for(late_reader.readexactly(4), 5.0) == b"efef"


async def test_a_delay_holds_each_way_and_keeps_the_order():
    async with proxied() as (proxy, way), connected(way) as (reader, writer):
        proxy.set("client", "server", Harm(delay_ms=50.0))
        begun_s = time.monotonic()
        writer.write(b"a")
        await asyncio.sleep(0)
        writer.write(b"b")
        answer = await asyncio.wait_for(reader.readexactly(4), 5.0)
        assert time.monotonic() - begun_s >= 0.1
        assert answer in (b"aabb", b"abab")


async def test_a_reset_ends_open_connections_and_soon_each_new_one():
    async with proxied() as (proxy, way), connected(way) as (reader, writer):
        assert await said(reader, writer) == b"abab"
        proxy.set("client", "server", Harm(is_reset=True))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 5.0)
        async with connected(way) as (new_reader, new_writer):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await said(new_reader, new_writer, b"x" * RESET_BYTES_MAX)
        assert proxy.link("client", "server").resets >= 2
        proxy.set("client", "server", WHOLE)
        async with connected(way) as ends:
            assert await said(*ends) == b"abab"


async def test_each_caller_has_a_link_of_its_own():
    async with proxied() as (proxy, way), connected(way) as (reader, writer):
        other = proxy.reach("other", "server", f"127.0.0.1:{way[1]}").split(":")
        assert other[0] != way[0] and other[1] == way[1]
        proxy.set("other", "server", Harm(is_cut=True))
        assert await said(reader, writer) == b"abab"


def test_no_file_of_the_process_grows_while_the_limit_lasts(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:

        def written():
            writer.stdin.write("write\n")
            writer.stdin.flush()
            return writer.stdout.readline().strip()

        assert written() == "64"
        with no_file_grows(writer.pid):
            assert written() == "OSError"
        assert written() == "64"
        writer.stdin.close()
    assert (tmp_path / "log").stat().st_size == 128
