"""The slides of every chapter, as a lecturer would see them at 1280 × 720."""

import shutil

import pytest
from conftest import ROOT, BuiltBook

from lpft_utils.publishing.slides import write_slides

LEAST = 20  # pixels of 720: readable at the back of a room


@pytest.mark.slow
def test_slides_are_readable_complete_and_offline(executed_book: BuiltBook, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        pytest.skip("no Chromium found: install one (apt-get install chromium) to look at the slides")
    for name in ("_toc.yml", "_config.yml", "book"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "_build").symlink_to(executed_book.build)
    wrong = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for file in write_slides(tmp_path):
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            asked, said = [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready]", state="attached")
            page.add_style_tag(content="mjx-assistive-mml { display: none !important; }")  # clipped, but it counts
            slides = page.evaluate("""() => [...document.querySelectorAll("section")].map((slide) => {
                const body = slide.querySelector(".body");
                return {
                    heading: slide.querySelector("h2").textContent,
                    size: parseFloat(getComputedStyle(body).fontSize),
                    cut: body.scrollHeight > body.clientHeight + 2 || body.scrollWidth > body.clientWidth + 2,
                    unset: body.innerHTML.match(/\\\\\\(|\\$[^$]+\\$|\\{(ref|glue|prf|cite|term)/)?.[0],
                };
            })""")
            assert len(slides) > 4, file.stem
            wrong += [f"{file.stem}: {s}" for s in slides if s["cut"] or s["unset"] or s["size"] < LEAST]
            wrong += [f"{file.stem} asks for {url}" for url in asked if not url.startswith(("file:", "data:"))]
            wrong += [f"{file.stem} says {text}" for text in said]
            page.close()
        browser.close()
    assert wrong == []
