"""`relaygr ca`: an authority for development, and a certificate for each party; needs no running cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from relaygr.client.commands.report import CommandError, Report, table
from relaygr.security.authority import DAYS, Authority, AuthorityError
from relaygr.security.identity import SERVERS, Identity, Role
from relaygr.security.material import MaterialError, MaterialPaths, read_material

PARTIES = (
    "client/client",
    "trigger/trigger",
    "router/router-1",
    "router/router-2",
    "ranker/ranker-1",
    "ranker/ranker-2",
    "expander/expander",
    "operator/operator",
)
"""Of the compose files and of the local cluster."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `ca` takes."""
    text = parser.add_argument
    text("--out", type=Path, default=Path("run") / "tls", metavar="FOLDER", help="where to (run/tls)")
    text("--deployment", default="local", help="part of every name; certificates of another one count nothing (local)")
    text("--days", type=int, default=DAYS, help=f"validity of the certificates, days ({DAYS})")
    text("--party", action="append", metavar="ROLE/NAME", help=f"instead of {', '.join(PARTIES)}; may be repeated")
    text("--renew", action="append", metavar="ROLE/NAME", help="make this one anew; may be repeated")


def run(arguments: argparse.Namespace) -> Report:
    """Make what is not there; say what is where, and what to set.

    Raises:
        CommandError: an option that cannot be used, or openssl failed.
    """
    if arguments.days < 1:
        raise CommandError("--days must be at least 1")
    authority = Authority(arguments.out)
    parties = [_identity(arguments.deployment, text) for text in arguments.party or PARTIES]
    renewed = [_identity(arguments.deployment, text) for text in arguments.renew or ()]
    if renewed:
        parties = renewed
        if not authority.key.exists():
            raise CommandError(f"{authority.key} is not there: nothing to renew under; give another --out")
    try:
        is_new = authority.create()
        rows = [_row(authority, identity, identity in renewed or is_new, arguments.days) for identity in parties]
    except AuthorityError as error:
        raise CommandError(str(error)) from error
    head = f"authority: {authority.certificate}; its key, {authority.key}, is for this command alone"
    lines = [head, "", table(("identity", "certificate", ""), rows), ""]
    if renewed:
        lines.append("processes that use them read them again by themselves")
    else:
        lines += ["set for each process, and the same three for the client library and this command:", ""]
        lines += [line for identity in parties for line in _settings(identity, authority.paths(identity))]
    return Report("\n".join(lines))


def _row(authority: Authority, identity: Identity, is_wanted: bool, days: int) -> tuple[str, str, str]:
    paths = authority.paths(identity)
    if not is_wanted and paths.certificate.exists() and paths.key.exists():
        try:
            found = read_material(paths).identity
        except MaterialError as error:
            raise CommandError(f"{error}; make it anew with --renew {identity.role}/{identity.name}") from error
        if found != identity:
            raise CommandError(f"{paths.certificate} is of {found.uri}; give another --out")
        return identity.uri, str(paths.certificate), "kept"
    authority.issue(identity, days)
    return identity.uri, str(paths.certificate), f"made, {days} days"


def _settings(identity: Identity, paths: MaterialPaths) -> list[str]:
    prefix = f"RELAYGR_{identity.role.upper()}_TLS_" if identity.role in SERVERS else "--tls-"
    names = ("CERTIFICATE", "KEY", "CA") if identity.role in SERVERS else ("certificate", "key", "ca")
    given = (paths.certificate, paths.key, paths.authority)
    joint = "=" if identity.role in SERVERS else " "
    return [f"# {identity.role} {identity.name}"] + [
        f"{prefix}{name}{joint}{path.resolve()}" for name, path in zip(names, given, strict=True)
    ]


def _identity(deployment: str, text: str) -> Identity:
    role, _, name = text.partition("/")
    try:
        return Identity.made(deployment, role, name or role)
    except ValueError as error:
        raise CommandError(f"{error}; parties are given as ROLE/NAME, roles are {', '.join(Role)}") from error
