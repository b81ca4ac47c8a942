"""How the collector's Prometheus exporter names what comes over OTLP: underscores, units and types as suffixes.

Source: the collector's pkg/translator/prometheus, and prometheus/otlptranslator, which it calls.
"""

import re

from relaygr.telemetry import names

_UNITS = {
    **{"d": "days", "h": "hours", "min": "minutes", "s": "seconds", "ms": "milliseconds", "us": "microseconds"},
    **{"ns": "nanoseconds", "By": "bytes", "KiBy": "kibibytes", "MiBy": "mebibytes", "GiBy": "gibibytes"},
    **{"m": "meters", "V": "volts", "A": "amperes", "J": "joules", "W": "watts", "g": "grams"},
    **{"Cel": "celsius", "Hz": "hertz", "%": "percent", "1": ""},
}
_PER_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
_OF_A_PROCESS = frozenset({"job", "instance"})
"""Made of service.name and service.instance.id."""


def metric_name(name: str, unit: str, instrument: str) -> str:
    """For example relaygr.loop.lag in s -> relaygr_loop_lag_seconds."""
    tokens = [token for token in re.split(r"[^a-zA-Z0-9:]", name) if token]
    main, _, per = unit.partition("/")
    tokens += [word for word in (_unit(main), f"per_{_PER_UNITS.get(per, per)}" if per else "") if word not in tokens]
    tokens = [token for token in tokens if token]
    if instrument == "counter":
        tokens = [token for token in tokens if token != "total"] + ["total"]
    if instrument == "gauge" and unit == "1":
        tokens = [token for token in tokens if token != "ratio"] + ["ratio"]
    joined = "_".join(tokens)
    return f"_{joined}" if joined[:1].isdigit() else joined


def label_name(attribute: str) -> str:
    """For example relaygr.rank.tier -> relaygr_rank_tier."""
    label = re.sub(r"[^a-zA-Z0-9_]", "_", attribute)
    return label if label[:1].isalpha() or label.startswith("__") else f"key_{label.removeprefix('_')}"


def series() -> dict[str, frozenset[str]]:
    """Every series that the services' metrics become, and its labels."""
    found: dict[str, frozenset[str]] = {}
    for name, (instrument, unit, _) in names.INSTRUMENTS.items():
        labels = _OF_A_PROCESS | {label_name(attribute) for attribute in names.ATTRIBUTES[name]}
        exported = metric_name(name, unit, instrument)
        if instrument == "histogram":
            found |= {f"{exported}_sum": labels, f"{exported}_count": labels, f"{exported}_bucket": labels | {"le"}}
        else:
            found[exported] = labels
    return found


def _unit(unit: str) -> str:
    if "{" in unit:
        return ""
    return _UNITS.get(unit, re.sub(r"[^a-zA-Z0-9]+", "_", unit).strip("_"))
