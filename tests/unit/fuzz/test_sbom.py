"""The list of what the project is made of names what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest

from scripts import gen_sbom

ONE = gen_sbom.Component("one", "1.0", "1.0", "MIT", "ab", ("two",))
TWO = gen_sbom.Component("two", "2.0", "", "", "", ())


def test_every_line_of_the_lock_is_read() -> None:
    lock = gen_sbom.LOCK.read_text()
    assert len(list(gen_sbom.locked(lock))) == sum(1 for line in lock.splitlines() if line and not line.startswith("#"))
    assert list(gen_sbom.locked("# a\n\nTyping_Extensions==4.1  # b\n")) == [("typing-extensions", "4.1")]
    with pytest.raises(ValueError, match="line 2"):
        list(gen_sbom.locked("a==1\nb>=2\n"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, ""),
        ({"installed": ""}, ""),
        ({"installed": "1.0+cpu"}, ""),
        ({"installed": "1.1"}, "the lock says 1.0"),
        ({"licence": ""}, "no licence"),
        ({"licence": "AGPL-3.0-only"}, "AGPL"),
        ({"licence": "GNU General Public License v3 (GPLv3)"}, "GPL"),
        ({"licence": "LGPL-3.0-or-later"}, ""),
        ({"licence": "MPL-2.0"}, ""),
    ],
)
def test_a_version_or_licence_that_does_not_fit_is_a_problem(changes: dict[str, str], word: str) -> None:
    problem = replace(ONE, **changes).problem
    assert word in problem and bool(word) == bool(problem)


def test_a_licence_is_read_from_wherever_it_is() -> None:
    about = Message()
    about["License"] = "BSD\nand the whole text"
    assert gen_sbom.licence_of(about) == "BSD"
    about["Classifier"] = "License :: OSI Approved :: MIT License"
    assert gen_sbom.licence_of(about) == "MIT License"
    about["License-Expression"] = "Apache-2.0"
    assert gen_sbom.licence_of(about) == "Apache-2.0"


def test_the_document_is_the_same_each_time_and_leads_from_one_to_the_other() -> None:
    found = gen_sbom.bom_of([ONE, TWO], "one==1.0\ntwo==2.0\n")
    assert found == gen_sbom.bom_of([ONE, TWO], "one==1.0\ntwo==2.0\n")
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["dependencies"][0] == {"ref": "pkg:pypi/one@1.0", "dependsOn": ["pkg:pypi/two@2.0"]}
    assert (
        found["components"][0]["licenses"] == [{"license": {"name": "MIT"}}]
        and "licenses" not in found["components"][1]
    )


def test_what_is_installed_here_is_what_the_lock_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gen_sbom.main(["--out", str(tmp_path)]) == 0
    last = json.loads(capsys.readouterr().out)
    assert last["components"] == len(json.loads((tmp_path / "sbom.cdx.json").read_text())["components"]) > 50
    assert "| numpy |" in (tmp_path / "licences.md").read_text()


def test_a_file_that_was_changed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gen_sbom.changed_files("iniconfig") == []
    monkeypatch.setattr(gen_sbom, "_digest", lambda path, name: "another")
    assert any("was changed" in text for text in gen_sbom.changed_files("iniconfig"))
