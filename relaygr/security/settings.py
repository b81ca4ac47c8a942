"""The TLS settings that every service has, and the rule that plain text stays on this machine."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from relaygr.config import ConfigError
from relaygr.security.identity import Role
from relaygr.security.material import KeptMaterial, MaterialError, MaterialPaths


@dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """How a service speaks to others; a service's config extends it."""

    tls_certificate: str = ""
    """Path of this service's certificate, PEM; with the next two, every connection, lanes included, is TLS with
    certificates on both sides, and each role may call what it needs (docs/security.md). Files that change are read
    again. Empty: plain text."""
    tls_key: str = ""
    """Path of that certificate's private key, PEM, without a password."""
    tls_ca: str = ""
    """Path of the authorities' certificates that others are checked against, PEM."""
    insecure: bool = False
    """Serve plain text on an address that other machines reach; without this or TLS, the start is refused."""

    def check_transport(self, address: str) -> None:
        """Refuse settings that leave a door open.

        Raises:
            AssertionError: says which setting.
        """
        given = (self.tls_certificate, self.tls_key, self.tls_ca)
        assert all(given) or not any(given), "tls_certificate, tls_key and tls_ca: set all three, or none"
        assert all(given) or self.insecure or is_loopback(address), (
            f"address {address} can be reached from other machines, and calls would be plain text that anybody may "
            "make: set tls_certificate, tls_key and tls_ca, or insecure=true"
        )


class TlsPaths(TypedDict):
    """The same three for the client library and its kin: all, or none of them."""

    tls_certificate: str
    tls_key: str
    tls_ca: str


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches host:port; a name other than localhost may be anywhere."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def material_of(settings: TransportSettings, role: Role) -> KeptMaterial | None:
    """A service's TLS material; None when it speaks plain text.

    Raises:
        ConfigError: names the file and what is wrong with it.
    """
    return kept_material(settings.tls_certificate, settings.tls_key, settings.tls_ca, role)


def kept_material(tls_certificate: str, tls_key: str, tls_ca: str, role: Role | None = None) -> KeptMaterial | None:
    """TLS material by its paths; None when none is given.

    Args:
        tls_certificate: path, PEM.
        tls_key: path, PEM, without a password.
        tls_ca: path, PEM.
        role: which role it must be of; None: any.

    Raises:
        ConfigError: some paths without the others, or files that cannot be used.
    """
    given = (tls_certificate, tls_key, tls_ca)
    if not any(given):
        return None
    if not all(given):
        raise ConfigError("tls_certificate, tls_key and tls_ca: set all three, or none")
    try:
        return KeptMaterial(MaterialPaths(*map(Path, given)), role=role)
    except MaterialError as error:
        raise ConfigError(f"tls: {error}") from error
