"""Names used of torch_npu and torch.cuda exist in their sources and take what is handed to them.

No accelerator is at hand, so what cannot run is held against the wheel that `make unit` fetches:
torch_npu of the pinned version, read as a zip and never imported. Design, section 9.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from relaygr.model.ops import npu
from tests.design.backend_names import Sources, Use, members_of, uses_in

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / ".cache" / "wheels"
INTERFACE = ast.parse((ROOT / "services/ranker/adapters/device/interface.py").read_text())
FBGEMM_ASCEND = "fbgemm_ascend-1.5.0"

USES = sorted(
    {
        use
        for package in ("relaygr", "services", "trainer", "demo")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.parent.name != "v1"
        for use in uses_in(ast.parse(path.read_text()), str(path.relative_to(ROOT)))
    },
    key=lambda use: (use.name, use.where),
)
NAMES = sorted({use.name for use in USES})


def wheel(start: str) -> Path:
    found = sorted(WHEELS.glob(f"{start}-*.whl"))
    if not found:
        assert not os.environ.get("CI"), f"{start} is not in {WHEELS}; make unit fetches it"
        pytest.skip(f"{start} is not in {WHEELS}, the registry could not be reached; its names are not checked")
    return found[0]


def torch_npu() -> Path:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (version,) = (re.fullmatch(r"torch-npu==(.+)", one).group(1) for one in extras["npu"])
    return wheel(f"torch_npu-{version}")


@pytest.fixture(params=("torch.cuda", "torch_npu.npu"))
def backend(request) -> tuple[Sources, str]:
    if request.param == "torch.cuda":
        spec = importlib.util.find_spec("torch")
        return Sources(Path(spec.origin).parents[1]), request.param
    return Sources(torch_npu()), request.param


def problem(sources: Sources, module: str, use: Use) -> str:
    definition = sources.find(module, use.name)
    if definition is None:
        return f"{use.where}: {module} has no {use.name}"
    if not sources.takes(definition, use):
        return f"{use.where}: {module}.{use.name} does not take {use.positional} arguments and {use.keywords}"
    return ""


def test_the_names_our_code_uses_are_found_and_are_those_of_the_protocol():
    declared = {use.name for use in members_of(INTERFACE, "DeviceModule")}
    assert set(NAMES) == declared and {"Stream", "Event", "stream", "mem_get_info", "set_device"} <= declared


def test_every_name_our_code_uses_exists_and_takes_its_arguments(backend):
    sources, module = backend
    found = [text for use in USES if (text := problem(sources, module, use))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("protocol", "cls"), [("DeviceStream", "Stream"), ("DeviceEvent", "Event")])
def test_every_method_of_streams_and_events_exists_and_takes_its_arguments(backend, protocol, cls):
    sources, module = backend
    definition = sources.find(module, cls)
    assert isinstance(definition, ast.ClassDef)
    for use in members_of(INTERFACE, protocol):
        method = sources.member(definition, use.name)
        assert method is not None, f"{module}.{cls} has no {use.name}"
        assert sources.takes(method, Use(use.name, use.where, use.positional + 1)), f"{use.where} has another signature"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("module.no_such_name()", "has no no_such_name"),
        ("module.Stream(device=d)", ""),
        ("module.Event(colour=1)", "does not take"),
        ("module.synchronize(d, e)", "does not take"),
        ("module.set_device()", "does not take"),
        ("module.set_device(device=d)", ""),
        ("module.nothing", "has no nothing"),
        ("torch.npu.nothing()", "has no nothing"),
    ],
)
def test_what_is_wrong_is_found(backend, text, complaint):
    """A name or a call that the backend does not have fails the check above."""
    sources, name = backend
    tree = ast.parse(f"def use(module: DeviceModule, d, e):\n    {text}\n")
    said = [text for use in uses_in(tree, "ours.py") if (text := problem(sources, name, use))]
    assert len(said) == (1 if complaint else 0) and all(complaint in line for line in said), said


@pytest.mark.parametrize(
    "text",
    [
        "module = torch.get_device_module('npu')\nmodule.a(1, b=2)",
        "class X:\n def __init__(self, m: DeviceModule):\n  self._m = m\n def f(self):\n  self._m.a(1, b=2)",
        "def made(kind) -> DeviceModule: ...\nhere = made('npu')\nhere.a(1, b=2)",
        "here: DeviceModule | None = torch.get_device_module('npu')\nthere = here\nthere.a(1, b=2)",
        "torch.npu.a(1, b=2)",
        "torch_npu.a(1, b=2)",
    ],
)
def test_a_use_is_found_however_the_backend_came_there(text):
    (use,) = uses_in(ast.parse(text), "ours.py")
    assert (use.name, use.positional, use.keywords) == ("a", 1, ("b",))


def test_torch_npu_registers_itself_as_a_backend_that_torch_loads_by_itself():
    """Why the ranker turns autoload off, and this package imports torch_npu by name only."""
    with zipfile.ZipFile(torch_npu()) as archive:
        (entry_points,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert re.search(r"\[torch\.backends\]\s+torch_npu\s*=", archive.read(entry_points).decode())


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{torch_npu()}:{ROOT}", **environment}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)


@pytest.mark.skipif(Path("/usr/local/Ascend").exists(), reason="CANN is installed here, torch_npu may load")
def test_the_ranker_starts_where_torch_npu_is_installed_without_its_driver():
    """With the real wheel in the path: plain `import torch` fails, the ranker and its CPU device do not."""
    plain = python("import torch", TORCH_DEVICE_BACKEND_AUTOLOAD="1")
    assert plain.returncode and "torch_npu" in plain.stderr
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_DEVICE_BACKEND_AUTOLOAD"}
    code = (
        "import services.ranker.__main__\n"
        "from services.ranker.adapters.device.accelerator import open_accelerator\n"
        "from services.ranker.adapters.device.interface import DeviceUnavailable\n"
        "try: open_accelerator('npu')\n"
        "except DeviceUnavailable as error: print('unavailable:', error)\n"
    )
    environment["PYTHONPATH"] = f"{torch_npu()}:{ROOT}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0 and done.stdout.startswith("unavailable: torch_npu cannot be loaded"), done.stderr


def test_fbgemm_ascends_wheel_holds_no_paged_hstu_operator():
    """The documents say so. When a later wheel has it, they and `PROVIDERS` change."""
    assert npu.PROVIDERS == ("rec_ops", "fbgemm_ascend")
    with zipfile.ZipFile(wheel(FBGEMM_ASCEND)) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"fbgemm_ascend/[\w.]+\.(so|py)", name)]
        contents = {name: archive.read(name) for name in names}
    libraries = [content for name, content in contents.items() if name.endswith(".so")]
    # Schemas are there to be read: these operators are in it.
    assert libraries and all(b"dense_to_jagged_backward(Tensor" in content for content in libraries)
    assert not [name for name, content in contents.items() if b"hstu" in content.lower()]
    assert b"import fbgemm_gpu" in contents["fbgemm_ascend/__init__.py"]
