"""What int8 codes keep, and that every way of making them leaves the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from relaygr.native import LEVELS, load
from services.ranker.adapters.dram_format_int8 import GROUP_ELEMENTS, Int8Codec

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
KERNEL_LEVELS = tuple(isa for isa in LEVELS if (found := load(isa_max=isa)) is not None and found.isa == isa)
LEAST = 2.0**-100

of_each_dtype = pytest.mark.parametrize("dtype", DTYPES)
of_each_level = pytest.mark.parametrize("level", KERNEL_LEVELS)


def codec_of(dtype: str, elements: int, level: str = "") -> Int8Codec:
    """By the kernels of a level, or by numpy."""
    return Int8Codec(dtype, elements, load(isa_max=level) if level else None)


def bytes_of(values: torch.Tensor) -> np.ndarray:
    return values.view(torch.uint8).numpy()


def aligned(size: int, offset: int = 0) -> np.ndarray:
    """Bytes that begin so far behind a cache line."""
    room = np.full(size + 128, 0xA5, np.uint8)
    first = -room.ctypes.data % 64 + offset
    return room[first : first + size]


def there_and_back(values: torch.Tensor, dtype: str, level: str = "") -> tuple[np.ndarray, torch.Tensor]:
    """The stored bytes, and the page that they stand for."""
    codec = codec_of(dtype, values.numel(), level)
    stored, page = aligned(codec.stored_bytes), aligned(codec.page_bytes)
    assert codec.encode(bytes_of(values), stored)
    codec.decode(stored, page)
    return stored, torch.from_numpy(page).view(DTYPES[dtype]).clone()


def random_page(dtype: str, groups: int, seed: int) -> torch.Tensor:
    """Groups of very different magnitudes; some all zero, some in part."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(groups, GROUP_ELEMENTS, generator=random)
    values *= torch.exp2(torch.randint(-20, 20, (groups, 1), generator=random).float())
    values[::7] = 0
    values[1::7, 40:] = 0
    return values.flatten().to(DTYPES[dtype])


@st.composite
def pages(draw, dtype):
    """Any finite bits: subnormal numbers, both zeros and the largest there are, beside ordinary numbers."""
    groups = draw(st.integers(1, 5))
    bits = np.uint16 if dtype == "bfloat16" else np.uint32
    drawn = draw(hnp.arrays(bits, groups * GROUP_ELEMENTS))
    infinity = {"bfloat16": 0x7F80, "float32": 0x7F800000}[dtype]
    drawn[drawn & infinity == infinity] &= ~np.array(infinity, bits)
    if draw(st.booleans()):
        drawn[: GROUP_ELEMENTS // 2] = draw(st.sampled_from([infinity - 1, 1, 0, infinity // 3]))
    return torch.from_numpy(drawn.view(np.uint8)).view(DTYPES[dtype])


@of_each_dtype
@given(data=st.data())
def test_what_comes_back_is_within_half_a_step_of_its_group(dtype, data):
    values = data.draw(pages(dtype))
    _, back = there_and_back(values, dtype)
    exact = values.double().view(-1, GROUP_ELEMENTS)
    bounds = exact.abs().amax(1, keepdim=True)
    # Half a step, and what the arithmetic and the dtype round; all of a group that is too small to be kept.
    rounding = 2.0**-8 if dtype == "bfloat16" else 2.0**-22
    allowed = torch.where(bounds < LEAST, bounds, bounds * (0.5 / 127 + rounding))
    assert ((back.double().view(-1, GROUP_ELEMENTS) - exact).abs() <= allowed).all()


@of_each_dtype
@given(data=st.data())
def test_what_was_expanded_once_gives_the_same_bytes_again(dtype, data):
    stored, back = there_and_back(data.draw(pages(dtype)), dtype)
    again, back_again = there_and_back(back, dtype)
    assert np.array_equal(stored, again)
    assert np.array_equal(bytes_of(back), bytes_of(back_again))


@of_each_dtype
@pytest.mark.parametrize("level", ["", *KERNEL_LEVELS])
@given(data=st.data())
def test_a_thread_that_flushes_subnormal_numbers_leaves_the_same_bytes(level, dtype, data):
    values = data.draw(pages(dtype))
    stored, back = there_and_back(values, dtype, level)
    torch.set_flush_denormal(True)
    try:
        flushed, back_flushed = there_and_back(values, dtype, level)
    finally:
        torch.set_flush_denormal(False)
    assert np.array_equal(stored, flushed) and np.array_equal(bytes_of(back), bytes_of(back_flushed))


@of_each_dtype
def test_every_bound_and_code_is_its_own_image(dtype):
    """All bounds of bfloat16, and as many of float32, each with all codes."""
    bounds = torch.arange(27 << 7, 0x7F80, dtype=torch.int32).to(torch.int16)
    bounds = bounds.view(torch.bfloat16).float()
    if dtype == "float32":
        random = np.random.default_rng(1)
        bounds = torch.from_numpy((random.integers(27 << 23, 0x7F800000, len(bounds))).astype(np.uint32).view("f4"))
    codes = torch.arange(-126, 127).float()
    for chunk in codes.split(GROUP_ELEMENTS - 1):
        values = torch.zeros(len(bounds), GROUP_ELEMENTS)
        values[:, : len(chunk)] = chunk * (bounds * np.float32(1 / np.float32(127)))[:, None]
        values[:, -1] = bounds
        values = values.flatten().to(DTYPES[dtype])
        stored, back = there_and_back(values, dtype)
        found = stored[-len(bounds) * GROUP_ELEMENTS :].view(np.int8).reshape(len(bounds), -1)
        assert (found[:, -1] == 127).all() and (found[:, : len(chunk)] == chunk.numpy()).all()
        assert torch.equal(back, values)


@of_each_level
@of_each_dtype
@settings(deadline=None)
@given(data=st.data())
def test_the_kernels_leave_the_bytes_that_numpy_leaves(level, dtype, data):
    values = data.draw(pages(dtype))
    (ours, our_page), (theirs, their_page) = (there_and_back(values, dtype, way) for way in (level, ""))
    assert np.array_equal(ours, theirs) and np.array_equal(bytes_of(our_page), bytes_of(their_page))


@of_each_level
@of_each_dtype
@pytest.mark.parametrize("offset", [0, 2, 33])
def test_pages_may_begin_anywhere_and_nothing_beside_them_is_written(level, dtype, offset):
    values = random_page(dtype, 2100, seed=4)
    codec = codec_of(dtype, values.numel(), level)
    expected, expected_page = there_and_back(values, dtype)
    sizes = (codec.page_bytes, codec.stored_bytes, codec.page_bytes)
    source, stored, page = (aligned(size + 64, offset) for size in sizes)
    source[: codec.page_bytes] = bytes_of(values)
    assert codec.encode(source[: codec.page_bytes], stored[: codec.stored_bytes])
    codec.decode(stored[: codec.stored_bytes], page[: codec.page_bytes])
    assert np.array_equal(stored[: codec.stored_bytes], expected)
    assert np.array_equal(page[: codec.page_bytes], bytes_of(expected_page))
    assert (stored[codec.stored_bytes :] == 0xA5).all() and (page[codec.page_bytes :] == 0xA5).all()


@of_each_dtype
@pytest.mark.parametrize("level", ["", *KERNEL_LEVELS])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_wherever_it_lies(level, dtype, value):
    codec = codec_of(dtype, 3000 * GROUP_ELEMENTS, level)
    stored = aligned(codec.stored_bytes)
    for place in (0, 63, 64 * 1500 + 17, 64 * 3000 - 1):
        page = random_page(dtype, 3000, seed=place)
        page[place] = value
        assert not codec.encode(bytes_of(page), stored), place


@of_each_dtype
@pytest.mark.parametrize("level", ["", *KERNEL_LEVELS])
def test_zeros_stay_zeros(level, dtype):
    values = random_page(dtype, 70, seed=2)
    values[5] = -0.0
    _, back = there_and_back(values, dtype, level)
    assert not back[values == 0].view(torch.uint8).any(), "positive zero, to the bit"


def test_the_stored_form_is_about_half_of_bfloat16():
    codec = codec_of("bfloat16", 128 * 1024)
    assert codec.stored_bytes / codec.page_bytes == 66 / 128


@pytest.mark.parametrize(("dtype", "elements"), [("int8", 128), ("bfloat16", 100)])
def test_pages_without_codes_are_refused_by_the_name_of_the_setting(dtype, elements):
    with pytest.raises(ValueError, match="dram_dtype"):
        Int8Codec(dtype, elements, None)
