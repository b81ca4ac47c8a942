"""Which device is opened, and what is said when it cannot be."""

import importlib.util

import pytest
import torch

from relaygr.config import ConfigError, load
from services.ranker.adapters.device import accelerator
from services.ranker.adapters.device.accelerator import open_accelerator
from services.ranker.adapters.device.interface import DeviceUnavailable
from services.ranker.config import RankerConfig
from tests.unit.ranker.device_recorder import Recorder

SETTINGS = {"RELAYGR_RANKER_MODEL": "m", "RELAYGR_RANKER_TICKET_KEY": "00" * 16}


def opened(monkeypatch, name):
    recorder = Recorder()
    monkeypatch.setattr(accelerator, "_module_of", lambda kind: recorder)
    return open_accelerator(name), recorder


def test_the_number_chooses_one_of_several_devices(monkeypatch):
    for name, index in (("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)):
        device, recorder = opened(monkeypatch, name)
        assert device.torch_device == torch.device("cuda", index)
        assert recorder.devices == [device.torch_device]


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch):
    with pytest.raises(DeviceUnavailable, match="cuda:2: there are 2 cuda devices, counted from 0"):
        opened(monkeypatch, "cuda:2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_the_hardware_it_is_said_so():
    with pytest.raises(DeviceUnavailable, match="no cuda device is available"):
        open_accelerator("cuda")


@pytest.mark.skipif(importlib.util.find_spec("torch_npu") is not None, reason="torch_npu is installed")
def test_without_torch_npu_it_is_said_so():
    with pytest.raises(DeviceUnavailable, match="torch_npu cannot be loaded"):
        open_accelerator("npu")


@pytest.mark.parametrize("device", ("cpu", "cuda", "npu", "cuda:1", "npu:15"))
def test_devices_that_can_be_asked_for(device):
    assert load(RankerConfig, "RELAYGR_RANKER", {**SETTINGS, "RELAYGR_RANKER_DEVICE": device}).device == device


@pytest.mark.parametrize("device", ("", "gpu", "cpu:1", "cuda:", "cuda:x", "cuda:-1"))
def test_devices_that_cannot(device):
    with pytest.raises(ConfigError, match="device must be cpu, cuda, npu or like cuda:1"):
        load(RankerConfig, "RELAYGR_RANKER", {**SETTINGS, "RELAYGR_RANKER_DEVICE": device})
