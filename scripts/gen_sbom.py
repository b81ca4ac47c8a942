"""What this project is made of: licences and an SBOM, from the lock file and from what is installed.

    .venv/bin/python scripts/gen_sbom.py            writes run/audit/sbom.cdx.json and run/audit/licences.md
    .venv/bin/python scripts/gen_sbom.py --files    also compares every installed file with the hash it came with

The exit code is 1 when something installed is not what the lock says, when a licence is unknown or one that asks for
more than naming it, and when a file was changed. The last line is one JSON document. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"
OUT = ROOT / "run" / "audit"
PROJECT = "relaygr"
CLASSIFIER = "License :: OSI Approved :: "
# Copyleft that reaches whoever links or serves; the weak kind (MPL, LGPL) binds changes of the library itself alone.
REFUSED = ("AGPL", "AFFERO", "SSPL", "GPL-", "GPLV", "GENERAL PUBLIC LICENSE", "NON-COMMERCIAL", "BUSL")
WEAK = ("LGPL", "LESSER GENERAL PUBLIC")
NAMED = {"promql-parser": "MIT"}
"""What is said in a file beside the package, and not in its metadata."""
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Component:
    """One package of the lock."""

    name: str
    version: str
    installed: str
    """Its version here; empty when it is not installed."""
    licence: str
    """As its metadata has it; empty when it says nothing."""
    record_sha256: str
    """Of the list of its files and their hashes."""
    needs: tuple[str, ...]

    @property
    def purl(self) -> str:
        """Its name in SBOMs."""
        return f"pkg:pypi/{self.name}@{self.version}"

    @property
    def problem(self) -> str:
        """What is wrong with it; empty when nothing is."""
        # A build for other hardware, as torch's for CPUs, is the same version.
        if self.installed and self.installed.partition("+")[0] != self.version:
            return f"{self.installed} is installed, the lock says {self.version}"
        if not self.installed:
            return ""
        said = self.licence.upper()
        if not said:
            return "its metadata names no licence"
        is_weak = any(word in said for word in WEAK)
        return f"its licence is {self.licence}" if not is_weak and any(word in said for word in REFUSED) else ""


def locked(text: str) -> Iterator[tuple[str, str]]:
    """Names and versions of a lock file.

    Raises:
        ValueError: a line that pins nothing.
    """
    for number, line in enumerate(text.splitlines(), 1):
        wanted = line.partition("#")[0].strip()
        if not wanted:
            continue
        name, equals, version = wanted.partition(";")[0].partition("==")
        if not equals or not name.strip() or not version.strip():
            raise ValueError(f"line {number}: {line!r} pins no version")
        yield canonicalize_name(name.strip()), version.strip()


def component_of(name: str, version: str) -> Component:
    """A package of the lock, and what is installed of it."""
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return Component(name, version, "", "", "", ())
    record = found.read_text("RECORD") or ""
    needs = sorted({canonicalize_name(Requirement(one).name) for one in found.requires or () if _is_needed(one)})
    digest = hashlib.sha256(record.encode()).hexdigest() if record else ""
    licence = licence_of(found.metadata) or NAMED.get(name, "")
    return Component(name, version, found.version, licence, digest, tuple(needs))


def licence_of(about: Any) -> str:
    """The licence in a package's metadata: an expression, else classifiers, else the first line of a text."""
    if about.get("License-Expression"):
        return str(about["License-Expression"])
    named = [one.removeprefix(CLASSIFIER) for one in about.get_all("Classifier") or () if one.startswith(CLASSIFIER)]
    if named:
        return " OR ".join(sorted(named))
    lines = str(about.get("License") or "").strip().splitlines()
    return lines[0][:80] if lines else ""


def bom_of(components: list[Component], lock: str) -> dict[str, Any]:
    """The SBOM, CycloneDX 1.6. The same lock and the same environment give the same document."""
    names = {one.name: one.purl for one in components}
    digest = hashlib.sha256(lock.encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, digest)}",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": PROJECT, "name": PROJECT, "version": _own_version()},
            "properties": [{"name": "relaygr:lock-sha256", "value": digest}],
        },
        "components": [_entry(one) for one in components],
        "dependencies": [
            {"ref": one.purl, "dependsOn": sorted(names[need] for need in one.needs if need in names)}
            for one in components
        ],
    }


def licences_of(components: list[Component]) -> str:
    """A table for people."""
    rows = [
        f"| {one.name} | {one.version} | {one.licence or ('unknown' if one.installed else 'not installed here')} |"
        for one in components
    ]
    return "\n".join(["| package | version | licence |", "| --- | --- | --- |", *rows, ""])


def changed_files(name: str) -> list[str]:
    """Files of an installed package that are not what its wheel held."""
    found = []
    for file in metadata.distribution(name).files or ():
        if file.hash is None or file.suffix == ".pyc":
            continue
        path = Path(str(file.locate()))
        if not path.exists():
            found.append(f"{name}: {file} is gone")
        elif _digest(path, file.hash.mode) != file.hash.value:
            found.append(f"{name}: {file} was changed")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write both documents; the exit code."""
    parser = argparse.ArgumentParser(description="Licences and an SBOM of what the lock file names.")
    parser.add_argument("--files", action="store_true", help="compare every installed file with its hash")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    lock = LOCK.read_text()
    components = [component_of(name, version) for name, version in sorted(locked(lock))]
    problems = [f"{one.name}: {one.problem}" for one in components if one.problem]
    installed = [one for one in components if one.installed]
    if given.files:
        problems += [text for one in installed for text in changed_files(one.name)]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "sbom.cdx.json").write_text(json.dumps(bom_of(components, lock), indent=2) + "\n")
    (given.out / "licences.md").write_text(licences_of(components))
    for problem in problems:
        print(problem, file=sys.stderr)
    last = {"components": len(components), "installed": len(installed), "problems": len(problems)}
    print(json.dumps({**last, "files_compared": given.files, "out": str(given.out)}))
    return 1 if problems else 0


def _entry(one: Component) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "purl": one.purl,
    }
    if one.licence:
        entry["licenses"] = [{"license": {"name": one.licence}}]
    if one.record_sha256:
        entry["properties"] = [{"name": "relaygr:record-sha256", "value": one.record_sha256}]
    return entry


def _is_needed(requirement: str) -> bool:
    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate({"extra": ""})


def _own_version() -> str:
    try:
        return metadata.version(PROJECT)
    except metadata.PackageNotFoundError:
        return "0"


def _digest(path: Path, name: str) -> str:
    digest = hashlib.new(name)
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    sys.exit(main())
