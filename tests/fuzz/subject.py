"""What is fuzzed: something that draws inputs, takes them, and tells what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.fuzz.verdict import Verdict

PIECES = (2, 4, 8, 16)


class Subject:
    """One target, opened. All that an input is made of is in its bytes, so that it can be kept and given again."""

    logged: tuple[type[BaseException], ...] = ()
    """What a library logs as an error though it has answered as it should."""

    def draw(self, random: Random) -> bytes:
        """An input: most of them valid but for something."""
        raise NotImplementedError

    async def give(self, data: bytes) -> Verdict:
        """Take an input. What it raises is a crash; what takes too long is a hang."""
        raise NotImplementedError

    def smaller(self, data: bytes) -> Iterator[bytes]:
        """Inputs with less in them, the smallest first."""
        for pieces in PIECES:
            step = max(1, -(-len(data) // pieces))
            for begin in range(0, len(data), step):
                yield data[:begin] + data[begin + step :]

    async def settle(self) -> None:
        """Let what goes on behind answers end."""

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Of each table, what is in it and the most that may be in it at rest."""
        return {}

    async def still_serves(self) -> str:
        """What is wrong with an honest request now; empty when it is served as ever."""
        return ""


def choose(random: Random, *weighted: tuple[float, str]) -> str:
    """A name, by weight."""
    weights = [weight for weight, _ in weighted]
    return random.choices([name for _, name in weighted], weights)[0]
