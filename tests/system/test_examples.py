"""The examples run as a user runs them, and say what to do when something is missing."""

import asyncio
import re
import sys

import pytest

from demo.processes import ROOT
from tests.contract.test_integration_page import PAGE, PYTHON_BLOCK
from tests.unit.telemetry.test_registry_file import loaded

CLOSED = "127.0.0.1:1"


async def run(name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and complaints of an example."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        f"examples/{name}",
        *arguments,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await asyncio.wait_for(process.communicate(), 40)
    return process.returncode or 0, output.decode(), complaints.decode()


def at(cluster) -> list[str]:
    return ["--trigger", cluster.addresses["trigger"], "--router", cluster.addresses["router"]]


async def test_one_request_is_one_line_with_tier_time_and_trace(cluster):
    code, output, complaints = await run("recommender.py", *at(cluster), "--user", "7", "--otlp", cluster.otlp_endpoint)
    assert code == 0, complaints
    line, *summary = output.splitlines()
    assert re.fullmatch(r"user 7  \w+  \w+.*  rank \d+\.\d ms  best item \d+  trace [0-9a-f]{32}.*", line)
    assert summary[0].startswith("1 requests in ") and "1 ranked, 0 failed" in summary[0]


async def test_a_load_ends_with_percentiles_and_tiers_and_has_no_line_for_each_request(cluster):
    code, output, complaints = await run(
        "recommender.py", *at(cluster), "--users", "20", "--requests", "60", "--rate", "30", "--budget-ms", "0.001"
    )
    assert code == 0, complaints
    assert "60 ranked, 0 failed" in output and "trace" not in output
    assert re.search(r"^rank: P50 \d+\.\d ms, P99 \d+\.\d ms$", output, re.MULTILINE)
    (tiers,) = re.findall(r"^tiers: (.*)$", output, re.MULTILINE)
    assert sum(int(count) for count in re.findall(r"\w+ (\d+)", tiers)) == 60


async def test_the_blocking_one_prints_a_line_for_each_request(cluster):
    addresses = cluster.addresses["trigger"], cluster.addresses["router"]
    code, output, complaints = await run("recommender_sync.py", *addresses, "7", "2")
    assert code == 0, complaints
    assert len(output.splitlines()) == 2 and "rank" in output


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("recommender.py", ["--trigger", CLOSED, "--router", CLOSED, "--user", "7", "--deadline-ms", "300"]),
        ("recommender_sync.py", [CLOSED, CLOSED, "7"]),
    ],
)
async def test_without_a_cluster_one_line_says_what_to_do(name, arguments):
    code, _, complaints = await run(name, *arguments)
    assert code == 1
    (line,) = complaints.splitlines()
    assert "make up" in line or "relaygr health" in line


@pytest.mark.parametrize(
    "arguments, hint",
    [(["--items", "many"], "1-500"), (["--requests", "0"], "at least 1"), (["--user", "1", "--users", "2"], "--user")],
)
async def test_a_wrong_command_line_is_told(arguments, hint):
    code, _, complaints = await run("recommender.py", *arguments)
    assert code == 2 and hint in complaints


async def test_items_that_the_model_does_not_take_are_the_callers_mistake(cluster):
    code, _, complaints = await run("recommender.py", *at(cluster), "--user", "7", "--candidates", "400")
    assert code == 1
    (line,) = complaints.splitlines()
    assert "candidate" in line and "limits" in line


async def test_what_the_integration_page_shows_in_python_recommends(cluster, tmp_path):
    path = tmp_path / "page.py"
    path.write_text("\n".join(PYTHON_BLOCK.findall(PAGE.read_text())[:2]))
    page = loaded("integration_page", path)
    addresses = cluster.addresses["trigger"], cluster.addresses["router"]
    items = list(range(1, 11))
    one = await page.recommend_async(*addresses, "7", items)
    other = await asyncio.to_thread(page.recommend_sync, *addresses, "7", items)
    assert list(one) == list(other) == items
    assert all(abs(one[item] - other[item]) < 1e-4 for item in items)
