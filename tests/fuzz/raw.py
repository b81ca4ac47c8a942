"""Bytes, text and JSON with something wrong."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

LONG_BYTES = 70_000
TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "default",
    "../../etc/passwd",
    "%s%n",
    "é" * 40,
    "\U0001f600" * 20,
    "\u202e\ufeff",
    "null",
    "NaN",
    "-1",
    "1e999",
    "a" * 63,
    "a" * 64,
    "a" * 65,
    "a" * 128,
    "a" * 129,
    "a" * 257,
    "x" * 5_000,
    "<script>",
    "\n",
)
WHOLE = (0, 1, -1, 2, 127, 128, 255, 256, 1023, 1024, 1025, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62)
WHOLE += (2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63))
REAL = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e18, 1e300, float("inf"), float("-inf"), float("nan"))


def text(random: Random) -> str:
    """A text that somebody did not expect."""
    if random.random() < 0.8:
        return random.choice(TEXTS)
    return "".join(chr(random.choice((random.randrange(1, 128), random.randrange(160, 0xD7FF)))) for _ in range(9))


def column(random: Random, data: bytes) -> bytes:
    """A column of numbers with something wrong: length, order, or a value at the edge of its type."""
    match random.randrange(7):
        case 0:
            return data[: random.randrange(len(data) + 1)]
        case 1:
            return data + random.randbytes(random.choice((1, 3, 4, 8, 16)))
        case 2:
            return data[-8:] + data[:-8]
        case 3:
            whole = random.choice(WHOLE) & (2**64 - 1)
            return _put(random, data, struct.pack("<Q", whole))
        case 4:
            return _put(random, data, struct.pack("<f", random.choice((float("nan"), float("inf"), 3e38, -1.0))))
        case 5:
            return b"" if random.random() < 0.5 else bytes(len(data))
        case _:
            return mutated(random, data)


def _put(random: Random, data: bytes, value: bytes) -> bytes:
    if len(data) < len(value):
        return value
    begin = random.randrange(len(data) // len(value)) * len(value)
    return data[:begin] + value + data[begin + len(value) :]


def mutated(random: Random, data: bytes) -> bytes:
    """Bytes flipped, cut, doubled or put in."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(changed) + 1)
        match random.randrange(8):
            case 0 | 1 if changed:
                changed[at % len(changed)] ^= 1 << random.randrange(8)
            case 2 if changed:
                changed[at % len(changed)] = random.choice((0, 1, 127, 128, 255))
            case 3:
                del changed[at:]
            case 4:
                del changed[at : at + random.randrange(1, 16)]
            case 5:
                changed[at:at] = random.randbytes(random.randrange(1, 9))
            case 6:
                begin = random.randrange(len(changed) + 1)
                changed[at:at] = changed[begin : begin + random.randrange(1, 64)]
            case _:
                # As a length this is the most that a varint or a word can say.
                changed[at : at + 4] = random.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x00"))
    return bytes(changed)


def lines(random: Random, whole: bytes) -> bytes:
    """Lines left out, doubled, or exchanged."""
    parts = whole.split(b"\n")
    at, other = random.randrange(len(parts)), random.randrange(len(parts))
    match random.randrange(4):
        case 0:
            del parts[at]
        case 1:
            parts.insert(other, parts[at])
        case 2:
            parts[at], parts[other] = parts[other], parts[at]
        case _:
            parts[at] = mutated(random, parts[at])
    return b"\n".join(parts)


def json_value(random: Random, depth: int = 0) -> Any:
    """Any value that JSON can say, and some that only Python's JSON can."""
    kind = random.randrange(9 if depth < 3 else 6)
    if kind == 0:
        return random.choice((*WHOLE, 10**30))
    if kind == 1:
        return random.choice(REAL)
    if kind in (2, 3):
        return text(random)
    if kind in (4, 5):
        return random.choice((None, True, False))
    if kind == 6:
        return [json_value(random, depth + 1) for _ in range(random.randrange(4))]
    return {text(random)[:20]: json_value(random, depth + 1) for _ in range(random.randrange(4))}


def json_changed(random: Random, value: Any) -> Any:
    """A JSON document with one value of it changed, left out or added."""
    spots = list(_spots(value))
    if not spots or random.random() < 0.05:
        return json_value(random)
    holder, key = random.choice(spots)
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[text(random)[:30]] = json_value(random)
        case 2 if isinstance(holder[key], int | float):
            holder[key] = random.choice(WHOLE + REAL)
        case 3 if isinstance(holder[key], str):
            holder[key] = text(random)
        case 4 if isinstance(holder[key], list):
            holder[key] = holder[key] * random.choice((0, 2, 3))
        case _:
            holder[key] = json_value(random)
    return value


def json_bytes(random: Random, value: Any) -> bytes:
    """A document with something wrong in its values or in its text."""
    value = json.loads(json.dumps(value))
    share = random.random()
    for _ in range(0 if share < 0.2 else random.choice((1, 1, 2, 4))):
        value = json_changed(random, value)
    written = json.dumps(value).encode()
    if share > 0.85:
        written = mutated(random, written)
    if share > 0.98:
        written = b"[" * random.choice((50, 100_000)) + written
    return written


def _spots(value: Any) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in list(inner)[:200]:
        yield value, key
        yield from _spots(each)


def packed(files: dict[str, bytes]) -> bytes:
    """Several files as one input."""
    heads = [f"{name} {len(data)}" for name, data in files.items()]
    return "\n".join(heads).encode() + b"\n\n" + b"".join(files.values())


def unpacked(data: bytes) -> dict[str, bytes]:
    """The inverse of `packed`; what does not fit is left out."""
    head, _, rest = data.partition(b"\n\n")
    files: dict[str, bytes] = {}
    for line in head.decode("ascii", "replace").splitlines():
        name, _, length = line.rpartition(" ")
        if name.replace("_", "").replace(".", "").isalnum() and length.isdecimal() and len(length) < 9:
            files[name], rest = rest[: int(length)], rest[int(length) :]
    return files
