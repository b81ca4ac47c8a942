"""The guide shows the code that is tested."""

from pathlib import Path

from relaygr.model.conformance import CHECKS

ROOT = Path(__file__).resolve().parents[2]


def test_guide_shows_the_example_model_as_tested():
    guide = (ROOT / "docs" / "bring-your-own-model.md").read_text()
    assert (ROOT / "tests" / "model" / "example_model.py").read_text().strip() in guide


def test_guide_says_what_each_check_finds():
    guide = (ROOT / "docs" / "bring-your-own-model.md").read_text()
    assert [check.__name__ for check in CHECKS if f"`{check.__name__}`" not in guide] == []
