"""Starts, watches and ends the processes of a local cluster, and no other process.

Every process gets a session of its own, so that Ctrl-C reaches the supervisor alone and
the order of stopping is the supervisor's. It runs behind `guard.py`, which ends it when the
supervisor is killed outright. Everything it prints goes to `<log_dir>/<name>.log`.

A process must be started from the main thread: the parent-death signal follows the thread
that started it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_GUARD = str(Path(__file__).with_name("guard.py"))
_LOG_TAIL_LINES = 15
_POLL_S = 0.05
_KILL_WAIT_S = 5.0


class ProcessFailed(Exception):
    """A process did not come up, or ended by itself; the message carries its log's tail."""


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """What to run, and how to tell that it is up."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Added to the inherited environment, from which RELAYGR_* is taken out."""
    is_ready: Callable[[], bool]
    """Asked again and again until it says yes; must answer within a second."""
    stops_last: bool = False
    """True for what the others need to leave in good order: the registry, the console."""


class Supervisor:
    """A table of processes by name."""

    def __init__(self, log_dir: Path, *, grace_s: float = 5.0, processes_max: int = 32) -> None:
        self._log_dir = log_dir
        self._grace_s = grace_s
        self._processes_max = processes_max
        self._specs: dict[str, ProcessSpec] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        log_dir.mkdir(parents=True, exist_ok=True)

    def start(self, spec: ProcessSpec) -> None:
        """Start a process; `wait_ready` says when it is up."""
        assert threading.current_thread() is threading.main_thread()
        assert len(self._specs) < self._processes_max or spec.name in self._specs
        running = self._processes.get(spec.name)
        assert running is None or running.poll() is not None, f"{spec.name} runs already"
        self._specs[spec.name] = spec
        with self.log_path(spec.name).open("ab") as log:
            self._processes[spec.name] = subprocess.Popen(
                guarded(spec.command),
                cwd=ROOT,
                env=_inherited() | dict(spec.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_ready(self, *names: str, timeout_s: float = 30.0) -> None:
        """Wait until the named processes are up.

        Raises:
            ProcessFailed: names the one that ended or did not come up in time.
        """
        deadline_s = time.monotonic() + timeout_s
        for name in names:
            while not self._specs[name].is_ready():
                code = self._processes[name].poll()
                if code is not None:
                    raise ProcessFailed(f"{name} ended with code {code} before it was up\n{self.log_tail(name)}")
                if time.monotonic() > deadline_s:
                    raise ProcessFailed(f"{name} was not up within {timeout_s:.0f} s\n{self.log_tail(name)}")
                time.sleep(_POLL_S)

    def kill(self, name: str) -> None:
        """SIGKILL one process and wait until it is gone."""
        process = self._processes[name]
        _signal_group(process, signal.SIGKILL)
        process.wait(timeout=_KILL_WAIT_S)

    def pause(self, name: str) -> None:
        """SIGSTOP one process."""
        _signal_group(self._processes[name], signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT one process."""
        _signal_group(self._processes[name], signal.SIGCONT)

    def restart(self, name: str) -> None:
        """Start a process that has ended, as it was started before."""
        self.start(self._specs[name])

    def names(self) -> list[str]:
        """All processes started, in order."""
        return list(self._specs)

    def pid(self, name: str) -> int:
        """Process id by name."""
        return self._processes[name].pid

    def ended(self) -> dict[str, int]:
        """Exit codes of the processes that do not run any more, by name."""
        codes = ((name, process.poll()) for name, process in self._processes.items())
        return {name: code for name, code in codes if code is not None}

    def spec(self, name: str) -> ProcessSpec:
        """How a process was started."""
        return self._specs[name]

    def log_path(self, name: str) -> Path:
        """Where a process prints to."""
        return self._log_dir / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """The last lines a process printed, each marked with its name."""
        lines = self.log_path(name).read_text(errors="replace").splitlines()
        return "\n".join(f"  {name} | {line}" for line in lines[-_LOG_TAIL_LINES:])

    def stop_all(self) -> None:
        """End everything, what the others need last: SIGTERM, then SIGKILL after the grace."""
        for is_last in (False, True):
            wave = [self._processes[name] for name, spec in self._specs.items() if spec.stops_last is is_last]
            for process in wave:
                _signal_group(process, signal.SIGTERM)
                _signal_group(process, signal.SIGCONT)  # A paused process cannot heed SIGTERM.
            deadline_s = time.monotonic() + self._grace_s
            for process in wave:
                try:
                    process.wait(timeout=max(0.0, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    _signal_group(process, signal.SIGKILL)
                    process.wait(timeout=_KILL_WAIT_S)

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop_all()


def guarded(command: tuple[str, ...]) -> list[str]:
    """The command, behind the guard that ends it with this process."""
    return [sys.executable, "-I", "-S", _GUARD, str(os.getpid()), *command]


def run_foreground(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Run a command on this terminal to its end; Ctrl-C here ends it."""
    process = subprocess.Popen(guarded(command), cwd=ROOT, env=_inherited() | dict(environment), start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            _signal_group(process, signal.SIGKILL)
            process.wait(timeout=_KILL_WAIT_S)


def _inherited() -> dict[str, str]:
    # A service refuses to start on a variable of its prefix that it does not know.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RELAYGR_")}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The leader's id is its group's, and stays taken until the leader is reaped by poll().
    if process.poll() is None:
        os.killpg(process.pid, number)
