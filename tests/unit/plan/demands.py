"""What plans are made for in tests: the traffic of the load benchmark on the machine it was measured on."""

from relaygr.plan.demand import Demand, lengths_of
from relaygr.plan.device import device_of

MODEL = device_of("cpu-core-zen5")
DEMAND = Demand(
    rate_hz=60.0,
    lengths=lengths_of("lognormal:640,1.03,2900"),
    candidates=256,
    slo_ms=50.0,
    quantile=0.99,
    time_to_rank_ms=60.0,
    overhead_ms=4.0,
    return_share=0.6,
    gap_s=2.2,
    gap_spread=0.7,
)
