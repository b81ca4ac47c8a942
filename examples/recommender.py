"""An example recommender: python examples/recommender.py --user 42, or a load: --users 100 --requests 600 --rate 20.

It does what a recommender does around RelayGR: it announces the user when the request comes, retrieves candidates and
prepares them (stand-ins here: popular items, and the time that retrieval would take), and ranks. With --rate requests
are sent at their times whether or not earlier ones were answered, as users come.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from relaygr.client import Ranking, Relay, RelayClient
from relaygr.errors import DeadlineTooShort, InvalidRequest, Refused, RelayError, Unreachable
from relaygr.telemetry import Telemetry

LINES_RATE_MAX_HZ = 10.0
"""Above it only the summary is printed."""
ARRIVE_TIMEOUT_MS = 250.0
START_S = 0.2


class Recommender:
    """Recommends items to users, as the handler of one request would."""

    def __init__(self, client: RelayClient, items: list[int], given: argparse.Namespace) -> None:
        self._client = client
        self._items = items
        self._given = given
        self._random = random.Random(given.seed)

    async def recommend(self, user: str) -> tuple[Relay, Ranking]:
        """One request: announce, retrieve, prepare, rank."""
        count, budget_ms = min(self._given.candidates, len(self._items)), self._given.budget_ms
        async with await self._client.arrive(user=user, candidate_count=count, rank_budget_ms=budget_ms) as relay:
            with relay.stage("retrieval"):
                candidates = await self._retrieve(count)
            with relay.stage("pre-processing"):
                await asyncio.sleep(self._given.prepare_ms / 1e3)
            return relay, await relay.rank(candidates, deadline_ms=self._given.deadline_ms)

    async def _retrieve(self, count: int) -> list[int]:
        """Popular items come first in the list and are taken more often; a real retrieval asks an index."""
        await asyncio.sleep(self._given.retrieval_ms / 1e3)
        head = self._items[: 4 * count]
        return self._random.sample(head, count)


@dataclass
class Tally:
    """What came of the requests."""

    begun_s: float = field(default_factory=time.monotonic)
    rank_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    """From the time a request was due."""
    tiers: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def ranked(self, relay: Relay, ranking: Ranking, due_s: float) -> None:
        """One was answered."""
        self.rank_ms.append(ranking.timings_ms["rank"])
        self.whole_ms.append((time.monotonic() - due_s) * 1e3)
        self.tiers[ranking.tier] += 1
        self.decisions[relay.decision] += 1

    def failed(self, error: RelayError) -> bool:
        """One was not; true when it is the first of its kind."""
        self.errors[type(error).__name__] += 1
        return self.errors[type(error).__name__] == 1

    def text(self) -> str:
        """The summary."""
        sent, seconds = len(self.rank_ms) + self.errors.total(), time.monotonic() - self.begun_s
        lines = [f"{sent} requests in {seconds:.1f} s: {len(self.rank_ms)} ranked, {self.errors.total()} failed"]
        for name, values in (("rank", self.rank_ms), ("whole request", self.whole_ms)):
            if values:
                p50, p99 = percentile(values, 0.50), percentile(values, 0.99)
                lines.append(f"{name}: P50 {p50:.1f} ms, P99 {p99:.1f} ms")
        for name, counts in (("tiers", self.tiers), ("decisions", self.decisions), ("errors", self.errors)):
            if counts:
                lines.append(f"{name}: " + ", ".join(f"{key} {count}" for key, count in counts.most_common()))
        return "\n".join(lines)


async def send(recommender: Recommender, given: argparse.Namespace, tally: Tally) -> None:
    """Send all requests: at their times with a rate, else one after another."""
    rng = random.Random(given.seed)
    users = [given.user or str(rng.randrange(given.users)) for _ in range(given.requests)]
    if not given.rate:
        for user in users:
            await one(recommender, user, time.monotonic(), given, tally)
        return
    begin_s = time.monotonic() + START_S
    async with asyncio.TaskGroup() as tasks:
        for number, user in enumerate(users):
            due_s = begin_s + number / given.rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.create_task(one(recommender, user, due_s, given, tally))


async def one(recommender: Recommender, user: str, due_s: float, given: argparse.Namespace, tally: Tally) -> None:
    """Send one request and print its line at low rates; errors are told once of each kind."""
    has_lines = given.rate <= LINES_RATE_MAX_HZ
    try:
        relay, ranking = await recommender.recommend(user)
    except RelayError as error:
        if tally.failed(error) or has_lines:
            print(f"user {user}: {advice(error, given)}", file=sys.stderr)
        return
    tally.ranked(relay, ranking, due_s)
    if has_lines:
        print(line(user, relay, ranking), flush=True)


def line(user: str, relay: Relay, ranking: Ranking) -> str:
    """What happened to one request."""
    why = f" ({ranking.fallback})" if ranking.fallback else ""
    note = f"; the trigger did not answer: {relay.arrive_error}" if relay.arrive_error is not None else ""
    return (
        f"user {user}  {relay.decision}  {ranking.tier}{why}  rank {ranking.timings_ms['rank']:.1f} ms  "
        f"best item {ranking.top(1)[0][0]}  trace {ranking.trace_id}{note}"
    )


def advice(error: RelayError, given: argparse.Namespace) -> str:
    """What went wrong, and what to do next, on one line."""
    match error:
        case Unreachable():
            return f"no answer from {error.peer}; start a cluster with `make up`, or check --trigger and --router"
        case DeadlineTooShort():
            return f"not ranked within {given.deadline_ms:g} ms; raise --deadline-ms or lower --rate"
        case Refused():
            return f"refused ({error.reason}); lower --rate or add rankers"
        case InvalidRequest():
            return f"the request is wrong ({error}); check --user, --items and --candidates against the model's limits"
        case _:
            return f"{type(error).__name__}: {error}; look for the request in the services' logs"


def items_of(text: str) -> list[int]:
    """Item ids, the most popular first: a range 1-500, a list 3,7,9, or a file with one id on each line."""
    path = Path(text)
    if path.is_file():
        return [int(word) for word in path.read_text().split()]
    if "-" in text:
        first, last = (int(part) for part in text.split("-"))
        return list(range(first, last + 1))
    return [int(part) for part in text.split(",")]


def percentile(values: list[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0].partition(":")[0])
    made.add_argument("--trigger", default="127.0.0.1:7001", metavar="HOST:PORT")
    made.add_argument("--router", default="127.0.0.1:7002", metavar="HOST:PORT")
    who = made.add_mutually_exclusive_group()
    who.add_argument("--user", default="", metavar="ID", help="one user")
    who.add_argument("--users", type=int, default=100, metavar="N", help="users 0 to N-1, drawn at random (100)")
    made.add_argument("--items", default="1-500", help="1-500, 3,7,9, or a file of ids; the most popular first")
    made.add_argument("--candidates", type=int, default=100, help="items ranked in a request (100)")
    made.add_argument("--requests", type=int, default=1, help="how many (1)")
    made.add_argument("--rate", type=float, default=0.0, metavar="HZ", help="a second; 0: each after the one before")
    made.add_argument("--retrieval-ms", type=float, default=50.0, help="what retrieval takes (50)")
    made.add_argument("--prepare-ms", type=float, default=10.0, help="what pre-processing takes (10)")
    made.add_argument("--budget-ms", type=float, default=0.0, help="ranking's budget; 0: the trigger's default")
    made.add_argument("--deadline-ms", type=float, default=1000.0, help="longest wait for a rank (1000)")
    made.add_argument("--tenant", default="default")
    made.add_argument("--otlp", default="", metavar="URL", help="send spans and metrics there: http://127.0.0.1:4317")
    made.add_argument("--seed", type=int, default=1, help="of users and candidates (1)")
    return made


async def run(given: argparse.Namespace, items: list[int], tally: Tally) -> None:
    """Open the client, send, close."""
    name = f"recommender-{os.getpid()}"
    # Hashes of user ids are keyed; this key is of the recommender's own spans only.
    telemetry = Telemetry.setup("relaygr-client", name, given.otlp or None, os.urandom(16))
    try:
        async with RelayClient(
            given.trigger,
            given.router,
            tenant=given.tenant,
            telemetry=telemetry,
            arrive_timeout_ms=ARRIVE_TIMEOUT_MS,
            rank_deadline_ms=given.deadline_ms,
        ) as client:
            await send(Recommender(client, items, given), given, tally)
    finally:
        await asyncio.to_thread(telemetry.shutdown)


def main(arguments: list[str] | None = None) -> int:
    """Parse, run, sum up; 1 when a request failed, 2 when the command line is wrong."""
    made = parser()
    given = made.parse_args(arguments)
    try:
        items = items_of(given.items)
    except ValueError:
        made.error(f"--items {given.items}: neither a range such as 1-500, nor ids with commas, nor a file")
    if min(given.requests, given.candidates, given.users, len(items)) < 1 or given.rate < 0:
        made.error("--requests, --candidates and --users are at least 1, --rate is not negative, --items not empty")
    tally = Tally()
    try:
        asyncio.run(run(given, items, tally))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    print(tally.text())
    return 1 if tally.errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
