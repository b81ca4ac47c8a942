"""What a watch tells its owner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Listed:
    """Everything under the prefix at one revision; replaces whatever was known before.

    Comes first, and again after a gap: a compaction, an etcd that lost its data, or a
    reconciliation that found a difference.
    """

    values: dict[str, bytes]
    """Key to value, in key order."""


@dataclass(frozen=True, slots=True)
class Put:
    """A key was written."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key was deleted, or its lease ended."""

    key: str


Change = Listed | Put | Deleted
