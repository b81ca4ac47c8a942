"""For any interleaving of rankers that work, stop, crash and come back: no wrong byte is ever believed.

The machine under test sees block numbers; this model has the memory. Writers write whenever
they like while they may (stopped and lapsed ones too), and a load that the core calls held
must have read exactly what was published under its generation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relaygr.domain.identity import PsiKey, UserKey
from relaygr.segment import PresenceFilter
from services.expander.core.effects import Found, ProbeLock, StoreGrant, StoreRefusal
from services.expander.core.entries import Content
from services.expander.core.events import LockProbed
from services.expander.core.limits import TieringLimits
from services.expander.core.tiering import Tiering

BLOCK_BYTES = 10
LIMITS = TieringLimits(
    block_bytes=BLOCK_BYTES,
    block_count=12,
    owners_max=3,
    entries_max=5,
    pins_max=4,
    pinned_blocks_max=8,
    stores_max=3,
    stores_per_owner_max=2,
    staging_blocks_max=7,
    tenant_blocks_max=9,
    owner_blocks_max=8,
    tombstones_max=2,
    owner_lapse_ns=20,
    probe_ns=5,
    pin_ns=15,
    store_ns=30,
    entry_age_ns=120,
    tombstone_ns=60,
)
USERS = [UserKey("t1", "a"), UserKey("t1", "b"), UserKey("t2", "a")]
KEYS = [PsiKey(user, "m", 0) for user in USERS] + [PsiKey(USERS[0], "m", 64)]


@dataclass(eq=False)
class Process:
    """A ranker process as the kernel sees it."""

    owner: str
    epoch: int
    index: int | None = None
    """Index it believes in, and locks."""
    writing: dict[int, StoreGrant] = field(default_factory=dict)
    loading: dict[int, Found] = field(default_factory=dict)
    read: dict[int, tuple[int, ...]] = field(default_factory=dict)


class Tier(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = 1_000
        self.counters = np.zeros(4, dtype=np.uint8)  # fewer slots than keys may need: some share one
        self.presence = PresenceFilter(self.counters)
        self.core = Tiering(LIMITS, self.presence)
        self.core._admission._gaps._until_renewal = 1  # or no run would be long enough for a store to be put off
        self.memory: list[object] = [None] * LIMITS.block_count
        self.processes: list[Process] = []
        self.locks: dict[int, Process] = {}
        self.epochs = 0
        self.granted: dict[int, tuple[PsiKey, int, bytes, int]] = {}
        self.granted_at: dict[int, int] = {}
        self.found_at: dict[int, int] = {}
        self.published: dict[PsiKey, int] = {}
        self.contents: dict[int, tuple[object, ...]] = {}
        self.forgotten: dict[UserKey, int] = {}

    @initialize()
    def begin(self):
        for owner in ("r1", "r2"):
            self.start(owner)
            self.beat(self.processes[-1])

    def start(self, owner: str):
        self.epochs += 1
        self.processes.append(Process(owner, self.epochs))

    def pick(self, data, *, attached: bool) -> Process | None:
        able = [p for p in self.processes if not attached or p.index is not None]
        return data.draw(st.sampled_from(able)) if able else None

    def is_current(self, process: Process) -> bool:
        return process.index is not None and self.core.is_attached(process.owner, process.index, self.now)

    @rule(step=st.sampled_from([1, 2, 4, 10, 16, 31]), beating=st.sampled_from([True, True, True, False]))
    def pass_time(self, step, beating):
        """With heartbeats on the way, as a rule; without, everybody was stopped."""
        for _ in range(step):
            self.now += 1
            for process in self.processes if beating and self.now % 7 == 0 else ():
                self.beat(process)

    @rule(data=st.data())
    def heartbeat(self, data):
        self.beat(self.pick(data, attached=False))

    def beat(self, process: Process):
        if process.epoch != max(p.epoch for p in self.processes if p.owner == process.owner):
            return  # only the newest process of an id keeps the attachment for long
        index = self.core.attach(process.owner, process.epoch, self.now)
        if index is None or index == process.index:
            return
        # Another index: copies end, the old byte is let go, the new one is taken if it can be.
        self.let_go(process)
        if index not in self.locks:
            process.index = index
            self.locks[index] = process

    def let_go(self, process: Process):
        process.writing.clear()
        process.loading.clear()
        if process.index is not None:
            del self.locks[process.index]
            process.index = None

    @rule(data=st.data())
    def crash(self, data):
        process = self.pick(data, attached=False)
        self.let_go(process)
        self.processes.remove(process)
        self.start(process.owner)

    @precondition(lambda self: len(self.processes) < 4)
    @rule(owner=st.sampled_from(["r1", "r2"]))
    def restart_beside_a_stopped_one(self, owner):
        self.start(owner)

    @rule(data=st.data(), key=st.sampled_from(KEYS), blocks=st.integers(1, 5), tokens=st.integers(1, 3))
    def prepare_store(self, data, key, blocks, tokens):
        process = self.pick(data, attached=True)
        if process is None or not self.is_current(process) or process.index not in self.locks:
            return
        self.grant(process, key, blocks, tokens, data.draw(st.sampled_from([b"x", b"y"])))

    def grant(self, process: Process, key: PsiKey, blocks: int, tokens: int, chain: bytes) -> StoreGrant | None:
        length = blocks * BLOCK_BYTES - 3
        answer = self.core.prepare_store(process.index, key, tokens, chain, length, self.now)
        if isinstance(answer, StoreRefusal):
            return None
        assert self.now >= self.forgotten.get(key.owner, 0), "a store of a forgotten user was granted"
        assert len(answer.blocks) == blocks
        for other in self.processes:
            for grant in other.writing.values():
                shared = set(grant.blocks) & set(answer.blocks)
                assert not shared or grant.store_id == answer.store_id, "two writers share a block"
        self.granted[answer.store_id] = (key, tokens, chain, length)
        self.granted_at.setdefault(answer.store_id, self.now)
        process.writing[answer.store_id] = answer
        return answer

    @rule(data=st.data(), key=st.sampled_from(KEYS), blocks=st.integers(1, 3), tokens=st.integers(1, 6))
    def store_in_one_go(self, data, key, blocks, tokens):
        for process in self.processes:
            if self.is_current(process):
                grant = self.grant(process, key, blocks, tokens, b"x")
                if grant is not None:
                    self.write_all(grant)
                    self.end_store(process, grant, True)
                return

    @rule(data=st.data())
    def write(self, data):
        """Any process that has not ended its copy, attached or not, stopped meanwhile or not."""
        writers = [(p, g) for p in self.processes for g in p.writing.values()]
        if not writers:
            return
        self.write_all(data.draw(st.sampled_from(writers))[1])

    def write_all(self, grant: StoreGrant):
        for position, block in enumerate(grant.blocks):
            self.memory[block] = (grant.generation, position)

    @rule(data=st.data(), written=st.booleans())
    def complete_store(self, data, written):
        writers = [(p, g) for p in self.processes for g in p.writing.values()]
        if not writers:
            return
        process, grant = data.draw(st.sampled_from(writers[::-1]))
        if not self.is_current(process):
            return  # refused as stale at the edge
        self.end_store(process, grant, written)

    def end_store(self, process: Process, grant: StoreGrant, written: bool):
        wanted = tuple((grant.generation, position) for position in range(len(grant.blocks)))
        written = written and tuple(self.memory[block] for block in grant.blocks) == wanted
        key, tokens, chain, length = self.granted[grant.store_id]
        content = Content(tokens, chain, length, b"d", "")
        before = self.core.counters["store_published"]
        published = self.core.complete_store(process.index, grant.store_id, written, content, self.now)
        del process.writing[grant.store_id]
        assert written or not published
        if self.core.counters["store_published"] > before:
            since = self.granted_at[grant.generation]
            assert self.now < since + LIMITS.store_ns, "published after its time"
            assert self.forgotten.get(key.owner, 0) - LIMITS.tombstone_ns < since, "published after it was forgotten"
            self.published[key] = grant.generation
            self.contents[grant.generation] = wanted

    @rule(data=st.data())
    def lookup(self, data):
        key = data.draw(st.sampled_from(list(self.published)[::-1] or KEYS))
        process = next((p for p in self.processes if self.is_current(p)), None)
        if process is None:
            return
        found = self.core.lookup(process.index, key, self.now)
        if found is not None:
            assert found.generation == self.published.get(key), "an entry that was replaced or forgotten"
            seen = tuple(self.memory[block] for block in found.blocks)
            assert seen == self.contents[found.generation], "other bytes than were published"
            process.loading[found.pin_id] = found
            self.found_at[found.pin_id] = self.now

    @rule(data=st.data())
    def read(self, data):
        loads = [(p, f) for p in self.processes for f in p.loading.values()]
        if not loads:
            return
        process, found = data.draw(st.sampled_from(loads))
        if not self.is_current(process):
            return
        grant = self.core.prepare_load(process.index, found.pin_id, self.now)
        if grant is not None:
            assert grant.generation == found.generation
            process.read[found.pin_id] = grant.blocks
            seen = tuple(self.memory[block] for block in grant.blocks)
            assert seen == self.contents[found.generation], "torn bytes under a pin"

    @rule(data=st.data(), verified=st.sampled_from([True, True, True, False]))
    def complete_load(self, data, verified):
        loads = [(p, f) for p in self.processes for f in p.loading.values()]
        if not loads:
            return
        process, found = data.draw(st.sampled_from(loads))
        del process.loading[found.pin_id]
        if not self.is_current(process):
            return
        held = self.core.complete_load(process.index, found.pin_id, verified, self.now)
        assert not self.core.complete_load(process.index, found.pin_id, True, self.now), "a pin ends once"
        read = process.read.pop(found.pin_id, None)
        if held:
            assert self.now < self.found_at[found.pin_id] + LIMITS.pin_ns, "held beyond its time"
            assert verified and self.now >= self.forgotten.get(self.granted[found.generation][0].owner, 0)
        if held and read is not None:
            # The copy may have run at any moment in between; no block may have changed since.
            assert tuple(self.memory[block] for block in read) == self.contents[found.generation]

    @rule(data=st.data(), verified=st.sampled_from([True, True, True, False]))
    def complete_unpinned(self, data, verified):
        process = next((p for p in self.processes if self.is_current(p)), None)
        if process is None or not self.contents:
            return
        generation = data.draw(st.sampled_from(list(self.contents)[::-1]))
        key = self.granted[generation][0]
        before = self.core.counters["corrupt"]
        is_current = self.core.complete_unpinned(process.index, key, generation, verified, self.now)
        assert not is_current or (verified and generation == self.published.get(key)), "of an entry that is gone"
        assert self.core.counters["corrupt"] == before or not verified
        if self.core.counters["corrupt"] > before:
            assert self.core.lookup(process.index, key, self.now) is None, "bad bytes can still be found"

    @rule(data=st.data(), really=st.sampled_from([False, False, True]))
    def forget(self, data, really):
        if not really:
            return  # or nothing would live long enough for anything else to happen to it
        user = data.draw(st.sampled_from([key.owner for key in self.published] or USERS))
        self.core.evict(user, self.now)
        self.forgotten[user] = self.now + LIMITS.tombstone_ns
        for key in KEYS:
            if key.owner == user:
                self.published.pop(key, None)

    @rule()
    def sweep(self):
        for effect in self.core.expire(self.now):
            assert isinstance(effect, ProbeLock)
            self.core.handle(LockProbed(effect.owner_index, effect.owner_index in self.locks), self.now)
        deadline = self.core.deadline_ns()
        assert deadline is None or deadline > self.now, "expire left something that was due"

    @invariant()
    def holds(self):
        self.core.check()
        self.core.check_sums()
        visible = [entry.key for entry in self.core._entries.held() if entry.is_published]
        assert all(self.presence.may_hold(key) for key in visible), "a visible entry that nobody would ask for"
        assert int(self.counters.sum()) == len(visible), "what left is still counted"

    def teardown(self):
        """Everything ends by itself once everybody is gone."""
        for process in self.processes:
            self.let_go(process)
        self.now += 10_000
        self.sweep()
        self.now += LIMITS.probe_ns
        self.sweep()
        seen = self.core.occupancy()
        assert seen.free_blocks == LIMITS.block_count, f"something was never released: {seen}"
        assert (seen.pins, seen.owners, seen.tombstones, seen.entries) == (0, 0, 0, 0)
        assert not self.counters.any(), "an empty tier's filter is all zero"


TestTier = Tier.TestCase
TestTier.settings = settings(max_examples=150, stateful_step_count=80, deadline=None)
