"""The shared object of kernels: built where that is possible, and never required."""

import ctypes
import itertools
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from relaygr.native import LEVELS, load
from relaygr.native import build as building
from relaygr.native.library import LIBRARY_PATH, MARK, SOURCES, is_current, source_digest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
COMPILER = building.compiler_of(os.environ)

needs_kernels = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the kernels are not built here")


def processor_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next(line for line in lines if line.startswith("flags")).split())


@needs_kernels
def test_the_instruction_set_found_is_one_that_the_kernel_reports():
    found = load()
    assert found is not None, "make native"
    flags = processor_flags()
    needs = [set(), {"avx2", "fma", "f16c"}, {"avx512f", "avx512bw", "avx512vl", "avx512dq"}, {"avx512_bf16"}]
    expected = [level for level, wanted in zip(LEVELS, needs, strict=False) if wanted <= flags]
    if not {"amx_tile", "amx_bf16"} <= flags:
        assert found.isa == expected[-1]
    assert LEVELS[found.level] == found.isa and found.path == LIBRARY_PATH


@needs_kernels
@pytest.mark.parametrize("isa", LEVELS)
def test_a_lower_level_can_be_asked_for_and_a_higher_one_is_not_believed(isa):
    best, limited = load(), load(isa_max=isa)
    assert best is not None and limited is not None
    assert limited.level == min(best.level, LEVELS.index(isa))


def test_a_file_that_is_not_there_is_no_library_and_one_line_says_so(tmp_path, caplog):
    assert load(tmp_path / "absent.so") is None
    assert len(caplog.records) == 1 and "make native" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\x7fELF", MARK + source_digest().encode()])
def test_a_file_that_is_broken_is_no_library(tmp_path, caplog, content):
    path = tmp_path / "broken.so"
    path.write_bytes(content)
    assert load(path) is None
    assert len(caplog.records) == 1


@needs_kernels
def test_a_file_built_from_other_sources_is_not_loaded(tmp_path):
    stale = tmp_path / "stale.so"
    stale.write_bytes(LIBRARY_PATH.read_bytes().replace(source_digest().encode(), b"0" * 64))
    assert load(stale) is None
    whole = tmp_path / "whole.so"
    shutil.copy(LIBRARY_PATH, whole)
    assert load(whole) is not None, "the same file with the right digest is"


def test_nothing_is_loaded_at_import():
    code = "import sys, relaygr.native; sys.exit('_kernels' in open('/proc/self/maps').read())"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=False).returncode == 0


def test_without_a_compiler_nothing_is_built_and_it_says_what_serves_instead(tmp_path, caplog):
    output = tmp_path / "kernels.so"
    assert building.build(output, {"CXX": "/nowhere/c++", "PATH": os.environ["PATH"]}) is None
    assert building.build(output, {"PATH": str(tmp_path)}) is None
    assert not output.exists()
    assert "/nowhere/c++" in caplog.text and "torch and numpy serve instead" in caplog.text


@pytest.fixture
def sources(tmp_path):
    """The smallest library: detection, and a file for each of two levels."""
    folder = tmp_path / "native" / "src"
    folder.mkdir(parents=True)
    for name in ("cpu.cpp", "cpu.h"):
        shutil.copy(SOURCES / name, folder)
    shutil.copy(SOURCES.parent / "build.py", folder.parent)
    for level in ("avx2", "bf16"):
        (folder / f"part_{level}.cpp").write_text(f'extern "C" int part_{level}() {{ return 1; }}')
    return folder


@needs_kernels
def test_a_compiler_without_the_newest_instructions_builds_the_levels_below(tmp_path, sources, caplog):
    """A wrapper stands in for an old compiler: it refuses the options of AVX-512 bf16."""
    old = tmp_path / "old-c++"
    old.write_text(f'#!/bin/sh\ncase "$*" in *-mavx512bf16*) exit 1;; esac\nexec {COMPILER[0]} "$@"\n')
    old.chmod(0o755)
    made = {}
    for name, environment in {"old": {"CXX": str(old)}, "new": {"CXX": COMPILER[0]}}.items():
        output = tmp_path / f"{name}.so"
        assert building.build(output, environment | {"PATH": os.environ["PATH"]}, sources=sources) == output
        made[name] = output
    assert "kernels stop below" in caplog.text
    assert b"part_avx2" in made["old"].read_bytes() and b"part_bf16" not in made["old"].read_bytes()
    assert b"part_bf16" in made["new"].read_bytes()
    isa_of = ctypes.CDLL(str(made["old"])).rgr_cpu_isa
    isa_of.restype = ctypes.c_char_p
    assert LEVELS.index(isa_of().decode()) <= LEVELS.index("avx512"), "no level whose files were left out"


@needs_kernels
def test_a_source_that_does_not_compile_is_an_error_and_leaves_the_old_library(tmp_path, sources):
    (sources / "wrong.cpp").write_text("this is not C++")
    output = tmp_path / "kernels.so"
    output.write_bytes(b"old")
    with pytest.raises(building.BuildFailed, match=r"wrong\.cpp"):
        building.build(output, sources=sources)
    assert output.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".build")] == []


@needs_kernels
def test_what_is_up_to_date_is_not_built_again(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert is_current(LIBRARY_PATH)
    before = LIBRARY_PATH.stat().st_mtime_ns
    assert building.build(LIBRARY_PATH) == LIBRARY_PATH
    assert LIBRARY_PATH.stat().st_mtime_ns == before and "up to date" in caplog.text


def test_each_suffix_adds_its_options_to_those_of_the_levels_below():
    flags = [building._flags_of(Path(f"copy{level.suffix}.cpp"), building.LEVELS) for level in building.LEVELS]
    assert building._flags_of(Path("copy.cpp"), building.LEVELS) == []
    for lower, higher in itertools.pairwise(flags):
        assert higher[: len(lower)] == lower and len(higher) > len(lower)
