"""The model on a device that is not the CPU: in software here, on hardware where there is some."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from relaygr.model import checkpoint
from relaygr.model.conformance import CHECKS, Subject
from relaygr.model.interface import RelayModel
from relaygr.model.loading import load_model
from services.ranker.adapters.device.accelerator import open_accelerator
from tests.model.models import ITEM_IDS, small_model

ROOT = Path(__file__).resolve().parents[2]


def in_software(check: str) -> dict:
    command = [sys.executable, "-m", "tests.model.software_npu", check]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(120)
def test_exactness_holds_on_a_device_and_no_operator_mixes_host_and_device():
    said = in_software("with_torch")
    assert said == {"device": "npu:0", "kernel": "torch", "layout": "paged128-khd-vhd"}


@pytest.mark.timeout(120)
def test_exactness_holds_with_ascends_operator():
    said = in_software("with_operator")
    assert said["kernel"] == "npu/hstu_paged" and said["tried"] and said["served"]


def test_a_wrong_operator_is_tried_on_the_device_and_does_not_serve():
    said = in_software("with_wrong_operator")
    assert said["kernel"] == "torch" and said["tried"]


@pytest.mark.timeout(120)
def test_the_ranker_puts_weights_and_arena_on_the_device_and_measures_there():
    said = in_software("prepared")
    assert (said["weights"], said["arena"], said["is_back"]) == ("npu:0", "npu:0", True)
    assert said["predicted_ns"] > 0


def test_a_model_of_ones_own_is_moved_by_its_to():
    model = load_model("tests.model.example_model:make_model", device="meta")
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_a_model_of_ones_own_that_cannot_be_moved_is_refused(monkeypatch):
    parts = {name: len for name in vars(RelayModel) if not name.startswith("_")}
    monkeypatch.setattr("tests.model.example_model.make_model", lambda: SimpleNamespace(**parts))
    load_model("tests.model.example_model:make_model")
    with pytest.raises(ValueError, match="has no `to` that moves it to cuda:0"):
        load_model("tests.model.example_model:make_model", device="cuda:0")


def hardware(kind):
    is_here = torch.cuda.is_available() if kind == "cuda" else importlib.util.find_spec("torch_npu") is not None
    return pytest.param(
        kind, marks=[getattr(pytest.mark, kind), pytest.mark.skipif(not is_here, reason=f"no {kind} device is here")]
    )


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", [hardware("cuda"), hardware("npu")])
def test_exactness_holds_on_hardware(kind, check, tmp_path):
    checkpoint.save(small_model(qk_dim=16, v_dim=16), tmp_path)
    model = load_model(tmp_path, device=str(open_accelerator(kind).torch_device))
    check(Subject(model=model, item_ids=ITEM_IDS), 1)


@pytest.mark.parametrize("kind", [hardware("cuda"), hardware("npu")])
def test_copies_are_ordered_with_compute_on_hardware(kind):
    """Long products write a page; a download that did not wait would see what was there before."""
    device = open_accelerator(kind)
    arena = device.allocate(16, 1 << 16, torch.float32, 4)
    device.bind()
    busy = torch.full((4096, 4096), 1 / 4096, device=device.torch_device)
    staged = device.stage(arena, [0, 1])
    for round_index in range(20):
        product = busy
        for _ in range(8):
            product = product @ busy
        arena[0].copy_(product[0, 0] * 4096 + round_index)
        device.download(arena, [0, 1], staged)
        seen = staged.views[0].view(np.float32)
        assert np.allclose(seen, 1 + round_index, rtol=1e-3)
        staged.views[0].view(np.float32)[:] = -1
        device.upload(arena, [0, 1], staged)
        assert bool((arena[0] == -1).all())
    device.release(staged)
    device.close()
