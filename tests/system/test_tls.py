"""The whole cluster under mutual TLS: a request relays as ever, and nobody without a certificate gets a word in."""

import shutil
from dataclasses import replace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.cluster import Cluster
from demo.processes import Supervisor
from relaygr.cli import main
from relaygr.client import RelayClient
from tests.system.world import CANDIDATES, FRESH_USERS, SCORE_DIFFERENCE_MOST, relay_admitted, small_plan, until

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    plan = replace(small_plan(tmp_path_factory.mktemp("tls")), tls=True)
    with Supervisor(plan.run_dir / "logs") as supervisor:
        made = Cluster(plan, supervisor)
        made.start()
        yield made


def client_of(cluster):
    addresses = cluster.addresses["trigger"], cluster.addresses["router"]
    return RelayClient(*addresses, arrive_timeout_ms=1000.0, rank_deadline_ms=5000.0, **cluster.tls_settings())


async def test_an_admitted_request_is_ranked_on_psi_with_the_scores_of_full_inference(cluster):
    found = []

    async with client_of(cluster) as client:

        async def on_psi() -> bool:
            found.append(await relay_admitted(client, FRESH_USERS[3], wait_s=0.2))
            return found[-1].tier == "DEVICE"

        await until(on_psi, "an admitted request is ranked on psi")
    assert all(one.admitted and one.score_difference <= SCORE_DIFFERENCE_MOST for one in found)
    assert found[-1].scores.shape == (CANDIDATES, 2) and np.ptp(found[-1].scores) > 0.01
