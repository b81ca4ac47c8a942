"""`relaygr trace`: the waterfall of one request in the terminal, from the console."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import urllib.error
import urllib.request
from urllib.parse import quote

from relaygr.client.commands.cluster import Cluster
from relaygr.client.commands.report import CommandError, Report, table

TIMEOUT_S = 5.0
LIST_MAX = 15
SLOWEST = "slowest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("id", nargs="?", default="", metavar="ID", help="trace id; without one, the newest are listed")
    parser.add_argument("--slowest", action="store_true", help="the request that waited longest for its ranking")
    parser.add_argument("--console", default="", metavar="HOST:PORT", help="instead of the cluster's")


async def run(arguments: argparse.Namespace, cluster: Cluster) -> Report:
    """Ask the console.

    Raises:
        CommandError: no console is known, it does not answer, or it does not keep that trace.
    """
    base = _url(arguments.console or cluster.need("console"))
    wanted = SLOWEST if arguments.slowest else arguments.id
    if not wanted:
        return _listed(json.loads(await asyncio.to_thread(_get, f"{base}/api/requests?limit={LIST_MAX}")))
    width = shutil.get_terminal_size((120, 24)).columns
    width = min(max(60, width), 400)
    text = await asyncio.to_thread(_get, f"{base}/api/requests/{quote(wanted, safe='')}/text?width={width}")
    return Report(text.rstrip("\n"))


def _listed(found: dict[str, list[dict[str, str]]]) -> Report:
    rows = [(row["trace_id"], row["tier"] or "-", row["sentence"]) for row in found["requests"]]
    if not rows:
        return Report("no request yet; send one with: relaygr recommend --user 42")
    return Report(table(("trace", "tier", "what happened"), rows))


def _url(address: str) -> str:
    return (address if "://" in address else f"http://{address}").rstrip("/")


def _get(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"{url} is no address of a console; give --console host:port")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310, checked above
            return str(answer.read().decode("utf-8"))
    except urllib.error.HTTPError as error:
        raise CommandError(_reason(error)) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"no answer from the console at {url.split('/api')[0]} ({error}); is it running?") from None


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, KeyError, TypeError):
        return f"the console answered {error.code} {error.reason}"
