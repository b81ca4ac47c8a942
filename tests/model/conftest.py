import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    # The machine is shared, and thread pools cost more than they save at these sizes.
    torch.set_num_threads(1)
