"""How often keys were asked for lately, in a fixed number of bytes.

A count-min sketch of 4-bit counters, two in a byte, behind a doorkeeper: the first time a key
is seen since the last halving sets one bit and no counter, so that users who come once, which
are most of them, leave the counters to the others. An estimate is never less than what was
noted since the last halving, up to `ESTIMATE_MAX`; it may be more, when keys share counters.

Source: Einziger, Friedman and Manes, "TinyLFU: a highly efficient cache admission policy", 2017.
"""

from __future__ import annotations

import hashlib

from relaygr.domain.identity import PsiKey

ROWS = 4
COUNTER_MAX = 15
ESTIMATE_MAX = COUNTER_MAX + 1
"""Of a full counter and the doorkeeper's bit."""
_HALVED = bytes((byte >> 5 << 4) | ((byte & 15) >> 1) for byte in range(256))
"""Of each byte of two counters, both halved."""


def key_hash(key: PsiKey) -> int:
    """64 bits of the whole key, the same in every process."""
    name = "\x00".join((key.owner.tenant, key.owner.user, key.model_key, str(key.anchor)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class FrequencySketch:
    """The counters of every key.

    Args:
        keys_max: keys that are to be told apart; the tables take 2.5 to 5 bytes for each.
    """

    def __init__(self, keys_max: int):
        assert keys_max > 0
        self._width = max(64, 1 << (keys_max - 1).bit_length())
        self._counters = bytearray(ROWS * self._width // 2)
        self._door = bytearray(self._width // 2)

    @property
    def size_bytes(self) -> int:
        """Bytes of the tables."""
        return len(self._counters) + len(self._door)

    def note(self, hashed: int) -> None:
        """Count a key once more, given by its `key_hash`."""
        door, places = self._places(hashed)
        bit = 1 << (door & 7)
        if not self._door[door >> 3] & bit:
            self._door[door >> 3] |= bit
            return
        values = [self._value(place) for place in places]
        least = min(values)
        if least == COUNTER_MAX:
            return
        # Only the counters that hold the estimate: the others are higher by somebody else's doing.
        for place, value in zip(places, values, strict=True):
            if value == least:
                self._counters[place >> 1] += 16 if place & 1 else 1

    def estimate(self, hashed: int) -> int:
        """About how often a key was counted, halvings considered; 0 to `ESTIMATE_MAX`."""
        door, places = self._places(hashed)
        noted = self._door[door >> 3] >> (door & 7) & 1
        return noted + min(self._value(place) for place in places)

    def halve(self) -> None:
        """Let what was counted so far count half from now on; the doorkeeper begins anew."""
        self._counters = self._counters.translate(_HALVED)
        self._door = bytearray(len(self._door))

    def _value(self, place: int) -> int:
        byte = self._counters[place >> 1]
        return byte >> 4 if place & 1 else byte & 15

    def _places(self, hashed: int) -> tuple[int, list[int]]:
        """The doorkeeper's bit, and one counter of each row, by double hashing."""
        first, step, mask = hashed & 0xFFFFFFFF, hashed >> 32 | 1, self._width - 1
        door = (first + ROWS * step) % (8 * len(self._door))
        return door, [row * self._width + (first + row * step & mask) for row in range(ROWS)]
