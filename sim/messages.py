"""What travels between processes, and what is known of one request while it is under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from relaygr.domain.feedback import Feedback
from relaygr.domain.identity import PsiKey
from services.ranker.core.effects import Acceptance, DeclineReason
from services.router.core.binding import Branch, Subject
from services.router.core.load import Queues
from services.trigger.core.events import InstanceView
from sim.chains import LogChain


@dataclass(slots=True, eq=False)
class Request:
    """One request from its arrival to its answer. Times are true time, nanoseconds."""

    index: int
    user: int
    subject: Subject
    arrives_ns: int
    due_ns: int
    """When ranking is due."""
    delta: int
    candidates: int
    visit: int
    chain: LogChain
    """Up to the cut."""
    anchor: int
    ticket: Ticket | None = None
    decision: str = "NONE"
    is_accepted: bool = False
    """The ranker took its pre-infer."""
    is_ranking: bool = False
    is_over: bool = False
    ended_ns: int = 0
    error: str = ""
    tier: str = ""
    fallback: str = ""
    instance_id: str = ""
    epoch: int = 0
    attempts: int = 0

    @property
    def rank_ns(self) -> int:
        """From when ranking was due to its answer."""
        return self.ended_ns - self.due_ns


@dataclass(slots=True, eq=False)
class Ticket:
    """What the trigger hands back; in production it is signed."""

    ticket_id: str
    user: int
    instance_id: str
    epoch: int
    model_key: str
    key: PsiKey
    chain: LogChain
    expires_unix_ns: int
    trigger_id: str


@dataclass(slots=True)
class Resolved:
    """Where a user is bound."""

    view: InstanceView
    model_key: str
    ended_ticket_ids: tuple[str, ...]


@dataclass(slots=True)
class PreInferAnswer:
    """How a ranker took a pre-infer."""

    acceptance: Acceptance | None
    """None: declined."""
    reason: DeclineReason | None
    queues: Queues
    production_ns: int
    feedback: Feedback
    ended_ticket_ids: tuple[str, ...]


@dataclass(slots=True)
class RankAnswer:
    """How a rank came about."""

    tier: str
    fallback: str
    instance_id: str
    epoch: int
    model_key: str
    queues: Queues
    branch: Branch | None = None
    attempts: int = 1


@dataclass(slots=True, eq=False)
class Asked:
    """A call that somebody waits for: who, for what, until when, and what its owner keeps with it."""

    caller: Any
    about: Any
    deadline_ns: int
    """By the clock of whoever took the call."""
    is_over: bool = False
    is_placed: bool = False
    """Of a rank at its instance: the device has it."""
    number: int = 0
    due_ns: int = 0
    """Of a rank at its instance: by when it would be within the ranking budget."""
    began_ns: int = 0
    extra: Any = None
    tried: list[str] = field(default_factory=list)
