"""What a process does with TLS settings that cannot be, and what `relaygr ca` makes for it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from relaygr.cli import main
from relaygr.config import load
from relaygr.security.authority import Authority
from relaygr.security.identity import Identity, Role
from relaygr.security.material import KeptMaterial
from relaygr.security.settings import kept_material, material_of
from services.router.config import RouterConfig
from tests.contract.security_world import NEEDS_OPENSSL, parties

__all__ = ["parties"]

pytestmark = NEEDS_OPENSSL

KEY = "00" * 16


def started(service, **settings):
    """What a service that ends by itself says."""
    variables = {f"RELAYGR_{service.upper()}_{name}": value for name, value in settings.items()}
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("service", ["trigger", "router", "ranker", "expander"])
def test_a_service_does_not_start_in_plain_text_where_others_reach_it(service):
    needed = {"trigger": {"TICKET_KEY": KEY}, "router": {"TICKET_KEY": KEY}, "expander": {}}
    needed["ranker"] = {"TICKET_KEY": KEY, "MODEL": "nowhere"}
    said = started(service, ADDRESS="0.0.0.0:0", **needed[service])
    assert "address 0.0.0.0:0 can be reached from other machines" in said.splitlines()[-1]


def test_a_service_does_not_start_with_the_certificate_of_another(parties):
    paths = parties.of(Role.RANKER)
    files = {"TLS_CERTIFICATE": paths.certificate, "TLS_KEY": paths.key, "TLS_CA": paths.authority}
    said = started("trigger", TICKET_KEY=KEY, **{name: str(path) for name, path in files.items()})
    assert "is of role ranker, and trigger is needed" in said.splitlines()[-1]


# relaygr ca


def ca(*arguments):
    return main(["ca", *map(str, arguments)])


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_one_command_makes_everything_and_says_what_to_set(tmp_path, capsys):
    assert ca("--out", tmp_path, "--deployment", "prod") == 0
    said = capsys.readouterr().out
    settings = dict(line.split("=", 1) for line in said.splitlines() if line.startswith("RELAYGR_ROUTER_TLS_"))
    config = load(RouterConfig, "RELAYGR_ROUTER", {**settings, "RELAYGR_ROUTER_TICKET_KEY": KEY})
    kept = material_of(config, Role.ROUTER)
    assert kept is not None and kept.identity.uri == "relaygr://prod/router/router-2"
    options = [line.removeprefix("--").split(" ", 1) for line in said.splitlines() if line.startswith("--tls-")]
    found = kept_material(**{name.replace("-", "_"): path for name, path in options})
    assert found is not None and found.identity.role is Role.OPERATOR
    assert {path.parent.name for path in tmp_path.glob("*/*.key")} == {"authority", *Role}


def test_keys_are_for_their_owner_alone(tmp_path):
    ca("--out", tmp_path)
    keys = list(tmp_path.glob("*/*.key"))
    assert keys and {mode_of(path) for path in keys} == {0o600}
    assert {mode_of(path.parent) for path in keys} == {0o700}


def test_a_second_run_keeps_what_is_there_and_adds_what_is_not(tmp_path, capsys):
    ca("--out", tmp_path, "--party", "ranker/ranker-1")
    before = {path: path.read_bytes() for path in tmp_path.glob("**/*.*") if path.is_file()}
    assert ca("--out", tmp_path, "--party", "ranker/ranker-1", "--party", "ranker/ranker-2") == 0
    assert {path: path.read_bytes() for path in before} == before
    assert KeptMaterial(_paths(tmp_path, "ranker", "ranker-2")).identity.name == "ranker-2"


def test_renewing_one_leaves_the_others(tmp_path, capsys):
    ca("--out", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("**/*.*") if path.is_file()}
    kept = KeptMaterial(_paths(tmp_path, "ranker", "ranker-1"), look_s=0.0)
    assert ca("--out", tmp_path, "--renew", "ranker/ranker-1", "--days", "7") == 0
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"ranker-1.pem", "ranker-1.key"}
    assert kept.current().version == 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--party", "king/me"), "role 'king' is none of client"),
        (("--party", "ranker/a b"), "name 'a b'"),
        (("--deployment", "Prod"), "deployment 'Prod'"),
        (("--days", "0"), "--days must be at least 1"),
        (("--renew", "ranker/ranker-1"), "nothing to renew under"),
    ],
)
def test_what_cannot_be_made_is_said(tmp_path, capsys, options, text):
    assert ca("--out", tmp_path / "new", *options) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_folder_of_another_deployment_is_left_alone(tmp_path, capsys):
    ca("--out", tmp_path, "--deployment", "one")
    assert ca("--out", tmp_path, "--deployment", "two") == 2
    assert "is of relaygr://one/" in capsys.readouterr().err


def test_without_openssl_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ca("--out", tmp_path / "new") == 2
    assert "openssl cannot be run" in capsys.readouterr().err


def _paths(folder, role, name):
    return Authority(folder).paths(Identity("local", Role(role), name))
