"""The whole book as one PDF: the articles of the built site in one page, printed by Chromium."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Error, Playwright, sync_playwright

from lpft_utils.common.errors import LpftError
from lpft_utils.common.files import whole
from lpft_utils.publishing.chapters import PublishError, pages

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_READY = """async () => {
  document.documentElement.dataset.theme = "light";
  const pending = () => [...document.querySelectorAll(".math")].filter((e) => !e.querySelector("mjx-container")).length;
  for (let i = 0; i < 1200 && pending(); i++) await new Promise((done) => setTimeout(done, 100));
  document.querySelectorAll("details").forEach((e) => (e.open = true));
  await Promise.all([...document.images].map((i) => ((i.loading = "eager"), i.decode())));
  await document.fonts.ready;
  return pending() + document.querySelectorAll("mjx-merror").length;
}"""


def print_book(root: Path, build: Path | None = None) -> Path:
    """Print the built site, in the order of `_toc.yml`.

    Args:
        root: Folder that holds `_toc.yml`.
        build: Build folder; `_build` under `root` when None.

    Returns:
        `book.pdf` in the build folder, written whole or not at all.

    Raises:
        LpftError: There is no Chromium.
        PublishError: A page was not built, or mathematics was not typeset.
    """
    build = build or root / "_build"
    files = [build / "html" / page.relative_to(root).with_suffix(".html") for page in pages(root)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise PublishError(f"the PDF is printed from the site, which lacks {', '.join(missing)}: run `lpft book`")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory(prefix=".pdf-", dir=build) as folder:
        browser = _launch(playwright)
        book = Path(folder) / "book.html"
        book.write_text(_bind(files), encoding="utf-8")
        page = browser.new_page(color_scheme="light")
        page.goto(book.as_uri(), wait_until="load", timeout=120_000)
        page.emulate_media(media="print", color_scheme="light")
        if left := page.evaluate(_READY):
            raise PublishError(f"the book was not printed: {left} formulas were not typeset")
        with whole(build / "book.pdf") as place:
            page.pdf(path=place, prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
        browser.close()
    return build / "book.pdf"


def _bind(files: list[Path]) -> str:
    """One page with the articles of all files, whose links to each other lead to places in it."""
    places = {file.as_uri(): file.stem for file in files}
    whole_page = BeautifulSoup(files[0].read_text(encoding="utf-8"), "html.parser")
    articles = []
    for file in files:
        page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") if file != files[0] else whole_page
        article = page.select_one("article.bd-article")
        if article is None:
            raise PublishError(f"{file} has no article: build the site again with `lpft book`")
        for element in article.select("[id]:not(svg *)"):
            element["id"] = f"{file.stem}--{element['id']}"
        article["id"] = f"{file.stem}--"
        for element in page.select("[src], [href]"):
            name = "src" if element.has_attr("src") else "href"
            address = urljoin(file.as_uri(), str(element[name]))
            place = places.get(address.partition("#")[0]) if element.name == "a" else None
            element[name] = f"#{place}--{urlsplit(address).fragment}" if place else address
        articles.append(article.extract())
    assert whole_page.body is not None
    whole_page.body.clear()
    whole_page.body.extend(articles)
    return str(whole_page)


def _launch(playwright: Playwright) -> Browser:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    try:
        return playwright.chromium.launch(executable_path=found)
    except Error as error:
        raise LpftError(
            f"printing the book needs Chromium or Chrome: expected {', '.join(BROWSERS[:3])} on the PATH, or "
            f"`playwright install chromium`; {str(error).splitlines()[0]}"
        ) from error
