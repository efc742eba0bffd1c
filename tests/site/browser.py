"""A static server, a headless Chromium and what one visit to a page shows."""

import contextlib
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import axe_playwright_python
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
HEIGHT = 900
SETTLED = 700  # ms after which transitions of the theme are over and book.js has looked at the page again
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
READY = """async () => {
  const pending = () => document.querySelector(".math:not(:has(mjx-container))");
  for (let i = 0; i < 400 && pending(); i++) await new Promise((done) => setTimeout(done, 50));
  await document.fonts.ready;
  await new Promise((done) => setTimeout(done, 50));
}"""
FACTS = r"""() => ({
  theme: document.documentElement.dataset.theme,
  width: document.documentElement.scrollWidth,
  view: window.innerWidth,
  images: [...document.images].map((i) => ({src: i.getAttribute("src"), alt: i.getAttribute("alt"),
    loaded: i.complete && i.naturalWidth > 0, figure: !!i.closest(".bd-article")})),
  math: document.querySelectorAll(".bd-article .math").length,
  typeset: document.querySelectorAll(".bd-article .math mjx-container").length,
  mathErrors: [...document.querySelectorAll("mjx-merror")].map((e) => e.textContent),
  leaked: (() => {
    const article = document.querySelector(".bd-article")?.cloneNode(true);
    article?.querySelectorAll("pre, code, mjx-container, script, style").forEach((e) => e.remove());
    return (article?.textContent || "").match(/.{0,30}(\\[a-zA-Z]+|\$).{0,30}/g) || [];
  })(),
  unreachable: [...document.querySelectorAll(".bd-article pre, .bd-article div.math, .bd-article .output")]
    .filter((e) => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX !== "visible" && e.tabIndex < 0)
    .map((e) => e.outerHTML.slice(0, 160)),
  wide: [...document.querySelectorAll(".bd-article table")]
    .filter((e) => e.offsetWidth > e.parentElement.clientWidth + 1).map((e) => e.rows[0].innerText),
  lettering: Math.min(...[...document.querySelectorAll(".bd-article img")].filter((i) => i.naturalWidth > 300)
    .map((i) => i.clientWidth / i.naturalWidth)),
  clipped: [...document.querySelectorAll(".bd-article mjx-container[display=true], .bd-article div.math")]
    .filter((e) => e.scrollWidth > e.clientWidth + 2).map((e) => e.closest("div.math")?.id || e.textContent),
})"""


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free local port; yields the address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def launched(executable: str) -> Iterator[Browser]:
    """A running browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


View = tuple[int, str]  # width in pixels, and the reader's colour scheme


@dataclass
class Visit:
    """What one visit to one page showed, in every view."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    bytes: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    facts: dict[View, dict] = field(default_factory=dict)
    violations: dict[View, list[str]] = field(default_factory=dict)


def _keep(seen: Visit, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        seen.console.append(f"{message.type}: {message.text}")


def visit(browser: Browser, url: str, views: Sequence[View], *, axe: bool = True) -> Visit:
    """Open a page in the first view, wait until its mathematics is typeset, look at it, and let axe-core judge it.

    Then go on to the other views as a reader does who turns the phone or waits until the system's dark mode comes on.
    """
    seen = Visit()
    width, scheme = views[0]
    fresh = browser.new_page(
        viewport={"width": width, "height": HEIGHT}, color_scheme=scheme
    )  # in a context of its own
    with contextlib.closing(fresh) as page:
        page.on("console", functools.partial(_keep, seen))
        page.on("pageerror", lambda error: seen.console.append(f"uncaught: {error}"))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("response", lambda r: seen.bytes.setdefault(r.url, int(r.headers.get("content-length", 0))))
        page.on("requestfailed", lambda request: seen.failed.append(request.url))
        page.on("response", lambda r: seen.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.goto(url, wait_until="load")
        page.evaluate(READY)
        page.evaluate(AXE)
        for width, scheme in views:
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": HEIGHT})
            page.wait_for_timeout(SETTLED)
            seen.facts[width, scheme] = page.evaluate(FACTS)
            if axe:
                seen.violations[width, scheme] = _violations(page)
    return seen


def _violations(page: Page) -> list[str]:
    # preload would make axe fetch the style sheets again, and one of them by a wrong address; to describe what passes
    # as well would take as long again
    rules = "{'label-content-name-mismatch': {enabled: true}}"  # experimental, and so off by default
    result = page.evaluate(f"axe.run({{preload: false, resultTypes: ['violations'], rules: {rules}}})")
    return [
        f"{violation['id']} ({violation['help']}): {'; '.join(node['html'][:160] for node in violation['nodes'][:3])}"
        for violation in result["violations"]
    ]
