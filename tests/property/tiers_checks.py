"""What must hold on the whole host after every step."""

from __future__ import annotations

from typing import Any

import numpy as np

from relaygr.segment import ContentDigest, identity_bytes
from relaygr.segment.layout import NO_GENERATION
from services.expander.core.entries import Entry
from services.ranker.core.lifecycle import LEASABLE, PsiState
from services.ranker.core.pages import pages_of
from services.ranker.core.tickets import Ticket
from tests.property.tiers_expander import BLOCK_BYTES, LIMITS, Expander
from tests.property.tiers_histories import TOKEN_BYTES, psi
from tests.property.tiers_ranker import Ranker

HELD = (*LEASABLE, PsiState.LOOKING_UP, PsiState.RELOADING)


def check(world: Any) -> None:
    """Every process, and what they share."""
    for ranker in world.rankers.values():
        ranker.machine.check()
        _check_tickets(ranker)
        _check_leases(ranker)
        if not ranker.is_stopped:
            _check_waits(ranker)
    if world.expander is not None:
        _check_expander(world.expander)
        _check_entries(world.expander)
        _check_writers(world)


def _check_tickets(ranker: Ranker) -> None:
    """I1: psi of an open ticket is in production or there, on pages of its own, and what was there stays."""
    books, callers = ranker.machine._books, ranker.callers
    if not ranker.is_stopped:
        assert set(books.tickets.open) == set(callers.open), "a ticket is open that its caller thinks closed, or not"
    for ticket_id, known in callers.open.items():
        ticket: Ticket = books.tickets.open[ticket_id]
        entry = books.entries.by_id[ticket.entry_id]
        assert entry.key == known.key and entry.state in HELD
        assert entry.is_held and not entry.is_idle, "an open ticket's psi may be evicted"
        assert entry.tokens >= ticket.need_tokens or entry.job_id is not None or entry.spilling_tokens
        tokens = min(entry.tokens, known.chain.token_count, ticket.need_tokens)
        assert tokens >= known.covered_tokens, "an open ticket's psi was lost"
        known.covered_tokens = tokens
        life = ranker.life_of(known.key.owner)
        assert ranker.holds(entry.page_ids, known.key, life, known.chain.digest, tokens), (
            "an open ticket's pages changed"
        )


def _check_leases(ranker: Ranker) -> None:
    """I2, I5: every rank that has been answered reads its own psi, on pages of this process."""
    for asked in ranker.callers.ranks.values():
        ranker.callers.check_lease(asked)


def _check_waits(ranker: Ranker) -> None:
    """I6: a rank is answered, or an alarm will answer it by its deadline."""
    deadline_ns = ranker.machine.deadline_ns()
    for asked in ranker.callers.ranks.values():
        if asked.answer is None:
            assert deadline_ns is not None and deadline_ns <= asked.deadline_ns, "a rank waits beyond its deadline"


def _check_expander(expander: Expander) -> None:
    """I3: bytes accounted are bytes there are, and the stamps say whose."""
    core = expander.core
    core.check()
    core.check_sums()
    stamps = expander.reader.generations
    wanted = np.full(len(stamps), NO_GENERATION, stamps.dtype)
    for held in (*core._entries.held(), *core._stores.held()):
        is_revoked = not held.is_published if isinstance(held, Entry) else held.is_doomed
        if not is_revoked:
            # A stamp that was damaged on purpose is as it is.
            is_damaged = held.generation in expander.corrupted
            wanted[list(held.blocks)] = stamps[list(held.blocks)] if is_damaged else held.generation
        assert len(held.blocks) == pages_of_bytes(held)
    assert (stamps == wanted).all(), "a block bears another stamp than that of who may use it"
    published = expander.published()
    assert all(expander.reader.presence.may_hold(entry.key) for entry in published), "nobody would ask for an entry"
    assert int(expander.segment.presence._counters.sum()) == len(published), "what left is still counted"


def pages_of_bytes(held: Any) -> int:
    """Blocks that hold an entry's or a store's bytes."""
    length_bytes = held.content.length_bytes if hasattr(held, "content") else held.length_bytes
    return -(-int(length_bytes) // BLOCK_BYTES)


def _check_entries(expander: Expander) -> None:
    """I5: what can be found is whole, its own, and of a life that was not forgotten."""
    for entry in expander.published():
        content, owner = entry.content, entry.key.owner
        life = expander.lives[entry.generation]
        assert life >= expander.evicted.get(owner, 0), "psi of a forgotten user can be found"
        if entry.generation in expander.corrupted:
            continue
        stored = expander.bytes_of(entry)
        digest = ContentDigest(identity_bytes(entry.key, content.chain_digest), content.tokens, content.length_bytes)
        digest.update(stored)
        assert digest.digest() == content.content_digest, "a published entry fails its digest"
        whole = psi(entry.key, life, content.chain_digest, content.tokens)
        is_right = np.array_equal(stored[: content.tokens * TOKEN_BYTES], whole.reshape(-1))
        assert is_right, "a published entry is not its key's psi"


def _check_writers(world: Any) -> None:
    """Blocks that any living process may still write, stopped or replaced, belong to that write alone."""
    expander = world.expander
    holders = expander.core._blocks._holder
    for process in world.processes:
        for copy, attachment in process.dram.copies.items():
            if attachment.expander is expander and copy.is_store and not copy.is_over:
                mine = all(holders[block] == copy.generation for block in copy.blocks)
                assert mine, "blocks were taken from a writer that may go on"


def check_released(world: Any) -> None:
    """I7: nobody holds anything any more; what is left is psi that nothing holds."""
    for ranker in world.rankers.values():
        seen = ranker.machine.snapshot()
        assert (seen.open_tickets, seen.reserved_pages) == (0, 0), "something is still reserved"
        assert ranker.machine.deadline_ns() is None, "something still waits"
        entries = ranker.machine._books.entries.by_id.values()
        assert seen.used_pages == sum(pages_of(entry.tokens) for entry in entries) <= seen.total_pages
        assert not (ranker.jobs or ranker.spills or ranker.errands)
    if world.expander is not None:
        seen = world.expander.core.occupancy()
        ended = (seen.pins, seen.staging_blocks, seen.quarantined_blocks, seen.doomed_blocks)
        assert ended == (0, 0, 0, 0), f"something was never released: {seen}"
        assert seen.published_blocks + seen.free_blocks == LIMITS.block_count


def check_empty(world: Any) -> None:
    """Without rankers, and with time, nothing is left."""
    if world.expander is not None:
        seen = world.expander.core.occupancy()
        assert seen.free_blocks == LIMITS.block_count, f"something was never released: {seen}"
        assert (seen.owners, seen.pins, seen.entries, seen.tombstones) == (0, 0, 0, 0)
        assert not world.expander.segment.presence._counters.any(), "an empty tier's filter is all zero"
