"""An expander's settings and what follows from them."""

from __future__ import annotations

import pytest

from relaygr.config import ConfigError, load
from services.expander.config import ExpanderConfig

PREFIX = "RELAYGR_EXPANDER"


def test_the_defaults_make_an_expander():
    config = load(ExpanderConfig, PREFIX, {})
    assert config.geometry.total_bytes <= config.segment_bytes
    assert config.limits.pinned_blocks_max < config.limits.block_count
    assert config.limits.owner_blocks == config.limits.block_count


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("PINNED_SHARE", "1.5"),
        ("STAGING_SHARE", "0"),
        ("OWNER_SHARE", "0"),
        ("ADMISSION", "some"),
        ("OWNER_LAPSE_MS", "600"),
        ("BLOCK_BYTES", "1000"),
        ("SEGMENT_BYTES", "1000"),
        ("PIN_MS", "0"),
        ("DEPLOYMENT", "no-room"),
        ("UNKNOWN", "1"),
    ],
)
def test_settings_that_cannot_work_stop_the_start(field, value):
    with pytest.raises(ConfigError):
        load(ExpanderConfig, PREFIX, {f"{PREFIX}_{field}": value})
