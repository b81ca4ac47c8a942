"""The registry as a contract: attributes of metrics, who emits what, and what must stay zero."""

from pathlib import Path
from types import ModuleType

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import use_span

from relaygr.telemetry import Telemetry, names
from services.expander.metrics import MUST_BE_ZERO
from services.ranker.core.counters import RACE_COUNTERS
from tests.unit.telemetry.test_registry_file import generator, loaded

__all__ = ["generator"]

SERVICES = {"client", "trigger", "router", "ranker", "expander"}
TEXT = """s:
  attributes:
    relaygr.x: {type: string, meaning: X}
  spans:
    relaygr.s: {meaning: S, emitted_by: [b]}
  metrics:
    relaygr.m: {instrument: gauge, unit: '1', attributes: [relaygr.x], meaning: M, must_be_zero: [bad]}
    relaygr.n: {instrument: counter, unit: '1', meaning: N, zero: may}
"""


def test_generated_module_says_what_a_system_is_held_to(generator: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "names.py"
    path.write_text(generator.render(generator.entries_of(TEXT)))
    made = loaded("generated_contract", path)
    assert made.ATTRIBUTES == {"relaygr.m": frozenset({"relaygr.x"}), "relaygr.n": frozenset()}
    assert made.EMITTED_BY == {"relaygr.s": ("b",), "relaygr.m": ("s",), "relaygr.n": ("s",)}
    assert made.MUST_BE_ZERO == {"relaygr.m": ("bad",)}
    assert made.MAY_BE_ZERO == {"relaygr.n"}


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("attributes: [relaygr.x], ", "attributes: [relaygr.y], ", "attributes relaygr.y are not declared"),
        ("attributes: [relaygr.x], ", "", "exactly one attribute"),
        ("zero: may", "zero: never", "zero must be may"),
        ("{meaning: S,", "{attributes: [], meaning: S,", "unknown attributes"),
    ],
)
def test_a_contract_that_cannot_be_held_is_refused(
    generator: ModuleType, before: str, after: str, complaint: str
) -> None:
    assert before in TEXT
    with pytest.raises(ValueError, match=complaint):
        generator.entries_of(TEXT.replace(before, after))


def test_every_emitter_is_a_service() -> None:
    assert {service for emitters in names.EMITTED_BY.values() for service in emitters} == SERVICES


def test_what_the_cores_count_as_a_bug_must_be_zero() -> None:
    assert names.MUST_BE_ZERO == {
        names.METRIC_RESIDENCY_EVENTS: RACE_COUNTERS,
        names.METRIC_DRAM_EVENTS: MUST_BE_ZERO,
    }


def test_recording_with_an_undeclared_attribute_fails() -> None:
    telemetry, _ = Telemetry.for_tests()
    with pytest.raises(AssertionError, match=r"relaygr\.rank\.requests is recorded with surprise"):
        telemetry.counter(names.METRIC_RANK_REQUESTS).add(1, {names.ATTR_RANK_TIER: "DRAM", "surprise": "x"})
    with pytest.raises(AssertionError, match=r"ops/telemetry\.yaml"):
        telemetry.histogram(names.METRIC_LOOP_LAG).record(1.0, {names.ATTR_RANK_TIER: "DRAM"})


def test_an_undeclared_attribute_that_nobody_saw_fails_the_reading_and_the_end() -> None:
    """A gauge is read by the SDK, which logs what its callback raises and goes on."""
    telemetry, _ = Telemetry.for_tests()
    telemetry.gauge(names.METRIC_REGISTRY_AGE, lambda: [(1.0, {"surprise": "x"})])
    for look in (lambda: telemetry.points(names.METRIC_REGISTRY_AGE), telemetry.shutdown):
        with pytest.raises(AssertionError, match="surprise"):
            look()


def test_declared_attributes_may_be_absent() -> None:
    telemetry, _ = Telemetry.for_tests()
    telemetry.counter(names.METRIC_RANK_REQUESTS).add(1, {names.ATTR_RANK_TIER: "DRAM"})
    (point,) = telemetry.points(names.METRIC_RANK_REQUESTS)
    assert dict(point.attributes) == {names.ATTR_RANK_TIER: "DRAM"}
    telemetry.shutdown()


def test_totals_of_several_readers_add_up() -> None:
    telemetry, _ = Telemetry.for_tests()
    for count in (2, 3):
        telemetry.total(names.METRIC_LANE_CALLS, lambda count=count: [(count, {names.ATTR_LANE_SIDE: "CALLER"})])
    for _ in range(2):
        (point,) = telemetry.points(names.METRIC_LANE_CALLS)
        assert point.value == 5


def test_a_duration_inside_a_recorded_span_leads_to_its_trace() -> None:
    telemetry, _ = Telemetry.for_tests()
    with telemetry.span(names.SPAN_RANK_COMPUTE) as span:
        telemetry.histogram(names.METRIC_RANK_STAGE_DURATION).record(0.02, {names.ATTR_RANK_STAGE: "compute"})
    (point,) = telemetry.points(names.METRIC_RANK_STAGE_DURATION)
    (exemplar,) = point.exemplars
    context = span.get_span_context()
    assert (exemplar.trace_id, exemplar.span_id, exemplar.value) == (context.trace_id, context.span_id, 0.02)


def test_a_duration_outside_a_recorded_span_leads_nowhere() -> None:
    telemetry, _ = Telemetry.for_tests()
    stages = telemetry.histogram(names.METRIC_RANK_STAGE_DURATION)
    unsampled = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("t").start_span("s")
    stages.record(0.02, {})
    with use_span(unsampled):
        stages.record(0.02, {})
    (point,) = telemetry.points(names.METRIC_RANK_STAGE_DURATION)
    assert point.count == 2 and not point.exemplars
