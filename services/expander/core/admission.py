"""Who may push others out: users who come once must not flush those who come back.

A store for which there is room is granted to anybody. One that others have to make way for
must have been asked for more often, lately, than each of them that may still be wanted; an
entry that was last of use longer ago than users take to come back gives way to anybody. So
frequency decides where room is short, and where there is enough for those who return, the
order is that of recency alone: frequency by itself would keep users who have left for good.

What is noted is what the expander sees: lookups that found something, and asks to store.
Lookups of absent keys mostly never reach it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from relaygr.domain.identity import PsiKey
from services.expander.core.entries import Entry
from services.expander.core.returns import ReturnGaps
from services.expander.core.sketch import FrequencySketch, key_hash

NOTES_PER_ENTRY = 16
"""Keys noted for each entry held until counts are halved, since users come and go within minutes. On the traces of
`bench.tiers` 8 loses where few entries fit (64 MiB), 32 wins nothing more."""
ENTRIES_LEAST = 16


class AdmissionPolicy(StrEnum):
    """Which stores may make others give way."""

    ALL = "all"
    """Each: the least recently used go."""
    FREQUENCY = "frequency"
    """Those asked for more often than what they would push out, as long as that may still be wanted."""


class Admission:
    """The filter. Its memory is fixed.

    Args:
        policy: with `ALL` it notes nothing and admits everything.
        keys_max: most entries that fit.
    """

    def __init__(self, policy: AdmissionPolicy, keys_max: int):
        self._is_on = policy is AdmissionPolicy.FREQUENCY
        # The sizes do not matter when nothing is ever noted.
        keys_max = keys_max if self._is_on else 1
        self._sketch = FrequencySketch(keys_max)
        self._gaps = ReturnGaps(keys_max)
        self._noted = 0

    def note(self, key: PsiKey, now_ns: int, entries: int, *, is_return: bool) -> None:
        """A key was found, or asked to be stored.

        Args:
            key: whose psi.
            now_ns: when.
            entries: held now.
            is_return: False for an ask beside an entry, of a visit that a lookup has told of already.
        """
        if not self._is_on:
            return
        hashed = key_hash(key)
        self._sketch.note(hashed)
        self._gaps.seen(hashed, now_ns, is_return=is_return)
        self._noted += 1
        if self._noted >= NOTES_PER_ENTRY * max(ENTRIES_LEAST, entries):
            self._noted = 0
            self._sketch.halve()

    def admits(self, key: PsiKey, victims: Iterable[Entry], now_ns: int) -> bool:
        """True when these entries should give way to this key's psi."""
        usual_ns = self._gaps.usual_ns
        if not self._is_on or usual_ns is None:
            return True
        estimate = self._sketch.estimate(key_hash(key))
        return all(
            victim.key == key
            or now_ns - victim.used_ns >= usual_ns
            or estimate > self._sketch.estimate(key_hash(victim.key))
            for victim in victims
        )
