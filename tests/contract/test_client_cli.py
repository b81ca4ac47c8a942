"""The `relaygr` command against fake services, a real store and a cluster file."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from relaygr import cli
from relaygr.behaviours.build import build_store
from relaygr.rpc.server import RpcServer
from relaygr.telemetry import Telemetry
from relaygr.testing.fake_router import FakeRouter
from relaygr.testing.fake_trigger import FakeTrigger
from relaygr.v1.common_pb2 import Load, ModelIdentity
from relaygr.v1.ranker_pb2 import Counter, DescribeResponse, DrainResponse, InstanceState
from relaygr.v1.ranker_pb2_grpc import RankerServiceServicer, add_RankerServiceServicer_to_server
from relaygr.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from relaygr.v1.trigger_pb2_grpc import add_TriggerServiceServicer_to_server

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class FakeRanker(RankerServiceServicer):
    drained = None

    async def Describe(self, request, context):
        return DescribeResponse(
            instance_id="ranker-0",
            state=InstanceState.INSTANCE_STATE_READY,
            model=ModelIdentity(name="hstu", version="3"),
            kernel="native/avx2",
            load=Load(device_used_bytes=3 << 20, device_budget_bytes=64 << 20, backlog_ns=2_500_000),
            open_tickets=4,
            counters=[Counter(name="evictions", value=5), Counter(name="races", value=0)],
        )

    async def Drain(self, request, context):
        self.drained = not request.undo
        state = "INSTANCE_STATE_READY" if request.undo else "INSTANCE_STATE_DRAINING"
        return DrainResponse(state=state, open_tickets=4)


class Rig:
    def __init__(self, trigger, router, ranker, file, servers):
        self.trigger, self.router, self.ranker, self.file, self.servers = trigger, router, ranker, file, servers

    async def run(self, *arguments):
        return await asyncio.to_thread(cli.main, [*arguments, "--cluster", str(self.file)])


@asynccontextmanager
async def running(tmp_path):
    telemetry, _ = Telemetry.for_tests()
    trigger, router, ranker = FakeTrigger(), FakeRouter(), FakeRanker()
    added = {
        "Trigger": (add_TriggerServiceServicer_to_server, trigger),
        "Router": (add_RouterServiceServicer_to_server, router),
        "Ranker": (add_RankerServiceServicer_to_server, ranker),
    }
    servers, addresses = {}, {}
    for name, (add, servicer) in added.items():
        servers[name] = RpcServer(service_name=name, address="127.0.0.1:0", telemetry=telemetry)
        servers[name].add(add, servicer, f"relaygr.v1.{name}Service")
        addresses[name] = f"127.0.0.1:{await servers[name].start()}"
    log = tmp_path / "log.csv"
    log.write_text("user,item,timestamp\n42,1,10\n42,2,20\n7,3,30\n")
    build_store(log, tmp_path / "store")
    (tmp_path / "titles.json").write_text(json.dumps({"13": "Casablanca", "6": "Vertigo"}))
    np.save(tmp_path / "catalogue.npy", np.array([1, 2, 6, 13, 21]))
    cluster = {
        "trigger": addresses["Trigger"],
        "router": addresses["Router"],
        "rankers": [addresses["Ranker"]],
        "store_dir": str(tmp_path / "store"),
        "titles": str(tmp_path / "titles.json"),
        "catalogue": str(tmp_path / "catalogue.npy"),
        "traces": "run/traces",
        "pid": 1,  # what the command does not know is ignored
    }
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps(cluster))
    try:
        yield Rig(trigger, router, ranker, file, servers)
    finally:
        for server in servers.values():
            await server.stop(0)
        telemetry.shutdown()


async def test_recommend_shows_titles_scores_and_how_they_came(tmp_path, capsys):
    async with running(tmp_path) as rig:
        assert await rig.run("recommend", "--user", "42", "--k", "2", "--pause-ms", "5", "--verify") == 0
        shown = capsys.readouterr().out
        rows = [line for line in shown.splitlines() if line[:1].isdigit()]
        # Click is item modulo 7: 13 and 6 tie for the first place, in the catalogue's order.
        assert [row.split()[2] for row in rows] == ["Vertigo", "Casablanca"]
        assert "+6.0000" in rows[0]
        assert "2 behaviours, 3 candidates" in shown
        assert "ADMITTED (AT_RISK)" in shown and "tier      DEVICE, on ranker-0" in shown
        assert "in run/traces" in shown and "0.0e+00" in shown


async def test_recommend_leaves_out_what_the_user_has_seen(tmp_path):
    async with running(tmp_path) as rig:
        await rig.run("recommend", "--user", "42", "--pause-ms", "0")
        (rank,) = rig.router.ranks
        assert np.frombuffer(rank.candidates.item_ids, "<i8").tolist() == [6, 13, 21]


async def test_recommend_takes_candidates_and_notes_an_unknown_user(tmp_path, capsys):
    async with running(tmp_path) as rig:
        await rig.run("recommend", "--user", "nobody", "--candidates", "5, 6", "--pause-ms", "0")
        assert np.frombuffer(rig.router.ranks[0].candidates.item_ids, "<i8").tolist() == [5, 6]
        assert "no history here" in capsys.readouterr().out


async def test_recommend_goes_on_without_the_trigger(tmp_path, capsys):
    async with running(tmp_path) as rig:
        await rig.servers["Trigger"].stop(0)
        assert await rig.run("recommend", "--user", "42", "--pause-ms", "0") == 0
        assert "tier      FULL (NO_TICKET)" in capsys.readouterr().out


async def test_lost_router_is_one_line_with_the_next_step(tmp_path, capsys):
    async with running(tmp_path) as rig:
        await rig.servers["Router"].stop(0)
        assert await rig.run("recommend", "--user", "42", "--pause-ms", "0") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "relaygr health" in error


async def test_describe_shows_each_instance_and_its_counters(tmp_path, capsys):
    async with running(tmp_path) as rig:
        assert await rig.run("describe") == 0
        shown = capsys.readouterr().out
        assert "ranker-0" in shown and "3.0 MiB of 64.0 MiB" in shown and "hstu 3" in shown
        assert "native/avx2" in shown
        assert "evictions 5" in shown and "races" not in shown


async def test_describe_fails_when_an_instance_does_not_answer(tmp_path, capsys):
    async with running(tmp_path) as rig:
        await rig.servers["Ranker"].stop(0)
        assert await rig.run("describe") == 1
        assert "Unreachable" in capsys.readouterr().out


async def test_drain_and_undo_reach_the_named_instance(tmp_path, capsys):
    async with running(tmp_path) as rig:
        assert await rig.run("drain", "--instance", "ranker-0") == 0 and rig.ranker.drained is True
        assert await rig.run("drain", "--instance", "ranker-0", "--undo") == 0 and rig.ranker.drained is False
        assert await rig.run("drain", "--instance", "elsewhere") == 2
        assert "there are: ranker-0" in capsys.readouterr().err


async def test_forget_fails_until_every_instance_confirmed(tmp_path, capsys):
    async with running(tmp_path) as rig:
        assert await rig.run("forget", "--user", "42") == 1
        assert rig.router.forgotten == [("default", "42")]
        assert "not reached: ranker-9" in capsys.readouterr().out


async def test_health_names_what_does_not_serve(tmp_path, capsys):
    async with running(tmp_path) as rig:
        assert await rig.run("health") == 0
        await rig.servers["Ranker"].stop(0)
        assert await rig.run("health") == 1
        shown = capsys.readouterr().out
        assert "UNAVAILABLE" in shown and "make up" in shown


def test_without_a_cluster_says_how_to_start_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relaygr.client.commands.cluster._found", lambda: None)
    for command in (["health"], ["describe"], ["recommend", "--user", "1"], ["drain", "--instance", "x"]):
        assert cli.main(command) == 2
        assert capsys.readouterr().err == "relaygr: no cluster is running here; start one with: make up\n"


@pytest.mark.parametrize("content", ["{", "[]", '{"rankers": 3}'])
def test_broken_cluster_file_is_no_traceback(tmp_path, capsys, content):
    file = tmp_path / "cluster.json"
    file.write_text(content)
    assert cli.main(["health", "--cluster", str(file)]) == 2
    assert "make up" in capsys.readouterr().err


async def test_examples_run_as_printed(tmp_path):
    async with running(tmp_path) as rig:
        cluster = json.loads(rig.file.read_text())
        addresses = cluster["trigger"], cluster["router"]
        top = await example("recommend").recommend(*addresses, "42", list(range(1, 101)))
        assert len(top) == 10 and top[0][1] == 6.0
        history = {"item_ids": [1, 2], "timestamps_s": [10, 20]}
        inline = await asyncio.to_thread(example("recommend_inline").recommend, *addresses, "42", history)
        assert inline == top


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
