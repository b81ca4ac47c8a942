"""Asking the kernel for long slices."""

from __future__ import annotations

import os
import platform
import sys
import threading

import pytest

from relaygr.runtime.slices import LONG_SLICE_NS, ask_for_long_slices


def test_asking_changes_neither_class_nor_share():
    found = []

    def ask() -> None:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        ask_for_long_slices()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) - nice)
        found.append(os.sched_getscheduler(threading.get_native_id()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [0, os.SCHED_OTHER]


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="where the number is known")
def test_linux_takes_the_wish():
    found = []
    thread = threading.Thread(target=lambda: found.append(ask_for_long_slices()))
    thread.start()
    thread.join()
    assert found == [True]


def test_the_slice_is_within_what_linux_takes():
    assert 100_000 <= LONG_SLICE_NS <= 100_000_000


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not ask_for_long_slices()
