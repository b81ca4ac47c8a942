"""What the edge refuses: bad input by its field's name, calls of another boot or attachment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from relaygr.rpc.identity import model_to_pb
from relaygr.v1 import expander_pb2 as pb
from tests.contract.expander_world import CHAIN, MODEL, World, expander_world, key_of, pages_of, stored


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with expander_world(tmp_path) as made:
        yield made


def key_pb(**changes: Any) -> pb.EntryKey:
    return pb.EntryKey(**({"tenant": "t", "user": "u", "model": model_to_pb(MODEL), "anchor": 0} | changes))


async def attach(world: World, owner: str = "r") -> dict[str, Any]:
    reply = await world.stub.Attach(pb.AttachRequest(owner=owner, owner_epoch=1), timeout=5)
    return {"boot_id": reply.boot_id, "owner": owner, "owner_index": reply.owner_index}


def store_of(caller: dict[str, Any], **changes: Any) -> pb.PrepareStoreRequest:
    fields: dict[str, Any] = {"key": key_pb(), "length_bytes": 100, "token_count": 2, "chain_digest": CHAIN}
    return pb.PrepareStoreRequest(**caller, **(fields | changes))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("key.user", {"key": key_pb(user="")}),
        ("key.user", {"key": key_pb(user="x" * 129)}),
        ("key.tenant", {"key": key_pb(tenant="x" * 65)}),
        ("key.model.name", {"key": key_pb(model=None)}),
        ("length_bytes", {"length_bytes": 0}),
        ("token_count", {"token_count": 0}),
        ("chain_digest", {"chain_digest": b"short"}),
    ],
)
async def test_a_bad_store_is_refused_by_its_fields_name(world: World, field: str, changes: dict[str, Any]) -> None:
    caller = await attach(world)
    code, details = await refused(world.stub.PrepareStore(store_of(caller, **changes), timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and details.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("content.content_digest", {"content_digest": b"x"}),
        ("content.chain_digest", {"chain_digest": b""}),
        ("content.length_bytes", {"length_bytes": 0}),
        ("content.producer_traceparent", {"producer_traceparent": "x" * 200}),
    ],
)
async def test_a_bad_content_is_refused_by_its_fields_name(world: World, field: str, content: dict[str, Any]) -> None:
    caller = await attach(world)
    good = {"token_count": 2, "chain_digest": CHAIN, "length_bytes": 100, "content_digest": CHAIN}
    request = pb.CompleteStoreRequest(**caller, store_id=1, written=True, content=pb.EntryContent(**(good | content)))
    code, details = await refused(world.stub.CompleteStore(request, timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and details.startswith(f"{field}: ")


async def test_an_owner_without_a_name_is_refused(world: World) -> None:
    code, details = await refused(world.stub.Attach(pb.AttachRequest(), timeout=5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and details.startswith("owner: ")


@pytest.mark.parametrize("change", [{"boot_id": "other"}, {"owner": "x"}, {"owner_index": 5}])
async def test_calls_of_another_boot_or_attachment_are_stale(world: World, change: dict[str, Any]) -> None:
    caller = await attach(world) | change
    stub = world.stub
    calls = [
        stub.Lookup(pb.LookupRequest(**caller, key=key_pb()), timeout=5),
        stub.PrepareLoad(pb.PrepareLoadRequest(**caller, pin_id=1), timeout=5),
        stub.CompleteLoad(pb.CompleteLoadRequest(**caller, pin_id=1), timeout=5),
        stub.PrepareStore(store_of(caller), timeout=5),
    ]
    assert [(await refused(call))[0] for call in calls] == [grpc.StatusCode.FAILED_PRECONDITION] * 4


async def test_a_store_without_the_lock_is_not_granted(world: World) -> None:
    caller = await attach(world)
    code, details = await refused(world.stub.PrepareStore(store_of(caller), timeout=5))
    assert code is grpc.StatusCode.FAILED_PRECONDITION and "lock" in details


async def test_a_lookup_tells_the_blocks_only_when_asked(world: World) -> None:
    tier, caller = await world.ranker(), await attach(world)
    assert await stored(tier, key_of("u"), pages_of(1))
    plain = await world.stub.Lookup(pb.LookupRequest(**caller, key=key_pb()), timeout=5)
    told = await world.stub.Lookup(pb.LookupRequest(**caller, key=key_pb(), prepare_load=True), timeout=5)
    grant = await world.stub.PrepareLoad(pb.PrepareLoadRequest(**caller, pin_id=plain.pin_id), timeout=5)
    assert not plain.blocks and grant.granted
    assert (list(told.blocks), told.generation) == (list(grant.blocks), grant.generation)


async def test_more_rankers_than_indexes_are_refused(tmp_path: Path) -> None:
    async with expander_world(tmp_path, owners_max=2) as world:
        await attach(world, "a")
        await attach(world, "b")
        code, _ = await refused(world.stub.Attach(pb.AttachRequest(owner="c"), timeout=5))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await attach(world, "a")


async def test_one_callers_bad_request_harms_nobody_else(world: World) -> None:
    tier = await world.ranker()
    assert await stored(tier, key_of("u"), pages_of(1))
    await refused(world.stub.Evict(pb.EvictRequest(tenant="t"), timeout=5))
    await refused(world.stub.PrepareStore(pb.PrepareStoreRequest(), timeout=5))
    assert await tier.lookup(key_of("u")) is not None


async def test_describe_counts_what_happened(world: World) -> None:
    tier = await world.ranker()
    world.share_slot_of(key_of("u"))
    await tier.lookup(key_of("u"))
    await stored(tier, key_of("u"), pages_of(1))
    await tier.lookup(key_of("u"))
    seen = await world.stub.Describe(pb.ExpanderServiceDescribeRequest(), timeout=5)
    assert (seen.hits, seen.misses, seen.entries, seen.pins, seen.owners) == (1, 1, 1, 1, 1)
    assert (seen.published_bytes, seen.staging_bytes, seen.quarantined_bytes) == (8 * 4096, 0, 0)
    assert seen.boot_id == world.segment.boot_id


def test_an_expander_without_room_for_its_segment_says_so_in_one_line_and_ends(tmp_path: Path) -> None:
    settings = {"ADDRESS": "127.0.0.1:0", "SEGMENT_DIRECTORY": str(tmp_path / "absent"), "DEPLOYMENT": "no.room"}
    done = subprocess.run(
        [sys.executable, "-m", "services.expander"],
        env=os.environ | {f"RELAYGR_EXPANDER_{name}": value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no segment in" in done.stderr and "SEGMENT_BYTES" in done.stderr and "Traceback" not in done.stderr
