"""The shared-memory segment of a host: one expander owns it, rankers map it.

Control travels by protobuf; bytes move here. The owner stamps a generation on every
block before it grants it, so that a reader can tell, before and after its copy, that the
blocks are still the ones it was promised, and counts the entries, so that a reader knows
without asking what is not there. Standard library, numpy, xxhash, and the native
kernels where they are built.

Source: design, section 3 (expander).
"""

from relaygr.segment.copying import Transfer, copy_in, copy_out
from relaygr.segment.digest import ContentDigest
from relaygr.segment.identity import identity_bytes
from relaygr.segment.layout import Geometry, SegmentRejected
from relaygr.segment.locks import LockTable, OwnerLock
from relaygr.segment.mapped import MappedSegment
from relaygr.segment.owned import OwnedSegment, remove_stale
from relaygr.segment.presence import PresenceFilter

__all__ = [
    "ContentDigest",
    "Geometry",
    "LockTable",
    "MappedSegment",
    "OwnedSegment",
    "OwnerLock",
    "PresenceFilter",
    "SegmentRejected",
    "Transfer",
    "copy_in",
    "copy_out",
    "identity_bytes",
    "remove_stale",
]
