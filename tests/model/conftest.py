import pytest
import torch
from hypothesis import settings

# What `make exact` runs: of every property ten times the examples, of the suite ten times the seeds.
settings.register_profile("exact", max_examples=1000, deadline=None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # The machine is shared, and thread pools cost more than they save at these sizes.
    torch.set_num_threads(1)
