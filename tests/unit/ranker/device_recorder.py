"""A backend that records what happens before what, and refuses a race.

It stands where `torch.get_device_module("cuda")` would. Every stream and the host have a
vector clock; an access is right when all accesses in conflict with it happened before it,
by the events that were waited for and by nothing else. The device does everything as late
as it may: nothing is complete because time has passed.

Copies are seen as torch does them, not as somebody reports them: a mode of torch hears
each `copy_`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.overrides import TorchFunctionMode

Clock = dict[str, int]
HOST = "host"


class Race(AssertionError):
    """Two accesses of the same bytes, one of them a write, that nothing orders."""


def joined(*clocks: Clock) -> Clock:
    names = {name for clock in clocks for name in clock}
    return {name: max(clock.get(name, 0) for clock in clocks) for name in names}


@dataclass
class Access:
    who: str
    at: int
    what: str


@dataclass
class Bytes:
    """Who touched some bytes."""

    written: Access | None = None
    read: list[Access] = field(default_factory=list)


class Stream:
    def __init__(self, recorder: Recorder, name: str):
        self.recorder, self.name = recorder, name
        self.clock: Clock = {}

    def wait_event(self, event: Event) -> None:
        if f"{self.name}.wait_event" not in self.recorder.left_out:
            self.clock = joined(self.clock, event.clock)


class Event:
    def __init__(self, recorder: Recorder):
        self.recorder = recorder
        self.clock: Clock = {}
        self.stream = ""

    def record(self, stream: Stream) -> None:
        self.stream, self.clock = stream.name, dict(stream.clock)

    def synchronize(self) -> None:
        if f"{self.stream}.synchronize" not in self.recorder.left_out:
            self.recorder.host = joined(self.recorder.host, self.clock)


class Recorder:
    """A device module with three streams: compute, then up and down as they are made.

    Args:
        left_out: waits that do nothing, as "up.wait_event" or "down.synchronize".
        free_bytes: of the device.
    """

    def __init__(self, *left_out: str, free_bytes: int = 1 << 40):
        self.left_out = left_out
        self.free_bytes = free_bytes
        self.host: Clock = {}
        self.compute = Stream(self, "compute")
        self.streams = {"compute": self.compute}
        self.current = self.compute
        self.devices: list[torch.device] = []
        self._bytes: dict[int, Bytes] = {}

    def Stream(self, device: torch.device) -> Stream:
        name = ("up", "down")[len(self.streams) - 1]
        self.streams[name] = Stream(self, name)
        return self.streams[name]

    def Event(self) -> Event:
        return Event(self)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def set_stream(self, stream: Stream) -> None:
        self.current = stream

    def current_stream(self, device: torch.device) -> Stream:
        return self.current

    def set_device(self, device: torch.device) -> None:
        self.devices.append(device)

    def synchronize(self, device: torch.device) -> None:
        self.host = joined(self.host, *(stream.clock for stream in self.streams.values()))

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return self.free_bytes, 1 << 40

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def kernel(self, what: str, *, reads: tuple[torch.Tensor, ...] = (), writes: tuple[torch.Tensor, ...] = ()) -> None:
        """Queue work on the current stream."""
        stream = self.current
        # What the host did before it queued this happened before it.
        stream.clock = joined(stream.clock, self.host)
        self._access(stream.name, stream.clock, what, reads, writes)

    def on_host(
        self, what: str, *, reads: tuple[torch.Tensor, ...] = (), writes: tuple[torch.Tensor, ...] = ()
    ) -> None:
        """The host touches memory, now."""
        self._access(HOST, self.host, what, reads, writes)

    def listening(self) -> TorchFunctionMode:
        """Within it, copies that do not block are work of the current stream."""
        recorder = self

        class Listening(TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                if func is torch.Tensor.copy_ and (kwargs or {}).get("non_blocking"):
                    target, source = args
                    recorder.kernel(f"copy on {recorder.current.name}", reads=(source,), writes=(target,))
                return func(*args, **(kwargs or {}))

        return Listening()

    def _access(
        self, who: str, clock: Clock, what: str, reads: tuple[torch.Tensor, ...], writes: tuple[torch.Tensor, ...]
    ) -> None:
        clock[who] = clock.get(who, 0) + 1
        now = Access(who, clock[who], what)
        for tensor in reads:
            touched = self._bytes.setdefault(tensor.data_ptr(), Bytes())
            self._must_be_before(touched.written, clock, what)
            touched.read.append(now)
        for tensor in writes:
            touched = self._bytes.setdefault(tensor.data_ptr(), Bytes())
            for earlier in (touched.written, *touched.read):
                self._must_be_before(earlier, clock, what)
            self._bytes[tensor.data_ptr()] = Bytes(written=now)

    def _must_be_before(self, earlier: Access | None, clock: Clock, what: str) -> None:
        if earlier is not None and clock.get(earlier.who, 0) < earlier.at:
            raise Race(f"{what} races with {earlier.what}")
