"""The `relaygr` command: asks a running cluster, or prepares one. Errors are one line with the next step."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from relaygr.client.commands import ca, forget, health, instances, plan, recommend, trace
from relaygr.client.commands.cluster import Cluster
from relaygr.client.commands.report import CommandError, Report
from relaygr.config import ConfigError
from relaygr.errors import RelayError, Unreachable

Command = Callable[[argparse.Namespace, Cluster], Coroutine[Any, Any, Report]]

FAILED = 1
MISUSED = 2
_FIELDS = ("trigger", "router", "console", "tls_certificate", "tls_key", "tls_ca")
"""Of the cluster, that the command line may give."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, print; the exit code."""
    arguments = parser().parse_args(argv)
    command: Command = arguments.command
    if arguments.command in (plan.run, ca.run):
        return _local(arguments)
    try:
        given = {name: getattr(arguments, name, "") for name in _FIELDS}
        cluster = Cluster.load(arguments.cluster, **given)
        report = asyncio.run(command(arguments, cluster))
    except (CommandError, ConfigError) as error:
        return _fail(str(error), MISUSED)
    except Unreachable as error:
        return _fail(f"no answer from {error.peer}; see which process is down with: relaygr health")
    except RelayError as error:
        return _fail(f"{error} ({type(error).__name__})")
    except KeyboardInterrupt:
        return FAILED
    print(report.text)
    return report.exit_code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="relaygr", description="Ask a running RelayGR cluster.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Command, help_text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.add_argument("--cluster", type=Path, default=None, metavar="FILE", help="instead of run/cluster.json")
        sub.add_argument("--trigger", default="", metavar="HOST:PORT", help="instead of the cluster's")
        sub.add_argument("--router", default="", metavar="HOST:PORT", help="instead of the cluster's")
        for name in ("certificate", "key", "ca"):
            sub.add_argument(f"--tls-{name}", default="", metavar="FILE", help="PEM; instead of the cluster's")
        sub.set_defaults(command=run)
        return sub

    recommend.add_arguments(command("recommend", recommend.run, "recommend items to a user"))
    command("describe", instances.describe, "show all instances")
    forget.add_arguments(command("forget", forget.run, "erase a user everywhere"))
    instances.add_drain_arguments(command("drain", instances.drain, "stop admissions on an instance"))
    command("health", health.run, "show which processes serve")
    trace.add_arguments(command("trace", trace.run, "show where a request's milliseconds went"))
    local = commands.add_parser("plan", help="size a deployment; needs none that runs")
    local.set_defaults(command=plan.run)
    plan.add_arguments(local)
    authority = commands.add_parser("ca", help="make certificates for TLS between the parts; needs nothing that runs")
    authority.set_defaults(command=ca.run)
    ca.add_arguments(authority)
    return top


def _local(arguments: argparse.Namespace) -> int:
    """A command that asks no cluster."""
    try:
        report: Report = arguments.command(arguments)
    except CommandError as error:
        return _fail(str(error), MISUSED)
    print(report.text)
    return report.exit_code


def _fail(message: str, code: int = FAILED) -> int:
    print(f"relaygr: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
