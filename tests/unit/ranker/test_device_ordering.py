"""Copies and compute of an accelerator: what the waits order, and that each of them is needed.

The real adapter runs, on CPU tensors, over a recorder of happens-before.
"""

import pytest
import torch

from services.ranker.adapters.device.accelerator import AcceleratorDevice
from services.ranker.adapters.device.ordering import OrderedCopies, Pace
from tests.unit.ranker.device_recorder import Race, Recorder

ELEMENTS = 8


class World:
    """An accelerator with a small arena."""

    def __init__(self, *left_out, pages=6, psi_pages_max=1):
        self.recorder = Recorder(*left_out)
        self.device = AcceleratorDevice(torch.device("cpu"), self.recorder)
        self.arena = self.device.allocate(pages, ELEMENTS, torch.float32, psi_pages_max)

    def compute(self, what, page, *, writes=False):
        """A kernel on one page."""
        touched = (self.arena[page],)
        with self.recorder.stream(self.recorder.compute):
            self.recorder.kernel(what, **{"writes" if writes else "reads": touched})

    def load(self, page, value):
        """What a reload does: the host fills staging, the device takes it."""
        staged = self.device.stage(self.arena, [page])
        buffer = self.device._staging.tensor(staged.slots[0])
        self.recorder.on_host("loading", writes=(buffer,))
        staged.views[0][:] = torch.full((ELEMENTS,), float(value)).view(torch.uint8).numpy()
        with self.recorder.listening():
            self.device.upload(self.arena, [page], staged)
        self.device.release(staged)

    def store(self, page):
        """What a spill does: the device fills staging, the host reads it."""
        staged = self.device.stage(self.arena, [page])
        with self.recorder.listening():
            self.device.download(self.arena, [page], staged)
        buffer = self.device._staging.tensor(staged.slots[0])
        self.recorder.on_host("storing", reads=(buffer,))
        content = staged.views[0].copy()
        self.device.release(staged)
        return torch.from_numpy(content).view(torch.float32)


def upload_into_pages_that_kernels_still_write(world):
    world.compute("cancelled production", 0, writes=True)
    world.load(0, 1)


def upload_into_pages_that_kernels_still_read(world):
    world.compute("rank on evicted psi", 0)
    world.load(0, 1)


def compute_on_uploaded_pages(world):
    world.load(0, 1)
    world.compute("rank on reloaded psi", 0)


def staging_is_filled_again(world):
    for page in range(5):
        world.load(page, page)


def download_of_pages_just_written(world):
    world.compute("production", 0, writes=True)
    world.store(0)


def compute_after_a_download(world):
    world.store(0)
    world.compute("production in the same pages", 0, writes=True)


def upload_after_a_download(world):
    world.store(0)
    world.load(0, 1)


def reload_of_what_was_spilled(world):
    world.compute("production", 0, writes=True)
    world.store(0)
    world.load(1, 2)
    world.compute("rank", 1)
    world.compute("append", 1, writes=True)
    world.store(1)


HISTORIES = [
    upload_into_pages_that_kernels_still_write,
    upload_into_pages_that_kernels_still_read,
    compute_on_uploaded_pages,
    staging_is_filled_again,
    download_of_pages_just_written,
    compute_after_a_download,
    upload_after_a_download,
    reload_of_what_was_spilled,
]


@pytest.mark.parametrize("history", HISTORIES)
def test_nothing_races(history):
    history(World())


@pytest.mark.parametrize(
    ("left_out", "history"),
    [
        ("up.wait_event", upload_into_pages_that_kernels_still_write),
        ("up.wait_event", upload_into_pages_that_kernels_still_read),
        ("up.synchronize", compute_on_uploaded_pages),
        ("up.synchronize", staging_is_filled_again),
        ("down.wait_event", download_of_pages_just_written),
        ("down.synchronize", compute_after_a_download),
        ("down.synchronize", upload_after_a_download),
    ],
)
def test_each_wait_is_needed(left_out, history):
    with pytest.raises(Race):
        history(World(left_out))


def test_a_download_reads_what_compute_wrote_and_an_upload_is_what_it_reads():
    world = World()
    world.load(2, 7)
    assert world.store(2).tolist() == [7.0] * ELEMENTS
    assert world.store(3).tolist() == [0.0] * ELEMENTS


def test_other_users_compute_does_not_wait_for_a_copy():
    world = World()
    world.load(0, 1)
    up = world.recorder.streams["up"]
    assert up.clock["up"] and "up" not in world.recorder.compute.clock


def test_a_copy_that_cannot_be_queued_still_waits_for_those_that_were():
    world = World()
    staged = world.device.stage(world.arena, [0, 1])
    buffers = [world.device._staging.tensor(slot) for slot in staged.slots]
    pairs = [(world.arena[0], buffers[0]), (world.arena[1], torch.zeros(ELEMENTS + 1))]
    with world.recorder.listening(), pytest.raises(RuntimeError):
        world.device._up.copy(pairs)
    world.device.release(staged)
    # The first copy reads its buffer no more.
    world.recorder.on_host("loading something else", writes=(buffers[0],))


def test_the_host_is_one_step_ahead_of_the_device_and_none_after_the_last():
    recorder = Recorder()
    pace, ahead = Pace(recorder, recorder.compute), []
    for is_last in (False, False, False, True, False, True):
        recorder.kernel("step")
        pace.step_ended(is_last)
        ahead.append(recorder.compute.clock["compute"] - recorder.host.get("compute", 0))
    assert ahead == [1, 1, 1, 0, 1, 0]


def test_whoever_computes_uses_the_devices_stream_whatever_the_thread_had():
    world = World()
    with world.recorder.stream(world.recorder.streams["up"]):
        world.device.bind()
        assert world.recorder.current is world.recorder.compute
    assert world.recorder.devices[-1] == world.device.torch_device


def test_torchs_own_cpu_streams_carry_a_copy():
    """The names exist in a backend that is here and do what they say; on the CPU they order nothing."""
    copies = OrderedCopies(torch.cpu, torch.device("cpu"), torch.cpu.current_stream(), torch.cpu.Stream())
    target, source = torch.zeros(4), torch.arange(4.0)
    copies.copy([(target, source)])
    Pace(torch.cpu, torch.cpu.current_stream()).step_ended(True)
    assert target.equal(source)
