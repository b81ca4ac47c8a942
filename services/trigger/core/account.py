"""What one trigger has promised on one boot of one instance.

Footprint: bytes of its open tickets. Load: device time it charged, as a debt that drains
at the trigger's share of the device. Plus the moments of recent requests' full inference,
from which the risk test takes its wait, what is typical of those at risk, and what the
instance's feedback leaves of both bounds.
"""

from __future__ import annotations

from services.trigger.core.pressure import Pressure
from services.trigger.core.price import Typical
from services.trigger.core.risk import ServiceTimes

_MILLION = 1_000_000


class LoadDebt:
    """Device time charged and not yet drained: a token bucket counted from the other end.

    A charge is taken when the debt after it stays within the burst, or when there is no
    debt at all (so that a pre-infer longer than the burst can run, and then keeps others
    out for as long as it takes to drain). Over any span, charges less refunds are at most
    the burst, or one longer charge, plus share * span.
    """

    __slots__ = ("_debt_ns", "_drained_ns")

    def __init__(self, now_ns: int):
        self._debt_ns = 0
        self._drained_ns = now_ns

    @property
    def debt_ns(self) -> int:
        """Debt at the last drain."""
        return self._debt_ns

    def drain(self, share: float, now_ns: int) -> None:
        """Let time pass at `share` device nanoseconds a nanosecond."""
        # Whole millionths keep the sum exact; rounding down drains late, never early.
        elapsed_ns = max(0, now_ns - self._drained_ns)
        self._debt_ns = max(0, self._debt_ns - elapsed_ns * int(share * _MILLION) // _MILLION)
        self._drained_ns = max(self._drained_ns, now_ns)

    def can_charge(self, device_ns: int, burst_ns: int) -> bool:
        """True when `device_ns` fits now; call drain first."""
        return self._debt_ns == 0 or self._debt_ns + device_ns <= burst_ns

    def charge(self, device_ns: int) -> None:
        """Take it."""
        self._debt_ns += device_ns

    def refund(self, device_ns: int) -> None:
        """Give back what was charged for work that never ran."""
        self._debt_ns = max(0, self._debt_ns - device_ns)


class Account:
    """One trigger's promises on one boot of one instance."""

    __slots__ = ("load", "open_bytes", "open_tickets", "pressure", "seen_ns", "service_times", "typical")

    def __init__(self, now_ns: int):
        self.service_times = ServiceTimes()
        self.typical = Typical()
        self.pressure = Pressure(now_ns)
        self.load = LoadDebt(now_ns)
        self.open_bytes = 0
        self.open_tickets = 0
        self.seen_ns = now_ns
