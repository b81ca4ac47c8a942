"""Constructors, comparisons and hashes of data classes, written out: for the copy that is compiled (compiled.py).

`dataclasses` writes these methods while a program starts, so that a compiler never sees them, and what they do stays
interpreted: a frozen instance of eight fields takes half a microsecond to make, and a request makes some dozens.
Written into the source they are compiled like everything else, and take a twentieth of that. What they do is the same;
only that nothing guards a frozen instance against being changed, which mypy has ruled out before.

Source: design, section 8.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

_INDENT = "    "


@dataclass(frozen=True, slots=True)
class _Field:
    """A field as it stands in the source: what is text here is source text."""

    name: str
    kind: str
    default: str | None
    factory: str | None
    is_given: bool
    """To the constructor."""

    @property
    def parameter(self) -> str:
        if self.factory is not None:
            return f"{self.name}: {self.kind} | None = None"
        return f"{self.name}: {self.kind}" + ("" if self.default is None else f" = {self.default}")

    @property
    def value(self) -> str:
        return self.name if self.factory is None else f"{self.factory}() if {self.name} is None else {self.name}"


def with_constructors(source: str) -> str:
    """The same module, with what `dataclass` would add to its classes in place.

    A class that derives from something keeps what it has: its fields are not all to be seen.
    """
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.ClassDef) and not node.bases:
            for decorator in node.decorator_list:
                options = _options(decorator)
                if options is not None:
                    lines[node.end_lineno : node.end_lineno] = _methods(node, options)
                    lines[decorator.lineno - 1 : decorator.end_lineno] = [_decorator(options)]
    return "\n".join(lines) + "\n"


def _options(decorator: ast.expr) -> dict[str, bool] | None:
    """Of a `dataclass(...)`, what it says; None of anything else."""
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "dataclass":
        return None
    return {str(each.arg): bool(ast.literal_eval(each.value)) for each in decorator.keywords}


def _decorator(options: dict[str, bool]) -> str:
    return f"@dataclass(init=False, eq=False, kw_only={options.get('kw_only', False)})"


def _methods(node: ast.ClassDef, options: dict[str, bool]) -> list[str]:
    fields = [_field(each) for each in node.body if isinstance(each, ast.AnnAssign)]
    written = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    methods = [_constructor(fields, has_more="__post_init__" in written, is_by_name=options.get("kw_only", False))]
    if options.get("eq", True) and "__eq__" not in written:
        methods.append(_comparison(node.name, fields))
        if options.get("frozen", False) and "__hash__" not in written:
            methods.append(_hash(fields))
    return [_INDENT + line if line else "" for method in methods for line in ("", *method)]


def _field(node: ast.AnnAssign) -> _Field:
    name, kind, value = ast.unparse(node.target), ast.unparse(node.annotation), node.value
    if not (isinstance(value, ast.Call) and ast.unparse(value.func) == "field"):
        return _Field(name, kind, None if value is None else ast.unparse(value), None, is_given=True)
    said = {str(each.arg): ast.unparse(each.value) for each in value.keywords}
    factory = said.get("default_factory")
    return _Field(name, kind, None, None if factory is None else f"({factory})", said.get("init") != "False")


def _constructor(fields: list[_Field], *, has_more: bool, is_by_name: bool) -> list[str]:
    given = [each for each in fields if each.is_given]
    parameters = ["self", *(["*"] if is_by_name and given else []), *(each.parameter for each in given)]
    body = [f"self.{each.name} = {each.value}" for each in given]
    if has_more:
        body.append("self.__post_init__()")
    return [f"def __init__({', '.join(parameters)}) -> None:", *(_INDENT + line for line in body or ["pass"])]


def _comparison(name: str, fields: list[_Field]) -> list[str]:
    same = " and ".join(f"self.{each.name} == other.{each.name}" for each in fields) or "True"
    return [
        "def __eq__(self, other: object) -> bool:",
        f"{_INDENT}if not isinstance(other, {name}):",
        f"{_INDENT * 2}return NotImplemented",
        f"{_INDENT}return {same}",
    ]


def _hash(fields: list[_Field]) -> list[str]:
    values = "".join(f"self.{each.name}, " for each in fields)
    return ["def __hash__(self) -> int:", f"{_INDENT}return hash(({values}))"]
