import socket
from typing import Any

import pytest

from relaygr.rpc.lane_wire import LENGTH_BYTES, Framed

FRAME_BYTES_MAX = 300
FRAMES = [b"one", b"", b"x" * FRAME_BYTES_MAX, b"\x00\x00\x00\x01", b"last"]


class Transport:
    """Keeps what is written and done to it; its own socket, too."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.ends: list[str] = []
        self.options: dict[int, int] = {}

    def get_extra_info(self, name: str) -> Any:
        return self

    def setsockopt(self, level: int, option: int, value: int) -> None:
        self.options[option] = value

    def write(self, data: bytes) -> None:
        assert not self.ends, "nothing can be written any more"
        self.written += data

    def close(self) -> None:
        self.ends.append("close")

    def abort(self) -> None:
        self.ends.append("abort")

    def is_closing(self) -> bool:
        return bool(self.ends)


class End(Framed):
    """Keeps what it hears; aborts on hearing `hated`."""

    def __init__(self, hated: bytes | None = None) -> None:
        super().__init__(FRAME_BYTES_MAX)
        self._hated = hated
        self.frames: list[bytes] = []
        self.losses = 0

    def heard(self, frame: bytes) -> None:
        self.frames.append(frame)
        if frame == self._hated:
            self.abort()

    def lost(self) -> None:
        self.losses += 1


def connected(end: End) -> Transport:
    transport: Any = Transport()
    end.connection_made(transport)
    return transport


def on_wire(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(LENGTH_BYTES, "big") + frame for frame in frames)


@pytest.mark.parametrize("read_bytes", [1, 2, 3, 5, 7, 100, 10_000])
def test_frames_are_heard_whole_however_reads_cut_them(read_bytes: int) -> None:
    end, data = End(), on_wire(*FRAMES)
    connected(end)
    for begin in range(0, len(data), read_bytes):
        end.data_received(data[begin : begin + read_bytes])
    assert end.frames == FRAMES


def test_a_frame_is_heard_with_its_last_byte_and_not_before() -> None:
    end, data = End(), on_wire(b"ab", b"cd")
    connected(end)
    end.data_received(data[:-1])
    assert end.frames == [b"ab"]
    end.data_received(data[-1:])
    assert end.frames == [b"ab", b"cd"]


def test_what_one_end_sends_the_other_hears() -> None:
    sender, receiver = End(), End()
    transport = connected(sender)
    connected(receiver)
    for frame in FRAMES:
        sender.send(frame)
    receiver.data_received(bytes(transport.written))
    assert receiver.frames == FRAMES


def test_an_empty_frame_is_a_frame() -> None:
    end = End()
    connected(end)
    end.data_received(on_wire(b""))
    assert end.frames == [b""]


def test_an_over_long_frame_aborts_before_its_bytes_have_come() -> None:
    end = End()
    transport = connected(end)
    end.data_received(on_wire(b"before") + (FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "big"))
    assert end.frames == [b"before"]
    assert transport.ends == ["abort"]


def test_nothing_is_heard_after_an_over_long_frame() -> None:
    end = End()
    connected(end)
    end.data_received(on_wire(b"x" * (FRAME_BYTES_MAX + 1), b"after"))
    assert not end.frames


def test_nothing_is_heard_after_the_end_that_hears_has_aborted() -> None:
    end = End(hated=b"bad")
    connected(end)
    end.data_received(on_wire(b"good", b"bad", b"after"))
    assert end.frames == [b"good", b"bad"]


def test_what_is_sent_after_the_end_is_dropped() -> None:
    for finish in (Framed.end, Framed.abort):
        end = End()
        transport = connected(end)
        end.send(b"said")
        finish(end)
        end.send(b"too late")
        assert transport.written == on_wire(b"said")


def test_before_there_is_a_connection_nothing_fails() -> None:
    end = End()
    end.send(b"dropped")
    end.end()
    end.abort()
    assert connected(end).written == b""


def test_an_end_that_is_left_ends() -> None:
    end = End()
    transport = connected(end)
    assert not end.eof_received(), "the transport would stay open"
    assert transport.ends == ["abort"]


def test_the_end_of_the_connection_is_told_with_and_without_an_error() -> None:
    end = End()
    connected(end)
    end.connection_lost(None)
    end.connection_lost(OSError("reset"))
    assert end.losses == 2


def test_an_end_that_is_read_too_slowly_is_congested_until_it_is_not() -> None:
    end = End()
    connected(end)
    assert not end.is_congested
    end.pause_writing()
    assert end.is_congested
    end.resume_writing()
    assert not end.is_congested


def test_a_host_that_falls_silent_is_noticed_within_seconds() -> None:
    options = connected(End()).options
    assert options[socket.SO_KEEPALIVE] == 1
    assert options[socket.TCP_USER_TIMEOUT] == 3_000
    assert options[socket.TCP_KEEPIDLE] + options[socket.TCP_KEEPINTVL] * options[socket.TCP_KEEPCNT] <= 15
