"""What a fault left behind in those that lived through it. Pure, but for `take`.

Compared are two moments without load: before a scenario, and after it once windows have closed. Of processes that have
the same id at both: open files, threads and memory of their own, each with some slack; a fault opens connections anew,
pools of threads grow to their bound, and allocators keep what they had at the worst moment. Of the services: what
requests hold, which must be nothing, and counters that must be zero. Of the machine: shared memory and lock files.

Source: design, section 5, invariants I3, I7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.tiers.soak_samples import ProcessSample, Sample, Sampler
from tests.chaos.stage import Stage

FDS_SLACK = 10
THREADS_SLACK = 6
MEMORY_SLACK_MB = 24.0


@dataclass(frozen=True, slots=True)
class Rest:
    """A cluster without load."""

    processes: Mapping[str, ProcessSample]
    held: Mapping[str, int]
    """What requests hold, by name."""
    silent: tuple[str, ...]
    """Services that said nothing."""
    shared: frozenset[str]
    """Files in shared memory."""


def take(stage: Stage, sampler: Sampler) -> Rest:
    """Look now; takes tenths of a second."""
    sample = sampler.take()
    return rest_of(sample, frozenset(stage.shared_files()), has_console=stage.cluster.has("console"))


def rest_of(sample: Sample, shared: frozenset[str], *, has_console: bool) -> Rest:
    """A sample as what is compared; a console that was never there says nothing, and that is no silence."""
    silent = tuple(name for name in sample.unanswered if has_console or name != "console")
    return Rest({one.name: one for one in sample.processes}, dict(sample.held), silent, shared)


def leaked(before: Rest, after: Rest, must_be_zero: Mapping[str, int], ended: Mapping[str, int]) -> list[str]:
    """What is more than it was, in words.

    Args:
        before: without load, ahead of the fault.
        after: without load, after it.
        must_be_zero: the worst values seen of counters that never may count.
        ended: exit codes of processes that do not run, by name.
    """
    found = [f"{name} holds {count}" for name, count in after.held.items() if count]
    found += [f"{name} is {count}" for name, count in must_be_zero.items() if count]
    found += [f"{name} ended with code {code}" for name, code in ended.items()]
    found += [f"{name} does not answer" for name in after.silent]
    if len(after.shared) > len(before.shared):
        found.append(f"{len(after.shared)} files in shared memory, {len(before.shared)} before")
    for name, now in after.processes.items():
        earlier = before.processes.get(name)
        if earlier is not None and earlier.pid == now.pid:
            found += _grown(earlier, now)
    return found


def _grown(before: ProcessSample, after: ProcessSample) -> list[str]:
    found = []
    if after.fds > before.fds + FDS_SLACK:
        found.append(f"{after.name} has {after.fds} open files, {before.fds} before")
    if after.threads > before.threads + THREADS_SLACK:
        found.append(f"{after.name} has {after.threads} threads, {before.threads} before")
    if after.anonymous_mb > before.anonymous_mb + MEMORY_SLACK_MB:
        found.append(f"{after.name} holds {after.anonymous_mb:.0f} MB, {before.anonymous_mb:.0f} before")
    return found
