"""The profile: the committed one loads, and what cannot be meant is refused by name."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.engine.shapes import SHAPES
from bench.load.profile import PROFILES, load_profile, profile_of

Values = dict[str, dict[str, Any]]


def default_values() -> Values:
    return tomllib.loads((PROFILES / "default.toml").read_text())


def test_the_committed_profile_is_whole_and_its_parts_fit_each_other():
    profile = load_profile("default")
    assert profile.to_json() == {"name": "default", **default_values()}
    assert profile.model.shape in SHAPES
    assert profile.traffic.requests >= 1000, "fewer requests say little about a P99"
    assert profile.lengths.least_tokens < profile.lengths.median_tokens < profile.lengths.most_tokens
    assert profile.lengths.most_tokens <= profile.model.behaviours
    assert profile.stages.retrieval_ms + profile.stages.pre_processing_ms + profile.slo.rank_ms <= (
        profile.slo.end_to_end_ms
    )


def test_any_file_is_a_profile_named_after_it(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text((PROFILES / "default.toml").read_text().replace("rank_ms = 50.0", "rank_ms = 30.0"))
    assert load_profile(str(path)).slo.rank_ms == 30.0
    assert load_profile(str(path)).name == "mine"


def renamed(values: Values) -> None:
    values["traffic"]["return_shares"] = values["traffic"].pop("return_share")


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda values: values.pop("slo"), "sections must be"),
        (lambda values: values.update(colours={}), "colours"),
        (renamed, "return_shares"),
        (lambda values: values["slo"].pop("quantile"), "quantile"),
        (lambda values: values["model"].update(colour=1), "colour"),
        (lambda values: values.update(model=3), "mapping"),
        (lambda values: values["traffic"].update(arrivals="even"), "poisson or bursty"),
        (lambda values: values["traffic"].update(return_share=1.0), "return_share"),
        (lambda values: values["traffic"].update(burst_share=0.5, burst_factor=2.0), "bursts must leave some rest"),
        (lambda values: values["traffic"].update(burst_factor=0.5), "bursts"),
        (lambda values: values["traffic"].update(burst_share=0.0), "bursts"),
        (lambda values: values["traffic"].update(append_mean=0.5), "append_mean"),
        (lambda values: values["traffic"].update(requests=0), "requests"),
    ],
)
def test_what_is_missing_unknown_or_impossible_is_refused(change: Callable[[Values], object], said: str):
    values = default_values()
    change(values)
    with pytest.raises((TypeError, AssertionError), match=said):
        profile_of("changed", values)


def test_a_file_that_is_refused_is_named(tmp_path: Path):
    for name, text in (("part", "[slo]\nrank_ms = 1.0\n"), ("broken", "[slo\n")):
        path = tmp_path / f"{name}.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"{name}\.toml: "):
            load_profile(str(path))
    with pytest.raises(ValueError, match=r"absent\.toml"):
        load_profile("absent")
