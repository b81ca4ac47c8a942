"""A run's document as a page with tables and pictures: `python -m bench.engine.report JSON [--into DIR]`.

Writes engine_HARDWARE_DATE.md, .json and pictures. Everything is made from the document,
so a page can be made again; what people wrote between the two marks of the findings is
kept from the page that is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.engine import expect
from bench.engine.machine import short_name
from bench.engine.plots import draw_all
from bench.engine.shapes import LARGE, NATIVE, TORCH
from bench.engine.summary import limit, number
from bench.engine.targets import THREADS, TOKENS, case_of, rates_of

REPORTS = Path("bench/reports")
FINDINGS_BEGIN, FINDINGS_END = "<!-- findings -->", "<!-- end of findings -->"
SIZES = ("model", "tokens", "threads", "kernel")
FINDINGS_NONE = "Nothing has been written yet."

Document = Mapping[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Write the page; print its path."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine.report")
    parser.add_argument("document", type=Path, help="what python -m bench.engine wrote")
    parser.add_argument("--into", type=Path, default=REPORTS, help=f"folder of the page ({REPORTS})")
    given = parser.parse_args(arguments)
    print(write(json.loads(given.document.read_text()), given.into))
    return 0


def write(document: Document, folder: Path) -> Path:
    """Page, document and pictures; returns the page's path."""
    stem = f"engine_{short_name(document['hardware'])}_{document['date'][:10]}"
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{stem}.md"
    findings = findings_of(page.read_text()) if page.exists() else FINDINGS_NONE
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    pictures = draw_all(document, folder, stem)
    page.write_text(text_of(document, pictures, findings, stem))
    return page


def findings_of(page: str) -> str:
    """What stands between the marks."""
    _, begin, rest = page.partition(FINDINGS_BEGIN)
    found, end, _ = rest.partition(FINDINGS_END)
    return found.strip() if begin and end else FINDINGS_NONE


def text_of(document: Document, pictures: Sequence[tuple[str, str]], findings: str, stem: str) -> str:
    """The page."""
    blocks = [
        f"# The engine on {document['cpu']}, {document['date'][:10]}",
        _made_by(document, stem),
        "## Findings\n\n" + f"{FINDINGS_BEGIN}\n{findings}\n{FINDINGS_END}",
        "## Targets\n\n" + _targets(document),
        *(f"![{title}]({name})" for title, name in pictures),
        "## Cases\n\n" + _cases(document),
        "## The arithmetic\n\n" + _arithmetic(document),
        "## Memory and steady state\n\n" + _memory(document),
        "## Precision\n\n" + _precision(document),
        "## The machine\n\n" + _machine(document),
        *_missing(document),
    ]
    return "\n\n".join(blocks) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gap(measured: float | None, expected: float | None) -> str:
    """Measured over expected."""
    return "-" if measured is None or not expected else f"{measured / expected:.2f}x"


def _made_by(document: Document, stem: str) -> str:
    source = document["source"]
    state = ", with changes that are not committed" if source["is_changed"] else ""
    only = f" Only {', '.join(f'`{pattern}`' for pattern in document['only'])}." if document["only"] else ""
    return (
        f"`{document['command']}` at commit `{source['commit'][:12]}`{state}; seed {document['seed']}, random data, "
        f"{document['seconds']} s.{only} Kernel used: `{document['kernel']}`. Every figure with its counts and spread "
        f"is in [{stem}.json]({stem}.json). Times are medians of rounds in which all jobs of a case take turns with a "
        "product of two 2048 x 2048 bfloat16 matrices; a share of the peak compares a job with the products right "
        "before and after it. Operations are counted causally, and of a prefix's last layer only K and V."
    )


def _targets(document: Document) -> str:
    header = ["figure", "case", "expected", "measured", "gap", "by count", "target", "goal", ""]
    rows = [
        [
            f"`{target['figure']}`",
            target["case"],
            number(target["expected"]),
            number(target["measured"]),
            gap(target["measured"], target["expected"]),
            number(target["by_count"]),
            limit(target, "target"),
            limit(target, "goal"),
            target["verdict"] if target["verdict"] != "short" else "**short**",
        ]
        for target in document["targets"]
    ]
    note = (
        "*expected* was written down before the run (see the arithmetic). *by count*: the speed-up of an engine that "
        "runs at the product peak, over the baseline as measured; the ratio of two jobs at the same share of it."
    )
    return f"{table(header, rows)}\n\n{note}"


def _cases(document: Document) -> str:
    header = [*SIZES, "peak GFLOP/s", "prefix ms", "expected", "of peak", "naive count", "dense ms", "lean dense"]
    header += ["speed-up", "at peak", "full ms", "rank 128 / 512 / 2048 ms", "append 64 ms"]
    rows = []
    for case in document["cases"]:
        rates = rates_of(document, case["threads"])
        sketched = expect.expected(case["model"], case["tokens"], case["kernel"], rates)["prefix_ms"] if rates else None
        ranks = " / ".join(number(value) for value in case["rank_ms"].values())
        figures = [case["gemm_peak_gflops"], case["prefix_ms"], sketched, case["prefix_of_peak"]]
        figures += [case["prefix_of_peak_naive"], case["dense_ms"], case["dense_lean_ms"], case["speedup_dense"]]
        figures += [case["speedup_dense_by_count"], case["full_ms"]]
        rows.append([*_sizes(case), *(number(figure) for figure in figures), ranks, number(case["append64_ms"])])
    note = (
        "*naive count*: the share if the last layer counted whole, as often published. *lean dense*: the baseline "
        "with SiLU in place and N divided out late. *at peak*: the speed-up that an engine which runs at the product "
        "peak would show; no kernel reaches more."
    )
    return f"{table(header, rows)}\n\n{note}"


def _arithmetic(document: Document) -> str:
    rates = rates_of(document, THREADS)
    if not rates:
        return f"```\n{expect.FORMULA}\n```"
    rows = []
    for kernel in (NATIVE, TORCH):
        case = case_of(document, LARGE, TOKENS, THREADS, kernel)
        measured = {**case, **{f"rank{count}_ms": value for count, value in case.get("rank_ms", {}).items()}}
        for name, sketch in expect.sketches(LARGE, TOKENS, kernel, rates).items():
            # The baseline is no kernel's: it stands once, after the native jobs.
            if name in measured and (name, kernel) != ("dense_ms", TORCH):
                found = measured[name]
                rows.append([kernel, f"`{name}`", sketch.text(), number(found), gap(found, sketch.total_ms)])
    numbers = (
        f"Sums of the native kernel are bfloat16 products, those of torch float32. SiLU of a score is taken as "
        f"{expect.NATIVE_SILU_NS} ns natively and as measured in torch; rows pass memory "
        f"{expect.ELEMENTWISE_PASSES[NATIVE]} and {expect.ELEMENTWISE_PASSES[TORCH]} times, cached K/V "
        f"{expect.CONTEXT_PASSES[NATIVE]} and {expect.CONTEXT_PASSES[TORCH]} times.\n\n"
        f"{LARGE}, {TOKENS} tokens, one thread:"
    )
    header = ["kernel", "figure", "expected", "measured ms", "gap"]
    return f"```\n{expect.FORMULA}\n```\n\n{numbers}\n\n" + table(header, rows)


def _memory(document: Document) -> str:
    header = [*SIZES, "peak MB", "added MB", "faults a rank", "faults a prefix", "growth kB"]
    names = ("peak_rss_mb", "added_rss_mb", "minflt_per_rank", "minflt_per_prefix", "rss_growth_kb")
    engine = [[*_sizes(case), *(number(case.get(name)) for name in names)] for case in document["cases"]]
    dense = [[*_sizes(case), *(number(case.get(name)) for name in names)] for case in document["dense"]]
    note = (
        "*added*: what pages and jobs add to a process that has loaded torch, the model and the matrices of the peak. "
        "*faults*: pages of memory a request touches that the process did not have, over 50 requests after a warm-up."
    )
    return f"{table(header, [*engine, *dense])}\n\n{note}"


def _sizes(case: Mapping[str, Any]) -> list[str]:
    return [str(case[name]) for name in SIZES]


def _precision(document: Document) -> str:
    precision = document["precision"]
    if not precision or "score_err" not in precision:
        return "Not measured."
    rows = [[f"`{name}`", number(value)] for name, value in precision["score_err"].items()]
    text = (
        f"Largest |difference of logits| / max(1, |logit|) on a random model, {precision['tokens']} tokens and "
        f"{precision['candidates']} candidates, against full inference in float32; `_full` is full inference in the "
        "same precision, which bounds the relay.\n\n"
    )
    trained = precision.get("trained")
    quality = f"\n\nOn a trained model: `{json.dumps(trained)}`" if trained else ""
    return text + table(["precision", "score_err"], rows) + quality


def _machine(document: Document) -> str:
    hardware, noise = document["hardware"], document["noise"]
    rows = [[name, str(value)] for name, value in {**hardware, **document["versions"]}.items()]
    for rates in document["rates"]:
        rows += [
            [f"{name}, {rates['threads']} thread(s)", str(value)] for name, value in rates.items() if name != "threads"
        ]
    rows += [[f"noise {when}", str(found)] for when, found in noise.items()]
    return table(["", ""], rows)


def _missing(document: Document) -> list[str]:
    lines = [f"- {kind}: `{one['name']}`, {one['why']}" for kind in ("skipped", "failed") for one in document[kind]]
    return ["## Not measured\n\n" + "\n".join(lines)] if lines else []


if __name__ == "__main__":
    sys.exit(main())
