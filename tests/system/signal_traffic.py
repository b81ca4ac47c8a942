"""Traffic that makes every service say everything it can: `python -m tests.system.signal_traffic --help`.

A test drives a cluster of its own with it; by hand it drives whatever runs at the addresses given, a compose
deployment for one. What needs the processes themselves (killing a ranker) is done only where that can be done.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from relaygr.behaviours.columns import FeatureSpec
from relaygr.client import Ranking, RelayClient
from relaygr.errors import RelayError
from relaygr.telemetry import Telemetry
from relaygr.v1 import (
    expander_pb2,
    expander_pb2_grpc,
    ranker_pb2,
    ranker_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
    trigger_pb2,
    trigger_pb2_grpc,
)

AT_RISK_MS = 0.001
"""A ranking budget that no full inference meets."""
NO_RISK_MS = 10_000.0
LATEST_MS = 500.0
NOW_S = 1_700_000_000
PATIENCE_S = 30.0
LINGER_S = 12.0
"""Two periods of the metrics, and a margin."""
APPEND_BEHAVIOURS = (200, 300)
"""More new ones than a rank infers by itself, so that they are appended to psi."""

Act = Callable[[], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the traffic is sent to."""

    trigger: str
    router: str
    otlp: str
    """Where the client's own signals go."""
    users: Sequence[str]
    """With a history in the store; more than the devices have room for."""
    items: Sequence[int] = field(default_factory=lambda: range(1, 65))
    features: FeatureSpec = field(default_factory=FeatureSpec)
    """The model's, for histories that are sent along."""
    rankers: Sequence[str] = ()
    """Addresses, to drain one and to ask each about itself; empty: that is left out."""
    expander: str = ""
    """Address, to send it a wrong request; empty: that is left out."""
    lose_ranker: Act | None = None
    """Kills one, and comes back once the others have its users."""
    regain_ranker: Act | None = None


class Traffic:
    """Sends each kind of request until what should come of it has come."""

    def __init__(self, target: Target, client: RelayClient) -> None:
        self._target = target
        self._client = client

    async def everything(self) -> list[str]:
        """Each kind once; what was left out for want of an address."""
        kinds = (self.not_at_risk, self.declined, self.joined, self.on_device, self.reloaded, self.appended)
        for kind in (*kinds, self.invalid, self.given_up, self.forgotten):
            await kind()
        left_out = []
        for name, kind, can in (
            ("a wrong request to the expander", self.invalid_to_expander, self._target.expander),
            ("a ranker that is lost", self.rerouted, self._target.lose_ranker),
            # Last, since routers hear of it later than the ranker itself.
            ("asking rankers about themselves, and draining them", self.drained, self._target.rankers),
        ):
            if can:
                await kind()
            else:
                left_out.append(name)
        return left_out

    async def burst(self) -> None:
        """Half of the users at once."""
        half = self._target.users[: len(self._target.users) // 2]
        await asyncio.gather(*(self._relay(user) for user in half), return_exceptions=True)

    async def not_at_risk(self) -> None:
        """Ranked in full, without a ticket."""
        # Of a known user psi may be there from before.
        newcomer = f"newcomer-{secrets.token_hex(4)}"
        decision, ranking = await self._relay(newcomer, behaviours=history(APPEND_BEHAVIOURS[0]), budget_ms=NO_RISK_MS)
        assert (decision, ranking.tier) == ("NOT_AT_RISK", "FULL"), (decision, ranking.tier)

    async def declined(self) -> None:
        """More at once than the devices have room for."""

        async def refused() -> bool:
            relays = await asyncio.gather(*(self._arrive(user) for user in self._target.users))
            for relay in relays:
                await relay.release()
            return any(relay.decision == "DECLINED" for relay in relays)

        await until(refused, "an arrival is declined")

    async def joined(self) -> None:
        """A rank that comes while psi is being made."""
        await self._until_tier("JOINED", wait_s=0.0)

    async def on_device(self) -> None:
        """A rank on psi that is there."""
        await self._until_tier("DEVICE", wait_s=0.1)

    async def reloaded(self) -> None:
        """Psi that had left the device; on the way there it was spilled."""
        await self._until_tier("DRAM", wait_s=0.05)

    async def appended(self) -> None:
        """A history that has grown since psi was made."""
        for count in APPEND_BEHAVIOURS:

            async def on_psi(count: int = count) -> bool:
                _, ranking = await self._relay("grows", behaviours=history(count), wait_s=0.1)
                return ranking.tier == "DEVICE" and ranking.psi_tokens > count

            await until(on_psi, f"psi of {count} behaviours is ranked on")

    async def given_up(self) -> None:
        """A request that never ranks."""

        async def released() -> bool:
            relay = await self._arrive(self._target.users[1])
            await relay.release()
            return relay.admitted

        await until(released, "an admitted request is given up")

    async def forgotten(self) -> None:
        """A user who must be erased."""
        await self._relay(self._target.users[2])
        assert not (await self._client.forget(self._target.users[2])).unreached

    async def invalid(self) -> None:
        """Wrong requests: the trigger's, the router's, and one that the ranker finds wrong."""
        async with grpc.aio.insecure_channel(self._target.trigger) as channel:
            arrive = trigger_pb2_grpc.TriggerServiceStub(channel).Arrive(trigger_pb2.ArriveRequest(), timeout=5)
            await refused_as_invalid(arrive)
        async with grpc.aio.insecure_channel(self._target.router) as channel:
            router = router_pb2_grpc.RouterServiceStub(channel)
            for rank in (ranker_pb2.RankRequest(), ranker_pb2.RankRequest(user="nobody", request_time_s=NOW_S)):
                await refused_as_invalid(router.Rank(router_pb2.RouterServiceRankRequest(rank=rank), timeout=5))

    async def invalid_to_expander(self) -> None:
        """Rankers send it none, and are told blocks with their lookups; so this is sent to it directly."""
        async with grpc.aio.insecure_channel(self._target.expander) as channel:
            expander = expander_pb2_grpc.ExpanderServiceStub(channel)
            await expander.Describe(expander_pb2.ExpanderServiceDescribeRequest(), timeout=5)
            await refused_as_invalid(expander.Evict(expander_pb2.EvictRequest(), timeout=5))
            stale = expander.PrepareLoad(expander_pb2.PrepareLoadRequest(), timeout=5)
            await refused(stale, grpc.StatusCode.FAILED_PRECONDITION)

    async def drained(self) -> None:
        """A ranker takes no more pre-infers, and takes them again."""
        for address in self._target.rankers:
            async with grpc.aio.insecure_channel(address) as channel:
                ranker = ranker_pb2_grpc.RankerServiceStub(channel)
                await ranker.Drain(ranker_pb2.DrainRequest(), timeout=5)
                seen = await ranker.Describe(ranker_pb2.DescribeRequest(), timeout=5)
                assert seen.state == ranker_pb2.INSTANCE_STATE_DRAINING
                await ranker.Drain(ranker_pb2.DrainRequest(undo=True), timeout=5)

    async def rerouted(self) -> None:
        """A ranker dies under load: whoever it had is ranked by another."""
        assert self._target.lose_ranker is not None
        losing = asyncio.ensure_future(self._target.lose_ranker())
        while not losing.done():
            await self.burst()
        await losing
        await self.burst()
        if self._target.regain_ranker is not None:
            await self._target.regain_ranker()

    async def _until_tier(self, tier: str, *, wait_s: float) -> None:
        async def seen() -> bool:
            for user in self._target.users:
                if (await self._relay(user, wait_s=wait_s))[1].tier == tier:
                    return True
            return False

        await until(seen, f"a rank of tier {tier}")

    async def _arrive(self, user: str, budget_ms: float = AT_RISK_MS, behaviours: Any = None) -> Any:
        return await self._client.arrive(
            user=user,
            behaviours=behaviours,
            candidate_count=len(self._target.items),
            rank_budget_ms=budget_ms,
            rank_latest_ms=LATEST_MS,
        )

    async def _relay(
        self, user: str, *, budget_ms: float = AT_RISK_MS, wait_s: float = 0.05, behaviours: Any = None
    ) -> tuple[str, Ranking]:
        async with await self._arrive(user, budget_ms, behaviours) as relay:
            with relay.stage("retrieval"):
                await asyncio.sleep(wait_s)
            return relay.decision, await relay.rank(self._target.items, request_time_s=NOW_S)


def history(count: int) -> dict[str, Any]:
    """The first behaviours of a history that always begins the same."""
    rng = np.random.default_rng(7)
    items = rng.integers(1, 65, APPEND_BEHAVIOURS[-1])
    times_s = NOW_S - 1_000_000 + np.cumsum(rng.integers(1, 1000, APPEND_BEHAVIOURS[-1]))
    return {"item_ids": items[:count], "timestamps_s": times_s[:count]}


async def refused_as_invalid(call: Any) -> None:
    """The call fails for the caller's mistake."""
    await refused(call, grpc.StatusCode.INVALID_ARGUMENT)


async def refused(call: Any, code: grpc.StatusCode) -> None:
    """The call fails with this status."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() is code, error
        return
    raise AssertionError("a wrong request was served")


async def until(condition: Callable[[], Awaitable[bool]], what: str, patience_s: float = PATIENCE_S) -> None:
    """Ask again and again until it holds."""
    deadline_s = time.monotonic() + patience_s
    while not await condition():
        assert time.monotonic() < deadline_s, f"not within {patience_s} s: {what}"
        await asyncio.sleep(0.05)


async def drive(
    target: Target, *, has_everything: bool = True, then: Callable[[Traffic], Awaitable[None]] | None = None
) -> list[str]:
    """Send everything with a client that exports; `then` goes on with the same client. Gives what was left out."""
    telemetry = Telemetry.setup("relaygr-client", "signal-traffic", target.otlp, b"signal-traffic")
    try:
        async with RelayClient(
            target.trigger,
            target.router,
            telemetry=telemetry,
            arrive_timeout_ms=1000.0,
            rank_deadline_ms=5000.0,
            features=target.features,
        ) as client:
            traffic = Traffic(target, client)
            left_out = await traffic.everything() if has_everything else []
            if then is not None:
                await then(traffic)
            return left_out
    finally:
        await asyncio.to_thread(telemetry.shutdown)


async def linger(traffic: Traffic) -> None:
    """Go on until every service has sent its metrics of what came before, and so has this client."""
    deadline_s = time.monotonic() + LINGER_S
    while time.monotonic() < deadline_s:
        await traffic.burst()


def get_json(url: str) -> Any:
    """What the console answers."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def main() -> int:
    """Drive what runs at the addresses given, and show what the console saw."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.signal_traffic")
    parser.add_argument("--trigger", default="127.0.0.1:7001")
    parser.add_argument("--router", default="127.0.0.1:7002")
    parser.add_argument("--rankers", default="", help="addresses with commas; empty: none is drained")
    parser.add_argument("--expander", default="")
    parser.add_argument("--otlp", default="http://127.0.0.1:4317")
    parser.add_argument("--console", default="http://127.0.0.1:7080")
    parser.add_argument("--users", type=int, default=40, help="users 1 to N have histories")
    parser.add_argument("--user-categorical", default="", help="the model's vocabulary sizes of profiles, with commas")
    given = parser.parse_args()
    sizes = tuple(int(size) for size in given.user_categorical.split(",") if size)
    target = Target(
        trigger=given.trigger,
        router=given.router,
        otlp=given.otlp,
        users=[str(user) for user in range(1, given.users + 1)],
        rankers=[address for address in given.rankers.split(",") if address],
        features=FeatureSpec(user_categorical=sizes),
        expander=given.expander,
    )
    try:
        left_out = asyncio.run(drive(target, then=linger))
        sys.stdout.write(json.dumps(get_json(f"{given.console}/api/signals"), indent=2) + "\n")
    except (AssertionError, RelayError, OSError) as error:
        sys.stderr.write(f"{error}; see that the addresses are right and everything serves\n")
        return 1
    for name in left_out:
        sys.stderr.write(f"left out: {name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
