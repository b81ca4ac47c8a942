"""What our code uses of a device's backend, and what a backend's sources define. Nothing is imported.

`uses_in` finds, in a file of ours, every attribute of whatever is a backend: a name or attribute that
is annotated `DeviceModule` or bound to one, and `torch.npu`, `torch_npu` themselves. `Sources` reads
Python sources from a wheel or a folder and follows imports to where a name is defined.
"""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

PROTOCOL = "DeviceModule"
NAMED = ("torch.npu", "torch_npu", "torch_npu.npu")


@dataclass(frozen=True)
class Use:
    """One attribute of a backend, and how it is called where it is."""

    name: str
    where: str
    positional: int | None = None
    """Arguments by place; None where it is not called."""
    keywords: tuple[str, ...] = ()


def uses_in(tree: ast.AST, where: str) -> set[Use]:
    """Every use of a backend in a file."""
    backends = _backends_in(tree)
    calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_backend(node.value, backends):
            call = calls.get(node)
            place = f"{where}:{node.lineno}"
            if call is None:
                found.add(Use(node.attr, place))
            else:
                keywords = tuple(one.arg for one in call.keywords if one.arg)
                found.add(Use(node.attr, place, len(call.args), keywords))
    return found


def members_of(tree: ast.AST, protocol: str) -> set[Use]:
    """The methods of a protocol as uses with all their arguments."""
    (declared,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == protocol)
    methods = [node for node in declared.body if isinstance(node, ast.FunctionDef)]
    return {Use(method.name, f"{protocol}.{method.name}", len(method.args.args) - 1) for method in methods}


def _backends_in(tree: ast.AST) -> set[str]:
    """Expressions that are a backend, as text."""
    found = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg) and _says_backend(node.annotation)}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    makers = {node.name for node in functions if _says_backend(node.returns)} | {"torch.get_device_module"}
    bound = [(node.target, node.value) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)]
    bound += [(node.targets[0], node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    size = -1
    while size != len(found):
        size = len(found)
        for target, value in bound:
            is_made = isinstance(value, ast.Call) and ast.unparse(value.func) in makers
            if value is not None and (is_made or ast.unparse(value) in found):
                found.add(ast.unparse(target))
    return found | set(NAMED)


def _says_backend(annotation: ast.expr | None) -> bool:
    return annotation is not None and PROTOCOL in ast.unparse(annotation)


def _is_backend(value: ast.expr, backends: set[str]) -> bool:
    return isinstance(value, ast.Name | ast.Attribute) and ast.unparse(value) in backends


@dataclass
class Sources:
    """Python sources below a wheel or a folder."""

    root: Path
    _trees: dict[str, ast.Module | None] = field(default_factory=dict)

    def find(self, module: str, name: str) -> ast.AST | None:
        """Where a module's name is defined: a function, a class, or the statement that binds it; None if nowhere."""
        return self._find(module, name, frozenset())

    def member(self, cls: ast.ClassDef, name: str) -> ast.FunctionDef | None:
        """A method that the class itself defines."""
        methods = (node for node in cls.body if isinstance(node, ast.FunctionDef))
        return next((node for node in methods if node.name == name), None)

    def takes(self, definition: ast.AST, use: Use) -> bool:
        """Whether a call of that form fits. What has no signature to be seen takes anything."""
        if use.positional is None:
            return True
        if isinstance(definition, ast.ClassDef):
            made = self.member(definition, "__new__") or self.member(definition, "__init__")
            return made is None or fits(made, use, bound=True)
        return not isinstance(definition, ast.FunctionDef) or fits(definition, use, bound=False)

    def _find(self, module: str, name: str, seen: frozenset[tuple[str, str]]) -> ast.AST | None:
        if (module, name) in seen:
            return None
        seen |= {(module, name)}
        path, tree = self._parsed(module)
        if tree is None:
            return None
        for node in statements(tree.body):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
                return node
            if isinstance(node, ast.Assign) and any(ast.unparse(target) == name for target in node.targets):
                return node
            if isinstance(node, ast.ImportFrom):
                found = self._imported(node, path, name, seen)
                if found is not None:
                    return found
        return self._submodule(f"{module}.{name}")

    def _imported(self, node: ast.ImportFrom, path: str, name: str, seen: frozenset[tuple[str, str]]) -> ast.AST | None:
        source = absolute(node, path)
        for alias in node.names:
            if alias.name == "*":
                found = self._find(source, name, seen) if self._gives(source, name) else None
                if found is not None:
                    return found
            elif (alias.asname or alias.name) == name:
                # A name of another distribution, or of an extension, is bound by this statement.
                return self._find(source, alias.name, seen) or node
        return None

    def _gives(self, module: str, name: str) -> bool:
        """Whether `from module import *` may bind the name."""
        _, tree = self._parsed(module)
        if tree is None:
            return False
        for node in statements(tree.body):
            if isinstance(node, ast.Assign) and any(ast.unparse(target) == "__all__" for target in node.targets):
                return name in ast.literal_eval(node.value)
        return not name.startswith("_")

    def _submodule(self, module: str) -> ast.AST | None:
        return self._parsed(module)[1]

    def _parsed(self, module: str) -> tuple[str, ast.Module | None]:
        base = module.replace(".", "/")
        for path in (f"{base}/__init__.py", f"{base}.py"):
            if path not in self._trees:
                text = self._text(path)
                self._trees[path] = ast.parse(text) if text is not None else None
            if self._trees[path] is not None:
                return path, self._trees[path]
        return "", None

    def _text(self, path: str) -> str | None:
        if self.root.is_dir():
            there = self.root / path
            return there.read_text() if there.is_file() else None
        wheel = _opened(self.root)
        return wheel.read(path).decode() if path in wheel.NameToInfo else None


@cache
def _opened(path: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those at module level, also under if, try and with."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from statements(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body)


def absolute(node: ast.ImportFrom, path: str) -> str:
    """The module that an import names, seen from a file."""
    if not node.level:
        return node.module or ""
    package = PurePosixPath(path).parents[node.level - 1]
    return ".".join([*package.parts, *(node.module or "").split(".")]).rstrip(".")


def fits(function: ast.FunctionDef, use: Use, *, bound: bool) -> bool:
    """Whether a call with so many arguments by place, and these by name, can be made."""
    arguments = function.args
    by_place = [one.arg for one in (*arguments.posonlyargs, *arguments.args)][1 if bound else 0 :]
    by_name = {*(one.arg for one in arguments.kwonlyargs), *by_place}
    given = use.positional or 0
    if given > len(by_place) and arguments.vararg is None:
        return False
    if arguments.kwarg is None and not set(use.keywords) <= by_name:
        return False
    needed = by_place[: len(by_place) - len(arguments.defaults)]
    return set(needed) <= {*by_place[:given], *use.keywords}
