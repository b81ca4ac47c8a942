"""What the demo prints at the end: tables for a person, and which promises were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.outcome import TIERS, Outcome, Totals, quantile

REQUESTS_LEAST = 500
AT_RISK_LEAST = 0.3
SURVIVAL_LEAST = 0.99
ON_PSI_LEAST = 0.9
SCORE_DIFFERENCE_MOST = 1e-5
WRONG_PSI_LEAST = 1e-3
_USERS_SHOWN = 3
_TITLES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Something the demo holds itself to."""

    text: str
    is_kept: bool
    of_data: bool = False
    """True when it depends on the log: a log of one's own may not have what it takes."""
    of_calm: bool = False
    """True when it is not promised while a process is killed."""


def promises(found: Mapping[str, Any], requests_asked: int) -> list[Promise]:
    """What is held, over the numbers of the last line."""
    tiers, admitted = found["tiers"], found["admitted"]
    on_psi = tiers["device"] + tiers["dram"] + tiers["joined"]
    least = min(REQUESTS_LEAST, requests_asked)
    return [
        Promise(text=f"requests {found['requests']} >= {least}", is_kept=found["requests"] >= least, of_data=True),
        Promise(
            text=f"answered {found['answered']} = requests {found['requests']}",
            is_kept=found["answered"] == found["requests"],
        ),
        Promise(text=f"errors {found['errors']} = 0", is_kept=found["errors"] == 0),
        Promise(
            text=f"at_risk {found['at_risk']:.3f} >= {AT_RISK_LEAST}",
            is_kept=found["at_risk"] >= AT_RISK_LEAST,
            of_data=True,
        ),
        Promise(
            text=f"survival {found['survival']:.4f} >= {SURVIVAL_LEAST}",
            is_kept=found["survival"] >= SURVIVAL_LEAST,
            of_calm=True,
        ),
        Promise(
            text=f"device + dram + joined {on_psi} >= {ON_PSI_LEAST} of {admitted} admitted",
            is_kept=on_psi >= ON_PSI_LEAST * admitted > 0,
            of_calm=True,
        ),
        Promise(text=f"dram {tiers['dram']} > 0", is_kept=tiers["dram"] > 0, of_data=True, of_calm=True),
        Promise(
            text=f"score_diff_max {found['score_diff_max']:.2e} <= {SCORE_DIFFERENCE_MOST:.0e}",
            is_kept=found["score_diff_max"] <= SCORE_DIFFERENCE_MOST,
        ),
        Promise(
            text=f"wrong_psi_diff {found['wrong_psi_diff']:.2e} >= {WRONG_PSI_LEAST:.0e}",
            is_kept=found["wrong_psi_diff"] >= WRONG_PSI_LEAST,
            of_data=True,  # A model that found nothing to learn in a log reads little out of histories.
        ),
        Promise(
            text=f"auc {found['auc']:.4f} > auc_popularity {found['auc_popularity']:.4f}",
            is_kept=found["auc"] > found["auc_popularity"],
            of_data=True,
        ),
    ]


def broken(held: Sequence[Promise], *, own_data: bool, killed: bool) -> list[str]:
    """The promises that count in this run and were not kept."""
    counting = (one for one in held if not (one.of_data and own_data) and not (one.of_calm and killed))
    return [one.text for one in counting if not one.is_kept]


class Printer:
    """Prints the parts of the report."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def titles(self, outcomes: Sequence[Outcome], titles: Mapping[int, str]) -> None:
        """The best candidates for a few users, and what they turned to."""
        shown: dict[str, Outcome] = {}
        for outcome in outcomes:
            if outcome.tier in ("DEVICE", "DRAM", "JOINED") and len(shown) < _USERS_SHOWN:
                shown.setdefault(outcome.planned.asked.user, outcome)
        for user, outcome in shown.items():
            assert outcome.scores is not None
            asked = outcome.planned.asked
            order = (-outcome.scores[:, 0]).argsort(kind="stable")[:_TITLES_SHOWN]
            best = [asked.candidates[int(place)] for place in order]
            marked = (f"{titles.get(item, item)}{' *' if item in asked.positives else ''}" for item in best)
            self._console.print(
                f"  user {user}, {asked.history_count} behaviours: {'; '.join(marked)}", highlight=False, soft_wrap=True
            )
        self._console.print("  (* is what the user turned to next)", highlight=False)

    def tiers(self, outcomes: Sequence[Outcome], budget_ms: float) -> None:
        """How many requests went which way, how long their histories were, and how long ranking took."""
        table = Table("tier", "requests", "admitted", "history P50", box=None, pad_edge=False)
        for heading in ("P50 ms", "P99 ms", "in budget", "compute"):
            table.add_column(heading)
        for column in table.columns[1:]:
            column.justify = "right"
        for tier in TIERS:
            mine = [outcome for outcome in outcomes if outcome.tier.lower() == tier]
            took = [outcome.rank_ns / 1e6 for outcome in mine]
            compute = [outcome.compute_ns / 1e6 for outcome in mine]
            histories = [float(outcome.planned.asked.history_count) for outcome in mine]
            in_budget = sum(took_ms <= budget_ms for took_ms in took) / max(1, len(took))
            table.add_row(
                tier,
                str(len(mine)),
                str(sum(outcome.is_admitted for outcome in mine)),
                f"{quantile(histories, 0.5):.0f}",
                f"{quantile(took, 0.5):.2f}",
                f"{quantile(took, 0.99):.2f}",
                f"{in_budget:.1%}" if mine else "-",
                f"{quantile(compute, 0.5):.2f}",
            )
        self._console.print(table)
        admitted = [outcome for outcome in outcomes if outcome.is_admitted]
        full, on_psi = (
            quantile([getattr(outcome, name) / 1e6 for outcome in admitted], 0.5)
            for name in ("foreseen_full_ns", "foreseen_on_psi_ns")
        )
        self._console.print(
            f"  the trigger foresaw for the admitted, at the error quantile (P50): {full:.2f} ms in full, "
            f"{on_psi:.2f} ms on psi",
            highlight=False,
            soft_wrap=True,
        )

    def totals(self, seen: Totals) -> None:
        """The replay in a line or two."""
        self._console.print(
            f"  {seen.answered} of {seen.requests} answered, {seen.errors} errors; {seen.at_risk:.0%} at risk, "
            f"{seen.admitted} admitted, {seen.survival:.2%} of these found their psi; "
            f"ranking P50 {seen.rank_p50_ms:.2f} ms, P99 {seen.rank_p99_ms:.2f} ms",
            highlight=False,
            soft_wrap=True,
        )

    def promises(self, held: Sequence[Promise], counting: Sequence[str]) -> None:
        """Each promise with its mark."""
        for one in held:
            mark = "kept  " if one.is_kept else ("BROKEN" if one.text in counting else "not held here")
            self._console.print(f"  {mark} {one.text}", highlight=False, markup=False)
