"""What can go wrong, as one tree.

Three kinds are kept apart:

*outcome*  expected and not an error: psi missing, pre-infer declined, reload too late.
           It is an enum, an effect or None; it is never raised. Losing psi is an outcome.
*fault*    the world or the caller failed: an exception of the tree below.
*bug*      our own mistake: an assertion or any exception outside the tree. At a service's
           edge it becomes INTERNAL with a logged traceback; nothing handles it further in.

    RelayError
    ├── InvalidRequest     the caller's input; names the field     definite
    ├── Refused            overload or over-size                   definite, retryable
    ├── DeadlineTooShort   not enough time left to begin           definite, unless a peer said so
    ├── Stale              what the request relies on has moved    definite
    │   └── ForeignEpoch   another boot of the instance            definite
    ├── NotHere            the thing named is not here             definite
    ├── AccessDenied       not allowed                             definite
    │   └── Unidentified   nobody says who asks                    definite
    ├── CorruptData        bytes that fail their digest            definite
    ├── Unreachable        no answer from a peer                   indefinite, retryable
    └── PeerFailed         a peer answered with its own bug        indefinite

Definite: nothing took effect. Indefinite: it may have. Retryable: the same call may
succeed on another peer, or a little later.

`relaygr.rpc.status` maps the tree to gRPC status codes and back.
"""

from __future__ import annotations


class RelayError(Exception):
    """A fault of the world or of the caller."""

    is_definite: bool = True
    """Nothing took effect."""
    is_retryable: bool = False
    """The same call may succeed on another peer, or a little later."""


class InvalidRequest(RelayError):
    """The caller's input is wrong; repeating it cannot help.

    Args:
        field: name of the field as in the proto, dotted when nested.
        problem: what is wrong with it, without the value when that may be personal.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class Refused(RelayError):
    """No room for this request: overload, a full table, an over-size message."""

    is_retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class DeadlineTooShort(RelayError):
    """The time left does not allow to begin, or a peer used it up (then indefinite)."""

    def __init__(self, message: str = "no time left", *, is_definite: bool = True) -> None:
        super().__init__(message)
        self.is_definite = is_definite


class Stale(RelayError):
    """What the request relies on has moved on: a generation, a boot id, a table."""


class ForeignEpoch(Stale):
    """The request names another boot of this instance."""


class NotHere(RelayError):
    """The thing named is not here."""


class AccessDenied(RelayError):
    """Not allowed."""


class Unidentified(AccessDenied):
    """Whoever asks did not prove who they are."""


class CorruptData(RelayError):
    """Bytes that fail their digest."""


class Unreachable(RelayError):
    """No answer from a peer.

    Args:
        peer: address or id.
        cause: what the transport said.
    """

    is_definite = False
    is_retryable = True

    def __init__(self, peer: str, cause: str | BaseException = "") -> None:
        super().__init__(f"{peer}: {cause}")
        self.peer = peer
        self.cause = str(cause)


class PeerFailed(RelayError):
    """A peer answered that something broke inside it."""

    is_definite = False

    def __init__(self, peer: str, detail: str = "") -> None:
        super().__init__(f"{peer}: {detail}")
        self.peer = peer
        self.detail = detail
