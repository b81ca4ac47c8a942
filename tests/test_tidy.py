"""Style as a test: what a reviewer would otherwise say again and again."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("relaygr", "services", "trainer", "console", "demo", "scripts", "tests", "sim", "bench")
GENERATED = (ROOT / "relaygr" / "v1", ROOT / "relaygr" / "telemetry" / "names.py")
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
SERVICES = ("trigger", "router", "ranker", "expander")
ROOMS = ("README.md", "__init__.py", "__main__.py", "config.py", "service.py", "core", "adapters", "metrics.py")

# Calls that are never right here, and what to use in their place. Checked in the named packages.
BANNED = {
    "pickle": ("everywhere", "safetensors and JSON"),
    "marshal": ("everywhere", "safetensors and JSON"),
    "shelve": ("everywhere", "safetensors and JSON"),
    "torch.load": ("everywhere", "safetensors.torch.load_file"),
    "torch.save": ("everywhere", "safetensors.torch.save_file"),
    "eval": ("everywhere", "json or ast.literal_eval"),
    "exec": ("everywhere", "a function"),
    "os.system": ("everywhere", "subprocess with a list of arguments"),
    "time.sleep": ("services", "asyncio.wait with a timeout, or the driver's timer"),
    "asyncio.get_event_loop": ("everywhere", "asyncio.get_running_loop"),
    "time.time": ("services", "time.time_ns for tickets, time.monotonic_ns for everything else"),
}


def python_files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [path for path in found if not any(path.is_relative_to(generated) for generated in GENERATED)]


FILES = python_files(*PACKAGES)
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def long_functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.name, lines


def test_no_function_is_longer_than_the_limit():
    found = [
        f"{name_of(path)}: {name} has {lines} lines" for path in FILES for name, lines in long_functions(TREES[path])
    ]
    assert not found, f"at most {FUNCTION_LINES_MAX} lines:\n" + "\n".join(found)


def test_no_file_is_longer_than_the_limit():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    found = [f"{name} has {lines} lines" for name, lines in lengths.items() if lines > FILE_LINES_MAX]
    assert not found, f"at most {FILE_LINES_MAX} lines:\n" + "\n".join(found)


def words_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Imported modules and called names, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def banned_in(tree: ast.AST, package: str) -> list[str]:
    return [
        f"line {line}: {word}; use {BANNED[word][1]}"
        for word, line in words_of(tree)
        if word in BANNED and BANNED[word][0] in ("everywhere", package)
    ]


def test_no_banned_call_is_made():
    found = [
        f"{name_of(path)}: {text}" for path in FILES for text in banned_in(TREES[path], path.relative_to(ROOT).parts[0])
    ]
    assert not found, "\n".join(found)


def test_the_check_for_banned_calls_finds_one():
    tree = ast.parse("import pickle\nfrom torch import load\ntime.sleep(1)\neval('1')\n")
    assert len(banned_in(tree, "services")) == 4
    assert len(banned_in(tree, "tests")) == 3


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_has_the_same_rooms(service):
    missing = [room for room in ROOMS if not (ROOT / "services" / service / room).exists()]
    assert not missing, f"services/{service} lacks {', '.join(missing)}"


@pytest.mark.parametrize("service", SERVICES)
def test_each_main_is_wiring_of_modest_length(service):
    lines = (ROOT / "services" / service / "__main__.py").read_text().splitlines()
    assert len(lines) <= 160


def markdown_files() -> list[Path]:
    outside = {".venv", ".git", ".cache", "run", "node_modules"}
    return [path for path in sorted(ROOT.rglob("*.md")) if not outside & set(path.relative_to(ROOT).parts)]


def test_links_between_documents_resolve():
    found = []
    for path in markdown_files():
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            file, _, heading = target.partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            there = (path.parent / file).resolve() if file else path
            if not there.exists():
                found.append(f"{name_of(path)}: {target} is not there")
            elif heading and there.suffix == ".md" and heading not in anchors(there):
                found.append(f"{name_of(path)}: {target} has no such heading")
    assert not found, "\n".join(found)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+\s+(.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_paths_that_documents_name_exist():
    """A path in backticks that begins with a folder of ours is a promise."""
    pattern = re.compile(r"`((?:relaygr|services|trainer|console|demo|bench|scripts|tests|ops|docs|protos)/[\w./*-]*)`")
    found = []
    for path in markdown_files():
        for target in pattern.findall(path.read_text()):
            is_generated = any((ROOT / target) == one or one in (ROOT / target).parents for one in GENERATED)
            if not is_generated and not any(ROOT.glob(target.rstrip("/"))):
                found.append(f"{name_of(path)}: {target}")
    assert not found, "named but not there:\n" + "\n".join(found)


def test_every_module_says_what_it_is():
    found = [name_of(path) for path in FILES if path.parts[-2] != "tests" and not says(path)]
    assert not found, "no docstring at the top:\n" + "\n".join(found)


def says(path: Path) -> bool:
    is_test = path.is_relative_to(ROOT / "tests")
    return is_test or not path.read_text().strip() or ast.get_docstring(TREES[path]) is not None


def test_nothing_is_left_to_do_without_a_place_where_it_is_tracked():
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!\(#\d+\))")
    found = [
        f"{name_of(path)}:{number}"
        for path in FILES
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark.search(line)
    ]
    assert not found, "\n".join(found)


def test_nothing_listens_on_all_interfaces_by_default():
    """Only the container's own configuration may bind to every interface of its private network."""
    found = [
        f"{name_of(path)}:{number}"
        for path in FILES
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"0\.0\.0\.0|\[::\]", line) and not path.is_relative_to(ROOT / "tests")
    ]
    assert not found, "\n".join(found)


def test_readmes_example_is_the_one_that_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks == [(ROOT / "examples" / "recommend.py").read_text()]
