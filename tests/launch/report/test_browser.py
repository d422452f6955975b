"""The report's pages in headless Chromium: wide and narrow, dark, by keyboard, on paper."""

import re
import shutil
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.slow

PAGES = {"index.html": 8, "data.html": 2, "summary.html": 1}  # figures in each
WIDTHS = {1280: ".wide", 360: ".narrow"}


@pytest.fixture(scope="module")
def browser() -> Iterator:
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


@pytest.mark.parametrize("name", PAGES)
def test_a_page_stands_alone_with_its_figures_drawn_and_its_links_whole(name, browser, report_page):
    page, complaints, requests = report_page.parent / name, [], []
    tab = browser.new_page(color_scheme="dark")
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    for width, visible in WIDTHS.items():
        tab.set_viewport_size({"width": width, "height": 900})
        sizes = tab.eval_on_selector_all(
            f"figure {visible} svg", "all => all.map(one => [one.clientWidth, one.clientHeight])"
        )
        assert len(sizes) == PAGES[name] and all(w > 300 and h > 100 for w, h in sizes), sizes
        marks = tab.eval_on_selector_all(
            f"figure {visible} svg", "all => all.map(one => one.querySelectorAll('path').length)"
        )
        assert min(marks) > 5, marks
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, (
            "the page scrolls sideways"
        )
    said = tab.eval_on_selector_all(
        "figure [role=img]", "all => all.map(one => one.getAttribute('aria-label'))"
    )
    assert len(said) == 2 * PAGES[name] and all(re.search(r"\d", text) for text in said)
    anchors = tab.eval_on_selector_all(
        "a[href^='#']", "all => all.map(one => one.getAttribute('href'))"
    )
    assert (anchors or name == "summary.html") and all(
        tab.query_selector(anchor) for anchor in anchors
    )
    ids = tab.eval_on_selector_all("[id]", "all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    files = tab.eval_on_selector_all(
        "a:not([href^='#'])", "all => all.map(one => one.getAttribute('href'))"
    )
    assert files and all((page.parent / file).is_file() for file in files)
    assert complaints == [] and set(requests) <= {page.as_uri(), "data:,"}
    tab.close()


def test_the_report_is_read_by_keyboard_and_without_motion(browser, report_page):
    tab = browser.new_page(viewport={"width": 360, "height": 700}, reduced_motion="reduce")
    tab.goto(report_page.as_uri())
    assert tab.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    tab.keyboard.press("Tab")
    skip = tab.evaluate(
        "(() => { const box = document.activeElement.getBoundingClientRect();"
        " return [box.left, box.right] })()"
    )
    assert (
        tab.evaluate("document.activeElement.className") == "skip"
        and skip[0] >= 0
        and skip[1] <= 360
    )
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert tab.url.endswith("#findings")
    wide = tab.eval_on_selector_all(
        ".scroll",
        "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.tabIndex)",
    )
    assert wide and set(wide) == {0}, "a table that scrolls sideways must take the focus"
    tab.focus(".scroll[aria-label='Table of toxicity']")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.activeElement.scrollLeft > 0", timeout=5000)
    tab.close()


def test_the_summary_is_one_sheet_of_paper_and_the_report_prints_whole(browser, report_page):
    n_pages = {}
    for name in ("summary.html", "index.html"):
        tab = browser.new_page(color_scheme="dark")
        tab.goto((report_page.parent / name).as_uri())
        n_pages[name] = len(re.findall(rb"/Type\s*/Page\b", tab.pdf(prefer_css_page_size=True)))
        tab.emulate_media(media="print")
        assert (
            tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        ), "ink on dark paper"
        tab.close()
    assert n_pages["summary.html"] == 1 and 5 <= n_pages["index.html"] <= 15, n_pages
