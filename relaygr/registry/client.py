"""The one class through which everything else sees etcd."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from relaygr.errors import NotHere, Unreachable
from relaygr.registry.changes import Change
from relaygr.registry.registration import Registration
from relaygr.registry.transport import EtcdTransport, etcd3, etcdrpc
from relaygr.registry.watch import Watch, key_text


@dataclass(frozen=True, slots=True)
class Listing:
    """A prefix at one revision."""

    items: tuple[tuple[str, bytes], ...]
    """Keys and values, in key order."""
    revision: int
    """Watch from the next one to miss nothing."""


class Registry:
    """etcd, for asyncio: every call has a timeout, and every failure is a RelayError.

    Needs no etcd to be constructed: watches and registrations wait for it in the
    background and outlive its outages.

    Args:
        endpoints: "host:port" each; the next one is used when one falls silent.
        ca: path of the certificate authority; with it, TLS is used.
        cert: path of the client certificate, together with `key`.
        key: path of the client key.
        user: etcd user, together with `password`.
        password: its password.
        timeout_s: longest wait for one answer.
    """

    def __init__(
        self,
        endpoints: tuple[str, ...],
        *,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        user: str | None = None,
        password: str | None = None,
        timeout_s: float = 2.0,
    ) -> None:
        self._transport = EtcdTransport(
            endpoints, ca=ca, cert=cert, key=key, user=user, password=password, timeout_s=timeout_s
        )
        self._background: list[Watch | Registration] = []

    async def get(self, key: str) -> bytes | None:
        """The value of a key, or None."""
        answer = await self._transport.call("KV", "Range", etcdrpc.RangeRequest(key=key.encode()))
        return answer.kvs[0].value if answer.kvs else None

    async def get_prefix(self, prefix: str) -> Listing:
        """All keys under a prefix, at one revision."""
        raw = prefix.encode()
        request = etcdrpc.RangeRequest(key=raw, range_end=etcd3.utils.increment_last_byte(raw))
        answer = await self._transport.call("KV", "Range", request)
        return Listing(tuple(sorted((key_text(kv.key), kv.value) for kv in answer.kvs)), answer.header.revision)

    async def put(self, key: str, value: str | bytes, lease: int | None = None) -> None:
        """Write a key, under a lease when one is given.

        Raises:
            NotHere: the lease is gone.
        """
        request = etcdrpc.PutRequest(key=key.encode(), value=_bytes(value), lease=lease or 0)
        await self._transport.call("KV", "Put", request)

    async def delete(self, key: str) -> bool:
        """Delete a key; True when it was there."""
        answer = await self._transport.call("KV", "DeleteRange", etcdrpc.DeleteRangeRequest(key=key.encode()))
        return bool(answer.deleted)

    async def compare_and_swap(
        self, key: str, expected: bytes | None, value: str | bytes, lease: int | None = None
    ) -> bool:
        """Write a key if its value is `expected` (None: if there is no such key); True when written."""
        if expected is None:
            compare = etcd3.transactions.Create(key) == 0
        else:
            compare = etcd3.transactions.Value(key) == expected
        put = etcdrpc.PutRequest(key=key.encode(), value=_bytes(value), lease=lease or 0)
        request = etcdrpc.TxnRequest(
            compare=[compare.build_message()], success=[etcdrpc.RequestOp(request_put=put)], failure=[]
        )
        return bool((await self._transport.call("KV", "Txn", request)).succeeded)

    async def lease_of(self, key: str) -> int | None:
        """The lease a key hangs on, 0 without one, None without the key."""
        answer = await self._transport.call("KV", "Range", etcdrpc.RangeRequest(key=key.encode()))
        return int(answer.kvs[0].lease) if answer.kvs else None

    async def grant(self, ttl_s: float) -> tuple[int, float]:
        """A new lease and its life in seconds, which etcd may lengthen; whole seconds, rounded up."""
        answer = await self._transport.call("Lease", "LeaseGrant", etcdrpc.LeaseGrantRequest(TTL=math.ceil(ttl_s)))
        return int(answer.ID), float(answer.TTL)

    async def keep_alive(self, lease: int) -> float:
        """Refresh a lease; its life in seconds from now.

        Raises:
            NotHere: the lease is gone.
        """
        timeout_s = self._transport.timeout_s
        call = await self._transport.stream("Lease", "LeaseKeepAlive", timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                await call.write(etcdrpc.LeaseKeepAliveRequest(ID=lease))
                answer = await call.read()
        except grpc.aio.AioRpcError as error:
            raise self._transport.failed(error) from error
        except (TimeoutError, asyncio.InvalidStateError):
            self._transport.turn()
            raise Unreachable(f"etcd at {self._transport.peer}", "no answer in time") from None
        finally:
            call.cancel()
        if answer is grpc.aio.EOF:
            raise Unreachable(f"etcd at {self._transport.peer}", "the stream ended")
        if answer.TTL <= 0:
            raise NotHere(f"lease {lease:x}")
        return float(answer.TTL)

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys."""
        await self._transport.call("Lease", "LeaseRevoke", etcdrpc.LeaseRevokeRequest(ID=lease))

    async def compact(self, revision: int) -> None:
        """Forget the history before a revision; etcd usually does this by itself."""
        await self._transport.call("KV", "Compact", etcdrpc.CompactionRequest(revision=revision))

    def keep_registered(
        self, key: str, value_fn: Callable[[], str], ttl_s: float, *, exclusive: bool = False
    ) -> Registration:
        """Keep a key there as long as this process lives; returns at once.

        Args:
            key: the key.
            value_fn: its value; asked again at each write.
            ttl_s: the lease's life: how long the key outlives its owner.
            exclusive: only while nobody else holds it; `is_live` says whether it is held.
        """
        registration = Registration(self, key, value_fn, ttl_s, exclusive=exclusive)
        self._background.append(registration)
        return registration

    def watch_prefix(
        self, prefix: str, on_change: Callable[[Change], None], *, check_s: float = 1.0, reconcile_s: float = 30.0
    ) -> Watch:
        """Follow a prefix for ever; returns at once, changes come on the event loop."""
        watch = Watch(self._transport, prefix, on_change, check_s=check_s, reconcile_s=reconcile_s)
        self._background.append(watch)
        return watch

    async def close(self) -> None:
        """End watches, registrations and the connection. Keys stay until their leases end."""
        background, self._background = self._background, []
        await asyncio.gather(*(each.closed() for each in background))
        await self._transport.close()


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
