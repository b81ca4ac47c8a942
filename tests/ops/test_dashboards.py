"""Dashboards and alert rules ask for what the services really export."""

import json
import re

import pytest
import yaml

from relaygr.telemetry import names
from services.expander.metrics import MUST_BE_ZERO
from services.ranker.core.counters import Counters
from tests.ops.composed import ROOT
from tests.ops.prometheus_names import metric_name, series
from tests.ops.promql import query_of

RULES = yaml.safe_load((ROOT / "ops/prometheus/alerts.yml").read_text())
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL_RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
DASHBOARDS = sorted((ROOT / "ops/grafana/dashboards").glob("*.json"))
PANELS = [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel.get("targets", ())]
EXPRESSIONS = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in ALL_RULES]
EXPRESSIONS += [(title, target["expr"]) for title, target in TARGETS]
DOCUMENTED = re.findall(r"^\| (.+\?) \| `(.+)` \|$", (ROOT / "docs/integration.md").read_text(), flags=re.MULTILINE)
EXPRESSIONS += DOCUMENTED
SERIES = series() | {"up": frozenset({"job", "instance"})} | dict.fromkeys(RECORDED, frozenset())
TIERING_COUNTERS = {"evicted", "aged", "forget", "pin_expired", "store_overdue", "owner_lapsed", *MUST_BE_ZERO}
VALUES = {
    "relaygr_residency_events": set(Counters().copy()),
    "relaygr_dram_events": TIERING_COUNTERS,
}


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_each_expression_asks_for_series_and_labels_that_there_are(where, expression):
    query = query_of(expression)
    assert query.selectors or expression == "vector(0.05)"
    labels = frozenset()
    for selector in query.selectors:
        assert selector.name in SERIES, f"{where}: {selector.name} is exported by nobody"
        labels |= SERIES[selector.name]
        for label, _, _ in selector.matchers:
            assert label in SERIES[selector.name], f"{where}: {selector.name} has no label {label}"
    assert query.grouped_by <= labels, f"{where}: {query.grouped_by - labels}"


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_each_event_asked_for_is_counted_somewhere(where, expression):
    for selector in query_of(expression).selectors:
        for label, operator, value in selector.matchers:
            known = VALUES.get(selector.name) if label == "relaygr_residency_event" else None
            if known is not None:
                for one in value.split("|") if operator == "=~" else [value]:
                    assert any(re.fullmatch(one, name) for name in known), f"{where}: {one}"


@pytest.mark.parametrize(("title", "target"), TARGETS)
def test_each_legend_is_of_labels_that_are_left(title, target):
    wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    query = query_of(target["expr"])
    left = query.grouped_by or frozenset().union(*(SERIES[selector.name] for selector in query.selectors))
    assert wanted <= left, title


def test_there_are_queries_in_the_documents_to_be_checked():
    assert len(DOCUMENTED) > 3


def test_every_metric_is_on_a_dashboard():
    shown = {selector.name for _, target in TARGETS for selector in query_of(target["expr"]).selectors}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown}
    assert not {re.sub(r"_(bucket|sum|count)$", "", name) for name in SERIES} - shown


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_what_happened_and_what_to_do(name):
    rule = ALERTS[name]
    assert name.startswith("RelayGR")
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert len(rule["annotations"]["summary"]) > 20 and len(rule["annotations"]["action"]) > 60
    asked = query_of(rule["expr"])
    left = asked.grouped_by or frozenset().union(*(SERIES[selector.name] for selector in asked.selectors))
    assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= left


def test_each_panel_asks_a_question_and_has_a_place_of_its_own():
    taken = set()
    for panel in PANELS:
        assert panel["type"] == "row" or panel["title"].endswith("?"), panel["title"]
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_alerts_name_panels_that_there_are():
    titles = {panel["title"] for panel in PANELS}
    for rule in ALERTS.values():
        for quoted in re.findall(r"`([^`]+\?)`", rule["annotations"]["action"]):
            assert any(title.startswith(quoted.rstrip("?")) for title in titles), quoted


def test_each_alert_is_tested_to_fire():
    tested = yaml.safe_load((ROOT / "tests/ops/alerts.test.yml").read_text())
    fired = re.findall(r'alertname="(\w+)"', str([test["promql_expr_test"] for test in tested["tests"]]))
    assert set(fired) == set(ALERTS)


@pytest.mark.parametrize("metric", names.MUST_BE_ZERO)
def test_whatever_must_be_zero_has_an_alert_and_is_on_a_dashboard(metric):
    instrument, unit, _ = names.INSTRUMENTS[metric]
    asked = [query_of(rule["expr"]).selectors for rule in ALERTS.values()]
    shown = [query_of(target["expr"]).selectors for _, target in TARGETS]
    for where in (asked, shown):
        values = [
            value
            for selectors in where
            for selector in selectors
            if selector.name == metric_name(metric, unit, instrument)
            for _, _, value in selector.matchers
        ]
        for event in names.MUST_BE_ZERO[metric]:
            assert any(re.fullmatch(value, event) for value in values), event


def test_what_is_no_promql_is_refused():
    with pytest.raises(ValueError, match="parenthesis"):
        query_of("sum by (le (rate(x[1m]))")
