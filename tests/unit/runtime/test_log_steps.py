"""Warnings and errors say what to do next."""

import ast
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from relaygr.runtime.logs import KeyValueFormatter, next_step

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("services", "relaygr/rpc")
LOUD = {"warning", "error", "exception", "critical"}


def loud_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr in LOUD:
                if name.lower().lstrip("_") in ("log", "logger", "logging"):
                    yield node
            case _:
                pass


def without_step(source: str) -> list[int]:
    """Lines of warnings and errors that carry no next step."""
    calls = loud_calls(ast.parse(source))
    return [call.lineno for call in calls if not any(keyword.arg == "extra" for keyword in call.keywords)]


def test_every_warning_and_error_of_the_services_says_what_to_do() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert sum(len(list(loud_calls(ast.parse(path.read_text())))) for path in files) > 15
    silent = {str(path.relative_to(ROOT)): without_step(path.read_text()) for path in files}
    assert not {name: lines for name, lines in silent.items() if lines}


@pytest.mark.parametrize("call", ["_log.warning('x')", "LOG.exception('x')", "LOG.error('x %s', 1)"])
def test_the_check_finds_one_that_does_not(call: str) -> None:
    assert without_step(f"import logging\n{call}\n") == [2]
    assert not without_step(f"{call[:-1]}, extra=next_step('y'))")


def test_the_next_step_is_a_field_of_the_line() -> None:
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(KeyValueFormatter("router"))
    logger = logging.Logger("a")
    logger.addHandler(handler)
    logger.warning("%s is fenced", "ranker-1", extra=next_step("see that it runs"))
    logger.info("all is well")
    loud, quiet = text.getvalue().splitlines()
    assert loud.endswith('msg="ranker-1 is fenced" next="see that it runs"')
    assert "next=" not in quiet
