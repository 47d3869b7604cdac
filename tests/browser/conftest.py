"""The built site, a local server for it, and a browser that can reach nothing else."""

from __future__ import annotations

import functools
import os
import sys
import threading
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ci import browser as browsers  # noqa: E402
from ci.errors import BookError  # noqa: E402

SITE = Path(os.environ.get("SNNKIT_SITE") or ROOT / "_build" / "html").resolve()
PATIENCE = 120_000  # milliseconds, for machines that have other work to do
NO_SITE = f"no site at {SITE}; build it with `make book`, or name a built one in SNNKIT_SITE"


FIRST_PAGE = "intro.html"


def pages() -> list[str]:
    """Every page of the built site, as a path below it; but for `index.html`, which only leads to the first one."""
    found = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    return [page for page in found if not page.startswith("_static/") and page != "index.html"]


def pytest_generate_tests(metafunc):
    """A test that asks for a page runs once for every page (an opened one: over http and from the disk).

    Without a site it runs once, and fails.
    """
    names = pages() or [FIRST_PAGE]
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", names)
    if "opened" in metafunc.fixturenames:
        ways = [(way, name) for name in names for way in ("http", "file")]
        metafunc.parametrize("opened", ways, ids="-".join, indirect=True, scope="module")


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / FIRST_PAGE).is_file():
        pytest.fail(NO_SITE, pytrace=False)
    return SITE


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def serve():
    """serve(folder) -> the address of a server for that folder on this machine."""
    servers = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    try:
        path = browsers.require_browser()
    except BookError as error:
        pytest.fail(str(error), pytrace=False)
    with sync_playwright() as playwright:
        running = browsers.launch(playwright, path)
        yield running
        running.close()


@pytest.fixture(scope="session")
def http_root(site, serve) -> str:
    return serve(site)


@pytest.fixture(params=["http", "file"])
def root(request, site) -> str:
    """The address of the site: over http, then from the disk."""
    return request.getfixturevalue("http_root") if request.param == "http" else site.as_uri()


@dataclass
class Visit:
    """A page in the browser, and all that went wrong with it."""

    page: object
    problems: list[str] = field(default_factory=list)

    def go(self, address: str) -> Visit:
        """Open `address` and wait until explorers and maths are there."""
        self.page.goto(address, wait_until="load")
        self.settle()
        return self

    def watch(self, context, home: str) -> None:
        """Note errors and warnings, and cut every request that leaves `home`."""
        note = self.problems.append

        def gate(route):
            if route.request.url.startswith((home, "blob:", "data:")):
                route.continue_()
            else:
                note(f"request to another place: {route.request.url}")
                route.abort()

        def hear(message):
            if message.type in ("error", "warning"):
                note(f"console {message.type}: {message.text}")

        def check(response):
            if response.status >= 400:
                note(f"status {response.status}: {response.url}")

        context.route("**/*", gate)
        self.page.on("console", hear)
        self.page.on("pageerror", lambda error: note(f"uncaught error: {error}"))
        self.page.on("requestfailed", lambda request: note(f"failed request: {request.url}"))
        self.page.on("response", check)

    def settle(self) -> None:
        self.page.wait_for_function("() => document.documentElement.dataset.explorers === 'ready'")
        self.page.evaluate("() => window.MathJax?.startup?.promise")


def _visits(chromium):
    """visit(address, width=1400, scheme="light") -> Visit; requests beyond the address's own site are cut and told."""
    contexts = []

    def visit(address: str, width: int = 1400, scheme: str = "light") -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        seen = Visit(context.new_page())
        seen.watch(context, home=_home(address))
        return seen.go(address)

    yield visit
    for context in contexts:
        context.close()


def _home(address: str) -> str:
    """What the page at `address` may load from: its server, the site on the disk, or else its folder."""
    if not address.startswith("file:"):
        return "/".join(address.split("/")[:3]) + "/"
    site = f"{SITE.as_uri()}/"
    return site if address.startswith(site) else address.rsplit("/", 1)[0] + "/"


visit = pytest.fixture(_visits)
visit_once = pytest.fixture(_visits, scope="module")


@pytest.fixture(scope="module")
def opened(request, site, visit_once) -> Visit:
    """A page of the site, opened over http or from the disk, once for all tests that only look at it."""
    way, name = request.param
    home = request.getfixturevalue("http_root") if way == "http" else site.as_uri()
    seen = visit_once(f"{home}/{name}")
    yield seen
    seen.page.context.close()
