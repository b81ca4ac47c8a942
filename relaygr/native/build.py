"""Compiles src/ into the shared object of kernels, with whatever C++ compiler is there.

    python -m relaygr.native.build [--force]

The suffix of a file's name says which instructions it may use (`copy_avx512.cpp`). A level
whose options the compiler refuses is left out, and so is every level above it; the macros
RGR_HAVE_* tell the other files. A file that does not compile is an error; another machine
than x86-64 Linux, or one without a compiler, is not: nothing is built, and it is said what
serves instead.

Called from here, from make and from setup.py, also where relaygr is not installed.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from relaygr.native.library import LIBRARY_PATH, SOURCES, is_current, source_digest

_log = logging.getLogger(__name__)

COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-exceptions", "-fno-rtti", "-pthread", "-fvisibility=hidden", "-Wall")
# gcc 12's own intrinsics look uninitialised to it, and its vector types lose their alignment as template arguments.
QUIET = (
    "-Wno-unknown-warning-option",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    "-Wno-ignored-attributes",
    "-Wno-psabi",
)
COMPILE_TIMEOUT_S = 600
MACHINE = "Linux x86_64"


@dataclass(frozen=True, slots=True)
class Level:
    """An instruction set: the suffix of its files, the macro that says it was built, its own options."""

    suffix: str
    macro: str
    flags: tuple[str, ...]


LEVELS = (
    Level("_avx2", "RGR_HAVE_AVX2", ("-mavx2", "-mfma", "-mf16c")),
    Level("_avx512", "RGR_HAVE_AVX512", ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")),
    Level("_bf16", "RGR_HAVE_BF16", ("-mavx512bf16",)),
    Level("_amx", "RGR_HAVE_AMX", ("-mamx-tile", "-mamx-bf16")),
)
"""Lowest first; each adds its options to those before it."""


class BuildFailed(RuntimeError):
    """A source did not compile or link; the compiler's own words."""


def compiler_of(environment: Mapping[str, str]) -> list[str] | None:
    """The C++ compiler's command: $CXX alone when it is set, else the first of COMPILERS on the path."""
    wanted = shlex.split(environment.get("CXX", ""))
    commands = [wanted] if wanted else [[name] for name in COMPILERS]
    return next((words for words in commands if shutil.which(words[0], path=environment.get("PATH"))), None)


def build(
    output: Path = LIBRARY_PATH,
    environment: Mapping[str, str] = os.environ,
    *,
    is_forced: bool = False,
    sources: Path = SOURCES,
) -> Path | None:
    """Compile and link, or find that nothing has to be done.

    Args:
        output: where the shared object goes; replaced in one step.
        environment: CXX and PATH are read from it.
        is_forced: build also when the file there is made from these sources.
        sources: a folder of them, with the recipe, build.py, beside it.

    Returns:
        The shared object; None when this machine cannot build one, which a warning explains.

    Raises:
        BuildFailed: a source is wrong.
    """
    here = f"{platform.system()} {platform.machine()}"
    if here != MACHINE:
        _log.warning("native kernels are for %s, this is %s; torch and numpy serve instead", MACHINE, here)
        return None
    compiler = compiler_of(environment)
    if compiler is None:
        named = environment.get("CXX") or ", ".join(COMPILERS)
        _log.warning("no native kernels: no C++ compiler (%s) found; torch and numpy serve instead", named)
        return None
    if not is_forced and output.exists() and is_current(output, sources):
        _log.info("%s is up to date", output.name)
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".build-") as folder:
        made = _compile_all(compiler, sources, Path(folder))
        os.replace(made, output)
    return output


def _compile_all(compiler: list[str], folder: Path, scratch: Path) -> Path:
    levels = _levels_of(compiler, scratch)
    macros = [f"-D{level.macro}" for level in levels] + [f'-DRGR_SOURCES="{source_digest(folder)}"']
    sources = [source for source in sorted(folder.glob("*.cpp")) if _is_built(source, levels)]
    objects = [scratch / f"{source.stem}.o" for source in sources]

    def compile_one(source: Path, made: Path) -> None:
        _run(*compiler, *FLAGS, *QUIET, *macros, *_flags_of(source, levels), "-c", str(source), "-o", str(made))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(compile_one, sources, objects))
    made = scratch / "kernels.so"
    _run(*compiler, "-shared", "-pthread", "-Wl,-z,defs", *map(str, objects), "-o", str(made))
    names = ", ".join(level.suffix[1:] for level in levels) or "none"
    _log.info("native kernels: %d files by %s, instruction sets: %s", len(sources), shlex.join(compiler), names)
    return made


def _levels_of(compiler: list[str], folder: Path) -> tuple[Level, ...]:
    """The levels whose options this compiler takes, from the lowest up to the first it refuses."""
    probe = folder / "probe.cpp"
    probe.write_text("#include <immintrin.h>\nint probe() { return 0; }\n")
    for count in range(len(LEVELS)):
        flags = [flag for level in LEVELS[: count + 1] for flag in level.flags]
        try:
            _run(*compiler, *flags, "-c", str(probe), "-o", os.devnull)
        except BuildFailed:
            _log.warning("%s does not know %s: kernels stop below", shlex.join(compiler), LEVELS[count].suffix[1:])
            return LEVELS[:count]
    return LEVELS


def _level_of(source: Path) -> int:
    """How many levels of options the file's name asks for."""
    return next((count for count, level in enumerate(LEVELS, 1) if source.stem.endswith(level.suffix)), 0)


def _is_built(source: Path, levels: tuple[Level, ...]) -> bool:
    return _level_of(source) <= len(levels)


def _flags_of(source: Path, levels: tuple[Level, ...]) -> list[str]:
    return [flag for level in levels[: _level_of(source)] for flag in level.flags]


def _run(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
    )
    if done.stderr and not done.returncode:
        _log.warning("%s", done.stderr.strip())
    if done.returncode:
        raise BuildFailed(f"{' '.join(command)}\n{done.stderr.strip()}")


def main() -> int:
    """The command: 0 also when this machine cannot build."""
    parser = argparse.ArgumentParser(description="Compile the native kernels.")
    parser.add_argument("--force", action="store_true", help="also when they are up to date")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        build(is_forced=arguments.force)
    except BuildFailed as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
