"""The whole cluster under mutual TLS: a request relays as ever, and nobody without a certificate gets a word in."""

import asyncio
import json
import shutil
from dataclasses import replace

import grpc
import numpy as np
import pytest

from demo.cluster import Cluster
from demo.processes import Supervisor
from relaygr.cli import main
from relaygr.client import RelayClient
from relaygr.errors import AccessDenied, Unreachable
from relaygr.rpc.channel import ChannelPool
from relaygr.security.identity import Role
from relaygr.security.methods import ALLOWED
from relaygr.security.settings import kept_material
from relaygr.telemetry import Telemetry
from relaygr.v1.router_pb2 import ResolveRequest
from relaygr.v1.router_pb2_grpc import RouterServiceStub
from services.router.direct import DirectRanks
from tests.contract.security_world import Method, Parties, outcome, reflected
from tests.system.world import CANDIDATES, FRESH_USERS, ITEMS, SCORE_DIFFERENCE_MOST, relay_admitted, small_plan, until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")

REFUSED = {grpc.StatusCode.PERMISSION_DENIED}
NO_CONNECTION = {grpc.StatusCode.UNAVAILABLE}
CALLERS = ("client", "operator", "trigger", "router", "ranker-1", "expander")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    plan = replace(small_plan(tmp_path_factory.mktemp("tls")), tls=True)
    with Supervisor(plan.run_dir / "logs") as supervisor:
        made = Cluster(plan, supervisor)
        made.start()
        yield made


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    return Parties(tmp_path_factory.mktemp("strangers"))


def servers_of(cluster):
    return ("trigger", "router", "expander", *cluster.ranker_names)


def client_of(cluster, name="client", **options):
    addresses = cluster.addresses["trigger"], cluster.addresses["router"]
    patience = {"arrive_timeout_ms": 1000.0, "rank_deadline_ms": 5000.0}
    return RelayClient(*addresses, **patience, **cluster.tls_settings(name), **options)


async def methods_of(cluster, server):
    """Every method of a process, by reflection, and the one that it does not show."""

    def asked():
        with cluster.channel(server) as channel:
            return reflected(channel)

    return [*await asyncio.to_thread(asked), Method("relaygr.v1.LaneService/Open", False, False)]


async def walked(channel, methods):
    return {method.name: await outcome(channel, method) for method in methods}


async def test_an_admitted_request_is_ranked_on_psi_with_the_scores_of_full_inference(cluster):
    found = []

    async with client_of(cluster) as client:

        async def on_psi() -> bool:
            found.append(await relay_admitted(client, FRESH_USERS[3], wait_s=0.2))
            return found[-1].tier == "DEVICE"

        await until(on_psi, "an admitted request is ranked on psi")
    assert all(one.admitted and one.score_difference <= SCORE_DIFFERENCE_MOST for one in found)
    assert found[-1].scores.shape == (CANDIDATES, 2) and np.ptp(found[-1].scores) > 0.01


async def test_psi_that_left_the_device_comes_back_from_dram(cluster):
    found = []

    async with client_of(cluster) as client:

        async def reloaded() -> bool:
            found.extend([await relay_admitted(client, user, wait_s=0.03) for user in range(20)])
            return any(one.tier == "DRAM" for one in found[-20:])

        await until(reloaded, "a psi is reloaded", timeout_s=30.0)
    assert max(one.score_difference for one in found) <= SCORE_DIFFERENCE_MOST


async def test_calls_go_over_lanes(cluster):
    telemetry, _ = Telemetry.for_tests()
    pool = ChannelPool(telemetry, tls=kept_material(**cluster.tls_settings("trigger")), peer_role=Role.ROUTER)
    address = cluster.addresses["router"]
    stub, counts = pool.stub(RouterServiceStub, address), pool.get(address)._lanes.counts

    async def is_carried() -> bool:
        await stub.Resolve(ResolveRequest(user="1"), timeout=5)
        return counts.calls > 0

    await until(is_carried, "a lane carries a call")
    await pool.close()
    telemetry.shutdown()


async def test_a_rank_may_pass_the_router_by(cluster):
    answered = []

    class Direct(DirectRanks):
        async def rank(self, *arguments):
            answer = await super().rank(*arguments)
            answered.append(answer is not None)
            return answer

    found = []
    async with client_of(cluster, direct=Direct((cluster.addresses["etcd"],), **cluster.tls_settings())) as client:

        async def on_psi() -> bool:
            found.append(await relay_admitted(client, FRESH_USERS[2], wait_s=0.2, verify=False))
            return answered[-1] and found[-1].tier in ("DEVICE", "DRAM")

        await until(on_psi, "a rank goes to its instance")


@pytest.mark.parametrize("caller", CALLERS)
async def test_no_process_lets_a_role_do_what_is_not_its_own(cluster, caller):
    role = caller.partition("-")[0]
    for server in servers_of(cluster):
        denied = [one for one in await methods_of(cluster, server) if role not in ALLOWED[one.name]]
        async with cluster.aio_channel(server, caller) as channel:
            found = await walked(channel, denied)
        assert set(found.values()) <= REFUSED, (server, found)


@pytest.mark.parametrize("kind", [None, "stranger", "expired"])
async def test_no_process_answers_without_a_good_certificate(cluster, strangers, kind):
    """Of a stranger's authority, of this one but over, or none."""
    certificates = cluster.certificates
    shown = None
    if kind == "stranger":
        shown = strangers.of("operator")
    elif kind == "expired":
        shown = certificates.authority.issue(replace(certificates.identity("operator"), name="expired"), -1)
    files = (shown.key.read_bytes(), shown.certificate.read_bytes()) if shown else (None, None)
    credentials = grpc.ssl_channel_credentials(certificates.authority.certificate.read_bytes(), *files)
    for server in servers_of(cluster):
        methods = await methods_of(cluster, server)
        options = certificates.options(server)
        async with grpc.aio.secure_channel(cluster.addresses[server], credentials, options=options) as channel:
            found = await walked(channel, methods)
        assert methods and set(found.values()) == NO_CONNECTION, (server, found)


async def test_no_process_answers_plain_text(cluster):
    for server in servers_of(cluster):
        methods = await methods_of(cluster, server)
        async with grpc.aio.insecure_channel(cluster.addresses[server]) as channel:
            assert set((await walked(channel, methods)).values()) == NO_CONNECTION, server


async def test_a_client_of_another_role_is_told_so(cluster):
    async with client_of(cluster, "trigger") as client:
        with pytest.raises(AccessDenied, match="role trigger may not call"):
            await client.arrive(user=1)


async def test_a_client_reaches_no_server_that_is_not_what_it_should_be(cluster):
    """The trigger's address leads to a ranker, the router's to the expander."""
    addresses = cluster.addresses["ranker-1"], cluster.addresses["expander"]
    async with RelayClient(*addresses, arrive_timeout_ms=500.0, **cluster.tls_settings()) as client:
        relay = await client.arrive(user=1)
        assert isinstance(relay.arrive_error, Unreachable)
        with pytest.raises(Unreachable):
            await relay.rank(ITEMS[:4])


def test_the_command_shows_the_operators_certificate(cluster, capsys):
    assert main(["health", "--cluster", str(cluster.file)]) == 0
    assert main(["describe", "--cluster", str(cluster.file)]) == 0
    assert "ranker-2" in capsys.readouterr().out
    assert main(["recommend", "--user", "3", "--candidates", "1,2,3", "--cluster", str(cluster.file)]) == 0
    assert main(["forget", "--user", "3", "--cluster", str(cluster.file)]) == 0


def test_the_command_without_a_certificate_gets_nowhere(cluster, tmp_path, capsys):
    known = json.loads(cluster.file.read_text())
    plain = tmp_path / "cluster.json"
    plain.write_text(json.dumps({name: value for name, value in known.items() if not name.startswith("tls_")}))
    assert main(["health", "--cluster", str(plain)]) == 1
    assert main(["forget", "--user", "3", "--cluster", str(plain)]) == 1
    given = cluster.tls_settings("operator")
    options = [text for name, path in given.items() for text in (f"--{name.replace('_', '-')}", path)]
    assert main(["health", "--cluster", str(plain), *options]) == 0


async def test_a_process_goes_on_with_a_renewed_certificate(cluster):
    """All are renewed under a running client; every request is answered."""
    certificates = cluster.certificates
    async with client_of(cluster) as client:
        for name in ("client", *servers_of(cluster)):
            certificates.authority.issue(certificates.identity(name))
            assert (await relay_admitted(client, FRESH_USERS[1])).score_difference <= SCORE_DIFFERENCE_MOST
    cluster.kill("router")
    cluster.restart("router")
    cluster.wait_settled(cluster.ranker_names)
    async with client_of(cluster) as client:
        assert (await relay_admitted(client, FRESH_USERS[1])).score_difference <= SCORE_DIFFERENCE_MOST
