import re
from pathlib import Path

import pytest

from relaygr.security.identity import SERVERS, Identity, Role, identity_of
from relaygr.security.methods import ALLOWED, EVERYBODY, may_call

RANKER = Identity("prod.eu", Role.RANKER, "ranker-1")


def test_a_uri_is_read_as_it_was_written() -> None:
    assert RANKER.uri == "relaygr://prod.eu/ranker/ranker-1"
    assert Identity.parse(RANKER.uri) == RANKER
    assert RANKER.server_name == "ranker.prod.eu.relaygr"


@pytest.mark.parametrize(
    "uri",
    [
        "relaygr://prod/ranker",
        "relaygr://prod/ranker/",
        "relaygr://prod/ranker/a/b",
        "relaygr://prod/admin/a",
        "relaygr://prod/RANKER/a",
        "relaygr:///ranker/a",
        "relaygr://prod/ranker/a\n",
        "relaygr://pr od/ranker/a",
        "RELAYGR://prod/ranker/a",
        "spiffe://prod/ranker/a",
        "https://prod/ranker/a",
        "",
    ],
)
def test_what_is_not_quite_a_uri_of_ours_stands_for_nobody(uri: str) -> None:
    assert Identity.parse(uri) is None and identity_of([uri]) is None


def test_one_uri_among_others_counts_and_two_of_ours_leave_it_open() -> None:
    assert identity_of(["https://elsewhere", RANKER.uri]) == RANKER
    assert identity_of([RANKER.uri, "relaygr://prod.eu/operator/me"]) is None
    assert identity_of([RANKER.uri, "relaygr://broken"]) is None
    assert identity_of([]) is None


@pytest.mark.parametrize(
    ("deployment", "role", "name"), [("Prod", "client", "a"), ("p", "king", "a"), ("p", "client", "")]
)
def test_parts_that_cannot_be_are_refused(deployment: str, role: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"deployment|role|name"):
        Identity.made(deployment, role, name)


# What each role is for, said once more and apart from the list.


def allowed(role: Role) -> set[str]:
    found = {name for name in ALLOWED if may_call(role, name) and ALLOWED[name] is not EVERYBODY}
    return {name.removeprefix("relaygr.v1.") for name in found}


def test_a_client_recommends_and_can_neither_look_around_nor_make_psi() -> None:
    router = {f"RouterService/{name}" for name in ("Rank", "Release", "ReportEnded", "Forget")}
    assert allowed(Role.CLIENT) == {"TriggerService/Arrive", "RankerService/Rank"} | router


def test_a_trigger_reaches_the_router_alone() -> None:
    assert allowed(Role.TRIGGER) == {"RouterService/Resolve", "RouterService/PreInfer"}


def test_a_router_reaches_rankers_alone() -> None:
    assert allowed(Role.ROUTER) == {f"RankerService/{name}" for name in ("PreInfer", "Rank", "Release", "Forget")}


def test_a_ranker_reaches_expanders_alone() -> None:
    assert {name.partition("/")[0] for name in allowed(Role.RANKER)} == {"ExpanderService", "TransferService"}


def test_an_expander_calls_nobody() -> None:
    assert not allowed(Role.EXPANDER)


def test_only_rankers_touch_psi_in_dram() -> None:
    touching = {
        name for name in ALLOWED if "Transfer" in name or ("Expander" in name and not name.endswith("Describe"))
    }
    assert {name for role in set(Role) - {Role.RANKER} for name in touching if may_call(role, name)} == set()


def test_only_an_operator_drains_and_looks_around() -> None:
    for name in ("relaygr.v1.RankerService/Drain", "relaygr.v1.RankerService/Describe"):
        assert {role for role in Role if may_call(role, name)} == {Role.OPERATOR}
    assert {role for role in Role if may_call(role, next(name for name in ALLOWED if "reflection" in name))} == {
        Role.OPERATOR
    }


def test_a_method_that_is_not_in_the_list_is_nobodys() -> None:
    assert not any(may_call(role, "relaygr.v1.RankerService/New") for role in Role)
    assert not any(may_call(role, "") for role in Role)


def test_servers_are_those_that_are_called() -> None:
    assert set(Role) - SERVERS == {Role.CLIENT, Role.OPERATOR}


def test_the_page_says_what_the_list_says() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "security.md").read_text()
    said = {}
    for methods, roles in re.findall(r"^\| (`\w+/\w+`.*?) \| (.*?) \|$", page, re.MULTILINE):
        said.update({name: set(roles.split(", ")) for name in re.findall(r"`(.*?)`", methods)})
    assert said == {name.rpartition(".")[2]: {*map(str, roles)} for name, roles in ALLOWED.items()}
