"""Runs a scenario of the ranker's core: commands at the margin, exact effects indented below each.

    at 20us                                       time moves; what falls due is shown
    pre_infer t1 ann 300 variant=1 window=500us   ticket, user, tokens
    rank 1 ann 300 ticket=t1 budget=80us suffix=10
    lookup_ended 2 200 variant=1                  job, tokens found (0: nothing)
    reload_ended 2 ok|failed
    chunk_ended 2 128
    production_failed 2
    rank_ended 1 / rank_abandoned 1
    spill_ended 1 stored|failed
    release t1 / forget ann / drain on|off / dram on|off
    show                                          occupancy and the counters that are not zero

The first line is `machine` with the bounds. Lines that begin with # are kept as they are.
Times are since the start; a variant is a history that diverges (see histories.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum

from relaygr.domain.chain import Chain
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core import events as ev
from services.ranker.core.effects import Effect
from services.ranker.core.residency import Residency
from tests.unit.ranker_core.histories import chain, key, residency, user

INDENT = "    "


class Script:
    """One machine and the time."""

    def __init__(self, machine: Residency):
        self.machine = machine
        self.now_ns = 0

    def run(self, line: str) -> list[str]:
        """Effects of one command, as text."""
        verb, *words = line.split()
        plain = [word for word in words if "=" not in word]
        named = dict(word.split("=", 1) for word in words if "=" in word)
        if verb == "show":
            return self._show()
        if verb == "at":
            self.now_ns = nanoseconds(plain[0])
            effects = self.machine.expire(self.now_ns)
        else:
            effects = self.machine.handle(EVENTS[verb](self, plain, named), self.now_ns)
        self.machine.check()
        return [text_of(effect) for effect in effects]

    def pre_infer(self, plain: list[str], named: dict[str, str]) -> ev.Event:
        ticket_id, name, tokens = plain
        asked = chain(name, int(tokens), int(named.get("variant", 0)))
        window_end_ns = self.now_ns + nanoseconds(named.get("window", "1000us"))
        return ev.PreInferAsked(ticket_id, key(name), asked, window_end_ns, f"trace-{ticket_id}")

    def rank(self, plain: list[str], named: dict[str, str]) -> ev.Event:
        rank_id, name, tokens = plain
        asked = chain(name, int(tokens), int(named.get("variant", 0)))
        deadline_ns = self.now_ns + nanoseconds(named.get("budget", "200us"))
        return ev.RankAsked(
            int(rank_id), key(name), asked, named.get("ticket"), deadline_ns, int(named.get("suffix", 10))
        )

    def lookup_ended(self, plain: list[str], named: dict[str, str]) -> ev.Event:
        job_id, tokens = int(plain[0]), int(plain[1])
        digest = chain(named["user"], tokens, int(named.get("variant", 0))).digest if tokens else b""
        return ev.LookupEnded(job_id, tokens, digest)

    def _show(self) -> list[str]:
        seen = self.machine.snapshot()
        facts = (
            f"used_pages={seen.used_pages} reserved_pages={seen.reserved_pages} "
            f"resident_entries={seen.resident_entries} open_tickets={seen.open_tickets}"
        )
        counts = [f"{name}={count}" for name, count in seen.counters.items() if count]
        due_ns = self.machine.deadline_ns()
        return [facts, " ".join(counts), f"due {'never' if due_ns is None else text_ns(due_ns)}"]


EVENTS: dict[str, Callable[[Script, list[str], dict[str, str]], ev.Event]] = {
    "pre_infer": Script.pre_infer,
    "rank": Script.rank,
    "lookup_ended": Script.lookup_ended,
    "reload_ended": lambda _, plain, named: ev.ReloadEnded(int(plain[0]), plain[1] == "ok"),
    "chunk_ended": lambda _, plain, named: ev.ChunkEnded(int(plain[0]), int(plain[1])),
    "production_failed": lambda _, plain, named: ev.ProductionFailed(int(plain[0]), "test"),
    "rank_ended": lambda _, plain, named: ev.RankEnded(int(plain[0])),
    "rank_abandoned": lambda _, plain, named: ev.RankAbandoned(int(plain[0])),
    "spill_ended": lambda _, plain, named: ev.SpillEnded(int(plain[0]), plain[1] == "stored"),
    "release": lambda _, plain, named: ev.TicketReleased(plain[0]),
    "forget": lambda _, plain, named: ev.UserForgotten(user(plain[0])),
    "drain": lambda _, plain, named: ev.DrainSet(plain[0] == "on"),
    "dram": lambda _, plain, named: ev.DramAttached(plain[0] == "on"),
}


def nanoseconds(text: str) -> int:
    for unit, factor in (("ns", 1), ("us", 1_000), ("ms", 1_000_000)):
        if text.endswith(unit):
            return round(float(text[: -len(unit)]) * factor)
    raise ValueError(f"{text} has no unit")


def text_ns(value: int) -> str:
    return f"{value / 1_000:g}us"


def text_of(effect: Effect) -> str:
    """An effect's name and fields; histories by length and digest, times in microseconds."""
    parts = [type(effect).__name__]
    for field in dataclasses.fields(effect):
        value = getattr(effect, field.name)
        if value is None and field.default is None:
            continue
        match value:
            case Chain():
                text = f"{value.token_count}:{value.digest.hex()[:6]}"
            case PsiKey():
                text = value.owner.user
            case UserKey():
                text = value.user
            case Enum():
                text = value.name
            case tuple():
                text = ",".join(map(str, value))
            case bytes():
                text = value.hex()[:6]
            case int() if field.name.endswith("_ns"):
                text = text_ns(value)
            case _:
                text = str(value)
        parts.append(f"{field.name}={text}")
    return " ".join(parts)


def rewritten(script: str) -> str:
    """The script with the effects that its commands have now."""
    runner: Script | None = None
    lines: list[str] = []
    for line in script.splitlines():
        if line.startswith(INDENT):
            continue
        lines.append(line)
        if not line or line.startswith("#"):
            continue
        verb, *words = line.split()
        if verb == "machine":
            bounds = dict(word.split("=") for word in words)
            runner = Script(residency(**{name: int(value) for name, value in bounds.items()}))
            continue
        assert runner is not None, "a scenario begins with its machine"
        lines += [INDENT + text for text in runner.run(line)]
    return "\n".join(lines) + "\n"
