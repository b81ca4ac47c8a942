"""Segment files and lock files: what an expander's answer names, mapped by a ranker; and what a dead one left behind.

An input is the expander's answer and the head of the file that it names. The file lies under the name that an honest
answer has.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment.files import segment_path
from relaygr.segment.layout import PAGE_BYTES, Geometry, pack_header
from relaygr.segment.owned import remove_stale
from relaygr.v1.expander_pb2 import AttachResponse
from services.ranker.adapters.dram_attachment import Attacher
from tests.fuzz import messages, raw
from tests.fuzz.subject import Subject, choose
from tests.fuzz.verdict import ACCEPTED, Verdict, crash, rejected

BOOT_ID = "c" * 32
GEOMETRY = Geometry(4096, 3)
DEPLOYMENT = "fuzz"
KEY = PsiKey(UserKey("t", "u"), "m", 0)


class Segments(Subject):
    """A ranker's attachment to an expander that says anything."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self._directory, self._executor = directory, executor
        self._path = segment_path(directory, DEPLOYMENT, BOOT_ID)
        self._lock = self._path.with_name(self._path.name + ".lock")

    async def Attach(self, request: Any, timeout: float) -> AttachResponse:
        """In the place of the expander's stub."""
        return self._answer

    def draw(self, random: Random) -> bytes:
        answer = AttachResponse(
            boot_id=BOOT_ID,
            segment_path=self._path.name,
            segment_bytes=GEOMETRY.total_bytes,
            block_bytes=GEOMETRY.block_bytes,
            owner_index=random.randrange(4),
            lock_path=self._lock.name,
            heartbeat_ns=10**9,
        )
        header = pack_header(GEOMETRY, BOOT_ID)
        what = choose(random, (3, "honest"), (4, "answer"), (4, "header"), (2, "both"), (1, "short"))
        if what in ("answer", "both"):
            for _ in range(random.choice((1, 1, 2))):
                messages.changed(random, answer, b"")
        if what in ("header", "both"):
            header = raw.column(random, header)
        said_bytes = random.choice((0, 1, 56, 4096, GEOMETRY.total_bytes - 1)) if what == "short" else 0
        return raw.packed({"answer": answer.SerializeToString(), "header": header, f"cut{said_bytes}": b""})

    async def give(self, data: bytes) -> Verdict:
        files = raw.unpacked(data)
        try:
            self._answer = AttachResponse.FromString(files.get("answer", b""))
        except DecodeError:
            return rejected("gRPC's own parsing")
        # Inputs name files without the folder, which is another one each time.
        for name in ("segment_path", "lock_path"):
            said = getattr(self._answer, name)
            if not said.startswith("/"):
                setattr(self._answer, name, str(self._directory / said))
        cut_bytes = next((int(name[3:]) for name in files if name[3:].isdecimal() and name.startswith("cut")), 0)
        self._write(files.get("header", b""), cut_bytes % (GEOMETRY.total_bytes + 1))
        verdict = await self._attached()
        removed = remove_stale(self._directory, DEPLOYMENT)
        return verdict if removed or not self._path.exists() else crash("what was left behind was not removed")

    def _write(self, header: bytes, cut_bytes: int) -> None:
        whole = header[:PAGE_BYTES].ljust(GEOMETRY.total_bytes, b"\0")
        for path, content in ((self._path, whole[: cut_bytes or None]), (self._lock, b"")):
            path.write_bytes(content)
            path.chmod(0o600)

    async def _attached(self) -> Verdict:
        stub: Any = self
        attacher = Attacher(stub, "r1", 1, self._executor, 1.0)
        pause_s = await attacher._beat()
        held = attacher.current
        if held is None:
            await attacher.close()
            return rejected("the tier stays off")
        segment = held.segment
        for blocks in ([], [0], [0, 1, 2], [3], [2**32 - 1]):
            for generation in (0, 1, 2**64 - 1):
                segment.owns(blocks, generation)
        segment.presence.may_hold(KEY)
        await attacher.close()
        return ACCEPTED if 0 < pause_s < 60 else crash(f"a heartbeat every {pause_s} s")

    async def still_serves(self) -> str:
        random, found = Random(1), rejected()
        for _ in range(50):
            found = await self.give(self.draw(random))
            if found is ACCEPTED:
                return ""
        return f"no honest segment is mapped: {found.detail}"


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    os.chmod(directory, 0o700)
    with ThreadPoolExecutor(1) as executor:
        yield Segments(directory, executor)
