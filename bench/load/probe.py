"""One probe: a mode, a length and a rate; at least a thousand requests; what came of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.load.deployment import Deployment
from bench.load.noise import SLOW_SHARE_MAX, CpuTimes, Idle, Pacers, idle_probe, own_cpu_s, share_between
from bench.load.outcome import Outcome, read_outcomes
from bench.load.profile import Lengths, Traffic
from bench.load.tally import tally
from bench.load.trace import write_trace
from bench.load.traffic import Plan, PlannedRequest, plan

GENERATOR = "load"
"""Its name among the processes."""
QUIET_WAIT_S = 6.0
"""How long a probe waits for the machine to become quiet. What happens during the probe decides whether it counts."""
REST_S = 1.2
"""Before a probe: windows of the one before close, copies end."""


class GeneratorFailed(Exception):
    """The load generator ended with an error; the text is its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What to send."""

    purpose: str
    tokens: int | Lengths
    rate_hz: float
    seed: int
    traffic: Traffic
    first_user: int


def run_probe(deployment: Deployment, probe: Probe, folder: Path) -> dict[str, Any]:
    """Send it, and add up what came of it."""
    requests = _planned(deployment, probe)
    folder.mkdir(parents=True, exist_ok=True)
    write_trace(folder / "trace.jsonl", requests, _about(deployment, probe))
    time.sleep(REST_S)
    idle = _quiet()
    counters = deployment.counters()
    before, own_s = CpuTimes.read(deployment.processes), own_cpu_s()
    with Pacers() as pacers:
        outcomes, generator_s = send(deployment, folder)
    after = CpuTimes.read(deployment.processes)
    share = share_between(before, after, own_cpu_s() - own_s)
    counted = [(request, outcome) for request, outcome in zip(requests, outcomes, strict=True) if request.is_counted]
    elapsed_s = after.at_s - before.at_s
    grown = _grown(counters, deployment.counters())
    return {
        **_about(deployment, probe),
        "seconds": round(elapsed_s, 1),
        "requests": len(counted),
        "warmup": len(requests) - len(counted),
        **tally(counted, deployment.profile.slo),
        "counters": grown,
        **_reused(requests, counted, grown),
        "cpu_share": {**share.by_process, GENERATOR: round(generator_s / elapsed_s, 4)},
        "noise": {**idle.to_json(), **share.to_json(), "slow_share": round(pacers.slow_share(), 4)},
        "is_disturbed": share.is_disturbed or pacers.slow_share() > SLOW_SHARE_MAX,
    }


def users_of(requests: Sequence[PlannedRequest]) -> int:
    """How many users a trace has."""
    return len({request.user for request in requests})


def _planned(deployment: Deployment, probe: Probe) -> list[PlannedRequest]:
    profile = deployment.profile
    return plan(
        Plan(
            traffic=probe.traffic,
            stages=profile.stages,
            rate_hz=probe.rate_hz,
            seed=probe.seed,
            first_user=probe.first_user,
            users=profile.model.users,
            tokens=probe.tokens,
        )
    )


def _about(deployment: Deployment, probe: Probe) -> dict[str, Any]:
    tokens = probe.tokens if isinstance(probe.tokens, int) else asdict(probe.tokens)
    return {
        "mode": deployment.mode.name,
        "purpose": probe.purpose,
        "tokens": tokens,
        "rate_hz": round(probe.rate_hz, 3),
        "return_share": probe.traffic.return_share,
        "seed": probe.seed,
    }


def _quiet() -> Idle:
    """The first quiet idle probe, or the last one when the machine would not become quiet."""
    end_s = time.monotonic() + QUIET_WAIT_S
    while not (idle := idle_probe()).is_quiet and time.monotonic() < end_s:
        time.sleep(1.0)
    return idle


def send(deployment: Deployment, folder: Path) -> tuple[list[Outcome], float]:
    """Send a folder's trace: the outcomes, and the processor time that it took.

    Raises:
        GeneratorFailed: with its last words.
    """
    spec, outcomes = folder / "spec.json", folder / "outcomes.jsonl"
    described = {
        "trace": str(folder / "trace.jsonl"),
        "outcomes": str(outcomes),
        "has_arrive": deployment.mode.has_arrive,
        "otlp": deployment.cluster.otlp_endpoint,
        "target": asdict(deployment.target),
    }
    spec.write_text(json.dumps(described, indent=2) + "\n")
    began_s = own_cpu_s()
    command = [sys.executable, "-m", "bench.load.generator", str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise GeneratorFailed(done.stderr.strip()[-2000:])
    return read_outcomes(outcomes), own_cpu_s() - began_s


def _grown(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    grown = {name: after[name] - before[name] for name in after}
    return {name: value for name, value in sorted(grown.items()) if value}


def _reused(
    requests: Sequence[PlannedRequest], counted: Sequence[tuple[PlannedRequest, Outcome]], grown: dict[str, int]
) -> dict[str, int]:
    """Of the counted returns, those whose psi was not made from nothing again; nothing said without a DRAM tier.

    What was looked up and not found was made from nothing; beyond one for each newcomer, that was a return.
    """
    if not grown.get("lookups"):
        return {}
    newcomers = sum(request.visit == 0 for request in requests)
    made_again = max(0, grown["lookups"] - grown.get("lookup_hits", 0) - newcomers)
    returns = sum(request.visit > 0 for request, _ in counted)
    share = made_again / max(1, len(requests) - newcomers)
    return {"reused": round(returns * (1.0 - min(1.0, share)))}
