"""A process that dies or never ends leaves the input that did it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.fuzz import supervise
from tests.fuzz.__main__ import WEIGHTS, shares, summary
from tests.fuzz.table import Table
from tests.fuzz.verdict import ACCEPTED, Kind, Tally

CODE = """
import os, signal, sys, time
from pathlib import Path
from tests.fuzz.table import Table
table = Table(Path(sys.argv[1]))
table.begin(b"an honest one")
table.end(True)
table.begin(b"the last one")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
os.abort() if sys.argv[2] == "dies" else time.sleep(60)
"""


@pytest.mark.parametrize(("how", "kind"), [("dies", Kind.CRASH), ("stays", Kind.HANG)])
def test_the_input_of_a_process_that_is_gone_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, kind: Kind
) -> None:
    monkeypatch.setattr(supervise, "STUCK_S", 0.3)
    monkeypatch.setattr(supervise, "DEATHS_MAX", 1)
    start = supervise.subprocess.Popen

    def started(command: list[str], **options: object) -> object:
        table = command[command.index("--table") + 1]
        return start([sys.executable, "-c", CODE, table, how], **options)

    monkeypatch.setattr(supervise.subprocess, "Popen", started)
    tally = supervise.supervise([("trigger", 10)], 1, 1, tmp_path)["trigger"]
    assert (tally.counts[kind], tally.counts[Kind.ACCEPTED]) == (1, 1)
    (path,) = (tmp_path / "trigger").iterdir()
    assert path.read_bytes() == b"the last one" and path.name == next(iter(tally.faults.values()))


def test_a_table_tells_of_the_present_input(tmp_path: Path) -> None:
    table, seen = Table(tmp_path / "table"), Table(tmp_path / "table")
    table.begin(b"x" * (2 << 20))
    assert (seen.count, seen.accepted, len(seen.data)) == (1, 0, 1 << 20) and seen.under_way_s() > 0
    table.end(True)
    assert (seen.accepted, seen.under_way_s()) == (1, 0.0)
    table.close()
    seen.close()
    assert os.path.getsize(tmp_path / "table") > 1 << 20


def test_every_target_has_a_share_of_the_inputs() -> None:
    found = shares(list(WEIGHTS), 1_000_000)
    assert sum(inputs for _, inputs in found) >= 1_000_000 and all(inputs > 1_000 for _, inputs in found)


def test_the_last_line_adds_up_what_went_wrong() -> None:
    tally = Tally()
    tally.add(ACCEPTED)
    tally.counts[Kind.CRASH] += 2
    found = summary({"trigger": tally, "router": tally}, 1, 2.0)
    assert (found["inputs"], found["crashes"], found["leaks"]) == (6, 4, 0)
    assert Tally.from_json(tally.to_json()).counts == tally.counts
