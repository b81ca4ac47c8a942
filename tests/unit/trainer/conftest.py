from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from relaygr.behaviours.build import build_from_rows
from relaygr.behaviours.store import FileStore
from trainer.generated import GeneratedOptions, generated_rows
from trainer.split import Split, split_store


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> FileStore:
    path: Path = tmp_path_factory.mktemp("generated")
    build_from_rows(generated_rows(GeneratedOptions(users=60, items=600, groups=12)), path)
    return FileStore(path)


@pytest.fixture(scope="session")
def split(store: FileStore) -> Split:
    return split_store(store)
