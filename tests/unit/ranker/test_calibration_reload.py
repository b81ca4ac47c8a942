"""What a reload is expected to take has the way from its stored form in it."""

import torch

from relaygr.domain.chain import PAGE_TOKENS
from services.ranker.adapters.calibration import _reload_byte_ns
from services.ranker.adapters.device.cpu import CpuDevice
from services.ranker.adapters.dram_format_int8 import Int8Codec

ELEMENTS = PAGE_TOKENS * 512


class SlowCodec(Int8Codec):
    """Decodes everything many times."""

    def decode(self, stored, page):
        for _ in range(50):
            super().decode(stored, page)


def test_decoding_counts_once_for_each_byte_of_the_device():
    device = CpuDevice()
    arena = device.allocate(8, ELEMENTS, torch.float32, 8).normal_()
    as_is = _reload_byte_ns(arena, device, None)
    codec, slow = (made("float32", ELEMENTS, None) for made in (Int8Codec, SlowCodec))
    assert _reload_byte_ns(arena, device, slow) > 2 * _reload_byte_ns(arena, device, codec) > as_is
