"""A real browser for tests of pages: headless chromium, by Playwright.

Where no chromium is found, tests are skipped, unless `EXTRACT_BROWSER_TESTS=needed`: then they
fail. CI sets it.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OWN = ("data:", "blob:")  # addresses of what a page holds itself
SIZES = {"phone": (390, 844), "desk": (1400, 900)}
SCHEMES = ("light", "dark")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips the test that asks for one where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("EXTRACT_BROWSER_TESTS") == "needed":
            pytest.fail("no chromium here, which these tests need")
        pytest.skip("no chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page in the browser, and what went wrong in it so far."""

    page: Page
    problems: list[str] = field(default_factory=list)  # errors, warnings, dialogs
    requests: list[str] = field(default_factory=list)  # addresses that are not the page's own

    def look(self, size: str = "desk", scheme: str = "light") -> Page:
        """The page in a window of that size, in light or dark."""
        width, height = SIZES[size]
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(color_scheme=scheme)
        return self.page


@contextmanager
def opened(browser: Browser, file: Path, *, script: bool = True) -> Iterator[Opened]:
    """A page of a file, with all that is drawn as it comes into sight drawn."""
    context = browser.new_context(java_script_enabled=script)
    page = context.new_page()
    found = Opened(page)

    def problem(kind: str, text: str) -> None:
        found.problems.append(f"{kind}: {text}")

    def dialog(one) -> None:
        problem("dialog", one.message)
        one.dismiss()

    page.on("console", lambda one: one.type == "log" or problem(one.type, one.text))
    page.on("pageerror", lambda error: problem("error", str(error)))
    page.on("dialog", dialog)
    page.on("request", lambda one: one.url.startswith(OWN) or found.requests.append(one.url))
    page.goto(file.as_uri())
    found.requests.remove(file.as_uri())
    if script:
        _draw(page)
    try:
        yield found
    finally:
        context.close()


def _draw(page: Page) -> None:
    """Scrolls through the page, and waits for each waveform and spectrogram."""
    for stack in page.locator(".stack:has(.wave)").all():
        stack.scroll_into_view_if_needed()
    page.wait_for_function(
        """() => [...document.querySelectorAll('.stack:has(.wave)')].every(
            (one) => one.matches('.ready') &&
                (one.querySelector('.mel canvas') || !one.querySelector('.mel')))"""
    )
    page.evaluate("scrollTo(0, 0)")


# Every picture, canvases in shadow trees too: its width and height, and whether it shows anything.
_PICTURES = """() => {
  const found = [];
  const scratch = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const pixels = (one) => {
    [scratch.canvas.width, scratch.canvas.height] = [one.width, one.height];
    scratch.drawImage(one, 0, 0);
    return scratch.getImageData(0, 0, one.width, one.height).data;
  };
  const visit = (root) => {
    for (const one of root.querySelectorAll('*')) {
      if (one.shadowRoot) visit(one.shadowRoot);
      if (one.tagName === 'CANVAS') {
        found.push([one.clientWidth, one.clientHeight, pixels(one).some((value) => value)]);
      } else if (one.tagName === 'IMG')
        found.push([one.clientWidth, one.clientHeight, one.complete && one.naturalWidth > 0]);
    }
  };
  visit(document);
  return found;
}"""


def pictures(page: Page) -> list[tuple[int, int, bool]]:
    """Width and height of every picture and canvas, and whether anything is drawn in it."""
    return [tuple(one) for one in page.evaluate(_PICTURES)]


def overflow(page: Page) -> list[str]:
    """Elements that stick out of the window to the right; what scrolls in its own box does not."""
    return page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter((one) =>
            !one.closest('.scrolls, .skip') && one.getBoundingClientRect().right > innerWidth + 1
        ).map((one) => one.outerHTML.slice(0, 120)).concat(
            document.documentElement.scrollWidth > innerWidth ? ['the page scrolls'] : [])"""
    )


def barriers(page: Page) -> list[str]:
    """What axe-core finds serious or critical: barriers for those who do not see or use a mouse."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
