"""The containers' health check against real servers."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.ops.composed import ROOT

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def asked(target):
    command = [sys.executable, "-IS", "ops/docker/healthcheck.py", target]
    return subprocess.run(command, cwd=ROOT, check=False, timeout=20).returncode


@pytest.fixture
def served():
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_server_that_serves_is_healthy(served):
    servicer, address = served
    servicer.set("", SERVING)
    assert asked(address) == 0


def test_a_server_that_drains_is_not(served):
    servicer, address = served
    servicer.set("", NOT_SERVING)
    assert asked(address) == 1


def test_a_server_without_the_health_service_is_not():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert asked(f"127.0.0.1:{port}") == 1
    server.stop(None).wait()


def test_nobody_there_is_not_healthy(served):
    assert asked("127.0.0.1:1") == 1
    assert asked("http://127.0.0.1:1/healthz") == 1


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_page_is_healthy_when_it_answers_200():
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert asked(f"{address}/healthz") == 0
        assert asked(f"{address}/other") == 1
        server.shutdown()
