"""Write the settings table of each service's README from its config class, or check it.

    python scripts/gen_config_tables.py            write the tables
    python scripts/gen_config_tables.py --check    fail when a README does not hold its table

A table stands between two marks; a README without them gets a section at its end.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("trigger", "router", "ranker", "expander")
BEGIN = "<!-- settings: written by scripts/gen_config_tables.py -->"
END = "<!-- end of settings -->"


def main() -> int:
    """Write or check all tables; 1 when a checked one is stale."""
    parser = argparse.ArgumentParser(description="Settings tables of the services' README files.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a table is stale")
    is_check = parser.parse_args().check
    stale = []
    for service in SERVICES:
        path = ROOT / "services" / service / "README.md"
        before = path.read_text()
        after = with_table(before, table_of(service))
        if after != before:
            stale.append(str(path.relative_to(ROOT)))
            if not is_check:
                path.write_text(after)
    if stale and is_check:
        print(f"stale settings tables, run `make docs`: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale) and is_check)


def table_of(service: str) -> str:
    """The table of a service's config class."""
    sys.path.insert(0, str(ROOT))
    from relaygr.config import table

    module = importlib.import_module(f"services.{service}.config")
    return table(getattr(module, f"{service.capitalize()}Config"), f"RELAYGR_{service.upper()}")


def with_table(text: str, table: str) -> str:
    """The README's text with its table replaced, or added at the end."""
    marked = f"{BEGIN}\n\n{table}\n{END}\n"
    head, begin, rest = text.partition(BEGIN)
    if not begin:
        return f"{text.rstrip()}\n\n## Settings\n\n{marked}"
    _, end, tail = rest.partition(f"{END}\n")
    if not end:
        raise SystemExit(f"a README has {BEGIN} without {END}")
    return head + marked + tail


if __name__ == "__main__":
    sys.exit(main())
