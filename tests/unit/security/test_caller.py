"""What is read of a certificate, from one that openssl made and from bytes that are none."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaygr.errors import AccessDenied, Unidentified
from relaygr.security.authority import Authority
from relaygr.security.caller import PEM_KEY, URI_KEY, caller_of, expires_unix_s_of
from relaygr.security.guard import Guard
from relaygr.security.identity import Identity, Role

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")

CLIENT = Identity("test", Role.CLIENT, "one")
RANK, DRAIN = "relaygr.v1.RouterService/Rank", "relaygr.v1.RankerService/Drain"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.create()
    return made


def der_of(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def context_of(pem: str, *uris: str) -> dict[str, list[bytes]]:
    return {PEM_KEY: [pem.encode()], URI_KEY: [uri.encode() for uri in uris]}


class Context:
    def __init__(self, auth_context: dict[str, list[bytes]]) -> None:
        self._auth_context = auth_context

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth_context


@pytest.mark.parametrize("days", [-1, 1, 90, 9000, 40_000])
def test_the_end_of_validity_is_what_openssl_says(authority: Authority, days: int) -> None:
    """Those after 2049 are written in another way."""
    path = authority.issue(CLIENT, days).certificate
    said = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-enddate"], check=True, capture_output=True, text=True
    ).stdout
    assert expires_unix_s_of(der_of(path)) == ssl.cert_time_to_seconds(said.strip().partition("=")[2])


def test_a_certificate_that_is_cut_off_anywhere_is_none(authority: Authority) -> None:
    der = der_of(authority.issue(CLIENT).certificate)
    for length in range(len(der)):
        with pytest.raises(ValueError, match="not a certificate"):
            expires_unix_s_of(der[:length])


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_none(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a certificate"):
        expires_unix_s_of(raw)


def test_a_caller_is_read_from_what_tls_proved(authority: Authority) -> None:
    pem = authority.issue(CLIENT).certificate.read_text()
    caller = caller_of(context_of(pem, CLIENT.uri))
    assert caller is not None and caller.identity == CLIENT


def test_without_tls_without_a_name_or_with_two_there_is_no_caller(authority: Authority) -> None:
    pem = authority.issue(CLIENT).certificate.read_text()
    other = Identity("test", Role.OPERATOR, "me").uri
    for said in ({}, context_of(pem), context_of(pem, CLIENT.uri, other), context_of("none", CLIENT.uri)):
        assert caller_of(said) is None


def test_the_guard_lets_pass_refuses_and_asks_for_a_name(authority: Authority) -> None:
    pem = authority.issue(CLIENT).certificate.read_text()
    ends_s = expires_unix_s_of(ssl.PEM_cert_to_DER_cert(pem))
    now_s = [ends_s - 1.0]
    context = Context(context_of(pem, CLIENT.uri))
    guard = Guard("test", lambda: now_s[0])
    guard.check(RANK, context)
    with pytest.raises(AccessDenied, match=r"role client may not call relaygr\.v1\.RankerService/Drain"):
        guard.check(DRAIN, context)
    with pytest.raises(Unidentified, match="names no"):
        guard.check(RANK, Context({}))
    with pytest.raises(Unidentified, match="deployment test"):
        Guard("other").check(RANK, context)
    now_s[0] = float(ends_s)
    with pytest.raises(Unidentified, match="expired"):
        guard.check(RANK, context)
