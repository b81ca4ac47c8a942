"""The translation of names against the rules that the collector documents."""

import pytest

from tests.ops.prometheus_names import label_name, metric_name, series


@pytest.mark.parametrize(
    ("name", "unit", "instrument", "expected"),
    [
        ("(lambda).function.executions(#)", "", "gauge", "lambda_function_executions"),
        ("system.filesystem.usage", "By", "gauge", "system_filesystem_usage_bytes"),
        ("system.network.dropped", "{packets}", "gauge", "system_network_dropped"),
        ("system.network.dropped", "packets", "gauge", "system_network_dropped_packets"),
        ("system.memory.utilization", "1", "gauge", "system_memory_utilization_ratio"),
        ("storage.filesystem.utilization", "%", "gauge", "storage_filesystem_utilization_percent"),
        ("astro.light.speed", "m/s", "gauge", "astro_light_speed_meters_per_second"),
        ("system.processes.created", "", "counter", "system_processes_created_total"),
        ("http.server.duration", "s", "histogram", "http_server_duration_seconds"),
        ("requests.count", "1", "counter", "requests_count_total"),
        ("requests.total.count", "1", "counter", "requests_count_total"),
        ("relaygr.dram.bytes", "By", "gauge", "relaygr_dram_bytes"),
        ("2nd.thing", "", "gauge", "_2nd_thing"),
    ],
)
def test_metrics_are_named_as_the_collector_documents(name, unit, instrument, expected):
    assert metric_name(name, unit, instrument) == expected


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("host.name", "host_name"),
        ("host_name", "host_name"),
        ("name (of the host)", "name__of_the_host_"),
        ("2 cents", "key_2_cents"),
        ("__name", "__name"),
        ("_name", "key_name"),
    ],
)
def test_labels_are_named_as_the_collector_documents(attribute, expected):
    assert label_name(attribute) == expected


def test_a_histogram_is_three_series_and_its_buckets_have_a_bound():
    found = series()
    stage = {"job", "instance", "relaygr_rank_tier", "relaygr_rank_stage"}
    assert found["relaygr_rank_stage_duration_seconds_bucket"] == stage | {"le"}
    assert found["relaygr_rank_stage_duration_seconds_count"] == stage
