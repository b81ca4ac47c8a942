"""The elected router's plan of slots, written by compare-and-swap.

Source: design, section 6; services/router/adapters/planner.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.router.core.slots import SlotTable, next_table

if TYPE_CHECKING:
    from sim.nodes.router import Router

PERIOD_NS = 2_000_000_000
"""Look again this often, for whoever was elected since."""


class Planner:
    """Plans while its router is the elected one."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._is_due = False

    def begin(self) -> None:
        """Look now and then, from now on."""
        self.look()
        self._router.after(PERIOD_NS, self.begin)

    def look(self) -> None:
        """The instances changed: plan once they have settled."""
        if not self._is_due:
            self._is_due = True
            self._router.after(self._router.settings.settle_ns, self._settled)

    def _settled(self) -> None:
        self._is_due = False
        for model_key in self._router.core.models():
            self._router.network.call(self._router, "registry", "read_table", _nobody, self._router, model_key)

    def table_answered(self, model_key: str, current: SlotTable | None) -> None:
        """What is stored, for the elected router only."""
        following = next_table(current, self._router.core.weights(model_key))
        if following is not None:
            version = current.version if current is not None else 0
            args = (self._router, model_key, version, following)
            self._router.network.call(self._router, "registry", "swap_table", _nobody, *args)


def _nobody(*_: Any) -> None:
    """The registry is not there: tried again later."""
