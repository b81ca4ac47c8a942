"""The real console as a process, and a browser's page that looks at it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import ClassVar, Self

from playwright.sync_api import BrowserContext, Page

ROOT = Path(__file__).resolve().parents[2]
_READY = re.compile(r"page on http://\S*?:(\d+), OTLP on \S*?:(\d+)")
_START_S = 20.0
_STOP_S = 10.0


class ConsoleProcess:
    """`python -m console` on ports that are free; the same ones again after a restart."""

    def __init__(self) -> None:
        self._http_port = self._otlp_port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http_port}"

    @property
    def otlp(self) -> str:
        return f"http://127.0.0.1:{self._otlp_port}"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        listen = ("--otlp", f"127.0.0.1:{self._otlp_port}", "--http", f"127.0.0.1:{self._http_port}")
        command = (sys.executable, "-m", "console", *listen)
        self._process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        watchdog = threading.Timer(_START_S, self._process.kill)
        watchdog.start()
        said = []
        assert self._process.stderr is not None
        for line in self._process.stderr:
            said.append(line)
            if found := _READY.search(line):
                self._http_port, self._otlp_port = map(int, found.groups())
                break
        watchdog.cancel()
        assert said and _READY.search(said[-1]), f"the console did not start:\n{''.join(said)}"
        # What it says from here on must not fill the pipe.
        self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._drain.start()

    def stop(self) -> None:
        """End it."""
        assert self._process is not None and self._process.stderr is not None
        self._process.terminate()
        self._process.wait(_STOP_S)
        self._drain.join(_STOP_S)
        self._process.stderr.close()

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=5) as response:
            return response.read()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Visitor:
    """Opens pages of a console, and notes what a browser complains of.

    Attributes:
        opened: which routes were opened at which width, all visitors together.
    """

    opened: ClassVar[set[tuple[str, int]]] = set()

    def __init__(self, context: BrowserContext, console: ConsoleProcess) -> None:
        self.context = context
        self._console = console
        self.complaints: list[str] = []

    def visit(self, route: str = "", *, width: int = 1280, height: int = 900) -> Page:
        """Open a route such as "#/trace/…" and wait until it shows what the console answered."""
        page = self.context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.on("console", lambda message: message.type in ("error", "warning") and self._complain(message.text))
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("requestfailed", lambda request: self._complain(f"{request.url}: {request.failure}"))
        page.on("response", lambda response: response.ok or self._complain(f"{response.url}: {response.status}"))
        page.goto(f"{self._console.url}/{route}")
        page.locator("#pulse", has_text="Live").wait_for()
        self.opened.add((re.sub(r"/trace/.*", "/trace/<id>", route) or "#/", width))
        return page

    def _complain(self, text: str) -> None:
        # A request that the page itself gave up, because another view was opened, is none of its failures.
        if "net::ERR_ABORTED" not in text:
            self.complaints.append(text)
