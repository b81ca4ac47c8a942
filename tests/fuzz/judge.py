"""Watches one input at a time: what it raises, what is logged meanwhile, and how long it takes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fuzz.subject import Subject
from tests.fuzz.verdict import Kind, Verdict

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 5.0
"""Of one input; the honest ones take milliseconds, but a machine that is shared may stop for seconds."""
GROWTH_BYTES_MAX = 48 << 20
"""Of memory, between the first part of a run and its end: allocators keep some of what they had."""
GROWTH_FILES_MAX = 8
GROWTH_TASKS_MAX = 8


class Hung(BaseException):
    """Raised in the middle of what does not end by itself. No handler of ours catches it."""


class Logged(logging.Handler):
    """Errors with a traceback: what was caught so that a process lives on, and is a crash all the same."""

    def __init__(self, expected: tuple[type[BaseException], ...] = ()) -> None:
        super().__init__(logging.WARNING)
        self._expected = expected
        self.error: BaseException | None = None
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self.warnings.append(record.getMessage())
        elif record.exc_info and record.exc_info[1] is not None and self.error is None:
            error = record.exc_info[1]
            self.error = None if isinstance(error, self._expected) else error


class Judge:
    """Gives inputs to a subject and says what came of them. A context manager: it takes SIGALRM and the root logger."""

    def __init__(self, subject: Subject, limit_s: float = LIMIT_S) -> None:
        self._subject = subject
        self._limit_s = limit_s
        self.logged = Logged(subject.logged)
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGALRM, _ring)
        logging.getLogger().addHandler(self.logged)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        logging.getLogger().removeHandler(self.logged)

    async def verdict(self, data: bytes) -> Verdict:
        """What comes of an input."""
        logged = self.logged
        logged.error = None
        logged.warnings.clear()
        # For code that lets nobody else run; what waits is ended before, by the loop's own clock.
        signal.setitimer(signal.ITIMER_REAL, self._limit_s + 1.0)
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                found = await self._subject.give(data)
        except TimeoutError as error:
            return _fault(Kind.HANG if limit.expired() else Kind.CRASH, error)
        except Hung as error:
            return _fault(Kind.HANG, error)
        except Exception as error:
            return _fault(Kind.CRASH, error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return found if logged.error is None else _fault(Kind.CRASH, logged.error)


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds at rest."""

    rss_bytes: int
    files: int
    tasks: int

    @classmethod
    async def now(cls, subject: Subject) -> Held:
        """After what is under way has ended."""
        await subject.settle()
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # noqa: ASYNC240 - a file of the kernel's
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()))

    def leaks_since(self, before: Held, subject: Subject) -> list[str]:
        """What has grown, or is fuller than it may be."""
        found = [f"{name}: {count}, at most {most}" for name, (count, most) in subject.sizes().items() if count > most]
        growths = (
            ("memory", self.rss_bytes - before.rss_bytes, GROWTH_BYTES_MAX),
            ("open files", self.files - before.files, GROWTH_FILES_MAX),
            ("tasks", self.tasks - before.tasks, GROWTH_TASKS_MAX),
        )
        return found + [f"{name} grew by {growth}, at most {most}" for name, growth, most in growths if growth > most]


def _ring(_number: int, _frame: Any) -> None:
    raise Hung("the input took too long")


def _fault(kind: Kind, error: BaseException) -> Verdict:
    """Named after the exception and where it came from in our code, so that one fault is found once."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT) and ".venv" not in frame.filename
    ]
    ours = [frame for frame in frames if "tests/fuzz" not in frame.filename] or frames
    where = f" in {Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}" if ours else ""
    detail = f"{type(error).__name__}{where}" if kind is Kind.CRASH else f"hang{where}"
    return Verdict(kind, detail, "".join(traceback.format_exception(error, limit=-8)))
