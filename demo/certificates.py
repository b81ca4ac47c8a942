"""Certificates of a local cluster, and channels to its processes that show one: an authority for each run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import grpc

from relaygr.security.authority import Authority
from relaygr.security.identity import Identity, Role, server_name_of
from relaygr.security.material import MaterialPaths
from relaygr.security.settings import TlsPaths


class Certificates:
    """One for each process of a cluster, one for its clients, one for who operates it.

    Args:
        folder: where they lie; what is there is made anew.
        deployment: in every name.
        servers: names of the processes, such as ranker-1.
    """

    def __init__(self, folder: Path, deployment: str, servers: Collection[str]) -> None:
        self.authority = Authority(folder)
        self.deployment = deployment
        self.authority.create()
        for name in (Role.CLIENT, Role.OPERATOR, *servers):
            self.authority.issue(self.identity(name))

    def identity(self, name: str) -> Identity:
        """Of a process by its name, or of `client` or `operator`."""
        return Identity(self.deployment, role_of(name), name)

    def paths(self, name: str) -> MaterialPaths:
        """Files of a process, of `client` or of `operator`."""
        return self.authority.paths(self.identity(name))

    def settings(self, name: str) -> TlsPaths:
        """The same, as settings take them."""
        paths = self.paths(name)
        return TlsPaths(tls_certificate=str(paths.certificate), tls_key=str(paths.key), tls_ca=str(paths.authority))

    def credentials(self, name: str) -> grpc.ChannelCredentials:
        """What a channel needs to call as somebody."""
        paths = self.paths(name)
        files = (paths.authority, paths.key, paths.certificate)
        return grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))

    def options(self, server: str) -> list[tuple[str, str]]:
        """What a channel needs to know its peer by."""
        return [("grpc.ssl_target_name_override", server_name_of(role_of(server), self.deployment))]


def role_of(name: str) -> Role:
    """The role of a process by its name: ranker-2 is a ranker."""
    return Role(name.partition("-")[0])
