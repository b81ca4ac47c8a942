"""A run as a page with tables and pictures: `python -m bench.load.report RUN_DIR [--out DIR]`.

Reads run.json of the folder and writes report.md, the document and pictures into a folder of their own. A run that
was interrupted gives a page too, which says what is missing. What people wrote between the two marks of the findings
is kept when a page is made again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.engine.machine import short_name
from bench.engine.report import FINDINGS_BEGIN, FINDINGS_END, FINDINGS_NONE, findings_of
from bench.load import tables
from bench.load.plots import draw_all
from bench.load.schema import Run

REPORTS = Path("bench/reports")
DOCUMENT, PAGE = "run.json", "report.md"


def main(arguments: list[str] | None = None) -> int:
    """Write the page; print its path."""
    parser = argparse.ArgumentParser(prog="python -m bench.load.report")
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help=f"folder with {DOCUMENT}")
    parser.add_argument("--out", type=Path, help=f"folder of the page ({REPORTS}/load_HARDWARE_DATE)")
    given = parser.parse_args(arguments)
    document = given.run / DOCUMENT
    if not document.exists():
        print(f"{document} is not there", file=sys.stderr)
        return 1
    run: Run = json.loads(document.read_text())
    print(write(run, given.out or REPORTS / folder_name(run)))
    return 0


def folder_name(run: Run) -> str:
    """Hardware and date, as far as they are known."""
    hardware = run.get("hardware")
    return f"load_{short_name(hardware) if hardware else 'unknown'}_{run.get('date', 'undated')[:10]}"


def write(run: Run, folder: Path) -> Path:
    """Page, document and pictures; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    findings = findings_of(page.read_text()) if page.exists() else FINDINGS_NONE
    (folder / DOCUMENT).write_text(json.dumps(run, indent=1) + "\n")
    page.write_text(text_of(run, draw_all(run, folder), findings))
    return page


def text_of(run: Run, pictures: Sequence[tuple[str, str]], findings: str = FINDINGS_NONE) -> str:
    """The page."""
    cpu, date = run.get("hardware", {}).get("cpu", "an unknown machine"), run.get("date", "undated")[:10]
    absent = tables.missing(run)
    blocks = [
        f"# Relaying under a limit on {cpu}, {date}",
        _made_by(run),
        *(["## What is missing\n\n" + "\n".join(f"- {part}" for part in absent)] if absent else []),
        "## Claims\n\n" + tables.claims_block(run),
        "## Findings\n\n" + f"{FINDINGS_BEGIN}\n{findings}\n{FINDINGS_END}",
        "## Highest rates and longest histories\n\n" + tables.searches_block(run),
        *(f"![{title}]({name})" for title, name in pictures),
        "## Each part left out\n\n" + tables.ablations_block(run),
        "## Where it loses\n\n" + tables.losses_block(run),
        "## Tiers, admission, survival\n\n" + tables.counts_block(run),
        "## The work of one request, alone\n\n" + tables.work_block(run),
        "## Every probe\n\n" + tables.probes_block(run),
        "## The machine and its noise\n\n" + tables.machine_block(run),
        "## How to reproduce\n\n" + _reproduce(run),
        "## The run in one line\n\n" + tables.summary_block(run),
    ]
    return "\n\n".join(blocks) + "\n"


def _made_by(run: Run) -> str:
    slo = run.get("config", {}).get("slo", {})
    commit, seconds = run.get("source", {}).get("commit", "unknown"), run.get("seconds")
    state = ", with changes that are not committed" if run.get("source", {}).get("is_changed") else ""
    took = "interrupted, or its length not recorded" if seconds is None else f"{seconds:.0f} s"
    quantile, rank_ms, whole_ms = (slo.get(name, "?") for name in ("quantile", "rank_ms", "end_to_end_ms"))
    return (
        f"`{run.get('command', 'make bench')}` at commit `{commit[:12]}`{state}; seed "
        f"{run.get('config', {}).get('seed', '?')}, {took}. The limit: at quantile {quantile}, ranking within "
        f"{rank_ms} ms and the whole request within {whole_ms} ms, without an error. Requests arrive as a Poisson "
        f"process, whether or not earlier ones were answered. The document of the run is [{DOCUMENT}]({DOCUMENT})."
    )


def _reproduce(run: Run) -> str:
    commit = run.get("source", {}).get("commit")
    checkout = [f"git checkout {commit}"] if commit else []
    lines = [*checkout, "make setup", run.get("command", "make bench"), "python -m bench.load.report RUN_DIR"]
    return "```\n" + "\n".join(lines) + "\n```"


if __name__ == "__main__":
    sys.exit(main())
