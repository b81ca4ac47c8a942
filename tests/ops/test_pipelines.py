"""The configurations of collector, Jaeger, Prometheus and Grafana fit together and with the compose files."""

import json
import re

import pytest
import yaml

from tests.ops.composed import BASE, ROOT, stacked

STACK = stacked((BASE, "docker-compose.observability.yml"))["services"]
COLLECTOR = yaml.safe_load((ROOT / "ops/otel/collector.yaml").read_text())
JAEGER = yaml.safe_load((ROOT / "ops/jaeger/jaeger.yaml").read_text())
PROMETHEUS = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())
PROVISIONED = ROOT / "ops/grafana/provisioning"
KINDS = ("receivers", "processors", "exporters")
KNOWN = {
    "otel-collector": {"otlp", "memory_limiter", "otlp_grpc", "prometheus", "health_check"},
    "jaeger": {"otlp", "batch", "jaeger_storage_exporter", "jaeger_storage", "jaeger_query", "healthcheckv2"},
}
"""Types of components that the images of the versions named in the compose file hold."""


@pytest.mark.parametrize(("name", "config"), [("otel-collector", COLLECTOR), ("jaeger", JAEGER)])
def test_every_component_is_known_defined_and_used(name, config):
    pipelines = config["service"]["pipelines"].values()
    for kind in KINDS:
        used = {component for pipeline in pipelines for component in pipeline.get(kind, ())}
        assert used == set(config[kind]), kind
    assert set(config["service"]["extensions"]) == set(config["extensions"])
    defined = {component.partition("/")[0] for kind in (*KINDS, "extensions") for component in config[kind]}
    assert defined == KNOWN[name]
    assert set(config) == {"service", "extensions", *KINDS}


def test_the_memory_limiter_comes_first_and_stays_within_the_container():
    for pipeline in COLLECTOR["service"]["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
    limit_mib = COLLECTOR["processors"]["memory_limiter"]["limit_mib"]
    assert limit_mib < int(STACK["otel-collector"]["mem_limit"].removesuffix("m"))


def test_the_collector_stands_where_the_console_stood():
    assert STACK["otel-collector"]["network_mode"] == "service:console"
    assert COLLECTOR["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] == "0.0.0.0:4317"
    command = STACK["console"]["command"]
    console = command[command.index("--otlp") + 1]
    assert COLLECTOR["exporters"]["otlp_grpc/console"]["endpoint"] == console
    assert not console.endswith(":4317")


def test_spans_go_to_console_and_jaeger_and_metrics_to_console_and_prometheus():
    pipelines = COLLECTOR["service"]["pipelines"]
    assert pipelines["traces"]["exporters"] == ["otlp_grpc/console", "otlp_grpc/jaeger"]
    assert pipelines["metrics"]["exporters"] == ["otlp_grpc/console", "prometheus"]
    jaeger_port = JAEGER["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    assert COLLECTOR["exporters"]["otlp_grpc/jaeger"]["endpoint"] == f"jaeger:{jaeger_port}"


def test_no_two_listeners_in_the_consoles_network_share_a_port():
    own = re.findall(r":(\d+)", " ".join(STACK["console"]["command"]))
    text = json.dumps({key: COLLECTOR[key] for key in ("receivers", "extensions")})
    collector = [*re.findall(r":(\d+)\"", text), COLLECTOR["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]]
    collector.append(str(_own_metrics()["port"]))
    assert len({*own, *collector}) == len(own) + len(collector) == 6


def test_prometheus_asks_where_the_collector_answers():
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in PROMETHEUS["scrape_configs"]}
    assert targets["relaygr"] == [f"console:{COLLECTOR['exporters']['prometheus']['endpoint'].rpartition(':')[2]}"]
    assert targets["otel-collector"] == [f"console:{_own_metrics()['port']}"]
    assert next(job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "relaygr")["honor_labels"] is True


def test_names_are_translated_as_the_tests_take_them_to_be():
    exporter = COLLECTOR["exporters"]["prometheus"]
    assert exporter["translation_strategy"] == "UnderscoreEscapingWithSuffixes"
    assert exporter["without_scope_info"] is True


def test_a_bucket_leads_to_a_trace():
    assert COLLECTOR["exporters"]["prometheus"]["enable_open_metrics"] is True
    assert "--enable-feature=exemplar-storage" in STACK["prometheus"]["command"]
    (sources,) = [yaml.safe_load(path.read_text()) for path in (PROVISIONED / "datasources").glob("*.yml")]
    uids = {source["uid"] for source in sources["datasources"]}
    ways = [
        source["jsonData"]["exemplarTraceIdDestinations"] for source in sources["datasources"] if "jsonData" in source
    ]
    assert ways == [[{"name": "trace_id", "datasourceUid": "jaeger"}]] and "jaeger" in uids


def test_health_checks_ask_where_jaeger_answers():
    endpoint = JAEGER["extensions"]["healthcheckv2"]["http"]["endpoint"]
    assert STACK["jaeger"]["healthcheck"]["test"][-1] == f"http://{endpoint}/status"


def test_jaegers_query_and_exporter_use_the_storage_that_there_is():
    storages = set(JAEGER["extensions"]["jaeger_storage"]["backends"])
    assert JAEGER["extensions"]["jaeger_query"]["storage"]["traces"] in storages
    assert JAEGER["exporters"]["jaeger_storage_exporter"]["trace_storage"] in storages


def test_files_stand_where_commands_look_for_them():
    for name in ("otel-collector", "jaeger", "prometheus"):
        mounted = {volume.split(":")[1] for volume in STACK[name]["volumes"]}
        wanted = [word.rpartition("=")[2] for word in STACK[name]["command"] if ".y" in word]
        assert len(wanted) == 1 and set(wanted) <= mounted
    rules = {volume.split(":")[1] for volume in STACK["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{rule}" for rule in PROMETHEUS["rule_files"]} <= rules


def test_grafana_finds_its_sources_and_dashboards():
    (sources,) = [yaml.safe_load(path.read_text()) for path in (PROVISIONED / "datasources").glob("*.yml")]
    urls = {source["uid"]: source["url"] for source in sources["datasources"]}
    assert urls == {"prometheus": "http://prometheus:9090", "jaeger": "http://jaeger:16686"}
    (providers,) = [yaml.safe_load(path.read_text()) for path in (PROVISIONED / "dashboards").glob("*.yml")]
    folder = providers["providers"][0]["options"]["path"]
    assert f"./ops/grafana/dashboards:{folder}:ro" in STACK["grafana"]["volumes"]
    home = STACK["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "ops/grafana/dashboards" / home.removeprefix(f"{folder}/")).is_file()
    for path in (ROOT / "ops/grafana/dashboards").glob("*.json"):
        assert set(re.findall(r'"uid": "(prometheus|jaeger)"', path.read_text())) <= set(urls)


def _own_metrics():
    return COLLECTOR["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]
