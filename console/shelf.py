"""Traces as files: a JSON document and a page each, and an index. For whoever reads them when the console is gone."""

from __future__ import annotations

import json
from pathlib import Path

from console.page import index_page, trace_page
from console.story import sentence
from console.traces import Due


class Shelf:
    """The folder of written traces."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries: dict[str, tuple[int, str]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, due: Due) -> None:
        """Write what is ready, delete what was given up, and the index when either happened."""
        for trace_id, spans in due.written.items():
            (self._folder / f"{trace_id}.html").write_text(trace_page(spans))
            _replace(self._folder / f"{trace_id}.json", json.dumps([span.to_json() for span in spans]))
            self._entries[trace_id] = (spans[0].start_unix_ns, sentence(spans))
        for trace_id in due.deleted:
            self._entries.pop(trace_id, None)
            for suffix in ("html", "json"):
                (self._folder / f"{trace_id}.{suffix}").unlink(missing_ok=True)
        if due.written or due.deleted:
            newest = sorted(self._entries.items(), key=lambda entry: entry[1], reverse=True)
            _replace(self._folder / "index.html", index_page([(key, title) for key, (_, title) in newest]))


def _replace(path: Path, text: str) -> None:
    # A reader never sees half a file.
    draft = path.with_suffix(path.suffix + ".draft")
    draft.write_text(text)
    draft.replace(path)
