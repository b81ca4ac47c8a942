"""What the text of the sources shows: no etcd and no endless wait on a request's path, no device by default.

Design, section 5: I6 (no await of a peer without a timeout), I8 (requests do not need etcd);
section 9 (pages for Ascend's operator, torch_npu only when asked for).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from relaygr.domain.chain import PAGE_TOKENS

ROOT = Path(__file__).resolve().parents[2]
RPCS = {
    *re.findall(r"^\s*rpc (\w+)\(", "\n".join(path.read_text() for path in ROOT.glob("protos/**/*.proto")), re.M),
    "Check",
    "Authenticate",
}
CARRIERS = {"_call", "_insist", "_called"}
"""Functions that take a method and call it with a timeout, which is checked too."""
PATH_OF_A_REQUEST = (
    *(f"services/{service}/core" for service in ("trigger", "router", "ranker", "expander")),
    *(f"services/{service}/service.py" for service in ("trigger", "router", "ranker", "expander")),
    "services/trigger/arrival.py",
    "services/trigger/adapters/router.py",
    "services/trigger/adapters/pre_infers.py",
    "services/trigger/adapters/histories.py",
    "services/router/relay.py",
    "services/router/adapters/rankers.py",
    "services/router/adapters/probes.py",
    "services/ranker/engine.py",
    "services/ranker/answer.py",
    "services/ranker/prefix.py",
    "services/ranker/production.py",
    "services/ranker/work.py",
    "services/ranker/adapters/executor.py",
    "services/ranker/adapters/dram.py",
)


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in ([ROOT / folder] if folder.endswith(".py") else [])]
    found += [
        path for folder in folders if not folder.endswith(".py") for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    return [path for path in found if not path.is_relative_to(ROOT / "relaygr" / "v1")]


def endless_calls(tree: ast.AST) -> Iterator[int]:
    """Lines of calls to a peer that carry no timeout."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if name in RPCS and is_stub(node.value):
                call = parents[node]
                is_called = isinstance(call, ast.Call) and call.func is node
                is_carried = isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] in CARRIERS
                if not (is_called and has_timeout(call)) and not (is_carried and not is_called):
                    yield node.lineno
            case ast.Call(func=ast.Name(id="method")) if not has_timeout(node):
                yield node.lineno


def is_stub(node: ast.AST) -> bool:
    return "stub" in ast.unparse(node).lower()


def has_timeout(call: ast.AST) -> bool:
    return isinstance(call, ast.Call) and any(word.arg == "timeout" for word in call.keywords)


def test_every_call_to_a_peer_has_a_timeout():
    """I6."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources("relaygr", "services")
        for line in endless_calls(tree_of(path))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("await self._stub.Rank(request)", True),
        ("await stub(address).Rank(request, timeout=1)", False),
        ("await self._call(self._stub.Lookup, request)", False),
        ("await self._wait(self._stub.Lookup, request)", True),
        ("await method(request)", True),
        ("await self.Rank(request)", False),
    ],
)
def test_the_check_for_timeouts_finds_a_call_without_one(line, is_found):
    assert bool([*endless_calls(ast.parse(line))]) == is_found


def test_there_are_calls_to_check():
    texts = [path.read_text() for path in sources("relaygr", "services")]
    assert sum(len(re.findall(r"stub[\w().]*\.[A-Z]\w+\b", text)) for text in texts) >= 12 and len(RPCS) >= 15


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports_of(path: Path) -> set[str]:
    nodes = [*ast.walk(tree_of(path))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return modules | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_nothing_on_a_requests_path_knows_etcd():
    """I8: placement comes from a watched copy; only adapters beside the path import the registry."""
    found = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(*PATH_OF_A_REQUEST)
        for module in imports_of(path)
        if module.startswith(("relaygr.registry", "etcd3"))
    ]
    assert not found, "\n".join(found)
    beside = [path.name for path in sources("services/router/adapters") if "relaygr.registry" in imports_of(path)]
    assert beside == ["discovery.py", "pins.py", "planner.py"], "the check sees such imports where they are"


def test_pages_suit_the_paged_operator_of_ascend():
    """Section 9: a page is a whole multiple of 128 tokens."""
    assert PAGE_TOKENS % 128 == 0


def test_torch_npu_is_loaded_only_by_the_device_that_asks_for_it():
    """Section 9: no module imports it; the accelerator's adapter loads it by name when "npu" is asked for."""
    paths = sources("relaygr", "services", "trainer", "demo")
    assert not [path for path in paths if any(module.startswith("torch_npu") for module in imports_of(path))]
    loading = [path.name for path in paths if 'import_module("torch_npu")' in path.read_text()]
    assert loading == ["accelerator.py"]
