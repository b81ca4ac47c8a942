"""The segment of this boot."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from relaygr.segment import OwnedSegment, remove_stale
from services.expander.config import ExpanderConfig

_log = logging.getLogger(__name__)


def new_boot_id() -> str:
    """Tells one life of the expander from the next."""
    return secrets.token_hex(16)


def create_segment(config: ExpanderConfig, boot_id: str) -> OwnedSegment:
    """Remove what earlier boots left behind, then allocate.

    Raises:
        OSError: the directory has no room or may not be written.
    """
    directory = Path(config.segment_directory)
    removed = remove_stale(directory, config.deployment)
    if removed:
        _log.info("removed %d segment(s) that an earlier boot left behind", removed)
    segment = OwnedSegment(directory, config.deployment, boot_id, config.geometry)
    _log.info("segment %s: %d blocks of %d bytes", segment.path, config.geometry.block_count, config.block_bytes)
    _log.info("huge pages: %s", segment.huge_pages)
    return segment
