"""Draw the life cycle of a psi into the ranker's README, from the table that the code asserts.

Replaces what stands between the two markers. --check changes nothing and fails when the
picture is not the table's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from services.ranker.core.lifecycle import LEASABLE, TRANSITIONS, Cause, PsiState  # noqa: E402

README = ROOT / "services" / "ranker" / "README.md"
BEGIN = "<!-- state picture: scripts/gen_state_picture.py -->"
END = "<!-- end of state picture -->"
JOB_OVER = (Cause.LOOKUP_ENDED, Cause.RELOAD_ENDED, Cause.CHUNK_ENDED, Cause.PRODUCTION_FAILED)


def picture() -> str:
    """The mermaid diagram: one arrow per pair of states, labelled with all its causes."""
    arrows: dict[tuple[PsiState, PsiState], list[Cause]] = {}
    for (source, cause), targets in TRANSITIONS.items():
        for target in targets:
            arrows.setdefault((source, target), []).append(cause)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [
        f"    {name_of(source)} --> {name_of(target)} : {label_of(arrows[source, target])}" for source, target in arrows
    ]
    for state in LEASABLE:
        lines += [f"    note right of {state.name} : may be leased by ranks"]
    return "\n".join([*lines, "```"])


def name_of(state: PsiState) -> str:
    """Mermaid's name; absent is the start and the end."""
    return "[*]" if state == PsiState.ABSENT else state.name


def label_of(causes: list[Cause]) -> str:
    """Causes by name; where a job may end in any way, the ways are one."""
    if sum(cause in JOB_OVER for cause in causes) >= 3:
        causes = [cause for cause in causes if cause not in JOB_OVER]
        return ", ".join(["job ended", *(cause.value for cause in causes)])
    return ", ".join(cause.value for cause in causes)


def drawn(readme: str) -> str:
    """The README with the picture in its place."""
    head, rest = readme.split(BEGIN)
    tail = rest.split(END)[1]
    return f"{head}{BEGIN}\n{picture()}\n{END}{tail}"


def main() -> int:
    """Write or check; 1 when a check fails."""
    parser = argparse.ArgumentParser(description="Draw the psi life cycle into services/ranker/README.md.")
    parser.add_argument("--check", action="store_true", help="fail when the picture is out of date; write nothing")
    arguments = parser.parse_args()
    readme = README.read_text()
    now = drawn(readme)
    if now == readme:
        return 0
    if arguments.check:
        print(f"{README.relative_to(ROOT)}: the state picture is out of date; run scripts/gen_state_picture.py")
        return 1
    README.write_text(now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
