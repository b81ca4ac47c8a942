"""TLS options reach the wire: a server with a certificate of its own authority, asking for one of the client."""

from __future__ import annotations

import shutil
import subprocess

import grpc
import pytest

from relaygr.errors import Unreachable
from relaygr.registry import Registry
from relaygr.registry.transport import etcdrpc

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


class OneValue(etcdrpc.KVServicer):
    async def Range(self, request, context):
        return etcdrpc.RangeResponse(kvs=[{"key": request.key, "value": b"secret"}], count=1)


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path):
    """An authority, and a server and a client that it vouches for."""
    ca_key, ca = tmp_path / "ca.key", tmp_path / "ca.pem"
    subject = ("-subj", "/CN=test authority")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-days", "2", *subject)
    paths = {"ca": ca}
    extensions = tmp_path / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        key, request, certificate = (tmp_path / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signing = ("-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2", "-extfile", extensions)
        openssl("x509", "-req", "-in", request, "-out", certificate, *signing)
        paths |= {f"{name}_key": key, name: certificate}
    return paths


@pytest.fixture
async def endpoint(certificates):
    server = grpc.aio.server()
    etcdrpc.add_KVServicer_to_server(OneValue(), server)
    pair = (certificates["server_key"].read_bytes(), certificates["server"].read_bytes())
    credentials = grpc.ssl_server_credentials([pair], certificates["ca"].read_bytes(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield f"https://127.0.0.1:{port}"
    await server.stop(0)


async def value_by(endpoint, **options):
    registry = Registry((endpoint,), timeout_s=2.0, **options)
    try:
        return await registry.get("k")
    finally:
        await registry.close()


async def test_a_certificate_opens_the_door(endpoint, certificates):
    paths = {"ca": certificates["ca"], "cert": certificates["client"], "key": certificates["client_key"]}
    assert await value_by(endpoint, **{name: str(path) for name, path in paths.items()}) == b"secret"


async def test_without_a_client_certificate_the_door_stays_shut(endpoint, certificates):
    with pytest.raises(Unreachable):
        await value_by(endpoint, ca=str(certificates["ca"]))


async def test_without_tls_the_door_stays_shut(endpoint):
    with pytest.raises(Unreachable):
        await value_by(endpoint)
