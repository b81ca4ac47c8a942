"""A run's document with made-up figures that are easy to check by hand."""

from typing import Any

from bench.load.schema import FULL, MODES, RELAY_DRAM, Probe, Run

L0, L1 = 1024, 4096
RATES = {  # mode -> requests/s at L0, at L1
    FULL: (10.0, 2.0),
    "relay": (30.0, 14.0),
    RELAY_DRAM: (40.0, 20.0),
    "no_trigger": (20.0, 10.0),
    "no_affinity": (39.0, 19.0),
    "ring_hash": (38.0, 18.0),
    "remote_pool": (30.0, 12.0),
}
SPREAD = 0.1


def probe(mode: str, tokens: int, rate_hz: float, purpose: str = "sweep", **changes: Any) -> Probe:
    late = changes.pop("late", 8)
    base: dict[str, Any] = {
        "mode": mode,
        "tokens": tokens,
        "rate_hz": rate_hz,
        "purpose": purpose,
        "seed": 1,
        "requests": 1000,
        "achieved_hz": rate_hz,
        "errors": {},
        "rank_ms": {"p50": 12.0, "p99": 48.0, "p99.9": 70.0, "max": 80.0, "count": 1000},
        "end_to_end_ms": {"p50": 70.0, "p99": 100.0, "p99.9": 120.0, "max": 130.0, "count": 1000},
        "late": late,
        "end_to_end_late": 3,
        "held": late <= 10,
        "is_disturbed": False,
        "stages_ms": {"ALL": {"queue": {"mean": 3.0}, "compute": {"mean": 8.0}, "total": {"mean": 12.0}}},
        "cpu_share": {"ranker-1": 0.6, "ranker-2": 0.6, "router": 0.08, "trigger": 0.04, "etcd": 0.01, "load": 0.07},
    }
    if mode != FULL:
        base |= {
            "tiers": {"DEVICE": 900, "DRAM": 50, "FULL": 50},
            "decisions": {"ADMITTED": 950, "DECLINED/LOAD": 50},
            "fallbacks": {"NO_TICKET": 50},
            "admitted": 950,
            "survived": 931,
            "returns": 600,
            "reused": 540,
            "production": {"STARTED": 380, "RESIDENT": 570},
        }
    return base | changes  # type: ignore[return-value]


def search(mode: str, value: float, *, kind: str = "rate", **changes: Any) -> dict[str, Any]:
    bounds = {"value": value, "crossing": value * 1.02, "low": value * (1 - SPREAD), "high": value * (1 + SPREAD)}
    return {"mode": mode, "kind": kind, **bounds, "probes": 6, "is_bounded": True} | changes


def document(**changes: Any) -> Run:
    """A whole run; changes replace parts of it, None takes one away."""
    at = [(mode, tokens, rate) for mode in MODES for tokens, rate in zip((L0, L1), RATES[mode], strict=True)]
    probes = [probe(mode, tokens, rate) for mode, tokens, rate in at]
    probes += [
        probe(RELAY_DRAM, L1, 20.0, tiers={"DEVICE": 1000}, survived=950, reused=600),
        probe(RELAY_DRAM, L1, 20.0, is_disturbed=True, tiers={"FULL": 1000}, survived=0),
        probe("remote_pool", L1, 20.0, late=200),
        probe(RELAY_DRAM, L1, 12.0, "overhead", overhead_ms={"p50": 1.5, "p99": 4.0, "count": 500}),
        probe(FULL, L1, 1.5, "cold"),
        probe(RELAY_DRAM, L1, 1.5, "cold", rank_ms={"p50": 18.0, "p99": 60.0, "p99.9": 80.0}, late=15),
        probe(RELAY_DRAM, L1, 40.0, "overload", errors={"DEADLINE_EXCEEDED": 7}, late=400),
        probe(RELAY_DRAM, L1, 20.0, "mix", tiers={"FULL": 1000}),
        *(probe(FULL, tokens, 5.0, "length") for tokens in (1008, 1072)),
    ]
    searches = [search(mode, rate, at_tokens=tokens) for mode, tokens, rate in at]
    searches += [search(FULL, 1008, kind="length", at_rate_hz=5.0)]
    searches += [search(RELAY_DRAM, 4032, kind="length", at_rate_hz=5.0)]
    run: dict[str, Any] = {
        "config": {
            "slo": {"rank_ms": 50.0, "end_to_end_ms": 110.0, "quantile": 0.99},
            "rankers": 2,
            "threads": 1,
            "return_share": 0.6,
            "candidates": 256,
            "seed": 7,
        },
        "hardware": {"cpu": "AMD EPYC", "flags": ["avx2"], "usable_cores": 2},
        "source": {"commit": "0123456789abcdef", "is_changed": False},
        "versions": {"torch": "2"},
        "date": "2026-01-02T03:04:05+00:00",
        "seconds": 900.0,
        "lengths": {"l0_tokens": L0, "l1_tokens": L1, "full_alone_ms": [[L0, 45.0]]},
        "work": {str(L0): {"full_ms": 45.0, "pre_infer_ms": 25.0, "append_ms": 5.0, "reload_ms": 2.0, "rank_ms": 12.0}},
        "noise": {"steal_share": 0.01, "disturbed_probes": 1, "is_too_noisy": False},
        "probes": probes,
        "searches": searches,
    }
    run |= changes
    return {name: part for name, part in run.items() if part is not None}  # type: ignore[return-value]
