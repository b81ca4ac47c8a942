"""Which role may call which method: the whole list. What is not in it, nobody may call.

Only servers with TLS ask it; without TLS nobody knows who calls. A test goes through the methods of every service, so
that a new one without a line here is noticed.

Source: design, section 3: who calls whom; docs/security.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from relaygr.security.identity import Role

EVERYBODY = frozenset(Role)
OPERATORS = frozenset({Role.OPERATOR})
CALLERS = frozenset({Role.CLIENT, Role.OPERATOR})
"""Who uses the deployment: an operator's command may do what a recommender does."""
TRIGGERS = frozenset({Role.TRIGGER})
ROUTERS = frozenset({Role.ROUTER})
RANKERS = frozenset({Role.RANKER})

ALLOWED: Mapping[str, frozenset[Role]] = {
    # Beside every service. A lane is an open connection; each call over it is looked up here again.
    "grpc.health.v1.Health/Check": EVERYBODY,
    "grpc.health.v1.Health/List": EVERYBODY,
    "grpc.health.v1.Health/Watch": EVERYBODY,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": OPERATORS,
    "relaygr.v1.LaneService/Open": EVERYBODY,
    "relaygr.v1.TriggerService/Arrive": CALLERS,
    "relaygr.v1.RouterService/Resolve": TRIGGERS | OPERATORS,
    "relaygr.v1.RouterService/PreInfer": TRIGGERS,
    "relaygr.v1.RouterService/Rank": CALLERS,
    "relaygr.v1.RouterService/Release": CALLERS,
    "relaygr.v1.RouterService/ReportEnded": CALLERS,
    "relaygr.v1.RouterService/Forget": CALLERS,
    "relaygr.v1.RankerService/PreInfer": ROUTERS,
    # Clients with a way of their own to the rankers; a ticket is checked by its MAC, whoever brings it.
    "relaygr.v1.RankerService/Rank": ROUTERS | CALLERS,
    "relaygr.v1.RankerService/Release": ROUTERS,
    "relaygr.v1.RankerService/Forget": ROUTERS,
    "relaygr.v1.RankerService/Describe": OPERATORS,
    "relaygr.v1.RankerService/Drain": OPERATORS,
    "relaygr.v1.ExpanderService/Attach": RANKERS,
    "relaygr.v1.ExpanderService/Lookup": RANKERS,
    "relaygr.v1.ExpanderService/PrepareLoad": RANKERS,
    "relaygr.v1.ExpanderService/CompleteLoad": RANKERS,
    "relaygr.v1.ExpanderService/PrepareStore": RANKERS,
    "relaygr.v1.ExpanderService/CompleteStore": RANKERS,
    "relaygr.v1.ExpanderService/Evict": RANKERS,
    "relaygr.v1.ExpanderService/Describe": RANKERS | OPERATORS,
    "relaygr.v1.TransferService/Fetch": RANKERS,
    "relaygr.v1.TransferService/Store": RANKERS,
    "relaygr.v1.TransferService/Probe": RANKERS,
}
"""By full method, package.Service/Method."""


def may_call(role: Role, method: str) -> bool:
    """Whether the list says so."""
    return role in ALLOWED.get(method, frozenset())
