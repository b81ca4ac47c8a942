"""Tests the console's page in a real browser, and ends with one JSON line.

    python scripts/console_test.py [--pictures] [more arguments for pytest]

In that line, pages is how many pairs of a route and a width were opened, checks how many tests ran, failed how
many of them did not pass, and screenshots how many pictures they wrote to run/console. All four are counted from
what the run left behind. With --pictures two of these become docs/pictures/*.png.
"""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "run" / "console"
REPORT = OUT / "report.xml"
OPENED = OUT / "pages.json"
PUBLISHED = {"overview-light": "console", "waterfall-light": "waterfall"}
"""Pictures that stand in the documents, by the name that they have there."""
COLOURS = 128


def main(arguments: list[str]) -> int:
    """Run, count, say; fail when anything failed or nothing ran."""
    OUT.mkdir(parents=True, exist_ok=True)
    for old in (REPORT, OPENED, *OUT.glob("*.png")):
        old.unlink(missing_ok=True)
    is_publishing = "--pictures" in arguments
    more = [argument for argument in arguments if argument != "--pictures"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={REPORT}", "tests/console"]
    code = subprocess.run([*command, *more], cwd=ROOT, check=False).returncode
    ran, failed = _counts(REPORT) if REPORT.exists() else (0, 0)
    if is_publishing and not code:
        publish()
    counted = {
        "pages": len(json.loads(OPENED.read_text())) if OPENED.exists() else 0,
        "checks": ran,
        "failed": failed,
        "screenshots": len(list(OUT.glob("*.png"))),
    }
    print(json.dumps(counted))
    # Without a browser all that need one are skipped, and what is left says nothing of the page.
    return 1 if code or failed or not counted["pages"] else 0


def publish() -> None:
    """Write the documents' pictures, with few colours so that they stay small."""
    from PIL import Image

    folder = ROOT / "docs" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for taken, name in PUBLISHED.items():
        with Image.open(OUT / f"{taken}.png") as picture:
            picture.convert("RGB").quantize(COLOURS).save(folder / f"{name}.png", optimize=True)


def _counts(report: Path) -> tuple[int, int]:
    """Tests that ran, and those of them that failed."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314  (pytest wrote it a moment ago)
    ran = failed = 0
    for suite in suites:
        ran += int(suite.attrib["tests"]) - int(suite.attrib["skipped"])
        failed += int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    return ran, failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
