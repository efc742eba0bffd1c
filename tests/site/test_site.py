"""The built site in a real browser, and its links."""

import functools
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import metadata
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
SOURCE = r"[\w.-]+/[\w.-]+/blob/main/book/[\w-]+\.ipynb"
COLAB = rf"https://colab\.research\.google\.com/github/{SOURCE}"
BINDER = r"https://mybinder\.org/v2/gh/[\w.-]+/[\w.-]+/main\?urlpath=lab/tree/book/[\w-]+\.ipynb"
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


def test_axe_is_new_enough_to_compare_labels_with_names():
    version = re.search(r"axe v(\d+)\.(\d+)", chrome.AXE)
    assert version and tuple(map(int, version.groups())) >= (4, 11)


@each_page
def test_pages_are_light_without_mathjax(look, page):
    sizes = {url: size for url, size in look(page).bytes.items() if "/mathjax/" not in url}
    assert 100_000 < sum(sizes.values()) <= 1_500_000, sorted(sizes.items(), key=lambda item: -item[1])[:8]


@each_page
def test_figures_are_legible_on_a_phone(look, page):
    shrunk = look(page).facts[390, "light"]["lettering"]  # lettering of 10 points is 13.3 pixels high as drawn
    assert shrunk is None or shrunk >= 0.65, "a figure is drawn wider than style.WIDTH"


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
        assert len(alt) >= (15 if image["figure"] else 4), image  # besides figures there are logos
        assert not re.search(r"\.(png|svg|jpe?g|gif)$|^[\w./-]*/[\w./-]*$", alt), image
        assert image["loaded"] or not image["figure"], image


@pytest.mark.parametrize("page", [page for page in PAGES if (ROOT / page).with_suffix(".ipynb").is_file()])
def test_chapters_show_figures_and_math(look, page):
    facts = look(page).facts[1280, "light"]
    assert facts["typeset"] > 0 or "what-should-i-do" in page  # which advises in words
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


@pytest.fixture(scope="module")
def phone(look, browser):
    """A page of the site on a phone."""
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(f"{look.address}/book/05-two-kernels.html")
    tab.evaluate(chrome.READY)
    yield tab
    tab.close()


def test_on_a_phone_a_ledger_is_cards_with_the_outcome_first(phone):
    cards = phone.locator("table.ledger tbody tr")
    assert cards.count() > 5
    for card in cards.all()[:6]:
        box = card.bounding_box()
        tops = {cell.get_attribute("data-column"): cell.bounding_box() for cell in card.locator("td:not(:empty)").all()}
        assert {"outcome", "claim", "statement"} <= set(tops)
        assert min(tops, key=lambda column: tops[column]["y"]) == "outcome"
        assert 0 <= box["x"] and box["x"] + box["width"] <= 390
    table = phone.locator("table.ledger").first
    assert table.get_attribute("role") == "table" and table.locator("[role=columnheader]").count() > 5


def test_a_figure_opens_by_keyboard_and_closes_with_escape(phone):
    button, dialog = phone.locator(".enlarge").first, phone.locator("dialog.enlarged")
    assert not dialog.is_visible()
    button.focus()
    phone.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.locator("img").bounding_box()["width"] >= 720
    assert dialog.locator("img").get_attribute("alt")
    phone.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert button.evaluate("button => button === document.activeElement")


def test_chapters_can_be_downloaded_launched_and_turned(parsed, built_book):
    """The links of the header and the footer; the executed notebook is what is downloaded."""
    chapter = (built_book.html / "book" / "03-lp-then-ft.html").resolve()
    links = parsed[chapter].links
    (notebook,) = [link for link in links if link.endswith("03-lp-then-ft.ipynb") and "://" not in link]
    cells = json.loads((chapter.parent / notebook).read_text(encoding="utf-8"))["cells"]
    assert any(cell.get("outputs") for cell in cells)
    for form in (BINDER, COLAB):
        assert any(re.fullmatch(form, link) for link in links), form
    assert {"02-fine-tuning.html", "04-neural-tangent-kernel.html"} <= set(links)
    for licence in ("https://creativecommons.org/licenses/by/4.0/", "https://opensource.org/license/mit"):
        assert licence in links


def test_the_first_page_leads_to_every_chapter_and_its_map_names_them_all(parsed, built_book):
    first = (built_book.html / "book" / "index.html").resolve()
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    (chapters,) = [part["chapters"] for part in toc["parts"] if part.get("numbered")]
    drawn = (ROOT / "book" / "assets" / "map.svg").read_text(encoding="utf-8")
    for chapter in chapters:
        page = Path(chapter["file"]).name + ".html"
        assert parsed[first].links.count(page) >= 2, f"{page} is not in the list of chapters and on the map"
        assert f'href="{page}"' in drawn


def test_the_copy_says_how_it_was_made(built_book):
    text = (built_book.html / "book" / "made.html").read_text(encoding="utf-8")
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "profile smoke" in plain
    assert hashlib.sha256((ROOT / "book/reference/plan.yml").read_bytes()).hexdigest()[:16] in plain
    assert f"torch {metadata.version('torch')}" in plain
    shown = set(re.findall(r"<code[^>]*><span[^>]*>([\w-]+-[0-9a-f]{10})</span>", text))
    assert len(shown) > 5 and shown <= {run.name for run in built_book.runs.iterdir()}


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
