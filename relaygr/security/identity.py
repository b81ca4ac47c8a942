"""Who a certificate stands for: relaygr://<deployment>/<role>/<name>, as a URI among its subject alternative names.

A role says what its holder does in a deployment and so what it may call (`relaygr.security.methods`); the name tells
several of one role apart in logs. A certificate of a server also holds `server_name` as a DNS name: TLS libraries check
host names, so that is what a caller asks for when it wants to reach a router and nobody else, wherever the router runs.

Source: design, section 3; docs/security.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

SCHEME = "relaygr://"
_DEPLOYMENT = r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_URI = re.compile(rf"{SCHEME}(?P<deployment>{_DEPLOYMENT})/(?P<role>[a-z]+)/(?P<name>{_NAME})")


class Role(StrEnum):
    """What a certificate's holder does in a deployment."""

    CLIENT = "client"
    """A recommender that uses the client library."""
    TRIGGER = "trigger"
    ROUTER = "router"
    RANKER = "ranker"
    EXPANDER = "expander"
    OPERATOR = "operator"
    """A person with the `relaygr` command, or what watches over the processes."""


SERVERS = frozenset({Role.TRIGGER, Role.ROUTER, Role.RANKER, Role.EXPANDER})
"""Roles that are called."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One party of a deployment."""

    deployment: str
    """Lower case letters, digits, dots and dashes."""
    role: Role
    name: str

    @classmethod
    def made(cls, deployment: str, role: str, name: str) -> Self:
        """From parts that a person gave.

        Raises:
            ValueError: says which part cannot be.
        """
        if not re.fullmatch(_DEPLOYMENT, deployment):
            raise ValueError(f"deployment {deployment!r} is not made of a-z, 0-9, dots and dashes")
        if role not in tuple(Role):
            raise ValueError(f"role {role!r} is none of {', '.join(Role)}")
        if not re.fullmatch(_NAME, name):
            raise ValueError(f"name {name!r} is not made of letters, digits, dots, dashes and underscores")
        return cls(deployment, Role(role), name)

    @classmethod
    def parse(cls, uri: str) -> Self | None:
        """From a URI; None when it is not one of ours."""
        found = _URI.fullmatch(uri)
        if found is None or found["role"] not in tuple(Role):
            return None
        return cls(found["deployment"], Role(found["role"]), found["name"])

    @property
    def uri(self) -> str:
        """As in a certificate."""
        return f"{SCHEME}{self.deployment}/{self.role}/{self.name}"

    @property
    def server_name(self) -> str:
        """The DNS name of all servers of its role in its deployment."""
        return server_name_of(self.role, self.deployment)


def server_name_of(role: Role, deployment: str) -> str:
    """The DNS name that a caller expects in the certificate of a server of this role; nobody resolves it."""
    return f"{role}.{deployment}.relaygr"


def identity_of(uris: Iterable[str]) -> Identity | None:
    """The identity among a certificate's URIs; None without one, and when several leave open which holds."""
    ours = [uri for uri in uris if uri.startswith(SCHEME)]
    return Identity.parse(ours[0]) if len(ours) == 1 else None
