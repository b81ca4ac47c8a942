"""A development authority: one folder with a certificate for each party, made by the openssl command.

    <folder>/authority/ca.pem        what everybody checks others against
    <folder>/authority/ca.key        signs; no service needs it
    <folder>/<role>/<name>.pem       a party's certificate
    <folder>/<role>/<name>.key       and its key
    <folder>/<role>/ca.pem           a copy, so that a service can be given the folder of its role and nothing else

Deployments with an authority of their own make the same names (docs/security.md); nothing here is needed then.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from relaygr.security.identity import SERVERS, Identity
from relaygr.security.material import MaterialPaths

DAYS = 90
AUTHORITY_DAYS = 3650
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_OPENSSL_S = 30.0


class AuthorityError(Exception):
    """The folder or openssl did not do what was wanted; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority in a folder."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """Of the authority itself."""
        return self.folder / "authority" / "ca.pem"

    @property
    def key(self) -> Path:
        """Of the authority itself."""
        return self.folder / "authority" / "ca.key"

    def paths(self, identity: Identity) -> MaterialPaths:
        """Where a party's files are, or would be."""
        folder = self.folder / identity.role
        return MaterialPaths(folder / f"{identity.name}.pem", folder / f"{identity.name}.key", folder / "ca.pem")

    def create(self, days: int = AUTHORITY_DAYS) -> bool:
        """Make the authority; False when it is there already, and is left alone.

        Raises:
            AuthorityError: it could not be made.
        """
        if self.certificate.exists() and self.key.exists():
            return False
        with _made_in(self.key.parent) as work:
            made = work / "ca.pem", work / "ca.key"
            _openssl(
                "req", "-x509", "-new", *_KEY, "-keyout", made[1], "-out", made[0], "-days", str(days),
                "-subj", "/O=RelayGR/CN=development authority", "-config", _config(work),
            )  # fmt: skip
            _placed(made[1], self.key, 0o600)
            _placed(made[0], self.certificate, 0o644)
        return True

    def issue(self, identity: Identity, days: int = DAYS) -> MaterialPaths:
        """Make a key and a certificate for a party, in place of those that are there.

        Args:
            identity: goes into the certificate.
            days: of validity from now; negative makes one that has ended, for tests.

        Raises:
            AuthorityError: it could not be made.
        """
        paths = self.paths(identity)
        with _made_in(paths.key.parent) as work:
            key, request, certificate, wanted = (work / name for name in ("key", "request", "certificate", "wanted"))
            wanted.write_text(_extensions(identity))
            subject = f"/O={identity.deployment}/CN={identity.role}.{identity.name}"[:60]
            _openssl("req", "-new", *_KEY, "-keyout", key, "-out", request, "-subj", subject, "-config", _config(work))
            _openssl(
                "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-days", str(days),
                "-out", certificate, "-extfile", wanted, "-set_serial", f"0x{os.urandom(16).hex()}",
            )  # fmt: skip
            copy = work / "ca.pem"
            copy.write_bytes(self.certificate.read_bytes())
            # The certificate last: between the two, what is there does not belong together and is not used.
            _placed(copy, paths.authority, 0o644)
            _placed(key, paths.key, 0o600)
            _placed(certificate, paths.certificate, 0o644)
        return paths


def _extensions(identity: Identity) -> str:
    names = [f"URI:{identity.uri}"]
    purposes = ["clientAuth"]
    if identity.role in SERVERS:
        names.append(f"DNS:{identity.server_name}")
        purposes.append("serverAuth")
    lines = (
        f"subjectAltName={','.join(names)}",
        f"extendedKeyUsage={','.join(purposes)}",
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "subjectKeyIdentifier=hash",
        "authorityKeyIdentifier=keyid",
    )
    return "\n".join(lines) + "\n"


def _config(work: Path) -> Path:
    """What openssl would otherwise read from the machine's own settings."""
    path = work / "openssl.cnf"
    path.write_text(
        "[req]\ndistinguished_name=dn\nx509_extensions=ca\n[dn]\n[ca]\nbasicConstraints=critical,CA:TRUE,pathlen:0\n"
        "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
    )
    return path


@contextmanager
def _made_in(folder: Path) -> Iterator[Path]:
    """A place on the same disk to make files in, so that they come to their own place in one step.

    Raises:
        AuthorityError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as work:
            yield Path(work)
    except OSError as error:
        raise AuthorityError(f"{error.filename or folder}: {error.strerror or error}") from error


def _placed(made: Path, place: Path, mode: int) -> None:
    made.chmod(mode)
    made.replace(place)


def _openssl(*arguments: str | Path) -> None:
    try:
        done = subprocess.run(
            ("openssl", *map(str, arguments)),
            capture_output=True,
            text=True,
            timeout=_OPENSSL_S,
            check=False,
            stdin=subprocess.DEVNULL,
            umask=0o077,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AuthorityError(f"openssl cannot be run: {error}") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise AuthorityError(f"openssl {arguments[0]}: {last}")
