"""Where the local cluster is: addresses and catalogue, as the local runner wrote them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from relaygr.client.commands.report import CommandError
from relaygr.config import ConfigError
from relaygr.rpc.channel import ChannelPool
from relaygr.security.settings import TlsPaths, kept_material
from relaygr.telemetry import Telemetry

CLUSTER_FILE = Path("run") / "cluster.json"
NOT_RUNNING = "no cluster is running here; start one with: make up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The content of run/cluster.json; what is absent is empty."""

    trigger: str = ""
    router: str = ""
    rankers: tuple[str, ...] = ()
    expander: str = ""
    etcd: str = ""
    store_dir: str = ""
    titles: str = ""
    """JSON file: item id to title."""
    catalogue: str = ""
    """.npy file of int64 candidate ids."""
    traces: str = ""
    """Path or address where traces can be read."""
    console: str = ""
    """Address of the console's page."""
    otlp: str = ""
    """Address of the trace collector."""
    tls_certificate: str = ""
    """Path of an operator's or a client's certificate; with the next two, the cluster is spoken to over TLS."""
    tls_key: str = ""
    """Path of its key."""
    tls_ca: str = ""
    """Path of the authority's certificate."""

    @classmethod
    def load(cls, path: Path | None, **overrides: str) -> Self:
        """Read the file; addresses given on the command line win, and may do without the file.

        Args:
            path: None looks under the working directory, then beside this package.
            overrides: fields given by the caller; empty ones are ignored.

        Raises:
            CommandError: there is no file, or it is not ours.
        """
        given: dict[str, Any] = {name: value for name, value in overrides.items() if value}
        found = path or _found()
        if found is None:
            if not given:
                raise CommandError(NOT_RUNNING)
            return cls(**given)
        try:
            raw = json.loads(found.read_text())
            known = {name: raw[name] for name in cls.__dataclass_fields__ if raw.get(name)}
            known["rankers"] = tuple(raw.get("rankers", ()))
            return cls(**{**known, **given})
        except FileNotFoundError:
            raise CommandError(f"{found} is not there; start a cluster with: make up") from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise CommandError(f"{found} cannot be read ({error}); start the cluster anew with: make up") from error

    def need(self, name: str) -> str:
        """A field that a command cannot do without.

        Raises:
            CommandError: it is empty.
        """
        value: str = getattr(self, name)
        if not value:
            raise CommandError(f"no address of the {name} is known; give --{name} host:port, or: make up")
        return value

    @property
    def tls(self) -> TlsPaths:
        """The three paths, as the client library takes them."""
        return TlsPaths(tls_certificate=self.tls_certificate, tls_key=self.tls_key, tls_ca=self.tls_ca)

    def channels(self, telemetry: Telemetry) -> ChannelPool:
        """For calls to single processes; each says which role it calls.

        Raises:
            CommandError: TLS files that cannot be used.
        """
        try:
            return ChannelPool(telemetry, tls=kept_material(**self.tls))
        except ConfigError as error:
            raise CommandError(str(error)) from error

    def load_titles(self) -> dict[int, str]:
        """Item titles; none when there is no file of them."""
        if not self.titles:
            return {}
        return {int(item): str(title) for item, title in json.loads(_opened(self.titles).read_text()).items()}

    def load_catalogue(self) -> NDArray[np.int64]:
        """Candidate ids.

        Raises:
            CommandError: no catalogue is known.
        """
        if not self.catalogue:
            raise CommandError("no catalogue is known; give --candidates 1,2,3, or start a cluster with: make up")
        items: NDArray[np.int64] = np.load(_opened(self.catalogue), allow_pickle=False).astype("<i8")
        return items


def _opened(path: str) -> Path:
    found = Path(path)
    if not found.exists():
        raise CommandError(f"{path} is not there; start the cluster anew with: make up")
    return found


def _found() -> Path | None:
    beside = Path(__file__).resolve().parents[3] / CLUSTER_FILE
    return next((path for path in (CLUSTER_FILE, beside) if path.exists()), None)
