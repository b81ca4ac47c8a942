"""One request is one trace over all services; the rank links to what made its psi."""

import asyncio
import json

import pytest

from console.traces import Span
from relaygr.telemetry import Telemetry, names
from tests.system.world import FRESH_USERS, client_of, relay_admitted, relay_once, until

SERVICES = {"relaygr-client", "relaygr-trigger", "relaygr-router", "relaygr-ranker", "relaygr-expander"}
# Child and parent, as (service, end of the span's name, kind).
EDGES = [
    (("trigger", "TriggerService/Arrive", "SERVER"), ("client", "TriggerService/Arrive", "CLIENT")),
    (("trigger", "RouterService/Resolve", "CLIENT"), ("trigger", "TriggerService/Arrive", "SERVER")),
    (("router", "RouterService/Resolve", "SERVER"), ("trigger", "RouterService/Resolve", "CLIENT")),
    (("trigger", names.SPAN_TRIGGER_ADMISSION, "INTERNAL"), ("trigger", "TriggerService/Arrive", "SERVER")),
    (("router", "RouterService/PreInfer", "SERVER"), ("trigger", "RouterService/PreInfer", "CLIENT")),
    (("ranker", "RankerService/PreInfer", "SERVER"), ("router", "RankerService/PreInfer", "CLIENT")),
    (("ranker", names.SPAN_PRE_INFER_CHUNK, "INTERNAL"), ("ranker", names.SPAN_PRE_INFER_PRODUCE, "INTERNAL")),
    (("ranker", names.SPAN_PRE_INFER_PRODUCE, "INTERNAL"), ("ranker", "RankerService/PreInfer", "SERVER")),
    (("ranker", names.SPAN_PRE_INFER_LOOKUP, "INTERNAL"), ("ranker", "RankerService/PreInfer", "SERVER")),
    (("router", "RouterService/Rank", "SERVER"), ("client", "RouterService/Rank", "CLIENT")),
    (("router", names.SPAN_ROUTE_CHOOSE, "INTERNAL"), ("router", "RouterService/Rank", "SERVER")),
    (("ranker", "RankerService/Rank", "SERVER"), ("router", "RankerService/Rank", "CLIENT")),
    (("ranker", names.SPAN_RANK_COMPUTE, "INTERNAL"), ("ranker", "RankerService/Rank", "SERVER")),
    (("expander", "ExpanderService/PrepareStore", "SERVER"), ("ranker", "ExpanderService/PrepareStore", "CLIENT")),
]


@pytest.fixture
async def telemetry(cluster):
    made = Telemetry.setup("relaygr-client", "client", cluster.otlp_endpoint, b"test")
    yield made
    await asyncio.to_thread(made.shutdown)


def read(cluster, trace_id: str) -> list[Span]:
    path = cluster.traces_dir / f"{trace_id}.json"
    return [Span.from_json(raw) for raw in json.loads(path.read_text())] if path.exists() else []


async def trace_of(cluster, trace_id: str, *, until_named: str) -> list[Span]:
    """The trace, once the collector has written it with the span that comes last."""

    async def is_whole() -> bool:
        return any(span.name.endswith(until_named) for span in read(cluster, trace_id))

    await until(is_whole, f"{until_named} in trace {trace_id}")
    return read(cluster, trace_id)


def find(spans: list[Span], service: str, ending: str, kind: str) -> list[Span]:
    wanted = f"relaygr-{service}"
    return [one for one in spans if one.service == wanted and one.name.endswith(ending) and one.kind == kind]


async def test_a_relay_is_one_trace_over_all_services(cluster, telemetry):
    async with client_of(cluster, telemetry) as client:
        ranking = await relay_admitted(client, FRESH_USERS[0], wait_s=0.1, verify=False)
    spans = await trace_of(cluster, ranking.trace_id, until_named="CompleteStore")
    assert {span.trace_id for span in spans} == {ranking.trace_id}
    assert {span.service for span in spans} == SERVICES
    by_id = {span.span_id: span for span in spans}
    roots = [span.name for span in spans if span.parent_span_id not in by_id]
    assert roots == [names.SPAN_RECOMMEND]
    missing = [
        (child, parent)
        for child, parent in EDGES
        if not any(by_id[one.parent_span_id] in find(spans, *parent) for one in find(spans, *child))
    ]
    assert not missing


async def test_the_rank_links_to_the_span_that_made_its_psi_in_an_earlier_request_too(cluster, telemetry):
    async with client_of(cluster, telemetry) as client:
        first = await relay_admitted(client, FRESH_USERS[1], wait_s=0.1, verify=False)
        second = await relay_admitted(client, FRESH_USERS[1], wait_s=0.1, verify=False)
    assert first.trace_id != second.trace_id and second.tier == "DEVICE"
    for ranking in (first, second):
        spans = await trace_of(cluster, ranking.trace_id, until_named="RankerService/Rank")
        links = [link for span in find(spans, "ranker", "RankerService/Rank", "SERVER") for link in span.links]
        assert [link.trace_id for link in links] == [first.trace_id]
    producers = {span.span_id for span in read(cluster, first.trace_id) if span.service == "relaygr-ranker"}
    assert links[0].span_id in producers


async def test_no_span_tells_who_the_user_is(cluster, telemetry):
    user = "somebody-whose-name-must-not-travel"
    async with client_of(cluster, telemetry) as client:
        _, ranking = await relay_once(client, user, verify=False)
    await trace_of(cluster, ranking.trace_id, until_named="RankerService/Rank")
    assert user not in (cluster.traces_dir / f"{ranking.trace_id}.json").read_text()


async def test_the_page_of_a_trace_says_what_happened(cluster, telemetry):
    async with client_of(cluster, telemetry) as client:
        ranking = await relay_admitted(client, FRESH_USERS[2], wait_s=0.1, verify=False)
    await trace_of(cluster, ranking.trace_id, until_named="RankerService/Rank")
    page = (cluster.traces_dir / f"{ranking.trace_id}.html").read_text()
    assert "before ranking came" in page and "<svg" in page
    assert ranking.trace_id in (cluster.traces_dir / "index.html").read_text()
