"""What a handler is told of a call that came over a lane: a grpc.aio.ServicerContext as far as handlers use it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import grpc

from relaygr.v1.lane_pb2 import LaneCall

_NOTHING: Mapping[str, list[bytes]] = MappingProxyType({})


class LaneContext:
    """One call's deadline, metadata and status."""

    def __init__(self, peer: str, call: LaneCall, auth_context: Mapping[str, list[bytes]] = _NOTHING) -> None:
        self._peer = peer
        self._auth_context = auth_context
        self._metadata = tuple((item.key, item.value) for item in call.metadata)
        self._loop = asyncio.get_running_loop()
        self._end_s = self._loop.time() + call.timeout_ns / 1e9 if call.timeout_ns else None
        self._timer: asyncio.TimerHandle | None = None
        self._details = ""
        self._trailing: tuple[tuple[str, str], ...] = ()
        self.status = grpc.StatusCode.OK
        self.is_late = False
        """The deadline ended the call."""

    def begun(self, task: asyncio.Task[None]) -> None:
        """Bind the task to the deadline."""
        if self._end_s is not None:
            self._timer = self._loop.call_at(self._end_s, self._expire, task)

    def ended(self) -> None:
        """The task has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def time_remaining(self) -> float | None:
        """Seconds to the caller's deadline, None without one."""
        return None if self._end_s is None else max(0.0, self._end_s - self._loop.time())

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The caller's."""
        return self._metadata

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes out with a status that is not OK."""
        return self._trailing

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Of a status that is not OK."""
        self._trailing = tuple(metadata)

    def code(self) -> grpc.StatusCode:
        """Of the answer so far."""
        return self.status

    def set_code(self, code: grpc.StatusCode) -> None:
        """Answer with this status."""
        self.status = code

    def details(self) -> str:
        """Of the answer so far."""
        return self._details

    def set_details(self, details: str) -> None:
        """Say more about the status."""
        self._details = details

    def peer(self) -> str:
        """Where the lane was opened from."""
        return self._peer

    def auth_context(self) -> Mapping[str, list[bytes]]:
        """Who opened the lane, as TLS proved it; empty on plain text."""
        return self._auth_context

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: always.
        """
        self.status, self._details, self._trailing = code, details, tuple(trailing_metadata)
        raise grpc.aio.AbortError

    def _expire(self, task: asyncio.Task[None]) -> None:
        self.is_late = True
        task.cancel()
