"""What one request costs the router's core, by the number of instances, with users who never return.

The clock is made up, so that the load is the same at any speed: each request brings work for its instance and the
time between two of them keeps all instances busy for the same share of it.
Times are of the CPU, so that a busy machine distorts them little.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from relaygr.domain.cost import CostModel
from relaygr.domain.identity import ModelIdentity, ModelLimits, UserKey
from relaygr.domain.instance import InstanceRecord, InstanceState
from services.router.core.binding import Binding, Placement, Subject, TicketRef
from services.router.core.events import Listed, PinRead, TableRead, UserPlaced
from services.router.core.load import Queues
from services.router.core.slots import assign, next_table

MODEL = ModelIdentity("bench", "1", "ab" * 32, "float32", "paged128-khd-vhd", 512)
_LIMITS = ModelLimits(1000, 250, 64, 256)
_COST = CostModel(1e6, 1e3, 1.0, 1e5, 0.1, 0.1, 512, 50)
_BUSY = 0.7
_PRODUCTION_NS = 30_000_000
_RANK_NS = 5_000_000
_WINDOW_NS = 500_000_000
_CHUNK = 5_000
"""Users made at a time, outside of what is measured."""
_WARM_USERS = 5_000
_TICKET_KEY = b"k" * 16


def record_of(number: int, *, address: str = "", model: ModelIdentity = MODEL) -> InstanceRecord:
    """An instance that says it has a gigabyte."""
    return InstanceRecord(
        instance_id=f"instance-{number:04d}",
        address=address or f"10.0.0.1:{number + 1}",
        host="bench",
        epoch=1,
        model=model,
        limits=_LIMITS,
        cost=_COST,
        device_budget_bytes=1 << 30,
        pre_infer_share=0.5,
        state=InstanceState.READY,
    )


def measured(instances: int, users: int) -> dict[str, Any]:
    """Nanoseconds of a choice (resolve and route_rank) and of all the core does for a request; memory at both ends."""
    requests = _Requests(instances)
    choice_ns: list[float] = []
    request_ns: list[float] = []
    rss_mib: dict[str, float] = {}
    for user in range(_WARM_USERS):
        requests.one(_subject(f"warm-{user}"))  # Once in a slot's life its order is worked out.
    for done, subjects in _chunks(users):
        requests.choosing_ns = 0
        began_ns = time.thread_time_ns()
        for subject in subjects:
            requests.one(subject)
        request_ns.append((time.thread_time_ns() - began_ns) / len(subjects))
        choice_ns.append(requests.choosing_ns / len(subjects))
        if done >= users // 10:
            rss_mib.setdefault("after_tenth_mib", rss_now_mib())
    rss_mib["at_end_mib"] = rss_now_mib()
    requests.core.check()
    return {
        "instances": instances,
        "users": users,
        "choice_ns": round(median(choice_ns)),
        "request_ns": round(median(request_ns)),
        "branches": dict(requests.branches.most_common()),
        "rss": rss_mib,
        "kept": {"pins": len(requests.core.pins), "recent": len(requests.core.recent)},
    }


def planning_ms(instances: int) -> dict[str, float]:
    """Milliseconds to plan slots from nothing, and for one more instance."""
    weights = {record_of(number).instance_id: 1 << 30 for number in range(instances)}
    began_ns = time.thread_time_ns()
    owners = assign(None, weights)
    planned_ns = time.thread_time_ns()
    assign(owners, {**weights, "joiner": 1 << 30})
    joined_ns = time.thread_time_ns()
    return {"plan": (planned_ns - began_ns) / 1e6, "join": (joined_ns - planned_ns) / 1e6}


def rss_now_mib() -> float:
    """Resident memory of this process, garbage aside."""
    gc.collect()
    return rss_of_mib("self")


def rss_of_mib(pid: int | str) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"no memory is told of {pid}")


class _Requests:
    """Requests of users who come once, over a core with made-up time."""

    def __init__(self, instances: int) -> None:
        self.core = Binding(members_max=max(1024, instances))
        self.branches: Counter[str] = Counter()
        self.choosing_ns = 0
        self._now_ns = 1
        self._step_ns = int((_PRODUCTION_NS + _RANK_NS) / (_BUSY * instances))
        self._under_way: deque[tuple[int, int]] = deque()
        self.core.handle(Listed(tuple(record_of(number) for number in range(instances))), 0)
        self.core.handle(TableRead(MODEL.key, next_table(None, self.core.weights(MODEL.key))), 0)

    def one(self, subject: Subject) -> None:
        """Placed, produced for, and ranked by its ticket."""
        core, now_ns = self.core, self._now_ns
        self._now_ns += self._step_ns
        began_ns = time.thread_time_ns()
        placed = core.resolve(subject, will_admit=True, window_ns=_WINDOW_NS, now_ns=now_ns)
        self.choosing_ns += time.thread_time_ns() - began_ns
        assert placed is not None
        self._remember(subject, placed, now_ns)
        record = placed.record
        self._begin(record.instance_id, _PRODUCTION_NS)
        ticket = TicketRef(record.instance_id, record.epoch, MODEL.key)
        core.load.rank_came(subject.user_hash)
        began_ns = time.thread_time_ns()
        ranked = core.route_rank(subject, ticket, (), now_ns)
        self.choosing_ns += time.thread_time_ns() - began_ns
        assert ranked is not None
        self._begin(record.instance_id, _RANK_NS)
        core.expire(now_ns)
        core.deadline_ns()

    def _remember(self, subject: Subject, placed: Placement, now_ns: int) -> None:
        self.branches[placed.branch.value] += 1
        record, user_hash = placed.record, subject.user_hash
        self.core.handle(
            UserPlaced(user_hash, record.instance_id, record.epoch, _PRODUCTION_NS, _RANK_NS, _WINDOW_NS), now_ns
        )
        if placed.pin is not None:
            self.core.handle(PinRead(user_hash, record.instance_id, record.epoch, now_ns + _WINDOW_NS), now_ns)

    def _begin(self, instance_id: str, work_ns: int) -> None:
        """A call that ends when its work would have ended, had it been alone."""
        load, now_ns = self.core.load, self._now_ns
        self._under_way.append((now_ns + work_ns, load.begin(instance_id, work_ns, now_ns)))
        while self._under_way[0][0] <= now_ns:
            load.end(self._under_way.popleft()[1], now_ns, Queues())


def _chunks(users: int) -> Iterator[tuple[int, list[Subject]]]:
    for first in range(0, users, _CHUNK):
        past = min(users, first + _CHUNK)
        yield past, [_subject(str(user)) for user in range(first, past)]


def _subject(user: str) -> Subject:
    key = UserKey("bench", user)
    return Subject(key, key.hashed(_TICKET_KEY))


def say(text: str) -> None:
    """Progress, beside the line that counts."""
    print(text, file=sys.stderr, flush=True)
