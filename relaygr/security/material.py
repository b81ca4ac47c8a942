"""A party's certificate, key and authority: read, tried out, and read again when the files change.

Theory of operation. Whoever makes a connection, or takes one, asks for the current material. At most once a second the
files are looked at; when they differ from those that were read, they are read again and tried on themselves
(`relaygr.security.proof`). What does not work is not used: the old material stays, and a warning says what is wrong.
Connections that are open stay as they are.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relaygr.runtime.logs import next_step
from relaygr.security.caller import expires_unix_s_of
from relaygr.security.contexts import CurrentContext, client_context, server_context
from relaygr.security.identity import Identity, Role, server_name_of
from relaygr.security.proof import proved

_log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Between two looks at the files: three calls of the system."""
ENDS_SOON_S = 7 * 86_400
"""Before the certificate's end it is said, and once a day from then on."""
_DAY_S = 86_400


class MaterialError(Exception):
    """TLS material that cannot be used; the message names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class MaterialPaths:
    """Where the three files are, all PEM."""

    certificate: Path
    """The party's own, with what lies between it and the authority behind it."""
    key: Path
    """Its private key, without a password."""
    authority: Path
    """Certificates of the authorities that peers are checked against; two while one takes over from the other."""

    def state(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when a file does.

        Raises:
            OSError: a file is not there.
        """
        seen = [os.stat(path) for path in (self.certificate, self.key, self.authority)]
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in seen)


@dataclass(frozen=True, slots=True)
class Material:
    """What the files held at one time."""

    identity: Identity
    certificate_pem: bytes
    key_pem: bytes
    authority_pem: bytes
    expires_unix_s: int
    server: ssl.SSLContext
    client: ssl.SSLContext
    version: int = 1
    """Grows with each new reading."""

    def __repr__(self) -> str:
        return f"Material({self.identity.uri}, version {self.version})"


class KeptMaterial:
    """The current material of one party; may be asked from any thread.

    Args:
        paths: the files.
        role: which role it must be of; None: any.
        look_s: least time between two looks at the files, seconds.
        clock_s: monotonic seconds.
        unix_now_s: the clock that certificates expire by.

    Raises:
        MaterialError: it cannot be used. Only here: later it is the old material that goes on.
    """

    def __init__(
        self,
        paths: MaterialPaths,
        *,
        role: Role | None = None,
        look_s: float = LOOK_S,
        clock_s: Callable[[], float] = time.monotonic,
        unix_now_s: Callable[[], float] = time.time,
    ) -> None:
        self._paths = paths
        self._look_s = look_s
        self._clock_s = clock_s
        self._unix_now_s = unix_now_s
        self._told_end_s = float("-inf")
        self._lock = threading.Lock()
        self._seen = _state_of(paths)
        self._material = read_material(paths)
        self._next_look_s = clock_s() + look_s
        if role is not None and self.identity.role is not role:
            raise MaterialError(f"{paths.certificate} is of role {self.identity.role}, and {role} is needed")
        self._tell_end()
        self._watching = CurrentContext.following(lambda: self.current().server)

    @property
    def identity(self) -> Identity:
        """Whose material it is; role and deployment stay."""
        return self._material.identity

    def current(self) -> Material:
        """The newest that works."""
        if self._clock_s() >= self._next_look_s and self._lock.acquire(blocking=False):
            # Whoever comes while another looks takes what there is.
            try:
                self._look()
            finally:
                self._next_look_s = self._clock_s() + self._look_s
                self._lock.release()
        return self._material

    def listening_context(self) -> ssl.SSLContext:
        """For a listener of asyncio: each connection that it takes is made with what is current then."""
        return self._watching

    def connecting_context(self, role: Role) -> tuple[ssl.SSLContext, str]:
        """For one connection to a server of a role: what to make it with, and the name that it must prove."""
        return self.current().client, self.server_name(role)

    def server_name(self, role: Role) -> str:
        """The name that a server of a role proves in this deployment."""
        return server_name_of(role, self.identity.deployment)

    def _tell_end(self) -> None:
        now_s = self._unix_now_s()
        left_s = self._material.expires_unix_s - now_s
        if left_s < ENDS_SOON_S and now_s - self._told_end_s >= _DAY_S:
            self._told_end_s = now_s
            text = "%s ends in %.1f days" if left_s > 0 else "%s has ended, %.1f days ago"
            step = next_step("renew it; the new files are read without a restart, and nothing is called without them")
            _log.warning(text, self._paths.certificate, abs(left_s) / _DAY_S, extra=step)

    def _look(self) -> None:
        self._tell_end()
        state = _state_of(self._paths)
        if state == self._seen:
            return
        self._seen = state
        try:
            found = read_material(self._paths, self._material.version + 1)
            before = self._material.identity
            if (found.identity.deployment, found.identity.role) != (before.deployment, before.role):
                raise MaterialError(f"{self._paths.certificate} is of {found.identity.uri}, not of {before.uri}")
        except MaterialError as error:
            step = next_step("put a certificate, its key and its authority there that belong together and are valid")
            _log.warning("new TLS files are not used, the old ones go on: %s", error, extra=step)
            return
        self._material = found
        _log.info("TLS files were read anew: %s", found.identity.uri)


def read_material(paths: MaterialPaths, version: int = 1) -> Material:
    """Read the files and try them out.

    Raises:
        MaterialError: they cannot be used.
    """
    try:
        before = paths.state()
        files = (paths.certificate, paths.key, paths.authority)
        certificate_pem, key_pem, authority_pem = (path.read_bytes() for path in files)
        server, client = server_context(*files), client_context(*files)
        if paths.state() != before:
            raise MaterialError(f"{paths.certificate} changed while it was read")
        identity = proved(server, client)
        expires_unix_s = expires_unix_s_of(ssl.PEM_cert_to_DER_cert(_first_of(certificate_pem)))
    except ssl.SSLCertVerificationError as error:
        raise MaterialError(f"{paths.certificate}: {error.verify_message} (against {paths.authority})") from error
    except ssl.SSLError as error:
        what = (error.reason or "not PEM, or a key with a password").lower().replace("_", " ")
        raise MaterialError(f"{paths.certificate} with key {paths.key}: {what}") from error
    except OSError as error:
        raise MaterialError(f"{error.filename or paths.certificate}: {error.strerror or error}") from error
    except ValueError as error:
        raise MaterialError(f"{paths.certificate}: {error}") from error
    return Material(identity, certificate_pem, key_pem, authority_pem, expires_unix_s, server, client, version)


def _first_of(chain: bytes) -> str:
    """A party's own certificate, before those that lie between it and the authority."""
    text = chain.decode("ascii", "replace")
    begin, end = text.find(ssl.PEM_HEADER), text.find(ssl.PEM_FOOTER)
    return text[begin : end + len(ssl.PEM_FOOTER)]


def _state_of(paths: MaterialPaths) -> tuple[tuple[int, int, int], ...]:
    try:
        return paths.state()
    except OSError:
        return ()
