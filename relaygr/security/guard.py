"""Whether a caller may call a method: the one place where that is decided, for gRPC and for lanes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from relaygr.errors import AccessDenied, Unidentified
from relaygr.runtime.logs import next_step
from relaygr.security.caller import caller_of
from relaygr.security.methods import may_call

_log = logging.getLogger(__name__)

TOLD_MAX = 1024
"""Refusals are logged once for each party and method; beyond so many, no more are told."""


class Guard:
    """Refuses whoever is not of this deployment, or has no business with the method.

    Args:
        deployment: whose certificates count.
        unix_now_s: the clock that certificates expire by.
    """

    def __init__(self, deployment: str, unix_now_s: Callable[[], float] = time.time) -> None:
        self._deployment = deployment
        self._unix_now_s = unix_now_s
        self._told: set[tuple[str, str]] = set()

    def check(self, method: str, context: Any) -> None:
        """Let a call pass, or not.

        Args:
            method: full, package.Service/Method.
            context: the servicer's; of it, `auth_context()` is asked.

        Raises:
            Unidentified: the certificate names nobody of this deployment, or has expired since the connection was made.
            AccessDenied: names the role and the method.
        """
        caller = caller_of(context.auth_context())
        if caller is None:
            raise self._refused("", method, Unidentified("the certificate names no relaygr://deployment/role/name"))
        identity = caller.identity
        if identity.deployment != self._deployment:
            text = f"the certificate is of deployment {identity.deployment}"
            raise self._refused(identity.uri, method, Unidentified(text))
        if self._unix_now_s() >= caller.expires_unix_s:
            raise self._refused(identity.uri, method, Unidentified("the certificate has expired"))
        if not may_call(identity.role, method):
            raise self._refused(identity.uri, method, AccessDenied(f"role {identity.role} may not call {method}"))

    def _refused(self, uri: str, method: str, error: AccessDenied) -> AccessDenied:
        if (uri, method) not in self._told and len(self._told) < TOLD_MAX:
            self._told.add((uri, method))
            step = next_step("see whose certificate that is; what each role may call: relaygr/security/methods.py")
            _log.warning("refused %s a call of %s: %s", uri or "somebody", method, error, extra=step)
        return error
