"""Who may import whom, held by a tool, and by asking a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import grimp
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
    code = f"import sys, {module}; sys.exit(' '.join({{'torch', 'relaygr.model'}} & set(sys.modules)) or None)"
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


def test_no_module_reaches_itself_by_imports():
    """Also by imports inside functions: they hide a circle, they do not undo it."""
    graph = grimp.build_graph(
        *("relaygr", "services", "trainer", "console", "demo", "bench", "sim"),
        cache_dir=None,
        exclude_type_checking_imports=True,
    )
    found = [circle for module in sorted(graph.modules) if (circle := circle_through(graph, module))]
    assert not found, "\n".join(" -> ".join(circle) for circle in found)


def circle_through(graph, module: str) -> tuple[str, ...]:
    """The shortest way from a module back to itself, or nothing."""
    for first in sorted(graph.find_modules_directly_imported_by(module)):
        chain = graph.find_shortest_chain(importer=first, imported=module)
        if chain:
            return (module, *chain)
    return ()


def test_the_check_for_circles_finds_one():
    graph = grimp.ImportGraph()
    graph.add_import(importer="a", imported="b")
    graph.add_import(importer="b", imported="c")
    graph.add_import(importer="c", imported="a")
    graph.add_import(importer="d", imported="a")
    assert circle_through(graph, "a") == ("a", "b", "c", "a")
    assert circle_through(graph, "d") == ()
