"""Protobuf messages by their descriptors: random ones, and valid ones with something wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import DecodeError, Message

from relaygr.domain.ticket import sign
from relaygr.v1.common_pb2 import InlineHistory, TicketClaims
from tests.fuzz import raw

INNER = {"relaygr.v1.History.inline": InlineHistory, "relaygr.v1.Ticket.claims": TicketClaims}
"""Bytes that hold a message of their own."""
TICKET = "relaygr.v1.Ticket"
DEPTH_MAX = 4
_RANGES = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_NUMBERED = b"\x08\x01\xf8\x3f\x01\xfa\x3f\x03abc\x9d\x40\x00\x00\x00\x00"
"""A field 1 of the wrong kind now and then, and the unknown fields 1023 and 1033."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A value within a message."""

    holder: Any
    field: Any
    index: int | None

    @property
    def value(self) -> Any:
        found = getattr(self.holder, self.field.name)
        return found if self.index is None else found[self.index]

    def put(self, value: Any) -> None:
        if self.index is not None:
            getattr(self.holder, self.field.name)[self.index] = value
        else:
            setattr(self.holder, self.field.name, value)

    def drop(self) -> None:
        if self.index is None:
            self.holder.ClearField(self.field.name)
        else:
            del getattr(self.holder, self.field.name)[self.index]


def spots(message: Message) -> Iterator[Spot]:
    """Every value that is set, outermost first."""
    for field, value in message.ListFields():
        if field.is_repeated:
            for index in range(min(len(value), 32)):
                yield Spot(message, field, index)
                if field.message_type:
                    yield from spots(value[index])
        else:
            yield Spot(message, field, None)
            if field.message_type:
                yield from spots(value)


def filled(random: Random, message: Message, depth: int = 0) -> Message:
    """Set some of a message's fields to anything."""
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.4:
            _set(random, message, field, depth)
    return message


def changed(random: Random, message: Message, key: bytes) -> None:
    """Make something wrong: a value, a field too few, too many or set twice. Most tickets stay genuine under `key`."""
    found = list(spots(message))
    if not found or random.random() < 0.15:
        holders = [spot.value for spot in found if spot.field.message_type]
        holder = random.choice(holders) if holders and random.random() < 0.5 else message
        if holder.DESCRIPTOR.fields:
            _set(random, holder, random.choice(holder.DESCRIPTOR.fields), DEPTH_MAX - 1)
        return
    within = [spot for spot in found if spot.field.full_name in INNER]
    spot = random.choice(within if within and random.random() < 0.25 else found)
    inner = INNER.get(spot.field.full_name)
    if inner is not None and random.random() < 0.9:
        _change_inner(random, spot, inner, key)
    elif random.random() < 0.15:
        spot.drop()
    elif spot.field.is_repeated and random.random() < 0.3:
        _repeat(random, spot)
    elif spot.field.message_type:
        spot.value.Clear()
        filled(random, spot.value, DEPTH_MAX - 1)
    else:
        spot.put(_scalar(random, spot.field, spot.value))


def mutated_bytes(random: Random, data: bytes, other: bytes) -> bytes:
    """A serialized message that is none any more, or another one."""
    match random.randrange(8):
        case 0:
            return data[: random.randrange(len(data) + 1)]
        case 1:
            return data + other
        case 2:
            at = random.randrange(len(data) + 1)
            return data[:at] + other[random.randrange(len(other) + 1) :]
        case 3:
            return data + _NUMBERED
        case 4:
            # Field 2, of a length that nobody has memory for.
            return data + b"\x12" + random.choice((b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01", b"\x80\x80\x04"))
        case 5:
            return data + b"\x12\x04\xff\xfe\x80\xc0"  # No UTF-8.
        case 6:
            return data + b"\x0b" * random.choice((10, 150)) + b"\x0c" * 10  # Groups within groups.
        case _:
            return raw.mutated(random, data)


def smaller(message: Message) -> Iterator[Message]:
    """The message with one value less, or with a shorter one."""
    for place in range(sum(1 for _ in spots(message))):
        for is_drop in (True, False):
            copy = type(message)()
            copy.CopyFrom(message)
            spot = list(spots(copy))[place]
            if is_drop:
                spot.drop()
            elif isinstance(spot.value, str | bytes) and len(spot.value) > 1:
                spot.put(spot.value[: len(spot.value) // 2])
            else:
                continue
            yield copy


def _change_inner(random: Random, spot: Spot, kind: Any, key: bytes) -> None:
    try:
        inside = kind.FromString(spot.value)
    except DecodeError:
        return
    if random.random() < 0.1:
        written = mutated_bytes(random, spot.value, inside.SerializeToString())
    else:
        changed(random, inside, key)
        written = inside.SerializeToString()
    if spot.holder.DESCRIPTOR.full_name == TICKET and random.random() < 0.85:
        spot.holder.mac = sign(written, key)
    spot.put(written)


def _set(random: Random, message: Any, field: Any, depth: int) -> None:
    if field.is_repeated:
        values = getattr(message, field.name)
        for _ in range(random.choice((1, 2, 3, 70))):
            if field.message_type is None:
                values.append(_scalar(random, field, None))
            elif depth < DEPTH_MAX:
                filled(random, values.add(), depth + 2)
    elif field.message_type is None:
        setattr(message, field.name, _scalar(random, field, None))
    elif depth < DEPTH_MAX:
        inner = getattr(message, field.name)
        inner.SetInParent()
        filled(random, inner, depth + 1)


def _repeat(random: Random, spot: Spot) -> None:
    values: Any = getattr(spot.holder, spot.field.name)
    for _ in range(random.choice((1, 2, 65, 500))):
        if spot.field.message_type is None:
            values.append(spot.value)
        else:
            values.add().CopyFrom(spot.value)


def _scalar(random: Random, field: Any, before: Any) -> Any:
    """A value of the field's type, at an edge of it or near what it was."""
    match field.cpp_type:
        case Field.CPPTYPE_STRING if field.type == Field.TYPE_BYTES:
            return _bytes(random, before or b"")
        case Field.CPPTYPE_STRING:
            return raw.text(random)
        case Field.CPPTYPE_BOOL:
            return not before
        case Field.CPPTYPE_DOUBLE | Field.CPPTYPE_FLOAT:
            return random.choice(raw.REAL)
        case Field.CPPTYPE_ENUM:
            return random.choice((0, 1, 2, 99, 2**31 - 1, -1))
        case _:
            least, most = _RANGES[field.cpp_type]
            near = (before or 0) + random.choice((-1, 1, 7))
            wanted = random.choice((*raw.WHOLE, near, near, near, random.randrange(least, most)))
            return min(max(wanted, least), most)


def _bytes(random: Random, before: bytes) -> bytes:
    share = random.random()
    if share < 0.02:
        return bytes(raw.LONG_BYTES)
    if share < 0.2:
        return random.randbytes(random.choice((0, 1, 8, 15, 16, 17, 32, 33)))
    return raw.column(random, before)


def has_field(message: Any, path: str) -> bool:
    """Whether a dotted path names a field of a message, also one inside bytes that hold a message."""
    descriptor = message.DESCRIPTOR
    for step in path.split("."):
        if descriptor is None:
            return False
        field = descriptor.fields_by_name.get(step)
        if field is None:
            return False
        descriptor = field.message_type or getattr(INNER.get(field.full_name), "DESCRIPTOR", None)
    return True
