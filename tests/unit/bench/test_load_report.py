"""From a run's document to a page and pictures."""

import json
from pathlib import Path

import pytest

from bench.load import report
from bench.load.report import FINDINGS_NONE
from bench.load.schema import RELAY_DRAM
from bench.load.summary import summary
from tests.unit.bench.load_run import L1, document, probe, search

PICTURES = {"throughput", "latency", "tiers", "survival", "decisions", "stages", "cpu"}


def section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(document(), tmp_path_factory.mktemp("page")).parent


def test_a_page_is_written_with_its_document_and_pictures(written: Path):
    text = (written / "report.md").read_text()
    assert {path.stem for path in written.glob("*.svg")} == PICTURES
    for name in PICTURES:
        assert (written / f"{name}.svg").read_text().lstrip().startswith("<?xml") and f"({name}.svg)" in text
    assert json.loads((written / "run.json").read_text())["date"] == document()["date"]


def test_pictures_name_the_modes_and_the_parts_they_show(written: Path):
    assert "relay_dram" in (written / "throughput.svg").read_text()
    latency = (written / "latency.svg").read_text()
    assert "P99.9, 4096 tokens" in latency and "1008 tokens" not in latency
    stages = (written / "stages.svg").read_text()
    assert ">compute<" in stages and ">total<" not in stages
    assert ">trigger<" in (written / "cpu.svg").read_text()
    assert "DECLINED/LOAD" in (written / "decisions.svg").read_text()


def test_the_first_table_holds_the_claims_with_intervals():
    text = report.text_of(document(), [])
    assert text.index("## Claims") < text.index("## Findings")
    said = section(text, "Claims")
    assert "| `throughput_ratio_l1` | 4096 tokens | up to 3.6 | >= 3.6 | >= 8 | 10 (" in said and "| goal met |" in said
    assert "`ceiling_l0` 8," in said and "`ceiling_l0_host` 5.71" in said


def test_the_page_says_plainly_what_is_worse_where_it_loses_and_how_to_run_it_again():
    text = report.text_of(document(), [])
    left_out = section(text, "Each part left out")
    assert "| `no_trigger` | requests/s at 4096 tokens | 10 (9 to 11) | 20 (18 to 22) | **worse** |" in left_out
    assert "**not shown to be worse**" in left_out
    assert "relay_dram against full: P50 18 ms against 12 (1.50x)" in section(text, "Where it loses")
    assert "DEADLINE_EXCEEDED 7" in section(text, "Every probe")
    assert "git checkout 0123456789abcdef" in section(text, "How to reproduce")
    assert "quiet enough" in section(text, "The machine and its noise")
    last = section(text, "The run in one line").partition("```json\n")[2].partition("\n```")[0]
    assert json.loads(last) == summary(document())


def test_a_whole_run_misses_only_what_it_left_out():
    assert section(report.text_of(document(), []), "What is missing").strip() == "- no probes of `short`"


def test_an_interrupted_run_gives_a_page_that_says_what_is_missing(tmp_path: Path):
    run = document(
        searches=[search(RELAY_DRAM, 20, at_tokens=L1)], probes=[probe(RELAY_DRAM, L1, 20.0)], work=None, seconds=None
    )
    text = report.write(run, tmp_path).read_text()
    said = section(text, "What is missing")
    assert "no highest rate at L0 of `full`, `relay`, `relay_dram`" in said
    assert "no highest rate at L1 of `full`, `relay`, `no_trigger`" in said
    assert "no work" in said and "no longest history of `full`, `relay_dram`" in said
    assert "`throughput_ratio_l1` | 4096 tokens | up to 3.6 | >= 3.6 | >= 8 | - | not measured |" in text
    assert "interrupted" in text


def test_a_probe_of_mixed_lengths_stands_among_the_others(tmp_path: Path):
    run = document()
    run["probes"].append(probe(RELAY_DRAM, L1, 9.5, "mix") | {"tokens": {"median_tokens": 640, "spread": 1.03}})  # type: ignore[arg-type]
    text = report.write(run, tmp_path).read_text()
    assert "| `relay_dram` | mixed | 9.5 |" in section(text, "Every probe")


def test_what_no_probe_counted_is_not_said_to_be_nothing():
    run = document()
    for one in run["probes"]:
        one.pop("reused", None)
    assert summary(run)["reuse"] is None and summary(run)["survival"] is not None


def test_an_empty_run_gives_a_readable_page_without_pictures(tmp_path: Path):
    text = report.write({}, tmp_path).read_text()
    assert not list(tmp_path.glob("*.svg"))
    assert "an unknown machine" in text and text.count("Not measured.") >= 5
    assert "None" not in text.partition("## The run in one line")[0]


def test_noise_is_said_first_in_its_section():
    text = report.text_of(document(noise={"is_too_noisy": True}), [])
    assert section(text, "The machine and its noise").strip().startswith("**This machine was too noisy")


def test_what_people_wrote_survives_when_the_page_is_made_again(tmp_path: Path):
    page = report.write({}, tmp_path)
    page.write_text(page.read_text().replace(FINDINGS_NONE, "Affinity is worth a quarter."))
    report.write({"seconds": 901.0}, tmp_path)
    assert "Affinity is worth a quarter." in page.read_text() and "901 s" in page.read_text()


def test_the_command_reads_a_folder_and_names_the_page_by_hardware_and_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert report.main([str(tmp_path)]) == 1 and "run.json is not there" in capsys.readouterr().err
    (tmp_path / "run.json").write_text(json.dumps(document(probes=[], searches=[])))
    assert report.main([str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "report.md")
    assert report.folder_name(document()) == "load_amd-epyc-avx2-2c_2026-01-02"
    assert report.folder_name({}) == "load_unknown_undated"
