"""What a decision costs the trigger: `python -m bench.trigger`. Ends with one JSON line; a second.

A refusal should cost less than 1 % of the pre-infer that it refuses. Measured are the core's decisions, by reason, and
the messages of one Arrive around them (the answer of the router is read, the answer to the caller is written);
a pre-infer takes what the cost model of the tiers' benchmark says. The hop to the router is not in it: a request that
is admitted pays that as well.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from bench.engine.machine import hardware
from bench.tiers.policies import COST
from relaygr.rpc.identity import cost_from_pb, cost_to_pb
from relaygr.v1 import router_pb2, trigger_pb2
from services.trigger.config import TriggerConfig
from services.trigger.core.admission import Admission
from services.trigger.core.effects import Admit, Decline, EndReservation, PassBy
from services.trigger.core.events import Arrived, Demand, InstanceView, Outcome, PreInferAnswered, TicketsEnded

MS = 1_000_000
ROUNDS, REPEATS = 2_000, 5
TOKENS = 1_025
REFUSAL_SHARE = 0.01
"""Of a pre-infer, at most. Written before anything was measured."""
RULES = TriggerConfig(ticket_key=bytes(16)).rules
DEMAND = Demand(TOKENS, 16, 256, 45 * MS, 60 * MS, 2_000 * MS)
VIEW = InstanceView("r0", 1, COST, 1 << 28, 0, 60.0, 1)
CASES = {
    "fits": (replace(DEMAND, rank_budget_ns=10_000 * MS), replace(VIEW, rank_rate_hz=0.1)),
    "too_late": (replace(DEMAND, time_to_rank_ns=0), replace(VIEW, backlog_ns=1_000 * MS)),
    "footprint": (DEMAND, replace(VIEW, device_budget_bytes=1)),
    "admitted": (DEMAND, VIEW),
}


def main() -> int:
    """Measure and print."""
    pre_infer_us = COST.extend_ns(TOKENS, 0) / 1e3
    decisions_us = {name: round(_decision_us(*case), 2) for name, case in CASES.items()}
    messages_us = round(_best_us(_messages), 2)
    refusal_us = max(decisions_us[name] for name in CASES if name != "admitted") + messages_us
    share = refusal_us / pre_infer_us
    line = {
        "hardware": hardware(),
        "decision_us": decisions_us,
        "messages_us": messages_us,
        "refusal_us": round(refusal_us, 2),
        "pre_infer_us": round(pre_infer_us, 1),
        "refusal_share": round(share, 5),
        "targets": {"refusal_share": share <= REFUSAL_SHARE},
    }
    sys.stdout.write(json.dumps(line) + "\n")
    return 0


def _decision_us(demand: Demand, view: InstanceView) -> float:
    """One arrival and, if it was admitted, the answer to its pre-infer and the end of its ticket."""
    core, numbers = Admission(RULES), iter(range(10**9))

    def decide() -> None:
        now_ns = (number := next(numbers)) * 100 * MS
        for effect in core.handle(Arrived(str(number), demand, view), now_ns):
            match effect:
                case Admit(ticket_id):
                    core.handle(PreInferAnswered(ticket_id, Outcome.STARTED), now_ns)
                    core.handle(TicketsEnded((ticket_id,)), now_ns)
                case Decline() | PassBy() | EndReservation():
                    pass

    return _best_us(decide)


def _messages() -> None:
    """What surrounds a decision in Arrive, but for gRPC itself."""
    told = router_pb2.ResolveResponse(instance_id="r0", cost=cost_to_pb(COST)).SerializeToString()
    cost_from_pb(router_pb2.ResolveResponse.FromString(told).cost)
    numbers = trigger_pb2.Predictions(full_ns=1, rank_on_psi_ns=1, pre_infer_ns=1, queue_ns=1, miss_saved=0.5)
    trigger_pb2.ArriveResponse(request_id="r", decision="DECISION_DECLINED", predictions=numbers).SerializeToString()


def _best_us(work: Callable[[], None]) -> float:
    """Mean of a round, of the quickest round."""
    best = float("inf")
    for _ in range(REPEATS):
        begun_ns = time.perf_counter_ns()
        for _ in range(ROUNDS):
            work()
        best = min(best, (time.perf_counter_ns() - begun_ns) / ROUNDS / 1e3)
    return best


if __name__ == "__main__":
    sys.exit(main())
