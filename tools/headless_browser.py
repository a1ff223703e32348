"""Headless Chromium of the machine, for tests and pictures of the report's page. Nothing is downloaded."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing_browser() -> str:
    """Returns what to install before `open_browser` can be used, or an empty text."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "the Python package playwright is not installed: pip install -r requirements-dev.txt"
    return "" if _browser_path() else f"no browser is installed ({', '.join(NAMES)}): apt-get install chromium"


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """Yields a Browser of Playwright and closes it at the end. `missing_browser` must be empty."""
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has no sandbox
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_browser_path(), args=options)
        try:
            yield browser
        finally:
            browser.close()


def _browser_path() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)
