"""The console as a process: spans and metrics in over OTLP, JSON, text and files out."""

import asyncio
import json
import sys

import aiohttp
import pytest

from relaygr import cli
from relaygr.telemetry import names
from tests.contract.console_process import console, files


async def test_a_request_is_shown_with_its_sentence_and_waterfall():
    async with console() as running:
        trace_id = running.tell(request_id="r-7")
        found = await running.until("/api/requests", lambda found: found["requests"])
        (row,) = found["requests"]
        assert (row["trace_id"], row["request_id"], row["tier"]) == (trace_id, "r-7", "DEVICE")
        assert row["sentence"].startswith("Psi of 300 tokens was on the device from an earlier request")
        shown = await running.get(f"/api/requests/{trace_id}")
        assert [lane["name"] for lane in shown["lanes"]] == ["client", "trigger-1", "ranker-1"]
        assert shown["deadline_ms"] == pytest.approx(shown["rank_due_ms"] + 50.0)
        assert (await running.get("/api/requests/slowest"))["request"] == shown["request"] == row
        text = await running.get(f"/api/requests/{trace_id}/text?width=90")
        assert row["sentence"] in text and "ranker-1" in text


async def test_filters_and_the_overview_tell_requests_apart():
    async with console() as running:
        running.tell(tier="FULL", decision="DECLINED")
        running.tell(tier="DEVICE")
        seen = await running.until("/api/overview", lambda found: found["requests"]["count"] == 2)
        assert seen["requests"]["by_tier"] == {"FULL": 1, "DEVICE": 1}
        (declined,) = (await running.get("/api/requests?filter=declined"))["requests"]
        assert declined["decision"] == "DECLINED"
        assert not (await running.get("/api/requests?filter=slow"))["requests"]


async def test_metrics_are_shown_by_instance_and_counted_as_signals():
    async with console() as running:
        ranker = running.service("ranker", "ranker-9")
        states = {"used": 3.0, "reserved": 1.0, "total": 8.0}
        by_state = [(value, {names.ATTR_RESIDENCY_STATE: state}) for state, value in states.items()]
        ranker.gauge(names.METRIC_RESIDENCY_PAGES, lambda: by_state)
        ranker.counter(names.METRIC_RANK_REQUESTS).add(1, {names.ATTR_RANK_TIER: "DEVICE"})
        running.tell()
        seen = await running.until("/api/overview", lambda found: any(one["device"] for one in found["instances"]))
        (mine,) = [one for one in seen["instances"] if one["id"] == "ranker-9"]
        assert mine["device"] == {"used_pages": 3, "reserved_pages": 1, "total_pages": 8}
        signals = (await running.get("/api/signals"))["services"]["relaygr-ranker"]
        assert signals["metrics"][names.METRIC_RANK_REQUESTS] == {"points": 1, "is_nonzero": True}


async def test_bad_questions_get_an_answer_that_says_how():
    async with console() as running:
        assert "filter must be one of" in (await running.get("/api/requests?filter=x", 400))["error"]
        assert "limit must be" in (await running.get("/api/requests?limit=0", 400))["error"]
        assert "width must be" in (await running.get("/api/requests/x/text?width=1e3", 400))["error"]
        assert "no trace nobody is kept" in (await running.get("/api/requests/nobody", 404))["error"]
        assert "error" in await running.get("/nothing/here", 404)


async def test_a_browser_is_told_to_run_our_own_files_alone():
    async with console() as running, aiohttp.ClientSession() as session:
        for path in ("/", "/api/overview", "/static/console.js", "/static/absent.js"):
            async with session.get(running.url + path) as answer:
                assert "default-src 'self'" in answer.headers["Content-Security-Policy"], path
                assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_foreign_name_that_leads_here_is_refused():
    async with console("--host", "console.internal") as running, aiohttp.ClientSession() as session:
        for name, status in (("evil.example", 421), ("console.internal", 200), ("localhost", 200), ("[::1]", 200)):
            async with session.get(running.url + "/api/overview", headers={"Host": f"{name}:80"}) as answer:
                assert answer.status == status, name


async def test_the_oldest_traces_are_given_up_beyond_the_maximum(tmp_path):
    async with console("--traces-max", "3", "--out", str(tmp_path)) as running:
        ids = [running.tell(request_id=f"r-{number}") for number in range(5)]
        await running.until("/api/requests", lambda found: "r-4" in [row["request_id"] for row in found["requests"]])
        kept = [row["trace_id"] for row in (await running.get("/api/requests"))["requests"]]
        assert kept == ids[:1:-1]
        assert f"{ids[-1]}.json" in files(tmp_path) and f"{ids[0]}.json" not in files(tmp_path)


async def test_what_was_received_is_written_when_it_ends(tmp_path):
    async with console("--out", str(tmp_path)) as running:
        trace_id = running.tell()
        await running.until("/api/overview", lambda found: found["collector"]["traces"] == 1)
    assert running.process.returncode == 0
    assert {f"{trace_id}.json", f"{trace_id}.html", "index.html"} <= files(tmp_path)


async def test_a_taken_port_is_said_with_the_next_step():
    async with console() as running:
        port = running.url.rpartition(":")[2]
        command = ("-m", "console", "--otlp", "127.0.0.1:0", "--http", f"127.0.0.1:{port}")
        other = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
        _, said = await other.communicate()
        assert other.returncode == 1
        assert said.decode().startswith("console: ") and "--http" in said.decode()


async def test_the_terminal_shows_the_same(tmp_path, capsys):
    async with console() as running:
        file = tmp_path / "cluster.json"
        file.write_text(json.dumps({"console": running.url}))

        async def command(*arguments: str) -> tuple[int, str]:
            code = await asyncio.to_thread(cli.main, ["trace", *arguments, "--cluster", str(file)])
            captured = capsys.readouterr()
            return code, captured.out + captured.err

        assert "no request yet" in (await command())[1]
        trace_id = running.tell()
        await running.until("/api/requests", lambda found: found["requests"])
        listed = await command()
        assert trace_id in listed[1] and "on the device from an earlier request" in listed[1]
        for arguments in ((trace_id,), ("--slowest",)):
            code, text = await command(*arguments)
            assert code == 0 and "ranker-1" in text and trace_id in text
        code, text = await command("nobody")
        assert code == cli.MISUSED and text.startswith("relaygr: no trace nobody is kept")


def test_a_console_that_is_not_there_is_one_line(tmp_path, capsys):
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"console": "http://127.0.0.1:1"}))
    assert cli.main(["trace", "--cluster", str(file)]) == cli.MISUSED
    assert "no answer from the console at http://127.0.0.1:1" in capsys.readouterr().err
