"""A guard before the handlers that are not traced: health, reflection, lanes' opening, streams.

Those that are traced ask the guard themselves, inside the span (`relaygr.rpc.traced_handlers`).
"""

from __future__ import annotations

import inspect
from contextlib import aclosing
from typing import Any

import grpc

from relaygr.errors import RelayError
from relaygr.rpc.status import ERROR_METADATA_KEY, message_of, status_of
from relaygr.security.guard import Guard

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def guarded(guard: Guard, method: str, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """The handler, which runs only for who may call it.

    Args:
        guard: decides.
        method: full, package.Service/Method.
        handler: of any of the four kinds.
    """
    kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
    serve = getattr(handler, kind)

    async def admit(context: grpc.aio.ServicerContext) -> None:
        try:
            guard.check(method, context)
        except RelayError as error:
            trailing = ((ERROR_METADATA_KEY, type(error).__name__),)
            await context.abort(status_of(error), message_of(error), trailing)

    async def generated(request: Any, context: grpc.aio.ServicerContext) -> Any:
        await admit(context)
        async with aclosing(serve(request, context)) as answers:
            async for answer in answers:
                yield answer

    async def answered(request: Any, context: grpc.aio.ServicerContext) -> Any:
        await admit(context)
        answer = serve(request, context)
        return await answer if inspect.isawaitable(answer) else answer

    # gRPC tells the two ways of answering a stream apart by the kind of function.
    return handler._replace(**{kind: generated if inspect.isasyncgenfunction(serve) else answered})
