"""Who may import whom, held by a tool, and by asking a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_TORCH = (
    "services.trigger.__main__",
    "services.router.__main__",
    "services.expander.__main__",
    "relaygr.client",
    "relaygr.cli",
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)


def test_import_contracts_hold_and_the_graph_has_no_circle():
    done = run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_module_runs_without_torch(module):
    code = f"import sys, {module}; sys.exit(' '.join({{'torch', 'relaygr.model'}} & set(sys.modules)))"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, f"{module} loads {done.stderr}"


def test_the_ranker_is_where_torch_is():
    """The check above is able to fail."""
    assert (
        run(
            sys.executable, "-c", "import sys, services.ranker.__main__; sys.exit('torch' not in sys.modules)"
        ).returncode
        == 0
    )


def test_packages_form_no_circle():
    """No module of ours reaches itself by imports; grimp is what lint-imports stands on."""
    import grimp

    graph = grimp.build_graph("relaygr", "services", "trainer", "demo", cache_dir=None)
    circles = [module for module in sorted(graph.modules) if is_in_circle(graph, module)]
    assert not circles


def is_in_circle(graph, module):
    seen, ahead = set(), list(graph.find_modules_directly_imported_by(module))
    while ahead:
        at = ahead.pop()
        if at == module:
            return True
        if at not in seen:
            seen.add(at)
            ahead.extend(graph.find_modules_directly_imported_by(at))
    return False
