"""The registry as a service's configuration describes it: one set of options for all of them."""

from __future__ import annotations

from typing import Protocol

from relaygr.registry.client import Registry


class RegistrySettings(Protocol):
    """The fields of a service's config that say how to reach etcd."""

    @property
    def registry(self) -> tuple[str, ...]:
        """Endpoints, host:port."""
        ...

    @property
    def registry_timeout_s(self) -> float:
        """Longest wait for one answer, seconds."""
        ...

    @property
    def registry_ca(self) -> str:
        """Path of the certificate authority; with it TLS is used."""
        ...

    @property
    def registry_cert(self) -> str:
        """Path of the client certificate."""
        ...

    @property
    def registry_cert_key(self) -> str:
        """Path of that certificate's key."""
        ...

    @property
    def registry_user(self) -> str:
        """User at etcd; empty: none."""
        ...

    @property
    def registry_password(self) -> str:
        """Password at etcd."""
        ...


def connect(settings: RegistrySettings) -> Registry:
    """A registry for these settings; returns at once, etcd may come later."""
    return Registry(
        settings.registry,
        ca=settings.registry_ca or None,
        cert=settings.registry_cert or None,
        key=settings.registry_cert_key or None,
        user=settings.registry_user or None,
        password=settings.registry_password or None,
        timeout_s=settings.registry_timeout_s,
    )
