from dataclasses import dataclass, field

import pytest

from relaygr.config import MASK, ConfigError, describe, field_meanings, load, table

PREFIX = "RELAYGR_SAMPLE"


@dataclass(frozen=True, kw_only=True)
class Shared:
    ticket_key: bytes
    """Key of the tickets,
    at least 16 bytes."""


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Shared):
    address: str = "127.0.0.1:0"
    """host:port | to listen on."""
    deadline_ns: int = 5
    """Nanoseconds."""
    share: float = 0.5
    tracing: bool = False
    """Whether."""
    peers: tuple[str, ...] = field(default_factory=lambda: ("a", "b"))
    otlp_endpoint: str | None = None
    etcd_password: str = ""

    def __post_init__(self) -> None:
        assert self.share <= 1, "share must be at most 1"


KEY = {"RELAYGR_SAMPLE_TICKET_KEY": "00ff"}


def made(**env: str) -> SampleConfig:
    return load(SampleConfig, PREFIX, KEY | {f"{PREFIX}_{name.upper()}": value for name, value in env.items()})


def test_variables_become_typed_fields() -> None:
    config = made(address="h:1", deadline_ns="7", share="0.25", tracing="true", peers="x, y,", otlp_endpoint="http://c")
    assert config == SampleConfig(
        ticket_key=b"\x00\xff",
        address="h:1",
        deadline_ns=7,
        share=0.25,
        tracing=True,
        peers=("x", "y"),
        otlp_endpoint="http://c",
    )


def test_defaults_hold_where_nothing_is_set() -> None:
    assert made() == SampleConfig(ticket_key=b"\x00\xff")


def test_prefix_may_end_in_an_underscore() -> None:
    assert load(SampleConfig, PREFIX + "_", KEY) == made()


def test_empty_optional_is_none_and_empty_tuple_is_empty() -> None:
    assert made(otlp_endpoint="").otlp_endpoint is None
    assert made(peers="").peers == ()


def test_other_prefixes_are_none_of_its_business() -> None:
    assert load(SampleConfig, PREFIX, KEY | {"RELAYGR_SAMPLER_X": "1", "PATH": "/"}) == made()


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"adress": "x"}, "RELAYGR_SAMPLE_ADRESS"),
        ({"deadline_ns": "5.5"}, "RELAYGR_SAMPLE_DEADLINE_NS"),
        ({"deadline_ns": ""}, "RELAYGR_SAMPLE_DEADLINE_NS"),
        ({"share": "half"}, "RELAYGR_SAMPLE_SHARE"),
        ({"tracing": "maybe"}, "RELAYGR_SAMPLE_TRACING"),
        ({"ticket_key": "xyz"}, "RELAYGR_SAMPLE_TICKET_KEY"),
        ({"share": "2"}, "share must be at most 1"),
    ],
)
def test_bad_environment_is_named(env: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        made(**env)


def test_missing_variable_without_default_is_named() -> None:
    with pytest.raises(ConfigError, match="RELAYGR_SAMPLE_TICKET_KEY must be set"):
        load(SampleConfig, PREFIX, {})


def test_error_does_not_show_a_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        made(ticket_key="hunter2")
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


def test_description_masks_secrets_that_are_set() -> None:
    described = describe(made(etcd_password="p", peers="x,y"))
    assert described["ticket_key"] == described["etcd_password"] == MASK
    assert described["peers"] == "x,y" and described["tracing"] == "false" and described["otlp_endpoint"] == ""
    assert describe(made())["etcd_password"] == ""


def test_meanings_are_the_strings_under_the_fields_bases_included() -> None:
    meanings = field_meanings(SampleConfig)
    assert meanings["ticket_key"] == "Key of the tickets, at least 16 bytes."
    assert meanings["deadline_ns"] == "Nanoseconds."
    assert "share" not in meanings


def test_table_has_a_row_for_each_field() -> None:
    rows = table(SampleConfig, PREFIX).splitlines()
    assert (
        rows[2] == "| `ticket_key` | `RELAYGR_SAMPLE_TICKET_KEY` | required | Key of the tickets, at least 16 bytes. |"
    )
    assert rows[3] == "| `address` | `RELAYGR_SAMPLE_ADDRESS` | `127.0.0.1:0` | host:port \\| to listen on. |"
    assert "| `peers` | `RELAYGR_SAMPLE_PEERS` | `a,b` |" in rows[7]
    assert "| empty |" in rows[8]
    assert len(rows) == 2 + 8


def test_unsupported_field_type_is_a_bug_not_a_bad_environment() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        table: dict[str, str] = field(default_factory=dict)

    with pytest.raises(TypeError):
        load(Odd, "RELAYGR_ODD", {"RELAYGR_ODD_TABLE": "x"})
