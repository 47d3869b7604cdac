"""Find a Chromium to test the site with, and start it so that it talks to nobody."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ci.errors import BookError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
ADVICE = (
    "no browser to test the site with: install chromium or chrome, name one in SNNKIT_BROWSER, "
    "or run: .venv/bin/python -m playwright install chromium"
)


class BrowserMissing(BookError):
    """There is no browser, or it does not start; the message says what to do."""


def find_browser() -> str | None:
    """Path of the browser: SNNKIT_BROWSER, else the first of NAMES on PATH, else None (Playwright's own download).

    Raises BrowserMissing if SNNKIT_BROWSER names no executable file.
    """
    if named := os.environ.get("SNNKIT_BROWSER"):
        found = shutil.which(named)
        if not found:
            raise BrowserMissing(f"SNNKIT_BROWSER is {named!r}, which is no executable file; name a chromium or chrome")
        return found
    return next((path for path in map(shutil.which, NAMES) if path), None)


def require_browser() -> str:
    """The path of a browser that can be started: `find_browser`'s, else Playwright's own download.

    Raises BrowserMissing with the way out if there is neither.
    """
    if path := find_browser():
        return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    if not Path(path).is_file():
        raise BrowserMissing(ADVICE)
    return path


def launch(playwright, path: str | None = None):
    """Start the browser at `path` (default: `require_browser()`), headless; returns Playwright's Browser."""
    arguments = list(QUIET)
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to sandbox for root
    return playwright.chromium.launch(executable_path=path or require_browser(), args=arguments)
