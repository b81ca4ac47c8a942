"""A run: probes and searches over modes, written down after each, so that what is done is never lost."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.load.ablations.modes import MODES
from bench.load.deployment import Deployment, deployed
from bench.load.ground import Ground
from bench.load.probe import Probe, run_probe
from bench.load.profile import Lengths, Profile, Traffic
from bench.load.search import Estimate, LengthSearch, MonotoneSearch, RateSearch, Verdict

Row = dict[str, Any]
Say = Callable[[str], None]

RATE_LEAST_HZ, RATE_MOST_HZ = 4.0, 500.0
"""A thousand requests at less take longer than a search may."""
START_S = 6.0
"""Of a probe, beside its trace."""
TOO_NOISY_SHARE = 0.5
"""Of the probes disturbed, from which the run as a whole is called too noisy."""
PATIENCE = 1.6
"""Of its time, how much a search has that knows of nothing that holds yet: what it says then is worth little."""
PROBES_LEAST = 2
"""Of a search, whatever time it has."""
TOLERANCE = 0.1
"""How close a search brings what holds and what fails."""
TOKENS_LEAST = 128
USERS_APART = 1201
"""From one probe's first user to the next one's: more than a probe of 100 requests a second has."""


class Campaign:
    """Runs what it is told and keeps the document of the run."""

    def __init__(self, profile: Profile, ground: Ground, run_dir: Path, head: Row, say: Say, seed: int) -> None:
        """`head` is what is known before anything runs, or the document of a run that is continued."""
        self._profile, self._ground, self._run_dir = profile, ground, run_dir
        self._say, self._seed = say, seed
        self._begun_s = time.monotonic()
        self._before_s = float(head.get("seconds", 0.0))
        self.run: Row = {"probes": [], "searches": [], **head, "config": _config(profile, seed)}
        run_dir.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def mode(self, name: str) -> Iterator[Deployment]:
        """A mode's cluster, up."""
        self.say(f"{name}: {MODES[name].what}")
        with deployed(MODES[name], self._profile, self._ground, self._run_dir / name) as deployment:
            yield deployment

    def say(self, text: str) -> None:
        """A line of progress, with the time so far."""
        self._say(f"[{time.monotonic() - self._begun_s:5.0f} s] {text}")

    def note(self, name: str, value: Any) -> None:
        """Put something into the document."""
        self.run[name] = value
        self.save()

    def close(self) -> None:
        """Sum up the noise, and write the document a last time."""
        probes = self.run["probes"]
        disturbed = sum(probe["is_disturbed"] for probe in probes)
        noise: Row = {"disturbed_probes": disturbed, "probes": len(probes)}
        for name in ("stolen_share", "foreign_share", "slow_share", "lost_share"):
            values = [probe["noise"][name] for probe in probes]
            noise[name] = {"mean": round(sum(values) / len(values), 4), "max": max(values)} if values else None
        noise["steal_share"] = noise["stolen_share"]["mean"] if probes else None
        noise["is_too_noisy"] = disturbed > TOO_NOISY_SHARE * len(probes)
        self.note("noise", noise)

    def save(self) -> None:
        """Write the document."""
        self.run["seconds"] = round(self._before_s + time.monotonic() - self._begun_s, 1)
        staged = self._run_dir / "run.json.new"
        staged.write_text(json.dumps(self.run, indent=1) + "\n")
        staged.replace(self._run_dir / "run.json")

    def probe(
        self,
        deployment: Deployment,
        purpose: str,
        tokens: int | Lengths,
        rate_hz: float,
        traffic: Traffic | None = None,
    ) -> Row:
        """One probe, written down."""
        number = len(self.run["probes"])
        wanted = Probe(
            purpose=purpose,
            tokens=tokens,
            rate_hz=rate_hz,
            seed=self._seed * 1000 + number,
            traffic=traffic or self._profile.traffic,
            first_user=number * USERS_APART % self._profile.model.users,
        )
        row = run_probe(deployment, wanted, self._run_dir / "probes" / f"{number:03d}-{deployment.mode.name}")
        self.run["probes"].append(row)
        self.save()
        self.say(_line(row))
        return row

    def search_rate(
        self,
        deployment: Deployment,
        purpose: str,
        tokens: int,
        guess_hz: float,
        within_s: float,
        probes_least: int = PROBES_LEAST,
    ) -> Estimate:
        """The highest rate that holds at a length, as close as the time allows; so many probes whatever it takes."""
        quantile = self._profile.slo.quantile
        guess_hz = max(guess_hz, RATE_LEAST_HZ)
        search = RateSearch(guess_hz, least=RATE_LEAST_HZ, most=RATE_MOST_HZ, quantile=quantile, tolerance=TOLERANCE)
        measure = lambda rate_hz: self.probe(deployment, purpose, tokens, rate_hz)  # noqa: E731
        found = self._search(search, measure, lambda rate_hz: self._probe_s(rate_hz), within_s, probes_least)
        self._found(deployment, {"kind": "rate", "purpose": purpose, "at_tokens": tokens}, found)
        return found

    def search_length(self, deployment: Deployment, rate_hz: float, guess_tokens: int, within_s: float) -> Estimate:
        """The longest history that holds at a rate, as close as the time allows."""
        # Returning users' histories are longer than the mean.
        most = self._profile.model.behaviours - 256
        quantile = self._profile.slo.quantile
        search = LengthSearch(guess_tokens, least=TOKENS_LEAST, most=most, quantile=quantile, tolerance=TOLERANCE)
        measure = lambda tokens: self.probe(deployment, "length", int(tokens), rate_hz)  # noqa: E731
        found = self._search(search, measure, lambda _: self._probe_s(rate_hz), within_s, PROBES_LEAST)
        self._found(deployment, {"kind": "length", "purpose": "length", "at_rate_hz": rate_hz}, found)
        return found

    def has_searched(self, mode: str, purpose: str) -> bool:
        """Whether a search is in the document."""
        return any((one["mode"], one["purpose"]) == (mode, purpose) for one in self.run["searches"])

    def result_hz(self, mode: str, tokens: int) -> float | None:
        """What the last search of a mode at a length found."""
        found = [one for one in self.run["searches"] if (one["mode"], one.get("at_tokens")) == (mode, tokens)]
        return found[-1]["value"] if found else None

    def steps(self, lengths: list[int]) -> None:
        """Time the steps of a request, alone, and note them."""
        profile = self._profile
        spec = {
            "model": str(self._ground.model_dir),
            "dtype": profile.model.dtype,
            "threads": profile.deployment.threads,
            "tokens": lengths,
            "appended": round(profile.traffic.append_mean),
            "candidates": profile.traffic.candidates,
        }
        command = [sys.executable, "-m", "bench.load.steps", json.dumps(spec)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        self.note("work", json.loads(done.stdout.splitlines()[-1]))

    def _search(
        self,
        search: MonotoneSearch,
        measure: Callable[[float], Row],
        takes_s: Callable[[float], float],
        within_s: float,
        probes_least: int,
    ) -> Estimate:
        begun_s, probes = time.monotonic(), 0
        while (position := search.next()) is not None:
            patience = 1.0 if search.result().value is not None else PATIENCE
            is_out_of_time = time.monotonic() - begun_s + takes_s(position) > patience * within_s
            if is_out_of_time and probes >= probes_least:
                break
            verdict = verdict_of(measure(position))
            search.observe(position, verdict)
            # A disturbed one says nothing, so that a search never ends on those alone.
            probes += not verdict.is_disturbed
        return search.result()

    def _probe_s(self, rate_hz: float) -> float:
        traffic = self._profile.traffic
        return traffic.requests / rate_hz + traffic.warmup_s + START_S

    def _found(self, deployment: Deployment, about: Row, found: Estimate) -> None:
        self.run["searches"].append({"mode": deployment.mode.name, **about, **asdict(found)})
        self.save()
        self.say(f"{deployment.mode.name} {about}: {found.value} ({found.low} to {found.high})")


def _config(profile: Profile, seed: int) -> Row:
    """The profile, and what figures are computed with at its top."""
    wanted, traffic = profile.deployment, profile.traffic
    return {
        **profile.to_json(),
        "rankers": wanted.rankers,
        "threads": wanted.threads,
        "candidates": traffic.candidates,
        "return_share": traffic.return_share,
        "seed": seed,
    }


def verdict_of(row: Row) -> Verdict:
    """What a search wants to know of a probe."""
    return Verdict(
        late=row["late"],
        count=row["requests"],
        errors=sum(row["errors"].values()),
        end_to_end_late=row["end_to_end_late"],
        is_disturbed=row["is_disturbed"],
        bursts=tuple(row["late_bursts"]),
    )


def _line(row: Row) -> str:
    verdict = "disturbed" if row["is_disturbed"] else "held" if row["held"] else "missed"
    late = f"{row['late']} of {row['requests']} late"
    quantiles = f"rank P50 {row['rank_ms'].get('p50')} P99 {row['rank_ms'].get('p99')} ms"
    return f"{row['mode']} {row['tokens']} tokens at {row['rate_hz']:.2f}/s: {verdict}, {late}, {quantiles}"
