"""Environment to frozen dataclass, strictly, once per process.

A service's config class documents each field with a string under it; `table` renders
these as the README's table. A variable with the service's prefix that no field claims,
or a value that does not parse, stops the start with its name.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import math
import textwrap
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_SECRET_ENDINGS = ("_key", "password", "secret")
MASK = "***"
FLOAT_MAX = 1e15
"""No time, share or rate is beyond it, and one that is infinite or no number stops the start here and not later."""


class ConfigError(Exception):
    """The environment does not make a config; the message names the variable."""


def load(cls: type[Config], prefix: str, env: Mapping[str, str]) -> Config:
    """Build a config from the variables that start with `prefix`.

    Args:
        cls: a frozen, keyword-only dataclass. Fields: str, int, float, bool, bytes (hex),
            tuple[str, ...] (separated by commas), and any of these | None (empty is None).
        prefix: for example "RELAYGR_ROUTER"; a field deadline_ns is RELAYGR_ROUTER_DEADLINE_NS.
        env: usually os.environ.

    Raises:
        ConfigError: an unknown, missing or unparsable variable, or a relation that does not hold.
    """
    hints = typing.get_type_hints(cls)
    fields = {variable_of(prefix, field.name): field for field in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(name for name in env if name.startswith(variable_of(prefix, "")) and name not in fields)
    if unknown:
        raise ConfigError(f"unknown variable {', '.join(unknown)}")
    values: dict[str, Any] = {}
    for variable, field in fields.items():
        if variable in env:
            values[field.name] = _parsed(env[variable], hints[field.name], variable)
        elif not _has_default(field):
            raise ConfigError(f"{variable} must be set")
    try:
        return cls(**values)
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"{variable_of(prefix, '')}*: {error or 'a relation between fields does not hold'}"
        ) from error


def variable_of(prefix: str, field: str) -> str:
    """The environment variable of a field."""
    return f"{prefix.rstrip('_')}_{field.upper()}"


def describe(config: Any) -> dict[str, str]:
    """Every field as text, for the log and the telemetry resource; secrets are masked."""
    return {
        field.name: MASK
        if _is_secret(field.name) and getattr(config, field.name)
        else _text(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def table(cls: type[Any], prefix: str) -> str:
    """A markdown table of a config class: field, variable, default, meaning."""
    meanings = field_meanings(cls)
    lines = ["| field | variable | default | meaning |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        cells = (
            f"`{field.name}`",
            f"`{variable_of(prefix, field.name)}`",
            _default_cell(field),
            meanings.get(field.name, "").replace("|", "\\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def field_meanings(cls: type[Any]) -> dict[str, str]:
    """The string under each field of a class and of its bases, on one line."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]).body
        for field, below in itertools.pairwise(body):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    meanings[name] = " ".join(text.split())
                case _:
                    pass
    return meanings


def _parsed(text: str, wanted: Any, variable: str) -> Any:
    inner, optional = _unwrapped(wanted)
    if optional and text == "":
        return None
    try:
        return _value(text, inner)
    except ValueError:
        kind = "hex bytes" if inner is bytes else getattr(inner, "__name__", str(inner))
        # The value itself is not shown: it may be a secret.
        raise ConfigError(f"{variable} is not {kind}") from None


def _value(text: str, wanted: Any) -> Any:
    if wanted is str:
        return text
    if wanted is bool:
        lowered = text.strip().lower()
        if lowered not in _TRUE | _FALSE:
            raise ValueError
        return lowered in _TRUE
    if wanted is int:
        return int(text)
    if wanted is float:
        number = float(text)
        if not math.isfinite(number) or abs(number) > FLOAT_MAX:
            raise ValueError
        return number
    if wanted is bytes:
        return bytes.fromhex(text)
    if typing.get_origin(wanted) is tuple and typing.get_args(wanted) == (str, ...):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    raise TypeError(f"config fields of type {wanted} are not supported")


def _unwrapped(wanted: Any) -> tuple[Any, bool]:
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(wanted) if part is not type(None)]
        if len(inner) == 1:
            return inner[0], True
    return wanted, False


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _default_cell(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if _is_secret(field.name) and value:
        return MASK
    return f"`{_text(value)}`" if _text(value) else "empty"


def _is_secret(name: str) -> bool:
    return name.endswith(_SECRET_ENDINGS)


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bytes():
            return value.hex()
        case tuple():
            return ",".join(map(str, value))
        case bool():
            return str(value).lower()
        case _:
            return str(value)
