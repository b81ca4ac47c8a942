"""Several addresses of the same service: one is called, and the next one once it is lost.

Routers share what they know through etcd, so any of them can go on where another was lost; staying with one keeps
what is only its own (the load of requests under way, the tickets that have ended) in one place.
"""

from __future__ import annotations


class Peers:
    """Addresses, host:port, separated by commas; the first one is called first."""

    def __init__(self, addresses: str) -> None:
        self._addresses = tuple(part for one in addresses.split(",") if (part := one.strip())) or (addresses,)
        self._place = 0

    @property
    def current(self) -> str:
        """The one to call."""
        return self._addresses[self._place]

    @property
    def has_others(self) -> bool:
        """True when there is somebody to move on to."""
        return len(self._addresses) > 1

    def after(self, address: str) -> str:
        """Whom to ask instead."""
        return self._addresses[(self._addresses.index(address) + 1) % len(self._addresses)]

    def lost(self, address: str) -> None:
        """It did not answer. Calls that were under way to it say so each; only the first moves on."""
        if address == self.current:
            self._place = (self._place + 1) % len(self._addresses)
