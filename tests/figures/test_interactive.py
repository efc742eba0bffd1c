"""Figures to move, in a headless browser: what they show, say and compute, against Python."""

import re
import sys

import numpy as np
import pytest
from conftest import ROOT

from lpft_utils.common.errors import ParameterError
from lpft_utils.figures.interactive import InteractiveFigure, sweep_explorer, temperature_explorer
from lpft_utils.figures.svg import Axis
from lpft_utils.metrics import calibration as cal

pytest.importorskip("playwright")
pytest.importorskip("axe_playwright_python")
sys.path.insert(0, str(ROOT / "tests" / "site"))
import browser as chrome  # noqa: E402

NORMS = [0.5, 1.0, 2.0, 4.0, 8.0]
BASE = np.array([3.0, 2.5, 1.5, 0.8, 0.4])
SWEEP = {
    "Diff(F) <test>": {
        "ft": {"mean": BASE, "low": BASE - 0.2, "high": BASE + 0.2, "seeds": [BASE + 0.1, BASE - 0.1]},
        "lp_ft": {"mean": BASE / 2},
    },
    "accuracy (ID)": {"ft": {"mean": [0.8, 0.81, 0.82, 0.83, 0.84], "low": [np.nan] * 5, "high": [np.nan] * 5}},
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
SHOWN = """es => es.map((e) =>
  ["y", "height", "y1", "y2", "cy", "transform"].map((k) => e.getAttribute(k) || "").join(" "))"""
OUTSIDE = """() => [...document.querySelectorAll("svg")].flatMap((image) => {
  const box = image.getBoundingClientRect();
  return [...image.querySelectorAll("text, rect, circle")].filter((e) => {
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


@pytest.fixture(scope="module")
def sweep() -> InteractiveFigure:
    return sweep_explorer(NORMS, SWEEP, x_label="‖V0‖", title="Sweep over the norm of the head", start=1)


@pytest.fixture(scope="module")
def temperature() -> InteractiveFigure:
    return temperature_explorer(SETS, fitted={"LP-FT, test": 3.97})


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


def numbers(tab) -> dict:
    return dict(tab.locator("output").evaluate("o => ({...o.dataset})"))


# ---- in the browser ----


@pytest.mark.parametrize("name", list(SETS))
def test_numbers_of_the_page_are_those_of_the_package(show, temperature, name):
    tab = show(temperature)
    tab.locator("select").select_option(name)
    f, y = SETS[name]
    for position in (-100, -37, 0, 20, 61, 100):
        tab.locator("input").fill(str(position))
        p = cal.softmax(f / 10 ** (position / 100))
        expected, got = cal.measures(p, y), numbers(tab)
        for here, there in {"ece": "ECE", "mce": "MCE", "nll": "NLL", "confidence": "confidence"}.items():
            assert float(got[here]) == pytest.approx(expected[there], abs=2e-4), here
        assert float(got["accuracy"]) == expected["accuracy"]
        diagram = cal.reliability(p, y)
        assert got["counts"] == " ".join(map(str, diagram.counts))
        assert [t for t in tab.locator(".count").all_text_contents() if t] == [str(n) for n in diagram.counts if n]
        heights = tab.locator("[data-bar]").evaluate_all("es => es.map((e) => +e.getAttribute('height'))")
        np.testing.assert_allclose(heights, 220 * np.nan_to_num(diagram.accuracy), atol=0.1)
        assert f"T = {10 ** (position / 100):.2f}" in said(tab)[0] and f"N = {len(y)}" in said(tab)[0]
        assert f"ECE {float(got['ece']):.3f}" in said(tab)[1]


def test_names_that_a_browser_would_tidy_up_are_chosen_and_said_as_they_are(show):
    given = {name: logits(i, 10 + i, 2) for i, name in enumerate(["  two  spaces ", "x\ny", "2", "1", "__proto__"])}
    tab = show(temperature_explorer(given))
    for i, name in enumerate(given):
        tab.locator("select").select_option(index=i)
        assert said(tab)[0] == f"{name}, T = 1.00 (N = {10 + i})"
        assert float(numbers(tab)["nll"]) == pytest.approx(
            cal.nll(cal.softmax(given[name][0]), given[name][1]), abs=2e-4
        )


@pytest.mark.parametrize(("margin", "expected"), [(800.0, "400.000"), (1e306, "500000000000.000")])
def test_nll_of_a_label_that_was_ruled_out_is_that_of_its_logits(show, margin, expected):
    figure = temperature_explorer({"a": ([[margin, 0], [margin, 0]], [0, 1])})
    for options in ({}, {"java_script_enabled": False}):
        assert said(show(figure, **options))[1].endswith(f"NLL {expected}")


def test_first_state_is_drawn_in_python_and_the_script_agrees(show, temperature, sweep):
    for figure in (temperature, sweep):
        drawn, moved = show(figure, java_script_enabled=False), show(figure)
        assert drawn.locator("noscript").is_visible() and "needs JavaScript" in drawn.locator("noscript").inner_text()
        assert not moved.locator("noscript").is_visible()
        static, live = (re.findall(r"<(?:span|text)[^>]*>([^<]*)<", tab.content()) for tab in (drawn, moved))
        assert static == live
        for tag in ("rect", "circle", "line", "g"):
            both = (" ".join(tab.locator(f"svg {tag}").evaluate_all(SHOWN)) for tab in (drawn, moved))
            a, b = ([float(v) for v in re.findall(r"[\d.]+", text)] for text in both)
            np.testing.assert_allclose(a, b, atol=0.11)  # Python rounds to a tenth


def test_slider_of_the_sweep_moves_the_marker_in_every_panel_and_says_the_numbers(show, sweep):
    tab = show(sweep)
    assert said(tab) == [
        "‖V0‖: 1",
        "Diff(F) <test>: FT 2.500 (2.300 to 2.700), LP-FT 1.250",
        "accuracy (ID): FT 0.810",
    ]
    tab.locator("input").focus()
    before = tab.locator("[data-mark]").evaluate_all("gs => gs.map(g => g.getAttribute('transform'))")
    heights = tab.locator("[data-mark] circle").evaluate_all("cs => cs.map(c => +c.getAttribute('cy'))")
    tab.keyboard.press("ArrowRight")
    assert said(tab)[0] == "‖V0‖: 2" == tab.locator("input").get_attribute("aria-valuetext")
    after = tab.locator("[data-mark]").evaluate_all("gs => gs.map(g => g.getAttribute('transform'))")
    moved = tab.locator("[data-mark] circle").evaluate_all("cs => cs.map(c => +c.getAttribute('cy'))")
    assert len(set(after)) == 1 and after != before and len(after) == 2
    assert moved[0] > heights[0] and moved[2] < heights[2]  # downwards on the page as the feature change falls
    tab.keyboard.press("End")
    assert said(tab)[1].endswith("LP-FT 0.200")


def test_keyboard_moves_the_temperature_and_screen_readers_hear_it(show, temperature):
    tab = show(temperature)
    tab.locator("input").focus()
    start = numbers(tab)
    tab.keyboard.press("ArrowRight")
    assert tab.locator("input").get_attribute("aria-valuetext") == "T = 1.02"
    assert float(numbers(tab)["confidence"]) < float(start["confidence"])
    assert tab.locator("output").get_attribute("aria-live") == "polite"
    assert "fitted on validation: T = 3.97" in said(tab)[0]
    assert tab.get_by_label("Temperature T").count() == 1 and tab.get_by_label("Model and data").count() == 1


def test_several_figures_on_a_page_do_not_touch_each_other(show, temperature, sweep):
    other = temperature_explorer({"one": logits(5, 30, 3)})
    tab = show(temperature, other, sweep, sweep)
    ids = tab.locator(".lpft-interactive").evaluate_all("es => es.map(e => e.id)")
    assert len(set(ids)) == 3  # the same figure twice has the same content
    before = [said(tab, k) for k in range(4)]
    tab.locator("input").nth(3).fill("4")
    tab.locator("input").nth(0).fill("50")
    after = [said(tab, k) for k in range(4)]
    assert [a != b for a, b in zip(after, before, strict=True)] == [True, False, False, True]
    assert tab.evaluate("[typeof data, typeof show, typeof root, typeof measure]") == ["undefined"] * 4


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


# ---- without one ----


def test_figures_are_self_contained_and_small(temperature, sweep):
    for figure in (temperature, sweep):
        addresses = set(re.findall(r"https?://[^\"' ]+", figure.html))
        assert addresses <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"\b(src|href|@import|url)\b\s*[=(]", figure.html)
        assert "$" not in figure.html  # MathJax would take what stands between two of them for mathematics
    large = temperature_explorer({"a": logits(0, 5000, 3)}, max_examples=500)
    assert len(large.html) < 40_000 and "500 examples drawn from 5000" in large.html


def test_names_cannot_break_out_of_their_place():
    name = '</script><b>"&'
    figure = temperature_explorer({name: logits(0, 10, 2), "b": logits(1, 10, 2)}, title=name)
    assert "</script><b>" not in figure.html and figure.html.count("</script>") == 1


def test_equal_content_gives_equal_html_and_other_content_another_id(sweep):
    again = sweep_explorer(NORMS, SWEEP, x_label="‖V0‖", title="Sweep over the norm of the head", start=1)
    assert again == sweep
    other = sweep_explorer(NORMS, SWEEP, x_label="‖V0‖", title="Sweep over the norm of the head", start=2)
    ids = [re.findall(r'id="(lpft-\w+)"', figure.html)[0] for figure in (sweep, other)]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(
    ("low", "high", "log", "expected"),
    [
        (0, 1, False, [0, 0.25, 0.5, 0.75, 1]),
        (0.78, 0.91, False, [0.8, 0.85, 0.9]),
        (-3, 3, False, [-2, 0, 2]),
        (0.5, 8, True, [0.5, 1, 2, 5]),
        (0.01, 100, True, [0.01, 0.1, 1, 10, 100]),
        (1e-9, 1e9, True, None),
        (3.1, 3.3, True, [3.1, 3.15, 3.2, 3.25, 3.3]),
        (0.9, 1.2, True, [0.9, 1, 1.1, 1.2]),
        (1.5, 4.9, True, [2, 3, 4]),
        (3.1e-14, 3.3e-14, True, [3.1e-14, 3.15e-14, 3.2e-14, 3.25e-14, 3.3e-14]),
        (2.1e20, 2.9e20, False, [2.2e20, 2.4e20, 2.6e20, 2.8e20]),
    ],
)
def test_ticks_are_few_and_round(low, high, log, expected):
    ticks = Axis(low, high, 0, 100, log).ticks()
    assert 2 <= len(ticks) <= 6 and min(ticks) >= low and max(ticks) <= high
    if expected:
        assert ticks == pytest.approx(expected, abs=0)


@pytest.mark.parametrize(
    ("x", "panels", "message"),
    [
        ([1.0], {"a": {"b": {"mean": [1.0]}}}, "at least two increasing"),
        ([0.0, 1.0], {"a": {"b": {"mean": [1.0, 2.0]}}}, "increasing positive"),
        ([2.0, 1.0], {"a": {"b": {"mean": [1.0, 2.0]}}}, "increasing"),
        ([1.0, 2.0], {}, "at least one panel"),
        ([1.0, 2.0], {"a": {}}, "at least one series"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1.0]}}}, r"a, b: expected 2 values of mean, got shape \(1,\)"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1.0, np.nan]}}}, "not all finite"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1.0, 2.0], "low": [0, 0]}}}, "low and high together"),
        ([1.0, 2.0], {"a": {"b": {"low": [1.0, 2.0], "high": [0, 0]}}}, "expected mean"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1.0, 2.0], "seeds": [1.0, 2.0]}}}, "values of seeds"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1, 2], "low": [-np.inf, 1], "high": [2, 3]}}}, "a, b: low has infinite"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1, 2], "low": [0, 1], "high": [2, np.inf]}}}, "high has infinite"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1, 2], "seeds": [[1, 2], [np.inf, 2]]}}}, "seeds has infinite"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1, 2], "seeds": [[1, 2], [1]]}}}, "a, b, seeds: expected numbers"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1, 2], "low": [0, 3.5], "high": [2, 2.5]}}}, "got 3.5 and 2.5"),
        ([1.0, 2.0], {"a": {"b": {"mean": [1, 2], "seed": [[1, 2]]}}}, "expected mean, low, high, seeds; got seed"),
        ([1.0, 2.0], {"a": {"b": {"mean": ["one", 2]}}}, "a, b, mean: expected numbers"),
        ([1.0, 2.0], {"a": {1: {"mean": [1, 2]}}}, "strings, got 1"),
        ([1.0, 2.0], {None: {"b": {"mean": [1, 2]}}}, "strings, got None"),
        (["one", 2.0], {"a": {"b": {"mean": [1, 2]}}}, "x: expected numbers"),
        (5.0, {"a": {"b": {"mean": [1, 2]}}}, "at least two increasing positive values of x, got 5.0"),
    ],
)
def test_bad_sweeps_are_refused(x, panels, message):
    with pytest.raises(ParameterError, match=message):
        sweep_explorer(x, panels, x_label="x", title="t")


def test_bad_settings_are_refused():
    for start in (5, -1, 1.5, True, "0"):
        with pytest.raises(ParameterError, match=f"start must be an integer in 0 … 4, got {start!r}"):
            sweep_explorer(NORMS, SWEEP, x_label="x", title="t", start=start)
    with pytest.raises(ParameterError, match="digits must be an integer in 0 … 15, got -1"):
        sweep_explorer(NORMS, SWEEP, x_label="x", title="t", digits=-1)
    with pytest.raises(ParameterError, match="at least one named set"):
        temperature_explorer({})
    with pytest.raises(ParameterError, match="enclose 1"):
        temperature_explorer(SETS, t_min=2)
    with pytest.raises(ParameterError, match="logits are NaN"):
        temperature_explorer({"a": ([[np.nan, 0]], [0])})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fitted": {"typo": 2.0}}, "fitted has 'typo', which is not among the sets: edges"),
        *(
            ({"fitted": {"edges": T}}, "fitted T of 'edges' must be a positive")
            for T in (np.nan, np.inf, 0, -1, "2", True)
        ),
        *(({"max_examples": n}, "max_examples must be a positive integer") for n in (0, -1, 2.5, True)),
        *(({"digits": n}, "digits must be an integer in 0 … 15") for n in (-1, 16, 1.5, "3")),
        ({"t_min": "a"}, "enclose 1, got 'a'"),
        ({"t_max": np.inf}, "enclose 1"),
        ({"sets": {3: TIES}}, "names of sets as strings, got 3"),
    ],
)
def test_bad_settings_of_the_temperature_are_refused(settings, message):
    with pytest.raises(ParameterError, match=message):
        temperature_explorer(**({"sets": {"edges": TIES}} | settings))
    assert "validation: T = 2.00" in temperature_explorer({"edges": TIES}, fitted={"edges": np.float32(2)}).html


def test_short_logarithmic_axis_has_numbers():
    figure = sweep_explorer([3.1, 3.2, 3.3], {"a": {"b": {"mean": [1, 2, 3]}}}, x_label="x", title="t")
    assert [f">{value}</text>" in figure.html for value in ("3.1", "3.2", "3.3")] == [True] * 3


def test_constant_series_and_one_class_are_drawn():
    flat = sweep_explorer([1, 2], {"a": {"b": {"mean": [0, 0]}}}, x_label="x", title="t", log=False)
    assert "nan" not in flat.html.lower().replace("nan,", "") and "a: 0.000" in flat.html
    assert "ECE 0.000" in temperature_explorer({"a": (np.zeros((3, 1)), [0, 0, 0])}).html
