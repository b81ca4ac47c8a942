"""Generate relaygr/v1 from protos/ with the locked grpcio-tools.

The proto path equals the package path, so the generated imports work unpatched.
Stubs are not committed: they refuse to load under an older protobuf than the one that
made them.
"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Write the stubs; the exit code is protoc's."""
    target = ROOT / "relaygr" / "v1"
    shutil.rmtree(target, ignore_errors=True)
    sources = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    include = str(files("grpc_tools") / "_proto")
    options = [f"--{kind}={ROOT}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    code = int(protoc.main(["protoc", f"-I{ROOT / 'protos'}", f"-I{include}", *options, *sources]))
    if code == 0:
        (target / "__init__.py").write_text('"""Generated from protos/ by scripts/gen_protos.py."""\n')
    return code


if __name__ == "__main__":
    sys.exit(main())
