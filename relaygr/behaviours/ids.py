"""Ids of users and items as 64-bit integers, the same in every process.

An integer stays what it is; any other text is hashed. So a log may mix them, a caller can
compute the id of an item without the log, and the decimals of an id name the same thing
as the text it was made from: id_of(str(id_of(text))) == id_of(text).
"""

from __future__ import annotations

import hashlib

INTEGER_END = 1 << 63
"""Integers in (-INTEGER_END, INTEGER_END) stay as they are."""
HASH_FIRST = 1 << 62
"""Hashes are in [HASH_FIRST, INTEGER_END): beyond the integers that logs use in practice."""


def id_of(text: str) -> int:
    """The id of a user or item: itself when it is an integer in plain decimals, else a 63-bit hash."""
    if text.isascii() and (text.isdigit() or text[:1] == "-"):
        try:
            value = int(text)
        except ValueError:
            return _hash(text)
        # "007" and "7" are different texts, so only the plain form counts as an integer.
        if -INTEGER_END < value < INTEGER_END and str(value) == text:
            return value
    return _hash(text)


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"relaygr-id").digest()
    return HASH_FIRST | (int.from_bytes(digest, "little") & (HASH_FIRST - 1))
