"""The compiled copy: methods of data classes written out, and what a compiler would make slow."""

import ast
import importlib.util
from dataclasses import fields, replace

import pytest

from sim.compiled import ROOT, modules
from sim.constructors import with_constructors

SOURCE = '''
from dataclasses import dataclass, field

made = []

@dataclass(frozen=True, slots=True)
class Place:
    """Where."""

    name: str
    number: int = 3

@dataclass(slots=True, eq=False, kw_only=True)
class Visit:
    place: Place
    seen: list[int] = field(default_factory=list)
    told: str = field(init=False)

    def __post_init__(self) -> None:
        self.told = self.place.name
        made.append(self)

@dataclass(slots=True)
class Named:
    name: str

    def __hash__(self) -> int:
        return 7

class Plain:
    name: str = "x"

class Derived(Plain):
    pass
'''


@pytest.fixture(params=["as it stands", "written out"])
def made(request, tmp_path):
    path = tmp_path / "made.py"
    path.write_text(SOURCE if request.param == "as it stands" else with_constructors(SOURCE))
    spec = importlib.util.spec_from_file_location("made", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_class_that_is_written_out_does_the_same(made):
    place = made.Place("a")
    assert (place.name, place.number) == ("a", 3) and repr(place) == "Place(name='a', number=3)"
    assert place == made.Place("a", number=3) != made.Place("a", 4) and place != "a"
    assert hash(place) == hash(("a", 3)) and replace(place, number=4) == made.Place("a", 4)
    assert [each.name for each in fields(place)] == ["name", "number"] == list(made.Place.__match_args__)


def test_what_a_class_says_of_its_fields_is_kept(made):
    one, other = (made.Visit(place=made.Place("a")) for _ in range(2))
    one.seen.append(1)
    assert not other.seen and one.told == "a" and made.made == [one, other], "a list of its own, and what comes after"
    assert one != other and hash(one) != hash(other), "the same only as itself"
    assert made.Visit(place=made.Place("a"), seen=[2]).seen == [2]
    with pytest.raises(TypeError):
        made.Visit(made.Place("a"))
    assert hash(made.Named("b")) == 7 and made.Plain.name == made.Derived().name == "x"


def data_classes(tree):
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            yield node


@pytest.mark.parametrize("name", modules(ROOT))
def test_every_data_class_has_its_constructor_written_out(name):
    source = (ROOT / name).read_text()
    written = {node.name: node for node in data_classes(ast.parse(with_constructors(source)))}
    for node in data_classes(ast.parse(source)):
        names = [each.target.id for each in node.body if isinstance(each, ast.AnnAssign)]
        constructor = next(each for each in written[node.name].body if getattr(each, "name", "") == "__init__")
        given = [each.arg for each in (*constructor.args.args, *constructor.args.kwonlyargs)]
        assert given[0] == "self" and [each for each in names if each in given] == given[1:], node.name


@pytest.mark.parametrize("name", modules(ROOT))
def test_nobody_asks_an_expression_for_its_first_alone(name):
    """The compiler makes a list of an expression, so that `next` would look at everything; a function it leaves be."""
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        is_next = isinstance(node, ast.Call) and ast.unparse(node.func) == "next"
        assert not (is_next and isinstance(node.args[0], ast.GeneratorExp)), f"line {node.lineno}"
