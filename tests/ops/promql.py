"""PromQL expressions, taken apart with a parser: which series they ask for, by which labels and values."""

import re
from dataclasses import dataclass

import promql_parser

GRAFANA = {"$__rate_interval": "1m"}
"""What Grafana fills in."""


@dataclass(frozen=True)
class Selector:
    """One series asked for."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    """Label, operator and value."""


@dataclass(frozen=True)
class Query:
    """One expression."""

    selectors: tuple[Selector, ...]
    grouped_by: frozenset[str]
    """Labels of aggregations and of matches between vectors."""


def query_of(expression: str) -> Query:
    """Take an expression apart.

    Raises:
        ValueError: it is not PromQL.
    """
    for variable, value in GRAFANA.items():
        expression = expression.replace(variable, value)
    selectors: list[Selector] = []
    grouped: set[str] = set()

    def look(node: promql_parser.Expr) -> None:
        match node:
            case promql_parser.VectorSelector():
                found = tuple((one.name, _operator(one), one.value) for one in node.matchers.matchers)
                selectors.append(Selector(node.name, found))
            case promql_parser.AggregateExpr() if node.modifier is not None:
                grouped.update(node.modifier.labels)
            case promql_parser.BinaryExpr() if node.modifier is not None:
                grouped.update(re.findall(r"\w+", " ".join(re.findall(r"\(([^)]*)\)", str(node.modifier)))))
            case _:
                pass

    promql_parser.walk(promql_parser.parse(expression), look)
    return Query(tuple(selectors), frozenset(grouped))


def _operator(matcher: promql_parser.Matcher) -> str:
    return re.sub(r"^\w+(=~|!~|!=|=).*$", r"\1", str(matcher), flags=re.DOTALL)
