"""A browser, a console for each module, and visitors."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.console.process import ROOT, ConsoleProcess, Visitor
from tests.console.traffic import Kind, tell

PICTURES = ROOT / "run" / "console"
OPENED = PICTURES / "pages.json"
ASSERT_TIMEOUT_MS = 10_000
"""A trace is shown a second after its last span, and the page asks once a second."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "console" and "browser" in item.fixturenames:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    """Debian's chromium, or RELAYGR_CHROMIUM."""
    path = os.environ.get("RELAYGR_CHROMIUM") or shutil.which("chromium")
    if path is None:
        reason = "no chromium: apt-get install chromium, or set RELAYGR_CHROMIUM to the program"
        if os.environ.get("CI") or os.environ.get("RELAYGR_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=ASSERT_TIMEOUT_MS)
    # A sandbox cannot be set up by root, which is who containers run as.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def console():
    with ConsoleProcess() as process:
        yield process


@pytest.fixture(scope="module")
def told(console):
    """One request of each kind, by kind."""
    return dict(zip(Kind, tell(console.otlp, *Kind), strict=True))


@pytest.fixture
def open_visitor(browser: Browser, console):
    """Makes visitors; arguments are those of a browser context, such as color_scheme."""
    contexts = []

    def made(of: ConsoleProcess = console, **options) -> Visitor:
        context = browser.new_context(**options)
        context.set_default_timeout(ASSERT_TIMEOUT_MS)
        contexts.append(context)
        return Visitor(context, of)

    yield made
    for context in contexts:
        context.close()


@pytest.fixture
def visitor(open_visitor):
    return open_visitor()


def pytest_sessionfinish():
    """What was opened, for scripts/console_test.py to count."""
    if Visitor.opened:
        PICTURES.mkdir(parents=True, exist_ok=True)
        OPENED.write_text(json.dumps(sorted(Visitor.opened)))
