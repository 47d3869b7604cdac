"""Links and citations of the built site, read from its files."""

from __future__ import annotations

import functools
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


class _Page(HTMLParser):
    """The addresses a page points to, the anchors it offers, and the citations among its links."""

    def __init__(self, text: str):
        super().__init__()
        self.addresses, self.anchors, self.citations = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("href", "src") if values.get(name)]
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and "bibliography.html#" in (values.get("href") or ""):
            self.citations.append(values["href"].partition("#")[2])


@functools.cache
def read(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


def broken(page: Path, address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return parts.scheme not in ("https", "mailto", "data")
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return True
    fragment = unquote(parts.fragment)
    return bool(fragment) and target.suffix == ".html" and fragment not in read(target).anchors


def test_links_lead_somewhere(site, page_name):
    page = site / page_name
    assert [address for address in read(page).addresses if broken(page, address)] == []


def test_nothing_is_loaded_from_another_host(site, page_name):
    text = (site / page_name).read_text(encoding="utf-8")
    assert not [host for host in ("cdn.", "unpkg.com", "googleapis", "require.min.js") if host in text]


def test_citations_lead_to_the_bibliography(site):
    entries = read(site / "bibliography.html").anchors
    cited = {path.stem: read(path).citations for path in site.glob("*.html")}
    assert any(cited.values()), "no page cites anything"
    assert {name: key for name, keys in cited.items() for key in keys if key not in entries} == {}


@pytest.mark.parametrize("module", ["coding", "convert", "neurons", "simulation"])
def test_api_pages_have_signature_text_and_source(site, module):
    text = (site / "api" / f"{module}.html").read_text(encoding="utf-8")
    assert f'id="snnkit.{module}.' in text
    assert f"_modules/snnkit/{module}.html#" in text
    assert "Raises" in text
