"""The remote pool ablation: psi in the memory of pool processes, fetched over the network while a rank waits.

One pool on each host, in the expander's place and with its byte budget; which one keeps a user's psi follows from the
user. A pre-infer computes psi and sends them to their pool; a rank asks the pool, fetches and then ranks, on whatever
instance it came to. Bytes pass a host's link one transfer after the other, in each direction, at a stated speed.

Source: design, section 3, invariant I2 (what it rules out); bench/load/ablations/{pool,pool_ranker}.py.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from bench.load.ablations.passing import PassingResidency
from relaygr.domain.chain import PAGE_TOKENS
from relaygr.domain.identity import PsiKey, UserKey
from services.ranker.core import effects as fx
from services.ranker.core import events as ev
from sim.chains import LogChain
from sim.kernel import SECOND, Kernel
from sim.memory import Content
from sim.messages import Asked, Request, Ticket
from sim.network import Network
from sim.nodes.dram import Dram
from sim.nodes.process import Process
from sim.nodes.ranker import Ranker
from sim.settings import Settings


def pool_name(number: int) -> str:
    """Of the pool on a host."""
    return f"pool-{number}"


class Links:
    """When each host's link is free, in each direction."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._out_ns: dict[str, int] = {}
        self._in_ns: dict[str, int] = {}

    def pass_ns(self, source: str, target: str, length_bytes: int, now_ns: int) -> int:
        """How long from now until so many bytes are across, behind what is on its way already."""
        begin_ns = max(now_ns, self._out_ns.get(source, 0), self._in_ns.get(target, 0))
        end_ns = begin_ns + int(length_bytes / self._bytes_per_s * SECOND)
        self._out_ns[source] = self._in_ns[target] = end_ns
        return end_ns - now_ns


@dataclass(frozen=True, slots=True)
class Pooled:
    """Psi in a pool."""

    key: PsiKey
    tokens: int
    digest: bytes
    length_bytes: int
    written: tuple[Content, ...]


class Pool(Process):
    """Entries by key, the one asked for longest ago goes first."""

    def __init__(
        self, kernel: Kernel, name: str, host: str, settings: Settings, network: Network, links: Links
    ) -> None:
        super().__init__(kernel, name, host)
        self._bytes_max = settings.dram_budget_bytes
        self._network = network
        self._links = links
        self._entries: OrderedDict[PsiKey, Pooled] = OrderedDict()
        self._used_bytes = 0

    def find(self, call: Asked) -> None:
        """What is there under a key, without its bytes."""
        found = self._entries.get(call.about)
        if found is not None:
            self._entries.move_to_end(call.about)
        self._network.reply(self, call.caller, call.caller.pool_found, call, found)

    def fetch(self, call: Asked) -> None:
        """Its bytes."""
        found = self._entries.get(call.about)
        across_ns = 0
        if found is not None:
            across_ns = self._links.pass_ns(self.host, call.caller.host, found.length_bytes, self.kernel.now_ns)
        self.after(across_ns, self._fetched, call, found)

    def store(self, call: Asked, entry: Pooled) -> None:
        """Keep an entry, once its bytes have come."""
        across_ns = self._links.pass_ns(call.caller.host, self.host, entry.length_bytes, self.kernel.now_ns)
        self.after(across_ns, self._stored, call, entry)

    def forget(self, owner: UserKey) -> None:
        """Erase a user."""
        for key in [key for key in self._entries if key.owner == owner]:
            self._drop(key)

    def _fetched(self, call: Asked, found: Pooled | None) -> None:
        self._network.reply(self, call.caller, call.caller.pool_fetched, call, found)

    def _stored(self, call: Asked, entry: Pooled) -> None:
        self._drop(entry.key)
        while self._entries and self._used_bytes + entry.length_bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))
        self._entries[entry.key] = entry
        self._used_bytes += entry.length_bytes
        self._network.reply(self, call.caller, call.caller.pool_stored, call)

    def _drop(self, key: PsiKey) -> None:
        found = self._entries.pop(key, None)
        self._used_bytes -= found.length_bytes if found is not None else 0


class PoolTier(Dram):
    """A ranker's side: the DRAM tier's interface, with calls to a pool."""

    def __init__(self, ranker: PooledRanker, network: Network) -> None:
        super().__init__(ranker, lambda: None)
        self._network = network
        self._pooled = ranker
        self.kept: dict[PsiKey, Pooled] = {}
        """Answers that wait for the lookup they were asked ahead of."""
        self._loads: dict[int, Asked] = {}
        self._stores_open = 0

    @property
    def is_idle(self) -> bool:
        """Nothing is under way."""
        return not self._loads and not self._stores_open

    def beat(self) -> None:
        """The pools are there from the begin on."""
        self.is_attached = True
        self._ranker.after(0, self._ranker.feed, ev.DramAttached(True))

    def may_find(self, key: PsiKey) -> bool:
        """True: only the pool knows."""
        return True

    def ask(self, verb: str, call: Asked, *more: object) -> None:
        """Call the pool of a key; `call.about` is the key."""
        number = crc32(call.about.owner.user.encode()) % self._settings.hosts
        self._network.call(self._ranker, pool_name(number), verb, self._away, call, *more)

    def look_up(self, effect: fx.StartLookup) -> None:
        """Ask for psi, unless that has been done."""
        kept = self.kept.pop(effect.key, None)
        call = self._loads[effect.job_id] = Asked(self._ranker, effect.key, 0, number=effect.job_id, extra=effect)
        if kept is not None:
            self._ranker.after(0, self._pooled.pool_found, call, kept)
        else:
            self.ask("find", call)

    def found(self, call: Asked, found: Pooled | None) -> None:
        """The answer to a lookup."""
        if found is None:
            self._loads.pop(call.number, None)
        if not call.is_over:
            call.is_over = True
            tokens, digest = (found.tokens, found.digest) if found is not None else (0, b"")
            self._ranker.feed(ev.LookupEnded(call.number, tokens, digest))

    def reload(self, effect: fx.StartReload) -> None:
        """Fetch what the lookup of the same job found."""
        call = self._loads[effect.job_id] = Asked(
            self._ranker, self._loads[effect.job_id].about, 0, number=effect.job_id, extra=effect
        )
        self.ask("fetch", call)

    def fetched(self, call: Asked, found: Pooled | None) -> None:
        """Bytes have come; they are copied to the device."""
        if not call.is_over:
            copy_ns = int(self._ranker.true_cost.reload_ns(call.extra.tokens) * self._ranker.copy_noise())
            self._ranker.after(copy_ns, self._on_device, call, found)

    def abandon(self, job_id: int) -> None:
        """Nothing is held."""
        self._loads.pop(job_id, None)

    def give_up(self, job_id: int) -> None:
        """End a lookup or fetch at once; it reports."""
        call = self._loads.get(job_id)
        if call is None or call.is_over:
            return
        del self._loads[job_id]
        call.is_over = True
        is_lookup = isinstance(call.extra, fx.StartLookup)
        told = ev.LookupEnded(job_id, 0, b"") if is_lookup else ev.ReloadEnded(job_id, False)
        self._ranker.after(0, self._ranker.feed, told)

    def spill(self, effect: fx.StartSpill) -> None:
        """Send psi to their pool."""
        pages = self._ranker.memory.pages
        written = tuple(pages[page_id] for page_id in effect.page_ids) if self._ranker.is_watched else ()
        length_bytes = effect.tokens * self._settings.cost.token_bytes
        self._stores_open += 1
        call = Asked(self._ranker, effect.key, 0, extra=effect)
        self.ask("store", call, Pooled(effect.key, effect.tokens, effect.digest, length_bytes, written))

    def stored(self, call: Asked) -> None:
        """The pool has it."""
        self._stores_open -= 1
        self._ranker.feed(ev.SpillEnded(call.extra.entry_id, True))

    def forget(self, owner: UserKey) -> None:
        """Erase a user."""
        number = crc32(owner.user.encode()) % self._settings.hosts
        self._network.call(self._ranker, pool_name(number), "forget", _nothing, owner)

    def _on_device(self, call: Asked, found: Pooled | None) -> None:
        if call.is_over:
            return
        self._loads.pop(call.number, None)
        effect: fx.StartReload = call.extra
        is_ok = found is not None and found.tokens >= effect.tokens
        if is_ok and found is not None and self._ranker.is_watched:
            for place in range(-(-effect.tokens // PAGE_TOKENS)):
                self._ranker.memory.pages[effect.page_ids[place]] = found.written[place]
        self._ranker.feed(ev.ReloadEnded(call.number, is_ok))

    def _away(self, *_: Any) -> None:
        raise AssertionError("pools do not die in this ablation")


class PooledRanker(Ranker):
    """An instance that keeps nothing: it takes tickets of all instances of its model, and fetches psi as it ranks."""

    residency = PassingResidency

    def __init__(self, *given: Any, network: Network, **named: Any) -> None:
        super().__init__(*given, network=network, **named)
        self._pool = PoolTier(self, network)
        self.dram = self._pool
        self._fetch_ids: dict[int, str] = {}
        """By request: the ticket of this instance that holds what was fetched for its rank."""

    def rank(self, call: Asked, request: Request, left_ns: int) -> None:
        """Ask the pool first, unless psi is here, on its way in or out."""
        key = self._key_of(request)
        if self._is_here(key):
            super().rank(call, request, left_ns)
        else:
            self._pool.ask("find", Asked(self, key, self.clock_ns() + left_ns, extra=(call, request)))

    def pool_found(self, call: Asked, found: Pooled | None) -> None:
        """What the pool has: for a rank that waits, or for a job."""
        if isinstance(call.extra, fx.StartLookup):
            self._pool.found(call, found)
            return
        waiting, request = call.extra
        part = _part_of(request.chain, found) if found is not None else None
        if part is not None and found is not None and not self._is_here(found.key):
            self._fetch(request, part, found, call.deadline_ns)
        super().rank(waiting, request, call.deadline_ns - self.clock_ns())

    def pool_fetched(self, call: Asked, found: Pooled | None) -> None:
        """Bytes from the pool."""
        self._pool.fetched(call, found)

    def pool_stored(self, call: Asked) -> None:
        """The pool has what was sent."""
        self._pool.stored(call)

    def _fetch(self, request: Request, part: LogChain, found: Pooled, until_ns: int) -> None:
        ticket_id = f"fetch-{request.index}"
        self._pool.kept[found.key] = found
        self.feed(ev.PreInferAsked(ticket_id, found.key, part, until_ns, ""))
        answer, self._answer = self._answer, None
        if isinstance(answer, fx.Accept):
            self._fetch_ids[request.index] = ticket_id
        else:
            self._pool.kept.pop(found.key, None)

    def _is_here(self, key: PsiKey) -> bool:
        assert isinstance(self.core, PassingResidency)
        return self.core.is_here(key)

    def _is_foreign(self, ticket: Ticket) -> bool:
        return ticket.model_key != self.model_key

    def _ticket_id_of(self, request: Request, *, is_foreign: bool) -> str | None:
        return self._fetch_ids.get(request.index) or super()._ticket_id_of(request, is_foreign=is_foreign)

    def _decided(self, ticket: Ticket) -> fx.Accept | fx.Decline:
        answer = super()._decided(ticket)
        # Psi leave the device as soon as the pool has them: there is nothing to survive here.
        self.psi.closed(ticket.ticket_id)
        return answer

    def _over(self, call: Asked) -> None:
        super()._over(call)
        ticket_id = self._fetch_ids.pop(call.about.index, None)
        if ticket_id is not None:
            self.after(0, self.feed, ev.TicketReleased(ticket_id))


def _part_of(chain: LogChain, found: Pooled) -> LogChain | None:
    """The part of a history that the pool has; None when it has another one, or a longer one."""
    if found.tokens > chain.tokens or chain.digest_at(found.tokens) != found.digest:
        return None
    return LogChain(chain.user, found.tokens, chain.text, chain.same_until)


def _nothing(*_: Any) -> None:
    """Nobody waits for it."""
