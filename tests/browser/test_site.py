"""Every page of the built site, as a reader without a network sees it."""

from __future__ import annotations

import nbformat
import pytest

NOT_NAMED = """() => {
  const named = (node) => ["aria-label", "aria-labelledby", "alt"].some((name) => node.getAttribute(name)?.trim());
  const pictures = [...document.querySelectorAll("article :is(img, svg)")].filter((node) =>
    !node.closest("mjx-container, button, [aria-hidden=true]") && !node.parentElement.closest("svg"));
  return [...pictures.filter((node) => !named(node)),
          ...[...document.querySelectorAll("article button")].filter((node) => !named(node) && !node.innerText.trim()),
          ...document.querySelectorAll("img:not([alt])"),
          ...[...document.images].filter((node) => node.complete && !node.naturalWidth)]
    .map((node) => node.outerHTML.slice(0, 120));
}"""
TOO_WIDE = """() => [...document.querySelectorAll("article *")]
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 1 && !node.closest("mjx-assistive-mml"))
  .slice(0, 3).map((node) => node.outerHTML.slice(0, 120))"""
CUT_CAPTIONS = """() => [...document.querySelectorAll("article caption")]
  .filter((node) => node.getBoundingClientRect().right > innerWidth).map((node) => node.innerText)"""
BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"


def notebooks(site) -> list[str]:
    return sorted(path.stem for path in (site / "_sources").glob("*.ipynb"))


def test_page_opens_without_a_network_and_without_an_error(opened):
    assert not opened.problems, "\n".join(opened.problems)
    assert opened.page.title()


def test_maths_and_explorers_are_drawn(opened):
    page = opened.page
    formulas = page.locator("article .math").count()
    assert page.locator("article .math mjx-container svg").count() >= formulas
    assert page.locator("[data-mml-node=merror], [data-mjx-error]").count() == 0
    views = page.locator('script[type="application/vnd.jupyter.widget-view+json"]').count()
    assert page.locator(".explorer > *").count() >= views
    assert page.locator(".explorer-error").all_inner_texts() == []


def test_tables_are_tables(opened):
    """Markdown that a cell prints, too."""
    shown = opened.page.evaluate("document.body.innerText").replace("--", "—")
    assert not [line for line in shown.splitlines() if line.lstrip().startswith("|") and "|—" in line]


def test_page_fits_a_telephone(http_root, page_name, visit):
    page = visit(f"{http_root}/{page_name}", width=360).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, page.evaluate(TOO_WIDE)
    assert page.evaluate(CUT_CAPTIONS) == []


def test_pictures_say_what_they_show(opened):
    assert opened.page.evaluate(NOT_NAMED) == []


def test_search_finds_a_word(root, visit):
    seen = visit(f"{root}/search.html?q=threshold")
    seen.page.locator("#search-results li a").first.wait_for()
    assert seen.page.locator("#search-results li").count() >= 2
    assert seen.problems == []


def test_search_box_leads_to_the_results(http_root, visit):
    seen = visit(f"{http_root}/intro.html")
    seen.page.locator("body").press("Control+k")
    seen.page.keyboard.type("threshold")
    seen.page.keyboard.press("Enter")
    seen.page.locator("#search-results li a").first.wait_for()
    assert seen.problems == []


def test_dark_mode_follows_the_system(root, visit):
    backgrounds = {s: visit(f"{root}/intro.html", scheme=s).page.evaluate(BACKGROUND) for s in ("light", "dark")}
    assert backgrounds["light"] != backgrounds["dark"]


def test_dark_mode_can_be_switched_and_is_remembered(root, visit):
    page = visit(f"{root}/intro.html").page
    before = page.evaluate(BACKGROUND)
    for _ in range(3):  # light, dark, as the system has it: the order depends on the mode at the start
        page.locator("button.theme-switch-button:visible").first.click()
        if page.locator("html").get_attribute("data-theme") == "dark":
            break
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate(BACKGROUND) != before
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_index_leads_to_the_first_page(root, visit):
    page = visit(f"{root}/intro.html").page
    title = page.title()
    page.goto(f"{root}/index.html")
    page.wait_for_url("**/intro.html")
    assert page.title() == title


def test_every_notebook_can_be_downloaded(http_root, site, visit, tmp_path):
    assert notebooks(site), "the site has no notebooks"
    for name in notebooks(site):
        page = visit(f"{http_root}/{name}.html").page
        page.locator("button[aria-label='Download this page']").click()
        with page.expect_download() as coming:
            page.locator("a.btn-download-source-button").click()
        assert coming.value.suggested_filename == f"{name}.ipynb"
        coming.value.save_as(tmp_path / name)
        nbformat.validate(nbformat.read(tmp_path / name, as_version=4))


def test_every_notebook_opens_from_the_disk(site, visit):
    for name in notebooks(site):
        page = visit((site / f"{name}.html").as_uri()).page
        page.locator("button[aria-label='Download this page']").click()
        with page.expect_popup() as coming:
            page.locator("a.btn-download-source-button").click()
        assert coming.value.url == (site / "_sources" / f"{name}.ipynb").as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(http_root, visit, scheme):
    """WCAG AA: a contrast of at least 4.5 for the text, its muted form and its links."""
    page = visit(f"{http_root}/intro.html", scheme=scheme).page
    for variable in ("text-base", "text-muted", "link", "heading"):
        assert page.evaluate(CONTRAST, variable) >= 4.5, variable


CONTRAST = """(variable) => {
  const paint = (name) => {
    const context = document.createElement("canvas").getContext("2d");
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(`--pst-color-${name}`).trim();
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  const [ink, ground] = [paint(variable), paint("background")];
  return Math.max(ink, ground) / Math.min(ink, ground);
}"""
