"""Calls to etcd: endpoints, credentials, timeouts. No meaning of keys here.

Of `etcd3` this uses the messages, the stubs and the builders of comparisons, but not its
client, and drives the stubs with asyncio. The client blocks a thread per call, knows one
endpoint, authenticates once in its constructor (so it cannot be built while etcd is
down), and its watcher reconnects in a loop without a pause: with nothing listening it
opened 7,098 streams in two seconds and kept a core busy. Here a call is a coroutine with
a timeout, so nothing blocks, nothing spins and no thread outlives `close()`.

The channel options notice a silent peer in about eight seconds even without a call under
way; `grpc.http2.ping_timeout_ms` is needed beside the keepalive options, since gRPC
otherwise waits a minute for the answer to a ping. Six seconds, because etcd's server
refuses pings that come more often than every five. Callers' own timeouts are shorter.

Source: design, section 6, invariant I6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from relaygr.errors import DeadlineTooShort, RelayError, Unreachable
from relaygr.registry.etcd3_loader import load_etcd3
from relaygr.rpc.status import error_of

etcd3 = load_etcd3()
etcdrpc = etcd3.etcdrpc

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
)


class EtcdTransport:
    """One channel at a time, to the endpoint that answered last.

    Args:
        endpoints: "host:port", or with http:// or https:// in front.
        ca: path of the certificate authority; with it, TLS is used.
        cert: path of the client certificate, together with `key`.
        key: path of the client key.
        user: etcd user, together with `password`.
        password: its password.
        timeout_s: for calls that name none.
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
        if not endpoints:
            raise ValueError("at least one etcd endpoint is needed")
        if (cert is None) != (key is None) or (cert is not None and ca is None):
            raise ValueError("cert and key belong together, and need ca")
        if (user is None) != (password is None):
            raise ValueError("user and password belong together")
        self.timeout_s = timeout_s
        self._endpoints = tuple(endpoint.rsplit("://", 1)[-1] for endpoint in endpoints)
        self._index = 0
        self._credentials = _credentials(ca, cert, key)
        self._login = None if user is None else etcdrpc.AuthenticateRequest(name=user, password=password)
        self._token: str | None = None
        self._channel: grpc.aio.Channel | None = None
        self._is_closed = False

    @property
    def peer(self) -> str:
        """The endpoint in use."""
        return self._endpoints[self._index]

    async def call(self, stub: str, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """One unary call, for example `call("KV", "Range", request)`.

        Raises:
            Unreachable: no answer in time; the next call tries the next endpoint.
            RelayError: etcd's own refusal, by its status.
        """
        timeout_s = timeout_s or self.timeout_s
        for is_last in (False, True):
            metadata = await self._metadata(timeout_s)
            try:
                return await getattr(self._stub(stub), method)(request, timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                if is_last or not self._is_token_spent(error):
                    raise self.failed(error) from error
            self._token = None
        raise AssertionError("unreachable code")

    async def stream(self, stub: str, method: str, timeout_s: float | None = None) -> grpc.aio.StreamStreamCall:
        """A bidirectional stream; the caller reads with its own timeouts and cancels it."""
        metadata = await self._metadata(self.timeout_s)
        call: grpc.aio.StreamStreamCall = getattr(self._stub(stub), method)(timeout=timeout_s, metadata=metadata)
        return call

    def failed(self, error: grpc.aio.AioRpcError) -> RelayError:
        """What a failed call stands for; turns to the next endpoint when this one is silent."""
        if self._is_token_spent(error):
            self._token = None
        fault = error_of(error, f"etcd at {self.peer}")
        if isinstance(fault, DeadlineTooShort):
            fault = Unreachable(f"etcd at {self.peer}", "no answer in time")
        if isinstance(fault, Unreachable):
            self.turn()
        return fault

    def turn(self) -> None:
        """Use the next endpoint from now on."""
        if len(self._endpoints) > 1:
            self._index = (self._index + 1) % len(self._endpoints)
            # Closed when its calls have ended: other watches may still be reading.
            self._channel = None
            self._token = None

    async def close(self) -> None:
        """Close the channel; calls under way end."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def _stub(self, name: str) -> Any:
        if self._is_closed:
            raise Unreachable(f"etcd at {self.peer}", "this registry is closed")
        if self._channel is None:
            target = self._endpoints[self._index]
            if self._credentials is None:
                self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(target, self._credentials, options=CHANNEL_OPTIONS)
        return getattr(etcdrpc, f"{name}Stub")(self._channel)

    async def _metadata(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        if self._login is None:
            return ()
        if self._token is None:
            try:
                answer = await self._stub("Auth").Authenticate(self._login, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise self.failed(error) from error
            self._token = answer.token
        return (("token", self._token or ""),)

    def _is_token_spent(self, error: grpc.aio.AioRpcError) -> bool:
        """Tokens live for minutes and die with the member that issued them."""
        if self._login is None:
            return False
        return error.code() is grpc.StatusCode.UNAUTHENTICATED or "auth token" in (error.details() or "")


def _credentials(ca: str | None, cert: str | None, key: str | None) -> grpc.ChannelCredentials | None:
    if ca is None:
        return None
    chain = Path(cert).read_bytes() if cert else None
    private = Path(key).read_bytes() if key else None
    return grpc.ssl_channel_credentials(Path(ca).read_bytes(), private, chain)
