import pytest
import torch
from hypothesis import settings

# What `make exact` runs: of every property ten times the examples, of the suite ten times the seeds.
settings.register_profile("exact", max_examples=1000, deadline=None)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # The machine is shared, and thread pools cost more than they save at these sizes.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _shortest_slices():
    # A model of this size is done within one slice; here each unit of work is one, so that extends are interrupted.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("relaygr.model.native_stack.SLICE_NS", 1)
        yield
