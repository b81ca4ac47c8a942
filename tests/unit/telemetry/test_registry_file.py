import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


def loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    # Registered, since dataclasses look their module up.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return loaded("gen_telemetry", ROOT / "scripts" / "gen_telemetry.py")


METRIC = "relaygr.a.b: {instrument: counter, unit: '1', meaning: M}"


def test_constants_drop_the_prefix(generator: ModuleType) -> None:
    names = ("relaygr.rank.tier", "rpc.method")
    text = "s:\n  attributes:\n" + "".join(f"    {name}: {{type: string, meaning: M}}\n" for name in names)
    assert [entry.constant for entry in generator.entries_of(text)] == ["ATTR_RANK_TIER", "ATTR_RPC_METHOD"]


def test_section_emits_unless_the_entry_says_otherwise(generator: ModuleType) -> None:
    text = "s:\n  spans:\n    a.b: {meaning: M}\n    a.c: {meaning: M, emitted_by: [x, y]}\n"
    assert [entry.emitted_by for entry in generator.entries_of(text)] == [("s",), ("x", "y")]


def test_generated_module_holds_names_and_instruments(generator: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "names.py"
    path.write_text(generator.render(generator.entries_of(f"s:\n  metrics:\n    {METRIC}\n")))
    names = loaded("generated_names", path)
    assert names.METRIC_A_B == "relaygr.a.b"
    assert names.INSTRUMENTS == {"relaygr.a.b": ("counter", "1", "M")}


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ("attributes:\n    Relaygr.X: {type: string, meaning: M}", "not a dotted"),
        ("attributes:\n    a.b: {meaning: M}", "lacks type"),
        ("attributes:\n    a.b: {type: text, meaning: M}", "type must be"),
        ("attributes:\n    a.b: {type: string, meaning: M, colour: red}", "unknown colour"),
        ("metrics:\n    a.b: {instrument: timer, unit: s, meaning: M}", "instrument must be"),
        ("metrics:\n    a.b: {instrument: counter, meaning: M}", "lacks unit"),
        ("things:\n    a.b: {meaning: M}", "unknown kind"),
        ("spans:\n    relaygr.a.b: {meaning: M}\n    a.b: {meaning: M}", "declared by"),
    ],
)
def test_bad_entry_is_refused_with_its_name(generator: ModuleType, entry: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        generator.entries_of(f"s:\n  {entry}\n")


@pytest.fixture
def project(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "relaygr" / "rpc").mkdir(parents=True)
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "TARGET", tmp_path / "names.py")
    return tmp_path


def complaints(generator: ModuleType, project: Path, source: str) -> list[str]:
    (project / "relaygr" / "used.py").write_text(source)
    return list(generator.offences(generator.entries_of(f"s:\n  metrics:\n    {METRIC}\n")))


def test_check_passes_when_every_name_is_declared_and_used(generator: ModuleType, project: Path) -> None:
    assert (
        complaints(generator, project, "x = names.METRIC_A_B, PB.SPAN_KIND\nlog = 'relaygr.rpc'\nname = 'relaygr.v1.A'")
        == []
    )


def test_check_finds_unused_undeclared_and_written_out_names(generator: ModuleType, project: Path) -> None:
    found = complaints(generator, project, "x = names.ATTR_NONE\ny = 'relaygr.rank.tiers'\nz = 'relaygr.a.b'")
    assert found == [
        "relaygr/used.py: names.ATTR_NONE is not declared",
        "relaygr/used.py:2: literal 'relaygr.rank.tiers': not declared",
        "relaygr/used.py:3: literal 'relaygr.a.b': write names.METRIC_A_B",
        "telemetry.yaml: relaygr.a.b (METRIC_A_B) is not used",
    ]


def test_the_projects_own_registry_generates(generator: ModuleType) -> None:
    text = generator.render(generator.entries_of((ROOT / "ops" / "telemetry.yaml").read_text()))
    assigned = [node for node in ast.parse(text).body if isinstance(node, ast.AnnAssign)]
    assert len(assigned) > 20
