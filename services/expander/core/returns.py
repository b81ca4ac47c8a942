"""How long users take to come back, learned from those who did.

A table with one place for a hash remembers when each key was seen last, also of keys that
have no entry; a place is taken over by whoever falls there next. The gaps of those that were
still remembered go into a histogram of quarter octaves, which forgets by halving.
"""

from __future__ import annotations

from array import array

QUANTILE = 0.8
"""Of the gaps, where `usual_ns` lies. On the traces of `bench.tiers`, 0.8 to 0.9 are close; the higher ones keep more
of the dead, which costs up to 1.7 % where room is nearly enough."""
GAPS_LEAST = 32
"""Before so many were seen nothing is said of them."""
GAPS_MAX = 512
"""At so many, all count half."""
_BUCKETS = 4 * 65
_RENEWED_EVERY = 16


class ReturnGaps:
    """Gaps between the times a key is seen.

    Args:
        keys_max: keys to remember; the table takes 32 to 64 bytes for each.
    """

    def __init__(self, keys_max: int):
        assert keys_max > 0
        slots = max(64, 1 << (2 * keys_max - 1).bit_length())
        self._mask = slots - 1
        self._hashes = array("Q", bytes(8 * slots))
        self._seen_ns = array("q", bytes(8 * slots))
        self._counts = array("I", bytes(4 * _BUCKETS))
        self._gaps = 0
        self._until_renewal = GAPS_LEAST
        self._usual_ns: int | None = None

    @property
    def usual_ns(self) -> int | None:
        """Most who come back have done so after this long, nanoseconds; None before that is known."""
        return self._usual_ns

    def seen(self, hashed: int, now_ns: int, *, is_return: bool) -> None:
        """A key, given by its `key_hash`, was seen.

        Args:
            hashed: of the key.
            now_ns: when.
            is_return: whether the gap since it was seen last is one that counts.
        """
        slot = (hashed ^ hashed >> 32) & self._mask
        if self._hashes[slot] == hashed and is_return:
            self._count(now_ns - self._seen_ns[slot])
        self._hashes[slot] = hashed
        self._seen_ns[slot] = now_ns

    def _count(self, gap_ns: int) -> None:
        self._counts[_bucket_of(gap_ns)] += 1
        self._gaps += 1
        self._until_renewal -= 1
        if self._until_renewal <= 0:
            self._until_renewal = _RENEWED_EVERY
            self._usual_ns = self._quantile_ns()
        if self._gaps >= GAPS_MAX:
            self._counts = array("I", (count // 2 for count in self._counts))
            self._gaps = sum(self._counts)

    def _quantile_ns(self) -> int:
        wanted, passed = QUANTILE * self._gaps, 0
        for bucket, count in enumerate(self._counts):
            passed += count
            if passed >= wanted:
                return _end_of(bucket)
        raise AssertionError("gaps are miscounted")


def _bucket_of(gap_ns: int) -> int:
    octave = max(3, gap_ns.bit_length())
    return 4 * octave + (gap_ns >> octave - 3 & 3)


def _end_of(bucket: int) -> int:
    """The least gap that is in a later bucket."""
    octave, quarter = divmod(bucket, 4)
    return (4 + quarter + 1) << octave - 3
