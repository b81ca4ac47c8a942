"""etcd3 0.12.0 beside a current protobuf."""

import os
import subprocess
import sys

import pytest

from relaygr.registry import etcd3_loader


def test_messages_of_etcd3_run_on_the_c_implementation():
    from google.protobuf.internal import api_implementation

    etcd3 = etcd3_loader.load_etcd3()
    request = etcd3.etcdrpc.PutRequest(key=b"k", value=b"v", lease=7)
    assert etcd3.etcdrpc.PutRequest.FromString(request.SerializeToString()) == request
    assert api_implementation.Type() != "python"


def test_loading_twice_gives_the_same_package():
    assert etcd3_loader.load_etcd3() is etcd3_loader.load_etcd3()


def test_pure_python_protobuf_is_refused():
    program = "from relaygr.registry.etcd3_loader import load_etcd3; load_etcd3()"
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pure Python" in done.stderr


def test_a_file_without_a_descriptor_is_named(tmp_path):
    path = tmp_path / "rpc_pb2.py"
    path.write_text("DESCRIPTOR = None\n")
    with pytest.raises(ImportError, match=r"rpc_pb2\.py"):
        etcd3_loader._serialised_file(path)
