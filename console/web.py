"""The page and the JSON behind it, over HTTP."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Collection
from pathlib import Path

from aiohttp import web

from console.keeper import Keeper, Unknown
from console.requests import FILTERS
from console.text import WIDTH_LEAST, text_of

STATIC = Path(__file__).parent / "static"
LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
WIDTH_DEFAULT, WIDTH_MAX = 120, 400
NUMBER_DIGITS_MAX = 9
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
KEEPER = web.AppKey("keeper", Keeper)
HOSTS: web.AppKey[frozenset[str]] = web.AppKey("hosts", frozenset)
routes = web.RouteTableDef()


def application(keeper: Keeper, hosts: Collection[str] = ()) -> web.Application:
    """What serves a keeper; `hosts` are the names, beside localhost and addresses, by which it may be called."""
    app = web.Application(middlewares=[_guarded])
    app[KEEPER] = keeper
    app[HOSTS] = frozenset(("localhost", *hosts))
    app.add_routes(routes)
    app.router.add_static("/static/", STATIC)
    return app


@web.middleware
async def _guarded(request: web.Request, handler: web.Handler) -> web.StreamResponse:  # type: ignore[name-defined]
    """Errors as JSON, and headers that keep a browser from running anything but our own files."""
    try:
        _check_host(request)
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        response = web.json_response({"error": error.reason}, status=error.status)
    response.headers.update(HEADERS)
    return response


def _check_host(request: web.Request) -> None:
    """A foreign page must not read us by a name of its own that it made lead here."""
    try:
        name = request.url.host or ""
    except (ValueError, UnicodeError):
        raise web.HTTPBadRequest(reason="the Host header is none") from None
    if name in request.app[HOSTS]:
        return
    try:
        ipaddress.ip_address(name)
    except ValueError:
        raise web.HTTPMisdirectedRequest(reason=f"not known here by the name {name[:80]!r}; see --host") from None


@routes.get("/")
async def _index(_request: web.Request) -> web.StreamResponse:
    return web.FileResponse(STATIC / "index.html")


@routes.get("/healthz")
async def _health(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


@routes.get("/api/overview")
async def _overview(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[KEEPER].overview(time.monotonic_ns(), time.time_ns()))


@routes.get("/api/requests")
async def _requests(request: web.Request) -> web.StreamResponse:
    name = request.query.get("filter", "all")
    if name not in FILTERS:
        raise web.HTTPBadRequest(reason=f"filter must be one of {', '.join(FILTERS)}")
    limit = _number(request, "limit", LIMIT_DEFAULT, 1, LIMIT_MAX)
    return web.json_response(request.app[KEEPER].requests(name, limit))


@routes.get("/api/requests/{trace_id}")
async def _request(request: web.Request) -> web.StreamResponse:
    try:
        return web.json_response(request.app[KEEPER].request(request.match_info["trace_id"]))
    except Unknown as error:
        return web.json_response({"error": str(error)}, status=404)


@routes.get("/api/requests/{trace_id}/text")
async def _text(request: web.Request) -> web.StreamResponse:
    width = _number(request, "width", WIDTH_DEFAULT, WIDTH_LEAST, WIDTH_MAX)
    try:
        _, spans = request.app[KEEPER].found(request.match_info["trace_id"])
    except Unknown as error:
        return web.json_response({"error": str(error)}, status=404)
    return web.Response(text=text_of(spans, width))


@routes.get("/api/signals")
async def _signals(request: web.Request) -> web.StreamResponse:
    return web.json_response(request.app[KEEPER].signals())


def _number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > NUMBER_DIGITS_MAX or not least <= int(text) <= most:
        raise web.HTTPBadRequest(reason=f"{name} must be a whole number from {least} to {most}")
    return int(text)
