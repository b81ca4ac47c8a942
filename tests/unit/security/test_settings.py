"""Plain text stays on this machine, unless somebody says in so many words that it need not."""

import pytest

from relaygr.config import ConfigError, load
from relaygr.security.settings import is_loopback, kept_material
from services.expander.config import ExpanderConfig
from services.ranker.config import RankerConfig
from services.router.config import RouterConfig
from services.trigger.config import TriggerConfig

CONFIGS = {"TRIGGER": TriggerConfig, "ROUTER": RouterConfig, "RANKER": RankerConfig, "EXPANDER": ExpanderConfig}
NEEDED = {
    "TRIGGER": {"TICKET_KEY": "00" * 16},
    "ROUTER": {"TICKET_KEY": "00" * 16},
    "RANKER": {"TICKET_KEY": "00" * 16, "MODEL": "m"},
    "EXPANDER": {},
}
FILES = {"TLS_CERTIFICATE": "c", "TLS_KEY": "k", "TLS_CA": "a"}


def loaded(service: str, **settings: str) -> object:
    env = {f"RELAYGR_{service}_{name}": value for name, value in {**NEEDED[service], **settings}.items()}
    return load(CONFIGS[service], f"RELAYGR_{service}", env)


@pytest.mark.parametrize("service", CONFIGS)
@pytest.mark.parametrize("address", ["0.0.0.0:7002", "[::]:7002", "10.0.0.4:7002", "router:7002"])
def test_plain_text_on_an_address_that_others_reach_is_refused(service: str, address: str) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines") as caught:
        loaded(service, ADDRESS=address)
    assert f"RELAYGR_{service}_" in str(caught.value) and "insecure=true" in str(caught.value)


@pytest.mark.parametrize("service", CONFIGS)
def test_it_may_be_asked_for_and_tls_needs_no_asking(service: str) -> None:
    assert loaded(service, ADDRESS="0.0.0.0:7002", INSECURE="true")
    assert loaded(service, ADDRESS="0.0.0.0:7002", **FILES)
    assert loaded(service, ADDRESS="127.0.0.1:7002") and loaded(service)


@pytest.mark.parametrize("service", CONFIGS)
@pytest.mark.parametrize("left_out", FILES)
def test_two_of_three_files_are_refused(service: str, left_out: str) -> None:
    given = {name: path for name, path in FILES.items() if name != left_out}
    with pytest.raises(ConfigError, match="set all three, or none"):
        loaded(service, **given)
    with pytest.raises(ConfigError, match="set all three, or none"):
        kept_material(*(given.get(name, "") for name in FILES))


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("[::]:1", False),
        ("0.0.0.0:1", False),
        (":1", False),
        ("localhost.example.com:1", False),
        ("127.0.0.1.example.com:1", False),
        ("192.168.0.1:1", False),
    ],
)
def test_loopback_is_known_by_its_address(address: str, is_here: bool) -> None:
    assert is_loopback(address) is is_here


def test_files_that_are_not_there_are_named() -> None:
    with pytest.raises(ConfigError, match="/nowhere/c"):
        kept_material("/nowhere/c", "/nowhere/k", "/nowhere/a")
