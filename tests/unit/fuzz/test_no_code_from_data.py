"""Nothing here turns data into code: no pickle in any dress, no eval, no shell, no YAML that makes objects."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent
OUTSIDE = {".venv", ".git", ".cache", "run", "build"}
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "jsonpickle", "marshal", "shelve", "code"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
CALLS |= {"yaml.full_load", "yaml.load_all", "subprocess.getoutput", "subprocess.getstatusoutput"}
CALLS |= {"asyncio.create_subprocess_shell", "numpy.load", "np.load", "torch.load"}
# What makes such a call a safe one; with None nothing does.
SAFE_BY = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}


def unsafe_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines, and what is wrong there."""
    names = dict(_names_in(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names if one.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES and not node.level:
            yield node.lineno, str(node.module)
        elif isinstance(node, ast.Call):
            yield from _unsafe_call(node, names)


def _names_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a name in this file stands for, when it was imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((one.asname or one.name, f"{node.module}.{one.name}") for one in node.names)
        elif isinstance(node, ast.Import):
            yield from ((one.asname, one.name) for one in node.names if one.asname)


def _unsafe_call(node: ast.Call, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    if not isinstance(node.func, ast.Name | ast.Attribute):
        return
    said = ast.unparse(node.func)
    first, dot, rest = said.partition(".")
    called = {said, names.get(first, first) + dot + rest}
    given = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
    for name in sorted(called & CALLS):
        word, value = SAFE_BY.get(name, ("", True))
        # numpy's own default is the safe one; torch's has not always been.
        if given.get(word, None if value else False) is not value:
            yield node.lineno, name
    if given.get("shell") is True:
        yield node.lineno, f"{said} with a shell"
    if said.endswith("import_module") and node.args and isinstance(node.args[0], ast.Constant):
        if str(node.args[0].value).partition(".")[0] in MODULES:
            yield node.lineno, f"import_module({node.args[0].value!r})"


def files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if not OUTSIDE & set(path.relative_to(ROOT).parts)]


def test_no_module_of_the_project_turns_data_into_code() -> None:
    found = []
    for path in files():
        name = path.relative_to(ROOT)
        found += [f"{name}:{line}: {what}" for line, what in unsafe_in(ast.parse(path.read_text()))]
    assert len(files()) > 500
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "import shelve",
        "eval('1')",
        "exec(data)",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "from torch import load\nload(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "from yaml import load as read\nread(text)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
        "import importlib\nimportlib.import_module('pickle')",
        "__import__('pickle')",
    ],
)
def test_what_turns_data_into_code_is_seen(text: str) -> None:
    assert list(unsafe_in(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)",
        "import subprocess\nsubprocess.run(['ls'])",
        "import re\nre.compile('a')",
        "from ast import literal_eval\nliteral_eval('1')",
    ],
)
def test_what_does_not_is_left_alone(text: str) -> None:
    assert not list(unsafe_in(ast.parse(text)))
