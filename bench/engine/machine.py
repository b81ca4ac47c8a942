"""Which machine, which code, which versions: what a figure means nothing without."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
"""Of the CPU's flags, those that kernels are chosen by."""


def hardware() -> dict[str, Any]:
    """The CPU, its caches and memory."""
    info = _cpu_info()
    flags = set(info.get("flags", "").split())
    return {
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "family_model": f"{info.get('cpu family', '?')}/{info.get('model', '?')}",
        "cores": os.cpu_count() or 1,
        "usable_cores": len(os.sched_getaffinity(0)),
        "flags": [flag for flag in FLAGS if flag in flags],
        "caches": _caches(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "is_virtual": "hypervisor" in flags,
        "load_1m": round(os.getloadavg()[0], 2),
    }


def short_name(found: dict[str, Any]) -> str:
    """For file names: maker and line of the CPU, its widest vector unit, its cores."""
    words = re.sub(r"\(.*?\)|@.*|\bCPU\b|Processor|\d+-Core", " ", found["cpu"])
    name = "-".join(re.findall(r"[a-z0-9]+", words.lower())[:4]) or "cpu"
    widest = next((flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in found["flags"]), "scalar")
    return f"{name}-{widest.replace('_', '')}-{found['usable_cores']}c"


def source(root: Path) -> dict[str, Any]:
    """The commit, and whether the tree is as it was committed."""
    commit = _said("git", "-C", str(root), "rev-parse", "HEAD")
    changed = _said("git", "-C", str(root), "status", "--porcelain")
    return {"commit": commit or "unknown", "is_changed": changed is None or bool(changed)}


def compute_versions() -> dict[str, str]:
    """Versions of what computes; imports torch."""
    import torch

    built_with = re.search(r"GCC [\d.]+|clang [\d.]+", torch.__config__.show())
    onednn = re.search(r"MKL-DNN v[\d.]+", torch.__config__.show())
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_compiler": built_with.group() if built_with else "unknown",
        "onednn": onednn.group() if onednn else "none",
        "compiler": (_said(os.environ.get("CXX", "c++"), "--version") or "none").partition("\n")[0],
    }


def _cpu_info() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (index / "type").read_text().strip()
        if kind != "Instruction":
            found[f"L{(index / 'level').read_text().strip()}"] = (index / "size").read_text().strip()
    return found


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
