"""Checkpoints: model.json and weights.safetensors, one of them or both with something wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from relaygr.errors import CorruptData
from relaygr.model import checkpoint
from tests.fuzz import raw
from tests.fuzz.subject import Subject, choose
from tests.fuzz.targets.ranker import write_model
from tests.fuzz.verdict import ACCEPTED, Verdict, rejected, without_field

HEAD = struct.Struct("<Q")


class Checkpoints(Subject):
    """Directories that a model is loaded from."""

    def __init__(self, directory: Path, files: dict[str, bytes]) -> None:
        self._directory, self._files = directory, files

    def draw(self, random: Random) -> bytes:
        files = dict(self._files)
        what = choose(random, (2, "honest"), (5, "config"), (5, "weights"), (1, "both"), (1, "missing"))
        if what in ("config", "both"):
            files[checkpoint.CONFIG_FILE] = _config(random, json.loads(files[checkpoint.CONFIG_FILE]))
        if what in ("weights", "both"):
            files[checkpoint.WEIGHTS_FILE] = _weights(random, files[checkpoint.WEIGHTS_FILE])
        if what == "missing":
            del files[random.choice(list(files))]
        return raw.packed(files)

    async def give(self, data: bytes) -> Verdict:
        files = raw.unpacked(data)
        for name in self._files:
            path = self._directory / name
            path.unlink(missing_ok=True)
            if name in files:
                path.write_bytes(files[name])
        try:
            model = checkpoint.load(self._directory)
        except CorruptData as error:
            return rejected(error) if str(error) else without_field("a checkpoint without a reason")
        assert model.spec.identity.weights_digest
        return ACCEPTED

    async def still_serves(self) -> str:
        return "" if await self.give(raw.packed(self._files)) is ACCEPTED else "an honest checkpoint is refused"


def _config(random: Random, document: dict[str, object]) -> bytes:
    if random.random() < 0.3:
        # Values that only the sizes can refuse.
        config = document["config"]
        assert isinstance(config, dict)
        config[random.choice(("layers", "width", "heads", "items", "positions"))] = random.choice((10**5, 2**31, 2**62))
        return json.dumps(document).encode()
    return raw.json_bytes(random, document)


def _weights(random: Random, written: bytes) -> bytes:
    (length,) = HEAD.unpack_from(written)
    header, data = written[HEAD.size : HEAD.size + length], written[HEAD.size + length :]
    match random.randrange(5):
        case 0:
            return raw.mutated(random, written)
        case 1:
            return HEAD.pack(random.choice((0, 1, length - 1, 2**31, 2**63))) + header + data
        case 2:
            header = raw.json_bytes(random, json.loads(header))
        case 3:
            header = raw.mutated(random, header)
        case _:
            data = random.choice((b"", data[:-1], data + b"\0", raw.column(random, data)))
    return HEAD.pack(len(header)) + header + data


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Subject]:
    write_model(directory / "honest")
    names = (checkpoint.CONFIG_FILE, checkpoint.WEIGHTS_FILE)
    files = {name: (directory / "honest" / name).read_bytes() for name in names}
    given = directory / "given"
    given.mkdir()
    yield Checkpoints(given, files)
