"""What a returning user's append takes, against making the whole psi again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.load.weights import main as write_weights

SHAPE, DTYPE, SEED = "d256_h4x64_l4", "bfloat16", 1
CACHED, NEW, CANDIDATES = 4096, 64, 256


def append_speedup() -> dict[str, object]:
    """Medians of both in turns, as the engine runs them, on one thread."""
    with tempfile.TemporaryDirectory(prefix="relaygr-tiers-") as folder:
        write_weights([SHAPE, DTYPE, str(SEED), folder, str(CACHED + 2 * NEW)])
        spec = {
            "model": str(Path(folder)),
            "dtype": DTYPE,
            "threads": 1,
            "tokens": [CACHED],
            "appended": NEW,
            "candidates": CANDIDATES,
        }
        command = [sys.executable, "-m", "bench.load.steps", json.dumps(spec)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    times_ms = json.loads(done.stdout.splitlines()[-1])[str(CACHED)]
    return {
        "append_speedup": round(times_ms["pre_infer_ms"] / times_ms["append_ms"], 2),
        "append_ms": times_ms["append_ms"],
        "recompute_ms": times_ms["pre_infer_ms"],
    }
