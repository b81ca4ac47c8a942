"""Imports the unmodified `etcd3` package beside a current protobuf.

Why this exists: etcd3 0.12.0 ships message modules generated in 2020. Their text builds
every descriptor by hand, which protobuf 4 and later refuse ("Descriptors cannot be
created directly"). The advice in that error, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python,
would make *every* message of this process pure Python, ranks included, several times
slower; an older protobuf would exclude current grpcio and OpenTelemetry.

But each module also carries its file descriptor as serialised bytes, and that is all a
current protobuf needs. So before `import etcd3` the three modules are built from those
bytes and put where the import will look. Nothing of etcd3 is patched, and its files are
parsed, never executed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.internal import api_implementation, builder

_MESSAGE_MODULES = ("kv_pb2", "auth_pb2", "rpc_pb2")
"""In order of their imports of one another."""


def load_etcd3() -> Any:
    """The package `etcd3`, imported.

    Raises:
        ImportError: etcd3 is not installed, or is not laid out as 0.12.0 is.
        RuntimeError: protobuf runs in pure Python.
    """
    if api_implementation.Type() == "python":
        raise RuntimeError("protobuf runs in pure Python; unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")
    if "etcd3" not in sys.modules:
        for name in _MESSAGE_MODULES:
            _install(name)
    return importlib.import_module("etcd3")


def _install(name: str) -> None:
    full_name = f"etcd3.etcdrpc.{name}"
    if full_name in sys.modules:
        return
    module = ModuleType(full_name)
    module.__file__ = str(_root() / f"{name}.py")
    names = module.__dict__
    names["DESCRIPTOR"] = descriptor_pool.Default().AddSerializedFile(_serialised_file(Path(module.__file__)))
    builder.BuildMessageAndEnumDescriptors(names["DESCRIPTOR"], names)
    builder.BuildTopDescriptorsAndMessages(names["DESCRIPTOR"], full_name, names)
    sys.modules[full_name] = module


def _root() -> Path:
    spec = importlib.util.find_spec("etcd3")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("etcd3 is not installed")
    return Path(spec.submodule_search_locations[0]) / "etcdrpc"


def _serialised_file(path: Path) -> bytes:
    """The `serialized_pb=_b('...')` argument of the module's FileDescriptor call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        for keyword in node.keywords:
            if keyword.arg != "serialized_pb":
                continue
            value = keyword.value
            text = value.args[0] if isinstance(value, ast.Call) and value.args else value
            if isinstance(text, ast.Constant):
                return text.value.encode("latin1") if isinstance(text.value, str) else bytes(text.value)  # type: ignore[arg-type]
    raise ImportError(f"{path.name} holds no serialised descriptor; is this etcd3 0.12.0?")
