"""A ranker's side of the DRAM tier: attaching, lookups, reloads and copies out, with times by the cost model.

A lookup or a reload that is given up reports at once, and lets its pin go when it has one. A copy of a process that
was stopped goes on when the process does: that is what the expander's quarantine is for.

Source: design, section 3 (ranker, expander); services/ranker/dram_work.py, services/ranker/adapters/dram.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey, UserKey
from services.expander.core.effects import Found, StoreGrant, StoreRefusal
from services.expander.core.entries import Content
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from sim.memory import Content as Written
from sim.nodes.expander import Expander
from sim.nodes.process import Process

if TYPE_CHECKING:
    from sim.nodes.ranker import Ranker

STORES_MAX = 4
"""Copies out in flight, as the adapter's."""


@dataclass(slots=True, eq=False)
class Attachment:
    """One boot of an expander and one index there; `may_write` until it ends or its process dies."""

    expander: Expander
    index: int
    process: Process
    is_ended: bool = False
    copies: int = 0

    def may_write(self) -> bool:
        """True while the lock on the segment is held."""
        return self.process.is_alive and (not self.is_ended or self.copies > 0)


@dataclass(slots=True, eq=False)
class _Fetch:
    """A lookup or reload of one job."""

    job_id: int
    key: PsiKey
    attachment: Attachment
    found: Found | None = None
    page_ids: tuple[int, ...] = ()
    tokens: int = 0
    is_over: bool = False


@dataclass(slots=True, eq=False)
class _Store:
    """A copy out."""

    effect: fx.StartSpill
    attachment: Attachment
    grant: StoreGrant | None = None
    written: tuple[Written, ...] = ()


class Dram:
    """Lookups, reloads and copies of one ranker. Does nothing where there is no expander."""

    def __init__(self, ranker: Ranker, find: Callable[[], Expander | None]) -> None:
        """`find`: the expander of the host, if one is there and not stopped."""
        self._ranker = ranker
        self._settings = ranker.settings
        self._find = find
        self._held: Attachment | None = None
        self._fetches: dict[int, _Fetch] = {}
        self._stores: dict[PsiKey, _Store] = {}
        self.is_attached = False

    @property
    def is_idle(self) -> bool:
        """Nothing is under way."""
        return not self._fetches and not self._stores

    def beat(self) -> None:
        """A heartbeat, and the next one after a while."""
        ranker = self._ranker
        expander = self._find()
        if expander is None:
            self._set_attached(False)
            self._end_held()
        else:
            self._attach(expander)
        ranker.after(self._settings.heartbeat_ns, self.beat)

    def may_find(self, key: PsiKey) -> bool:
        """False when a lookup would find nothing."""
        held = self._held
        return self.is_attached and held is not None and held.expander.presence.may_hold(key)

    def look_up(self, effect: fx.StartLookup) -> None:
        """Ask for psi."""
        held = self._held
        if held is None or not self.may_find(effect.key):
            self._ranker.after(0, self._ranker.feed, ev.LookupEnded(effect.job_id, 0, b""))
            return
        fetch = _Fetch(effect.job_id, effect.key, held)
        self._fetches[effect.job_id] = fetch
        self._after_call(self._looked_up, fetch)

    def reload(self, effect: fx.StartReload) -> None:
        """Copy what the lookup of the same job found."""
        fetch = self._fetches.get(effect.job_id)
        if fetch is None:
            self._ranker.after(0, self._ranker.feed, ev.ReloadEnded(effect.job_id, False))
            return
        fetch.page_ids, fetch.tokens = effect.page_ids, effect.tokens
        cost = self._ranker.true_cost
        self._ranker.after(int(cost.reload_ns(fetch.tokens) * self._ranker.copy_noise()), self._copied, fetch)

    def abandon(self, job_id: int) -> None:
        """Let go of what a lookup found."""
        fetch = self._fetches.pop(job_id, None)
        if fetch is not None:
            fetch.is_over = True
            self._unpin(fetch)

    def give_up(self, job_id: int) -> None:
        """End a lookup or reload at once; it reports."""
        fetch = self._fetches.pop(job_id, None)
        if fetch is None or fetch.is_over:
            return
        fetch.is_over = True
        if fetch.found is None:
            self._ranker.after(0, self._ranker.feed, ev.LookupEnded(job_id, 0, b""))
        elif fetch.tokens:
            self._unpin(fetch)
            self._ranker.after(0, self._ranker.feed, ev.ReloadEnded(job_id, False))
        else:
            self._fetches[job_id], fetch.is_over = fetch, False

    def spill(self, effect: fx.StartSpill) -> None:
        """Copy psi out."""
        held = self._held
        if not self.is_attached or held is None or len(self._stores) >= STORES_MAX or effect.key in self._stores:
            self._spilled(effect, False)
            return
        store = self._stores[effect.key] = _Store(effect, held)
        self._after_call(self._store_granted, store)

    def forget(self, owner: UserKey) -> None:
        """Erase a user."""
        expander = self._find()
        if expander is not None:
            expander.evict(owner)

    def _after_call(self, then: Callable[..., None], *arguments: object) -> None:
        """A control call there and back."""
        self._ranker.after(2 * self._settings.local_ns, then, *arguments)

    def _answers(self, attachment: Attachment) -> bool:
        """Whether the expander of an attachment answers now; when it does not, the tier is off."""
        if attachment.is_ended or self._find() is not attachment.expander:
            if attachment is self._held:
                self._set_attached(False)
            return False
        return True

    def _attach(self, expander: Expander) -> None:
        held, ranker = self._held, self._ranker
        if held is not None and held.expander is not expander:
            self._set_attached(False)
            self._end_held()
            held = None
        candidate = held or Attachment(expander, -1, ranker)
        index = expander.attach(ranker.name, ranker.epoch, candidate.may_write)
        if index is None:
            return
        if held is not None and index != held.index:
            # Everything granted under the old index is void; the new one is taken once its copies have ended.
            expander.owner_lives[index] = (fresh := Attachment(expander, index, ranker)).may_write
            self._set_attached(False)
            self._end_held()
            self._held = fresh
        elif held is None:
            candidate.index = index
            self._held = candidate
        self._set_attached(True)

    def _end_held(self) -> None:
        if self._held is not None:
            self._held.is_ended = True
            self._held = None

    def _set_attached(self, is_attached: bool) -> None:
        if is_attached != self.is_attached:
            self.is_attached = is_attached
            self._ranker.feed(ev.DramAttached(is_attached))

    def _looked_up(self, fetch: _Fetch) -> None:
        attachment, found = fetch.attachment, None
        if self._answers(attachment):
            found = attachment.expander.lookup(self._ranker.name, attachment.index, fetch.key)
        fetch.found = found
        if fetch.is_over:
            self._unpin(fetch)
            return
        if found is None:
            del self._fetches[fetch.job_id]
            self._ranker.feed(ev.LookupEnded(fetch.job_id, 0, b""))
        else:
            content = found.content
            self._ranker.feed(ev.LookupEnded(fetch.job_id, content.tokens, content.chain_digest))

    def _copied(self, fetch: _Fetch) -> None:
        if fetch.is_over:
            return
        attachment, found = fetch.attachment, fetch.found
        is_ok = False
        if self._answers(attachment) and found is not None:
            written = attachment.expander.written.get(found.generation, ())
            is_ok = attachment.expander.complete_load(self._ranker.name, attachment.index, found.pin_id)
            if is_ok and self._ranker.is_watched:
                for place in range(-(-fetch.tokens // PAGE_TOKENS)):
                    self._ranker.memory.pages[fetch.page_ids[place]] = written[place]
            fetch.found = None
        self._reloaded(fetch, is_ok)

    def _reloaded(self, fetch: _Fetch, is_ok: bool) -> None:
        self._fetches.pop(fetch.job_id, None)
        fetch.is_over = True
        self._unpin(fetch)
        self._ranker.feed(ev.ReloadEnded(fetch.job_id, is_ok))

    def _unpin(self, fetch: _Fetch) -> None:
        found, fetch.found = fetch.found, None
        if found is not None and self._answers(fetch.attachment):
            fetch.attachment.expander.complete_load(self._ranker.name, fetch.attachment.index, found.pin_id)

    def _store_granted(self, store: _Store) -> None:
        attachment, effect = store.attachment, store.effect
        grant: StoreGrant | StoreRefusal | None = None
        length_bytes = effect.tokens * self._settings.cost.token_bytes
        if self._answers(attachment):
            grant = attachment.expander.prepare_store(
                self._ranker.name,
                attachment.index,
                attachment,
                effect.key,
                effect.tokens,
                effect.digest,
                length_bytes,
            )
        if not isinstance(grant, StoreGrant):
            del self._stores[effect.key]
            self._spilled(effect, grant is StoreRefusal.PRESENT)
            return
        store.grant = grant
        attachment.copies += 1
        if self._ranker.is_watched:
            pages = self._ranker.memory.pages
            store.written = tuple(pages[page_id] for page_id in effect.page_ids)
        cost = self._ranker.true_cost
        self._ranker.after(int(cost.reload_ns(effect.tokens) * self._ranker.copy_noise()), self._stored, store)

    def _stored(self, store: _Store) -> None:
        attachment, effect, grant = store.attachment, store.effect, store.grant
        assert grant is not None
        attachment.copies -= 1
        del self._stores[effect.key]
        is_stored = False
        if self._answers(attachment):
            length_bytes = effect.tokens * self._settings.cost.token_bytes
            content = Content(effect.tokens, effect.digest, length_bytes, b"", "")
            is_stored = attachment.expander.complete_store(
                self._ranker.name, attachment.index, grant, attachment, content, store.written
            )
        else:
            attachment.expander.ended(grant.blocks, attachment)
        self._spilled(effect, is_stored)

    def _spilled(self, effect: fx.StartSpill, is_stored: bool) -> None:
        self._ranker.after(0, self._ranker.feed, ev.SpillEnded(effect.entry_id, is_stored))
