"""From a user to a slot: the one hash that router, client and simulator share.

Source: design, section 2 (slot).
"""

from __future__ import annotations

import hashlib

from relaygr.domain.identity import UserKey

SLOTS = 1024
"""Slots of the map. 1,024 over 100 instances are about ten each, so that loads even out
to within a slot's weight, and the table stays one small etcd value."""


def slot_of(user: UserKey) -> int:
    """The user's slot, 0 <= slot < SLOTS; independent of process, platform and version."""
    text = f"{user.tenant}\x00{user.user}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") % SLOTS
