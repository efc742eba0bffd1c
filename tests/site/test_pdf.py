"""The whole book as one PDF."""

import browser as chrome  # beside this file
import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_pdf_holds_every_page_with_working_links_and_typeset_mathematics(built_book):
    pypdf = pytest.importorskip("pypdf")
    if chrome.chromium() is None:
        pytest.skip("no Chromium found")
    from lpft_utils.publishing.pdf import print_book

    reader = pypdf.PdfReader(print_book(ROOT, built_book.build))
    assert len(reader.pages) > 50
    titles = " ".join(str(entry.title) for entry in reader.outline if not isinstance(entry, list))
    for title in ("Linear probing", "Fine-tuning", "The neural tangent kernel", "LoRA", "Bibliography"):
        assert title in titles
    links = [a.get_object() for page in reader.pages for a in page.get("/Annots", ())]
    inside = [link for link in links if "/Dest" in link]
    outside = [str(link["/A"]["/URI"]) for link in links if "/URI" in link.get("/A", {})]
    assert len(inside) > 100 and all(address.startswith("http") for address in outside)
    assert {str(link["/Dest"]) for link in inside} <= set(reader.named_destinations)
    text = "".join(page.extract_text() for page in reader.pages)
    assert "\\(" not in text and "\\[" not in text and "\\lVert" not in text
