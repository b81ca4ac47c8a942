"""Names of everything that is kept in etcd.

Ids become one path segment each, so no id can reach outside its prefix.

Source: design, section 6.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

PREFIX = "/relaygr/v1/"
INSTANCES_PREFIX = PREFIX + "instances/"
SLOTS_PREFIX = PREFIX + "slots/"
PINS_PREFIX = PREFIX + "pins/"
ROUTERS_PREFIX = PREFIX + "routers/"
TRIGGERS_PREFIX = PREFIX + "triggers/"
ELECTION_PREFIX = PREFIX + "election/"


def instance_key(instance_id: str) -> str:
    """Where a ranker registers, under a lease."""
    return INSTANCES_PREFIX + quote(instance_id, safe="")


def slots_key(model_key: str) -> str:
    """The slot table of one model, written by compare-and-swap."""
    return SLOTS_PREFIX + quote(model_key, safe="")


def pin_key(user_hash: str) -> str:
    """A user placed off its slot, under a lease; the user appears as a keyed hash only."""
    return PINS_PREFIX + quote(user_hash, safe="")


def router_key(router_id: str) -> str:
    """Membership of a router, under a lease."""
    return ROUTERS_PREFIX + quote(router_id, safe="")


def trigger_key(trigger_id: str) -> str:
    """Membership of a trigger, under a lease."""
    return TRIGGERS_PREFIX + quote(trigger_id, safe="")


def election_key(role: str) -> str:
    """Who holds a role, under a lease."""
    return ELECTION_PREFIX + quote(role, safe="")


def id_of(key: str, prefix: str) -> str:
    """The id inside a key of this prefix."""
    assert key.startswith(prefix)
    return unquote(key[len(prefix) :])
