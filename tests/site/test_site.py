"""The built site in a real browser, and its links."""

import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from conftest import ROOT, BuiltBook

pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")
import browser as chrome  # noqa: E402 (beside this file)


def _pages() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    return [f"{entry}.html" for entry in entries] + ["search.html", "genindex.html"]


PAGES = _pages()
VIEWS = [(1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")]
each_page = pytest.mark.parametrize("page", PAGES)
each_view = pytest.mark.parametrize("view", VIEWS, ids=lambda view: f"{view[0]}-{view[1]}")


@pytest.fixture(scope="module")
def browser():
    executable = chrome.chromium()
    if executable is None:
        pytest.skip("no Chromium found: install one (apt-get install chromium) to test the site in a browser")
    with chrome.launched(executable) as running:
        yield running


@pytest.fixture(scope="module")
def look(built_book: BuiltBook, browser):
    """Visit a page of the served site once, in all views."""
    with chrome.served(built_book.html) as address:

        @functools.cache
        def visit(page: str) -> chrome.Visit:
            return chrome.visit(browser, f"{address}/{page}", VIEWS)

        visit.address = address
        yield visit


@each_page
def test_pages_are_silent_and_self_contained(look, page):
    seen = look(page)
    assert seen.console == []
    assert seen.failed == []
    assert [url for url in seen.requests if not url.startswith((look.address, "data:", "blob:"))] == []


@each_view
@each_page
def test_pages_follow_the_readers_colours_and_do_not_scroll_sideways(look, page, view):
    facts = look(page).facts[view]
    assert facts["theme"] == view[1]
    assert facts["width"] <= facts["view"] == view[0]


@each_view
@each_page
def test_what_scrolls_sideways_is_reached_by_the_keyboard(look, page, view):
    assert look(page).facts[view]["unreachable"] == []


@each_view
@each_page
def test_axe_finds_no_violation(look, page, view):
    assert look(page).violations[view] == []


@each_page
def test_math_is_typeset_and_fits_a_desktop_page(look, page):
    facts = look(page).facts[1280, "light"]
    assert facts["typeset"] == facts["math"]
    assert facts["mathErrors"] == []
    assert facts["leaked"] == [], "TeX that was not recognised as mathematics: a dollar sign too many or too few"
    assert facts["clipped"] == [], "display equations wider than the text: break them into lines"


@each_page
def test_tables_show_all_columns_on_a_desktop_page(look, page):
    assert look(page).facts[1280, "light"]["wide"] == []


@each_page
def test_images_load_and_have_real_alternative_text(look, page):
    for image in look(page).facts[1280, "light"]["images"]:
        alt = image["alt"] or ""
        assert len(alt) >= 15, image
        assert not re.search(r"\.(png|svg|jpe?g|gif)$|^[\w./-]*/[\w./-]*$", alt), image
        assert image["loaded"] or not image["figure"], image


@pytest.mark.parametrize("page", [page for page in PAGES if (ROOT / page).with_suffix(".ipynb").is_file()])
def test_chapters_show_figures_and_math(look, page):
    facts = look(page).facts[1280, "light"]
    assert facts["typeset"] > 0
    if Path(page).name[0].isdigit():  # the appendix shows its effects in tables
        assert any(image["figure"] for image in facts["images"])


@each_page
def test_pages_work_from_disk_without_a_server(built_book, browser, page):
    url = (built_book.html / page).as_uri()
    seen = chrome.visit(browser, url, [(390, "dark")], axe=False)
    assert seen.console == []
    assert seen.failed == []
    assert all(request.startswith(("file:", "data:", "blob:")) for request in seen.requests)
    facts = seen.facts[390, "dark"]
    assert facts["typeset"] == facts["math"]
    assert facts["theme"] == "dark"


def test_search_finds_the_chapters(look, browser):
    tab = browser.new_page()
    tab.goto(f"{look.address}/search.html?q=probing")
    tab.wait_for_selector("#search-results li a", timeout=30_000)
    assert any(
        "linear-probing" in (a.get_attribute("href") or "") for a in tab.query_selector_all("#search-results li a")
    )
    tab.close()


def test_solutions_open_on_a_click(look, browser):
    pages = [p for p in PAGES if (ROOT / p).with_suffix(".ipynb").is_file()]
    tab = browser.new_page()
    tab.goto(f"{look.address}/{pages[0]}")
    solutions = tab.locator(".bd-article details", has_text=re.compile("Show the (code of the )?solution"))
    for solution in (solutions.nth(0), solutions.nth(1)):  # code, words
        body = solution.locator(":scope > :not(summary)").first
        assert not body.is_visible()
        solution.locator("summary").first.click()
        body.wait_for(state="visible", timeout=30_000)
    tab.close()


class _Links(HTMLParser):
    """Addresses and anchors of one page."""

    def __init__(self, file: Path):
        super().__init__()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := given.get(key))}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag in ("img", "script", "iframe", "source") and given.get("src"):
            self.resources.append(given["src"])
        elif tag == "link" and given.get("href"):
            self.resources.append(given["href"])


@pytest.fixture(scope="module")
def parsed(built_book: BuiltBook) -> dict[Path, _Links]:
    return {file.resolve(): _Links(file) for file in built_book.html.rglob("*.html") if "_static" not in file.parts}


def test_internal_links_and_anchors_resolve(parsed):
    broken = []
    for file, page in parsed.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                broken.append((file.name, link))
            elif parts.fragment and target in parsed and unquote(parts.fragment) not in parsed[target].anchors:
                broken.append((file.name, link))
    assert not broken


def test_resources_are_local_files(parsed):
    broken = []
    for file, page in parsed.items():
        for address in page.resources:
            parts = urlsplit(address)
            if parts.scheme == "data" or address == "#":  # "#" is the page itself
                continue
            if parts.scheme or parts.netloc or not (file.parent / unquote(parts.path)).is_file():
                broken.append((file.name, address))
    assert not broken


def test_no_path_of_this_machine_is_on_any_page(built_book):
    private = [str(built_book.build), str(Path.home()) + "/", str(ROOT)]
    found = []
    for file in built_book.html.rglob("*"):
        if file.suffix in {".html", ".js", ".json", ".txt", ".ipynb", ".md"} and "mathjax" not in file.parts:
            text = file.read_text(encoding="utf-8", errors="ignore")
            found += [(file.name, path) for path in private if path in text]
    assert not found
