"""The report's pages in headless Chromium: wide, narrow, dark, by keyboard, on paper."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

N_FIGURES = {"index.html": 10, "data.html": 2, "summary.html": 1}
WIDTHS = {1280: ".wide", 360: ".narrow"}
DARK, WHITE = "rgb(20, 23, 26)", "rgb(255, 255, 255)"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
SKIP_LINK_EDGES = """(() => {
    const box = document.activeElement.getBoundingClientRect();
    return [box.left, box.right];
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield started
        started.close()


def attributes(tab: Any, selector: str, name: str) -> list[str]:
    return tab.eval_on_selector_all(selector, f"all => all.map(one => one.getAttribute('{name}'))")


@pytest.mark.parametrize("name", N_FIGURES)
def test_every_figure_is_drawn_at_both_widths(name: str, browser: Any, report_page: Path):
    tab = browser.new_page(color_scheme="dark")
    tab.goto((report_page.parent / name).as_uri())
    for width, visible in WIDTHS.items():
        tab.set_viewport_size({"width": width, "height": 900})
        figures = f"figure {visible} svg"
        sizes = tab.eval_on_selector_all(
            figures, "all => all.map(one => [one.clientWidth, one.clientHeight])"
        )
        assert len(sizes) == N_FIGURES[name]
        assert all(w > 300 and h > 100 for w, h in sizes), sizes
        n_marks = tab.eval_on_selector_all(
            figures, "all => all.map(one => one.querySelectorAll('path').length)"
        )
        assert min(n_marks) > 5, n_marks
        page_width = tab.evaluate("document.documentElement.scrollWidth")
        assert page_width <= width, "the page scrolls sideways"
    alternatives = attributes(tab, "figure [role=img]", "aria-label")
    assert len(alternatives) == 2 * N_FIGURES[name]
    assert all(re.search(r"\d", text) for text in alternatives)
    assert tab.evaluate(BACKGROUND) == DARK
    tab.close()


@pytest.mark.parametrize("name", N_FIGURES)
def test_a_page_needs_no_network_and_its_links_are_whole(
    name: str, browser: Any, report_page: Path
):
    page = report_page.parent / name
    complaints: list[str] = []
    requests: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    anchors = attributes(tab, "a[href^='#']", "href")
    assert anchors or name == "summary.html"
    assert all(tab.query_selector(anchor) for anchor in anchors)
    ids = attributes(tab, "[id]", "id")
    assert len(ids) == len(set(ids))
    files = attributes(tab, "a:not([href^='#'])", "href")
    assert files and all((page.parent / file).is_file() for file in files)
    assert complaints == [] and set(requests) <= {page.as_uri(), "data:,"}
    tab.close()


def test_the_report_is_read_by_keyboard_and_without_motion(browser: Any, report_page: Path):
    tab = browser.new_page(viewport={"width": 360, "height": 700}, reduced_motion="reduce")
    tab.goto(report_page.as_uri())
    assert tab.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    tab.keyboard.press("Tab")
    left, right = tab.evaluate(SKIP_LINK_EDGES)
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert left >= 0 and right <= 360
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#findings")
    scrolling = tab.eval_on_selector_all(
        ".scroll",
        "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.tabIndex)",
    )
    assert scrolling and set(scrolling) == {0}, "a table that scrolls sideways must take the focus"
    tab.focus(".scroll[aria-label='Table of toxicity']")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.activeElement.scrollLeft > 0", timeout=5000)
    tab.close()


def test_the_summary_prints_on_one_sheet_and_the_report_whole(browser: Any, report_page: Path):
    n_pages = {}
    for name in ("summary.html", "index.html"):
        tab = browser.new_page(color_scheme="dark")
        tab.goto((report_page.parent / name).as_uri())
        pdf = tab.pdf(prefer_css_page_size=True)
        n_pages[name] = len(re.findall(rb"/Type\s*/Page\b", pdf))
        tab.emulate_media(media="print")
        assert tab.evaluate(BACKGROUND) == WHITE, "ink on dark paper"
        tab.close()
    assert n_pages["summary.html"] == 1 and 5 <= n_pages["index.html"] <= 20, n_pages
