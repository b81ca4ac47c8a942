"""The Dockerfile: two images, the light one without torch, both of this version."""

import re
import tomllib

from tests.ops.composed import ROOT

TEXT = (ROOT / "ops/docker/Dockerfile").read_text()
STAGES = dict(
    re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE),
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_torch_is_installed_for_the_ranker_only_and_last():
    holders = [name for name, text in STAGES.items() if re.search(r"\.\[[^]]*ranker", text)]
    assert holders == ["ranker-needs"]
    assert list(STAGES)[-2:] == ["ranker-needs", "ranker"]


def test_extras_are_those_of_the_project():
    asked = {extra for extras in re.findall(r"'\.\[([^]]*)\]'", TEXT) for extra in extras.split(",")}
    assert asked == {"console", "ranker"} <= set(PROJECT["optional-dependencies"])


def test_images_are_labelled_with_this_version_and_run_as_nobody_special():
    for name in ("light", "ranker"):
        assert f"ARG VERSION={PROJECT['version']}\n" in STAGES[name]
        labels = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", STAGES[name]))
        assert labels == {"title", "description", "licenses", "version", "revision"}
        assert STAGES[name].rstrip().endswith("USER 10001")


def test_what_is_copied_is_let_into_the_build():
    allowed = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    for sources in re.findall(r"^COPY (?!--from)(.+)$", TEXT, flags=re.MULTILINE):
        for source in sources.split()[:-1]:
            assert (ROOT / source).exists() and any(f"{source}/".startswith(f"{path}/") for path in allowed), source
