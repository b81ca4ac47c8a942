import pytest

from demo.cluster import Cluster
from demo.processes import Supervisor
from tests.system.world import small_plan


@pytest.fixture(scope="session")
def whole_cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    plan = small_plan(folder)
    with Supervisor(plan.run_dir / "logs") as supervisor:
        cluster = Cluster(plan, supervisor)
        cluster.start()
        yield cluster


@pytest.fixture
def cluster(whole_cluster):
    """The cluster, whole again after a test that killed a part of it."""
    yield whole_cluster
    for name in whole_cluster.supervisor.ended():
        whole_cluster.restart(name)
    whole_cluster.wait_settled(whole_cluster.ranker_names)
