"""The same simulator, compiled, for millions of requests: `python -m sim.compiled sim.large --requests 2000000`.

Cores and simulator go through mypyc: the sources are copied into a folder named after their content, and compiled
there, with the methods of their data classes written out (constructors.py); nothing of it is seen by services or tests.
What is computed is the same, to the hash of a run. It takes a C compiler and two minutes, once for each state of the
sources.

Source: design, section 8.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sim.constructors import with_constructors

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "sim"
PACKAGES = ("relaygr", "services", "bench", "sim")
COMPILED = ("services/*/core/*.py", "relaygr/domain/*.py", "sim/*.py", "sim/nodes/*.py")
LEFT_OUT = (
    *("__init__.py", "__main__.py", "violations.py", "compiled.py", "constructors.py"),
    *("large.py", "many.py", "report.py"),
    *("fidelity.py", "fidelity_table.py", "machine.py", "measured.py", "planned.py"),
    *("account.py", "comparison.py", "scenario.py", "story.py"),
)
"""Entry points, and what a compiled module cannot have."""
DONE = ".done"


class NotCompiled(RuntimeError):
    """The compiler is missing or failed; its last words are the message."""


def main(arguments: list[str]) -> int:
    """Run a module of the compiled copy; the first argument is its name, the rest is its own."""
    print(output_of(arguments[0], arguments[1:]), end="")
    return 0


def output_of(module: str, arguments: Sequence[str]) -> str:
    """What a module of the compiled copy prints; what it says on standard error is passed on as it comes.

    Raises:
        NotCompiled: there is no compiled copy, and none could be made.
        CalledProcessError: the module failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=prepared(), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def prepared() -> Path:
    """The folder with the compiled copy of today's sources, made when it is not there.

    Raises:
        NotCompiled: it could not be made.
    """
    folder = FOLDER / digest_of(ROOT)
    if (folder / DONE).exists():
        return folder
    shutil.rmtree(FOLDER, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    files = modules(folder)
    for name in files:
        (folder / name).write_text(with_constructors((folder / name).read_text()))
    _compile(folder, files)
    (folder / DONE).touch()
    return folder


def modules(root: Path) -> list[str]:
    """The files that are compiled, below a root and in order."""
    found = (path for pattern in COMPILED for path in root.glob(pattern) if path.name not in LEFT_OUT)
    return sorted(str(path.relative_to(root)) for path in found)


def digest_of(root: Path) -> str:
    """A name for the sources that a run takes in."""
    state = hashlib.blake2b(digest_size=8)
    for path in _sources(root):
        state.update(f"{path.relative_to(root)}\x00".encode() + path.read_bytes() + b"\x00")
    return state.hexdigest()


def _sources(root: Path) -> Iterable[Path]:
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def _compile(folder: Path, files: Sequence[str]) -> None:
    # The second level is compiled in half the time of the third, and runs as fast here.
    settings = os.environ | {"MYPYC_OPT_LEVEL": "2", "MYPYC_DEBUG_LEVEL": "0"}
    command = [sys.executable, "-m", "mypyc", "--follow-imports=silent", *files]
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotCompiled((done.stdout + done.stderr)[-2000:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
