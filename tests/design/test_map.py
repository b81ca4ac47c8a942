"""Every rule of the design has a module that holds it and a test that exists; the map says so."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_design_map", ROOT / "scripts" / "gen_design_map.py")
    assert spec is not None and spec.loader is not None
    # Registered, since dataclasses look their module up.
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


gen = _loaded()
RULES = gen.rules_of((ROOT / gen.RULES).read_text())
SAID = gen.sources(ROOT)
TITLES = gen.sections_of((ROOT / gen.DESIGN).read_text())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_has_a_module_that_holds_it_and_a_test_that_exists(rule):
    others = [one for one in RULES if one.id != rule.id]
    about = [line for line in gen.problems(ROOT, [rule, *others], SAID, TITLES) if line.startswith(f"{rule.id}:")]
    assert not about, "\n".join(about)


def test_nothing_is_wrong_with_registry_and_source_lines():
    assert not gen.problems(ROOT, RULES, SAID, TITLES)


def test_the_map_is_what_the_generator_writes():
    assert (ROOT / gen.TARGET).read_text() == gen.render(RULES, SAID, TITLES), "run make docs"


def test_the_design_states_every_invariant_that_has_a_rule():
    stated = re.findall(r"^\| (I\d) ", (ROOT / gen.DESIGN).read_text(), re.MULTILINE)
    assert stated == [rule.id for rule in RULES if re.fullmatch(r"I\d", rule.id)] == [f"I{n}" for n in range(1, 9)]


def test_sections_are_those_that_docstrings_refer_to():
    assert sorted(TITLES) == list(range(1, 10))
    assert {number for source in SAID for number in source.sections} <= set(TITLES)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tests": ()}, "I4: no test proves it"),
        ({"tests": ("tests/unit/nowhere.py::test_x",)}, "I4: tests/unit/nowhere.py::test_x is not there"),
        ({"tests": ("tests/test_tidy.py::test_x",)}, "I4: tests/test_tidy.py::test_x is not there"),
        ({"modules": ("relaygr/nowhere.py",)}, "I4: relaygr/nowhere.py is not there"),
        ({"section": 12}, "I4: no section 12"),
        ({"id": "I44"}, "tests/design/rules.toml: no rule I4"),
    ],
)
def test_what_is_wrong_is_found(changes, complaint):
    rules = [replace(rule, **changes) if rule.id == "I4" else rule for rule in RULES]
    assert complaint in gen.problems(ROOT, rules, SAID, TITLES)


def test_a_rule_that_nobody_holds_is_found():
    rules = [replace(rule, modules=()) for rule in RULES]
    assert "at-risk: no module holds it" in gen.problems(ROOT, rules, SAID, TITLES)


@pytest.mark.parametrize(
    ("said", "sections", "rules"),
    [
        ("section 3 (trigger) and I1, I3, I7.", (3,), ("I1", "I3", "I7")),
        ("sections 2 and 6.", (2, 6), ()),
        ("section 3 (ranker) and section 4.", (3, 4), ()),
        ("section 4, condition 4.", (4,), ("condition 4",)),
        ("section 4, conditions 1 and 3.", (4,), ("condition 1", "condition 3")),
        ("section 3 (router): joins and leaves move about 1/N of the users.", (3,), ()),
    ],
)
def test_source_lines_are_read(said, sections, rules):
    source = gen.source_of("m.py", said)
    assert (source.sections, source.rules) == (sections, rules)


def test_source_lines_that_name_what_is_not_there_are_found():
    strange = [gen.source_of("m.py", "section 3, invariant I9."), gen.source_of("n.py", "invariant I1.")]
    found = gen.problems(ROOT, RULES, [*SAID, *strange], TITLES)
    assert "m.py: its Source line names I9" in found and "n.py: its Source line names no section" in found


def test_tests_are_found_in_the_source_whatever_their_form():
    text = """
def test_plain(): ...
async def test_waits(): ...
def helper(): ...
class TestThing:
    def test_method(self): ...
    def helper(self): ...
TestMachine = Machine.TestCase
"""
    assert gen.tests_in(text) == {"test_plain", "test_waits", "TestThing", "TestThing::test_method", "TestMachine"}


def test_a_rule_with_an_unknown_or_missing_field_and_one_named_twice_are_refused():
    whole = '[[rule]]\nid = "a"\nsection = 1\nsays = "s"\nmodules = []\ntests = []\n'
    assert len(gen.rules_of(whole)) == 1
    for text, complaint in ((whole + "more = 1\n", "more"), ('[[rule]]\nid = "a"\n', "says"), (whole * 2, "twice")):
        with pytest.raises(ValueError, match=complaint):
            gen.rules_of(text)
