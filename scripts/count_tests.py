"""Prints how many tests of each kind ran, and how long they took, from pytest's XML reports."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main(folder: Path) -> int:
    """Print one line for each report in the folder, and their sum; fail when no test ran."""
    rows = [(path.stem, *_counts(path)) for path in sorted(folder.glob("*.xml"), key=lambda path: path.stat().st_mtime)]
    rows.append(
        ("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True)))
        if rows
        else ("all", 0, 0, 0, 0.0)
    )
    print(f"{'tests':<12}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>10}")
    for kind, passed, failed, skipped, seconds in rows:
        print(f"{kind:<12}{passed:>8}{failed:>8}{skipped:>9}{seconds:>10.1f}")
    _, passed, failed, _, _ = rows[-1]
    return 0 if passed and not failed else 1


def _counts(path: Path) -> tuple[int, int, int, float]:
    suite = ElementTree.parse(path).getroot()  # noqa: S314  (pytest wrote it a moment ago)
    suite = suite if suite.tag == "testsuite" else suite[0]
    total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    return total - failed - skipped, failed, skipped, float(suite.attrib["time"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
