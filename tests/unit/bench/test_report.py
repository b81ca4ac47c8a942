"""From workers' results to one document, verdicts, a page and pictures."""

import json
from pathlib import Path

import pytest

from bench.engine import assemble, report
from bench.engine.shapes import DENSE, LARGE, NATIVE, SMALL, TORCH, cases
from bench.engine.targets import Verdict, case_of, verdicts
from tests.unit.bench import example


def verdict_of(document, figure: str, case: str = "") -> Verdict:
    return next(one for one in verdicts(document) if one.figure == figure and case in one.case)


def test_the_grid_has_every_size_with_every_kernel_and_only_keeps_what_matches():
    assert len(cases()) == 2 * 4 * 2 * 3
    assert {case.tokens for case in cases(quick=True)} == {4096}
    assert [case.name for case in cases(only=["*512*/1024/1/native"])] == ["d512_h4x128_l5/1024/1/native"]


def test_the_baseline_is_shared_by_the_kernels_of_the_same_sizes():
    document = example.document()
    native, torch = (case_of(document, SMALL, 4096, 2, kernel) for kernel in (NATIVE, TORCH))
    assert native["dense_ms"] == torch["dense_ms"] == 2048.0
    assert native["speedup_dense"] == 2048.0 / native["prefix_ms"]
    assert all(case["kernel"] != DENSE for case in document["cases"])


@pytest.mark.parametrize(
    ("measured", "is_floor", "wanted"),
    [
        (0.6, True, "met"),
        (0.59, True, "short"),
        (0.6, False, "met"),
        (0.61, False, "short"),
        (None, True, "not measured"),
    ],
)
def test_a_target_is_met_at_its_limit_and_short_beyond(measured, is_floor, wanted):
    assert Verdict("x", "", measured, None, 0.6, None, is_floor=is_floor).verdict == wanted


def test_targets_read_their_own_case():
    document = example.document()
    case_of(document, LARGE, 4096, 1, NATIVE)["prefix_of_peak"] = 0.5
    assert verdict_of(document, "prefix_of_peak", f"{LARGE}, {NATIVE}").verdict == "short"
    assert verdict_of(document, "prefix_of_peak", f"{SMALL}, {NATIVE}").verdict == "met"
    assert verdict_of(document, "reload_of_memcpy").measured == 0.6


def test_memory_that_grows_with_the_square_is_short():
    document = example.document()
    assert verdict_of(document, "memory_8192_of_4096", LARGE).verdict == "met"
    case_of(document, LARGE, 8192, 1, NATIVE)["added_rss_mb"] *= 2
    assert verdict_of(document, "memory_8192_of_4096", LARGE).verdict == "short"


def test_what_was_skipped_or_broke_is_named_and_not_a_figure():
    why = {"skipped": "this build has no bench.engine.reload"}
    found = [(case, example.result_of(case)) for case in cases()]
    found[0] = (found[0][0], {"failed": "exit code 1"})
    document = assemble.document(example.HEAD, found, {"reload": why})
    assert document["skipped"] == [{"name": "reload", "why": why["skipped"]}]
    assert [one["name"] for one in document["failed"]] == [found[0][0].name]
    assert document["reload_gbps"] is None
    assert verdict_of(document, "reload_of_memcpy").verdict == "not measured"


def test_the_document_is_one_line_of_json_with_the_promised_keys():
    document = json.loads(json.dumps(example.document()))
    promised = {
        "cpu",
        "kernel",
        "cases",
        "preempt_wait_p99_ms",
        "reload_gbps",
        "memcpy_gbps",
        "score_err",
        "seed",
        "date",
    }
    assert promised <= document.keys()
    assert document["kernel"] == "native/avx512-bf16"


def test_a_page_is_written_with_its_document_and_pictures(tmp_path: Path):
    page = report.write(example.document(), tmp_path)
    assert page.name == "engine_amd-epyc-avx512bf16-2c_2026-01-02.md"
    text = page.read_text()
    for suffix in ("share", "latency", "parts"):
        picture = tmp_path / f"{page.stem}_{suffix}.svg"
        assert picture.read_text().lstrip().startswith("<?xml") and f"({picture.name})" in text
    assert json.loads(page.with_suffix(".json").read_text())["date"] == example.HEAD["date"]


def test_what_people_wrote_survives_when_the_page_is_made_again(tmp_path: Path):
    page = report.write(example.document(), tmp_path)
    assert report.FINDINGS_NONE in page.read_text()
    page.write_text(page.read_text().replace(report.FINDINGS_NONE, "The diagonal costs 3 %."))
    again = report.write(example.document(preempt={"preempt_wait_p99_ms": 4.5}), tmp_path)
    assert again == page
    assert "The diagonal costs 3 %." in page.read_text() and "4.5" in page.read_text()


def test_a_run_without_native_cases_draws_no_parts(tmp_path: Path):
    kept = [(case, example.result_of(case)) for case in cases() if case.kernel != NATIVE]
    page = report.write(assemble.document(example.HEAD, kept, {}), tmp_path)
    assert not list(tmp_path.glob("*_parts.svg"))
    assert "not measured" in page.read_text()
