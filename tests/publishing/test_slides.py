"""Slides from a small executed notebook: what is on them, what is not, and how they look in a browser."""

import base64
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from conftest import ROOT
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from lpft_utils import cli
from lpft_utils.publishing.chapters import PublishError
from lpft_utils.publishing.slides import write_slides

OPENING = """(chapter-one)=
# One idea

:::{admonition} What you will learn (about 5 minutes)
:class: tip
- a first thing;
- a second thing.
:::

The question of this chapter: **is $a < b$ & why?** More text."""

STATEMENT = r"""## Theory

:::{prf:proposition} The $\alpha$ law
:label: prop-law
By {ref}`chapter-one`, {cite:p}`someone2020` for all {term}`features <Feature>` $x$ of the {term}`head`,

$$
\norm{x}_1 \ge \norm{x}_2 .
$$ (eq-law)
:::

:::{prf:proof}
Nobody sees this on a slide.
:::"""

FINDING = """**How to read it.** By {prf:ref}`prop-law` the value is {glue:text}`one-value`. And so on."""
EXERCISE = """## Exercises

### A secret task

:::{prf:lemma} Of an exercise
A secret lemma.
:::"""
CLOSING = "## What to remember\n\n- Remember this.\n\n## Where, when, on what"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="720" height="240"><rect width="720" height="240"/></svg>'


def glued(name: str, value: str):
    data = {"application/papermill.record/text/plain": repr(value)}
    return new_output("display_data", data=data, metadata={"scrapbook": {"name": name, "mime_prefix": ""}})


def cells() -> list:
    figure = {"mystnb": {"figure": {"caption": "A caption."}, "image": {"alt": 'A "black" box'}}}
    return [
        new_markdown_cell(OPENING),
        new_markdown_cell(STATEMENT),
        new_code_cell(
            "draw(x < 1)", metadata=figure, outputs=[new_output("display_data", data={"image/svg+xml": SVG})]
        ),
        new_code_cell("put()", outputs=[glued("one-value", "0.50 ± 0.01")]),
        new_markdown_cell(FINDING),
        new_code_cell("print('plain')", outputs=[new_output("stream", text="not shown\n")]),
        new_code_cell("1 < 2", metadata={"tags": ["slide"]}, outputs=[new_output("stream", text="True & shown\n")]),
        new_markdown_cell(EXERCISE),
        new_code_cell("secret()", metadata={"tags": ["slide"]}, outputs=[new_output("stream", text="secret\n")]),
        new_markdown_cell(CLOSING),
    ]


def make_book(root: Path) -> Path:
    """A book of one chapter that has been run with an injected parameter."""
    (root / "book").mkdir(parents=True)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/one\n", encoding="utf-8")
    shutil.copy2(ROOT / "_config.yml", root)
    source, executed = nbformat.v4.new_notebook(cells=cells()), nbformat.v4.new_notebook(cells=cells())
    for cell in source.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    executed.cells.insert(1, new_code_cell("profile = 'smoke'", metadata={"tags": ["injected-parameters"]}))
    for notebook, folder in ((source, root / "book"), (executed, root / "_build" / "executed" / "book")):
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, folder / "one.ipynb")
    return root


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[str]]:
    """The file, and its slides without MathJax."""
    root = make_book(tmp_path_factory.mktemp("slides") / "b")
    (page,) = write_slides(root)
    assert page == root / "_build" / "slides" / "one.html"
    text = page.read_text(encoding="utf-8")
    return page, re.findall(r"(?s)<section.*?</section>", re.sub('<span class="math inline">(.*?)</span>', r"\1", text))


def test_each_idea_has_its_slide_in_order(written):
    kinds = [re.match(r'<section class="([\w ]+)"', slide)[1] for slide in written[1]]
    assert kinds == ["title", "admonition", "proposition", "figure", "code", "remember"]


def test_a_statement_is_shown_without_its_proof_and_with_what_its_references_mean(written):
    title, learn, statement, *_ = written[1]
    assert r"is \(a &lt; b\) &amp; why?" in title
    assert "a second thing" in learn
    assert r"<strong>Proposition.</strong> The \(\alpha\) law" in statement
    assert r"\norm{x}_1" in statement
    assert r"By <em>One idea</em>, for all features \(x\) of the head," in statement
    assert "Nobody" not in "".join(written[1])


def test_a_figure_stands_beside_its_finding(written):
    figure = written[1][3]
    assert base64.b64encode(SVG.encode()).decode() in figure
    assert 'alt="A &quot;black&quot; box"' in figure
    assert r"By <em>The \(\alpha\) law</em> the value is 0.50 ± 0.01. And so on." in figure


def test_only_tagged_cells_are_listed_and_no_exercise(written):
    assert "<pre>1 &lt; 2</pre><pre>True &amp; shown</pre>" in written[1][4]
    assert not re.search("secret|not shown|profile", "".join(written[1]))


def test_a_long_finding_ends_with_a_sentence(tmp_path):
    root = make_book(tmp_path / "b")
    for notebook in (root / "book" / "one.ipynb", root / "_build" / "executed" / "book" / "one.ipynb"):
        found = nbformat.read(notebook, as_version=4)
        cell = next(cell for cell in found.cells if cell.source == FINDING)
        cell.source = "**How to read it.** First one. Second " + "word " * 60 + "end."
        nbformat.write(found, notebook)
    (page,) = write_slides(root)
    assert "<div>First one.</div>" in page.read_text(encoding="utf-8")


def test_a_chapter_that_was_not_run_or_has_changed_makes_no_slides(tmp_path, monkeypatch):
    root = make_book(tmp_path / "b")
    source = nbformat.read(root / "book" / "one.ipynb", as_version=4)
    source.cells[0].source += " Newer."
    nbformat.write(source, root / "book" / "one.ipynb")
    with pytest.raises(PublishError, match="one has changed since it was run: run `lpft book --chapter one --no-site`"):
        write_slides(root)
    (root / "_build" / "executed" / "book" / "one.ipynb").unlink()
    monkeypatch.chdir(root)
    result = CliRunner().invoke(cli.main, ["slides", "--chapter", "one"])
    assert result.exit_code == 2
    assert "one has not been run" in result.output
    assert not (root / "_build" / "slides").exists()


def test_slides_open_offline_with_formulas_set_and_nothing_cut_off(written):
    playwright = pytest.importorskip("playwright.sync_api")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("no Chromium found: install one (apt-get install chromium) to look at the slides")
    asked, said = [], []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto(written[0].as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("Math.round(scrollY / innerHeight) === 2")
        facts = page.evaluate("""() => ({
            title: document.title,
            formulas: document.querySelectorAll("mjx-container svg").length,
            errors: document.querySelectorAll("[data-mjx-error]").length,
            place: document.querySelectorAll("section")[2].dataset.place,
            wide: !!document.querySelector("section.figure.wide"),
            sizes: [...document.querySelectorAll(".body")].map((body) => parseFloat(getComputedStyle(body).fontSize)),
            sideways: document.documentElement.scrollWidth > innerWidth,
        })""")
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []
    assert facts["title"] == "One idea"
    assert facts["place"] == "One idea · 3 / 6"
    assert (facts["formulas"], facts["errors"]) == (5, 0)
    assert facts["wide"]
    assert not facts["sideways"]
    assert min(facts["sizes"]) >= 20  # of 720 pixels
