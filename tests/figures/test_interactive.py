"""Figures to move, in a headless browser: what they show, say and compute, against Python."""

import re
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from torchmetrics.functional.classification import multiclass_calibration_error

from lpft_utils.common.errors import ParameterError
from lpft_utils.figures.interactive import InteractiveFigure, sweep_explorer, temperature_explorer

pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")
sys.path.insert(0, str(ROOT / "tests" / "site"))
import browser as chrome  # noqa: E402

NORMS = [0.5, 1.0, 2.0, 4.0, 8.0]
SWEEP = {
    "Diff(F) <test>": [[3.1, 2.9], [2.6, 2.4], [1.6, 1.4], [0.9, 0.7], [0.5, 0.3]],
    "accuracy (ID)": [[0.80], [0.81], [0.82], [0.83], [0.84]],
}
THEME = """<style>
  html { --pst-color-text-base: #323232; --pst-color-background: #fff; }
  html[data-theme=dark] { --pst-color-text-base: #ced6dd; --pst-color-background: #14181e; }
  body { background: var(--pst-color-background); color: var(--pst-color-text-base); margin: 16px; }
  /* as sphinx-book-theme has it */
  html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe)) {
    background-color: var(--pst-color-text-base); color: var(--pst-color-background); padding: .5rem; }
</style>"""
CELL = '<div class="cell_output docutils container"><div class="output text_html">{}</div></div>'
OUTSIDE = """() => [...document.querySelectorAll("svg")].flatMap((image) => {
  const box = image.getBoundingClientRect();
  return [...image.querySelectorAll("text, path:not([stroke-width])")].filter((e) => {
    const own = e.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
  }).map((e) => e.outerHTML);
})"""


def logits(seed: int, N: int, C: int, scale: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    f = np.round(scale * rng.normal(size=(N, C)), 3)
    return f, (f / scale + rng.gumbel(size=(N, C))).argmax(1)


TIES = (np.array([[0.0, 0.0, 0.0], [1.0, 1.0, -40.0], [50.0, 0.0, 0.0], [1.3863, 0, -60.0]]), np.array([0, 1, 2, 0]))
SETS = {"LP-FT, test": logits(0, 300, 3), "FT & <test>": logits(1, 40, 2), "edges": TIES}
FITTED = {"LP-FT, test": 3.97, "FT & <test>": 0.5, "edges": 1000.0}
ONE = 2  # the position of T = 1


@pytest.fixture(scope="module")
def sweep() -> InteractiveFigure:
    return sweep_explorer(NORMS, SWEEP, x_label="‖V0‖", title="Sweep over the norm of the head")


@pytest.fixture(scope="module")
def temperature() -> InteractiveFigure:
    return temperature_explorer(SETS, fitted=FITTED)


@pytest.fixture(scope="module")
def browser():
    executable = chrome.chromium()
    if executable is None:
        pytest.skip("no Chromium found: install one (apt-get install chromium) to test the figures in a browser")
    with chrome.launched(executable) as running:
        yield running


@pytest.fixture
def show(browser):
    """Open a page that holds some figures; fails on anything in the console and on any request."""
    opened, noise = [], []

    def page(*figures: InteractiveFigure, theme: str = "light", **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        opened.append(context)
        tab = context.new_page()
        tab.on("console", lambda m: noise.append(m.text) if m.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: noise.append(str(error)))
        tab.on("request", lambda request: noise.append(request.url))
        body = "".join(CELL.format(figure._repr_html_()) for figure in figures)
        tab.set_content(
            f'<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Figures</title>'
            f'<meta name="viewport" content="width=device-width">{THEME}</head>'
            f'<body><main class="bd-content"><h1>Figures</h1>{body}</main></body></html>'
        )
        return tab

    yield page
    for context in opened:
        context.close()
    assert noise == []


def said(tab, k: int = 0) -> list[str]:
    return tab.locator("output").nth(k).locator("span").all_text_contents()


def numbers(tab) -> list[float]:
    return [float(text) for text in tab.locator("output b").all_text_contents()]


def moving(tab, k: int) -> list[float]:
    """The numbers in the k-th path that the slider moves."""
    return [float(v) for v in re.findall(r"-?[\d.]+", tab.locator("path[data-move]").nth(k).get_attribute("d"))]


# ---- in the browser ----


@pytest.mark.parametrize("name", list(SETS))
def test_page_shows_the_diagram_and_the_metrics_of_the_chosen_set_at_every_temperature(show, temperature, name):
    tab = show(temperature)
    tab.locator("select").select_option(index=list(SETS).index(name))
    f, y = (torch.tensor(v) for v in SETS[name])
    height = tab.locator("path[style*=dasharray]").evaluate("e => e.getBBox().height")  # from accuracy 0 to 1
    for position in (0, 1, ONE, 5, 10):
        tab.locator("input").fill(str(position))
        T = 10 ** ((position - ONE) / 5)
        p = torch.softmax(f / T, 1)
        confidence, correct = p.max(1).values.numpy(), (p.argmax(1) == y).numpy()
        to = {"num_classes": p.shape[1], "n_bins": 15}
        ece, mce = (multiclass_calibration_error(p, y, **to, norm=norm).item() for norm in ("l1", "max"))
        nll = torch.nn.functional.cross_entropy(f / T, y).item()
        expected = [T, ece, mce, nll, confidence.mean(), correct.mean()]
        if name != "edges":  # torchmetrics puts a confidence on an edge into the bin above
            assert numbers(tab)[1:] == pytest.approx(expected[1:], abs=5.1e-4)
        np.testing.assert_allclose(np.delete(numbers(tab), [1, 2]), np.delete(expected, [1, 2]), atol=0.0051)
        index = [next(b for b in range(15) if c <= (b + 1) / 15 + 1e-12) for c in confidence]
        counts = np.bincount(index, minlength=15)
        assert [t for t in tab.locator("svg text[data-move]").all_text_contents() if t] == [str(n) for n in counts if n]
        drawn = [float(v) for v in re.findall(r"v-([\d.]+)", tab.locator("path[data-move]").first.get_attribute("d"))]
        accuracy = np.bincount(index, correct, 15)[counts > 0] / counts[counts > 0]
        np.testing.assert_allclose([h for h in drawn if h], accuracy[accuracy > 0] * height, atol=0.6)
        ticks = re.findall(r",(-?[\d.]+)H", tab.locator("path[data-move]").nth(1).get_attribute("d"))
        assert sum(float(v) > 0 for v in ticks) == (counts > 0).sum()  # of an empty bin: out of sight


def test_choices_name_the_set_its_size_and_the_fitted_temperature(show, temperature):
    tab = show(temperature)
    assert tab.locator("option").all_text_contents() == [
        "LP-FT, test (N = 300, fitted T = 3.97)",
        "FT & <test> (N = 40, fitted T = 0.50)",
        "edges (N = 4, fitted T = 1000.00)",
    ]
    alone = show(temperature_explorer({"one": SETS["edges"]}, fitted={"one": 2.0}))
    assert alone.locator("option").all_text_contents() == ["one (N = 4, fitted T = 2.00)"]


def test_nll_of_a_label_that_was_ruled_out_is_that_of_its_logits(show):
    figure = temperature_explorer({"a": ([[800.0, 0], [800.0, 0]], [0, 1])}, fitted={"a": 1.0})
    for options in ({}, {"java_script_enabled": False}):
        assert numbers(show(figure, **options))[3] == 400


def test_first_state_is_drawn_in_python_and_the_script_agrees(show, temperature, sweep):
    for figure in (temperature, sweep):
        drawn, live = show(figure, java_script_enabled=False), show(figure)
        assert drawn.locator("noscript").is_visible() and "needs JavaScript" in drawn.locator("noscript").inner_text()
        assert not live.locator("noscript").is_visible()
        state = "es => es.map((e) => e.getAttribute('d') || e.textContent)"
        first, same = (tab.locator("[data-move]").evaluate_all(state) for tab in (drawn, live))
        assert first == same and len(first) > 6 and all("?" not in text for text in first)


def test_slider_of_the_sweep_moves_the_marker_in_every_panel_and_says_the_numbers(show, sweep):
    tab = show(sweep)
    assert said(tab) == [
        "‖V0‖: 0.5",
        "Diff(F) <test>: 3.000 (1.729 to 4.271)",  # 12.706 · 0.1
        "accuracy (ID): 0.800",
    ]
    tab.locator("input").focus()
    x, top, bottom = moving(tab, 0)
    (_, high, _), (_, low, _) = moving(tab, 2), moving(tab, 5)
    tab.keyboard.press("ArrowRight")
    assert said(tab)[0] == "‖V0‖: 1" and tab.locator("input").get_attribute("aria-valuetext") == "1"
    assert moving(tab, 0)[0] > x and moving(tab, 0)[1:] == [top, bottom]
    assert moving(tab, 2)[0] == moving(tab, 1)[0] == moving(tab, 0)[0]
    assert moving(tab, 2)[1] > high and moving(tab, 5)[1] < low  # downwards on the page as the feature change falls
    tab.keyboard.press("End")
    assert said(tab) == ["‖V0‖: 8", "Diff(F) <test>: 0.400 (-0.871 to 1.671)", "accuracy (ID): 0.840"]


def test_marker_of_the_sweep_stands_on_the_line_at_the_grid(show, sweep):
    tab = show(sweep)
    line = tab.locator("svg").first.locator("path[style*='stroke: #']").first.get_attribute("d")
    corners = np.array([[float(v) for v in pair.split()] for pair in re.findall(r"[ML] ([\d.]+ [\d.]+)", line)])
    for position, corner in enumerate(corners):
        tab.locator("input").fill(str(position))
        np.testing.assert_allclose(moving(tab, 2)[:2], corner, atol=0.6)
    assert len(corners) == len(NORMS)


def test_keyboard_moves_the_temperature_and_screen_readers_hear_it(show, temperature):
    tab = show(temperature)
    tab.locator("input").focus()
    before = numbers(tab)
    tab.keyboard.press("ArrowRight")
    assert tab.locator("input").get_attribute("aria-valuetext") == "1.58"
    assert numbers(tab)[4] < before[4]
    assert tab.locator("output").get_attribute("aria-live") == "polite"
    assert tab.get_by_label("Temperature T").count() == 1 and tab.get_by_label("Show").count() == 1


def test_several_figures_on_a_page_do_not_touch_each_other(show, temperature, sweep):
    tab = show(temperature, temperature_explorer({"one": logits(5, 30, 3)}, fitted={"one": 1.0}), sweep, sweep)
    assert tab.locator(".lpft-slider [id]").count() == 0  # so none that two figures could share
    before = [said(tab, k) for k in range(4)]
    tab.locator("input").nth(3).fill("4")
    tab.locator("input").nth(0).fill("5")
    after = [said(tab, k) for k in range(4)]
    assert [a != b for a, b in zip(after, before, strict=True)] == [True, False, False, True]
    assert tab.evaluate("[typeof show, typeof root]") == ["undefined"] * 2


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_and_nothing_overflows(show, temperature, sweep, width, theme):
    tab = show(temperature, sweep, theme=theme, viewport={"width": width, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.evaluate(chrome.AXE)
    violations = tab.evaluate("axe.run({preload: false})")["violations"]
    card = tab.locator(".text_html").first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert card == "rgba(0, 0, 0, 0)"  # not the theme's light card under light text
    assert [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in violations] == []
    assert tab.evaluate(OUTSIDE) == []
    sizes = tab.locator("svg text").evaluate_all("es => es.map((e) => e.getBoundingClientRect().height)")
    assert min(size for size in sizes if size) > 10  # lettering can be read on a phone
    inks = tab.locator("svg text").evaluate_all("es => es.map((e) => getComputedStyle(e).fill)")
    assert set(inks) == {"rgb(50, 50, 50)" if theme == "light" else "rgb(206, 214, 221)"}  # the page's own


# ---- without one ----


def test_figures_are_self_contained_and_small(temperature, sweep):
    for figure in (temperature, sweep):
        assert not re.search(r"https?://|\b(src|href|@import|url)\b\s*[=(]", figure.html)
        assert "$" not in figure.html  # MathJax would take what stands between two of them for mathematics
        assert len(figure.html) < 30_000
        assert ".lpft-slider" in (rules := re.findall(r"<style>(.*?)</style>", figure.html, re.DOTALL))[0]
        assert len(rules) == 1  # none of matplotlib's, which would hold for the whole page
    names = [f"LP-LoRA, electronics (OOD) {i}" for i in range(10)]  # a page with five methods on two test sets
    ten = temperature_explorer(
        {name: logits(i, 1000, 3) for i, name in enumerate(names)}, fitted=dict.fromkeys(names, 4.0)
    )
    assert len(ten.html.encode()) < 30_000


def test_names_cannot_break_out_of_their_place():
    name = '</script><b data-move="?">"&'
    figures = (
        temperature_explorer({name: logits(0, 10, 2)}, fitted={name: 1.0}),
        sweep_explorer([1, 2], {name: [[1], [2]]}, x_label=name, title=name),
    )
    for figure in figures:
        assert name not in figure.html and figure.html.count("</script>") == 1
        assert len(re.findall("<b data-move", figure.html)) == {0: 6, 1: 2}[figures.index(figure)]


def test_equal_content_gives_equal_html(sweep):
    assert sweep_explorer(NORMS, SWEEP, x_label="‖V0‖", title="Sweep over the norm of the head") == sweep


@pytest.mark.parametrize(
    ("x", "values", "message"),
    [
        (["one", 2.0], {"a": [[1.0], [2.0]]}, "x as real numbers"),
        ([1.0, 2.0], {"a": [[1.0], [np.nan]]}, "a at 2 are NaN"),
        ([1.0, 2.0], {"a": [[1.0], []]}, "a at 2 of 1 dimension, not empty"),
    ],
)
def test_bad_sweeps_are_refused(x, values, message):
    with pytest.raises(ParameterError, match=message):
        sweep_explorer(x, values, x_label="x", title="t")


@pytest.mark.parametrize(
    ("sets", "fitted", "message"),
    [
        ({"a": ([[np.nan, 0]], [0])}, {"a": 1.0}, "logits are NaN"),
        ({"a": ([[1.0, 0]], [2])}, {"a": 1.0}, "labels must lie in 0 … 1"),
    ],
)
def test_bad_sets_are_refused(sets, fitted, message):
    with pytest.raises(ParameterError, match=message):
        temperature_explorer(sets, fitted=fitted)


def test_constant_series_rows_of_other_lengths_and_one_class_are_drawn():
    flat = sweep_explorer([1, 2], {"a": [[0, 0], [0]]}, x_label="x", title="t")
    assert "nan" not in flat.html.lower() and "a: <b" in flat.html
    assert (
        'ECE <b data-move="?">0.000' in temperature_explorer({"a": (np.zeros((3, 1)), [0] * 3)}, fitted={"a": 1}).html
    )
