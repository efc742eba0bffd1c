"""Binding the pages of a site into one, and what is said where it cannot be printed."""

import pytest
from bs4 import BeautifulSoup

pytest.importorskip("playwright")
from lpft_utils.common.errors import LpftError  # noqa: E402
from lpft_utils.publishing import pdf  # noqa: E402
from lpft_utils.publishing.chapters import PublishError  # noqa: E402

PAGE = (
    '<html><head><link href="../s.css"/></head><body><nav>menu</nav>'
    '<article class="bd-article">{}</article></body></html>'
)


@pytest.fixture
def book(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: book/a\nchapters:\n  - file: book/b\n", encoding="utf-8")
    pages = {
        "a": '<h1 id="t">A</h1><a href="b.html#t">1</a><a href="#t">2</a><a href="https://x.org/b.html">3</a>',
        "b": '<h1 id="t">B</h1><a href="a.html">4</a><img src="../i.svg"/><svg><path id="m"/></svg>',
    }
    for folder in ("book", "_build/html/book"):
        (tmp_path / folder).mkdir(parents=True)
    for name, body in pages.items():
        (tmp_path / "book" / f"{name}.md").write_text(f"# {name}\n", encoding="utf-8")
        (tmp_path / "_build" / "html" / "book" / f"{name}.html").write_text(PAGE.format(body), encoding="utf-8")
    return tmp_path


def test_links_between_pages_lead_to_places_in_the_one_page(book):
    html = book / "_build" / "html"
    bound = BeautifulSoup(pdf._bind([html / "book" / "a.html", html / "book" / "b.html"]), "html.parser")
    assert [a["href"] for a in bound.select("a")] == ["#b--t", "#a--t", "https://x.org/b.html", "#a--"]
    assert [e["id"] for e in bound.select("[id]")] == ["a--", "a--t", "b--", "b--t", "m"]
    assert bound.img["src"] == (html / "i.svg").as_uri() and bound.link["href"] == (html / "s.css").as_uri()
    assert "menu" not in bound.text


def test_without_chromium_it_says_what_is_missing_and_writes_nothing(book, monkeypatch):
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(book / "none"))
    with pytest.raises(LpftError, match="needs Chromium or Chrome: expected chromium"):
        pdf.print_book(book)
    assert [path.name for path in (book / "_build").iterdir()] == ["html"]


def test_a_page_that_was_not_built_is_named(book):
    (book / "_build" / "html" / "book" / "b.html").unlink()
    with pytest.raises(PublishError, match=r"lacks b\.html: run `lpft book`"):
        pdf.print_book(book)
