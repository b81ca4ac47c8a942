"""One of several triggers: they share each device by how many are registered.

Source: design, section 6.
"""

from __future__ import annotations

import json

from relaygr.registry import Registration, Registry
from relaygr.registry.keys import trigger_key


class Membership:
    """This trigger's entry under /relaygr/v1/triggers; without a registry it does nothing."""

    def __init__(self, registry: Registry | None, ttl_s: float):
        self._registry = registry
        self._ttl_s = ttl_s
        self._registration: Registration | None = None

    def join(self, trigger_id: str, address: str) -> None:
        """Register in the background, for as long as this process lives."""
        if self._registry is not None:
            record = json.dumps({"trigger_id": trigger_id, "address": address})
            self._registration = self._registry.keep_registered(trigger_key(trigger_id), lambda: record, self._ttl_s)

    async def leave(self) -> None:
        """Withdraw now, so that the others take over the share at once."""
        if self._registration is not None:
            await self._registration.withdraw()

    async def close(self) -> None:
        """Give up the connection."""
        if self._registry is not None:
            await self._registry.close()
