"""The report in headless Chromium: what a screen reader is told, what a keyboard reaches, what the eye sees."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium
from page_made import Make, made_report, page_of
from PIL import Image

from ssbench.results.store import ResultStore


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(chromium(), tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def url(store: ResultStore, record: Make, table_file: Any, tmp_path: Path) -> str:
    path = tmp_path / "report.html"
    path.write_text(page_of(made_report(store, record, table_file)), encoding="utf-8")
    return path.as_uri()


OPEN = "document.querySelectorAll('details').forEach(d => d.open = true)"

CONTRAST = """
(() => {
  const parts = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => { const [r, g, b] = parts(c).map(v => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    const p = parts(c); if (p.length < 4 || p[3] > 0) return c; } return "rgb(0, 0, 0)"; };
  const poor = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walk.nextNode();) {
    const e = node.parentElement, style = getComputedStyle(e);
    if (!node.data.trim() || ["SCRIPT", "STYLE", "title"].includes(e.tagName)) continue;
    const ink = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([node.data.trim().slice(0, 40), ink, behind(e)]);
  }
  for (let i = 0; i < 6; i++) {
    const probe = document.createElement("i"); probe.style.color = `var(--s${i})`; document.body.append(probe);
    const [a, b] = [light(getComputedStyle(probe).color), light(behind(document.body))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 3) poor.push(["series " + i, getComputedStyle(probe).color]);
    probe.remove();
  }
  return poor;
})()
"""

OUTSIDE = """
[...document.querySelectorAll("body *")].filter(e => {
  if (e.closest(".scroll, nav ul, pre, .unseen, svg, .skip") && !e.matches(".scroll, pre")) return false;
  return e.getBoundingClientRect().right > innerWidth + 0.5;
}).map(e => e.outerHTML.slice(0, 80))
"""

LETTERS = """
Math.min(...[...document.querySelectorAll(".plot text")].map(t =>
  parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a || Infinity))
"""

FOCUSED = """
(() => { const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  return {tag: e.tagName, text: e.textContent.trim().slice(0, 30), href: e.getAttribute("href"),
          ring: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2,
          seen: r.width > 0 && r.bottom > 0 && r.top < innerHeight}; })()
"""


def test_the_accessibility_tree(browser: Browser, url: str) -> None:
    browser.open(url, 1280)
    browser.run(OPEN)
    tree = browser.tree()
    roles = [node["role"] for node in tree]
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert roles.count(landmark) == 1, landmark
    for role in ("image", "img", "table", "region", "link", "button", "heading", "figure", "article"):
        nameless = [n for n in tree if n["role"] == role and not n["name"].strip() and role != "figure"]
        assert not nameless, (role, nameless)
    levels = [node["level"] for node in tree if node["role"] == "heading"]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False)), levels
    sections = {n["name"] for n in tree if n["role"] == "region"}
    assert {"Summary", "Tables", "Learning curves", "Gallery", "Failed runs", "Provenance"} <= sections
    images = [n["name"] for n in tree if n["role"] in ("image", "img")]
    assert any("released log" in name for name in images), images
    assert "Image 1" in images
    assert {n["role"] for n in tree} >= {"rowheader", "columnheader", "cell"}


def test_the_keyboard_alone_is_enough(browser: Browser, url: str) -> None:
    browser.open(url, 1000, 800)
    browser.press("Tab")
    first = browser.run(FOCUSED)
    assert (first["href"], first["ring"], first["seen"]) == ("#main", True, True)
    stops = []
    while (stop := browser.run(FOCUSED))["tag"] != "BODY" and len(stops) < 200:
        stops.append(stop)
        browser.press("Tab")
    assert all(stop["ring"] and stop["seen"] for stop in stops), [s for s in stops if not (s["ring"] and s["seen"])]
    assert {"A", "BUTTON", "SUMMARY", "DIV"} <= {stop["tag"] for stop in stops}
    details = browser.run("document.querySelectorAll('details > summary').length")
    hidden = browser.run("document.querySelectorAll('details:not([open]) details > summary').length")
    assert sum(stop["tag"] == "SUMMARY" for stop in stops) == details - hidden
    browser.open(url, 1000, 800)
    browser.press("Tab")
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "main"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_and_lines_stand_out_in_both_themes(browser: Browser, url: str, theme: str) -> None:
    browser.open(url, 1280, theme=theme)
    browser.run(OPEN)
    assert browser.run(CONTRAST) == []


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_hangs_over_the_edge(browser: Browser, url: str, width: int) -> None:
    browser.open(url, width)
    browser.run(OPEN)
    assert browser.run(OUTSIDE) == []
    assert browser.run("document.documentElement.scrollWidth") == width
    letters = browser.run(LETTERS)
    assert letters >= 9, "letters of charts, in pixels"


def _paper(browser: Browser) -> tuple[int, ...]:
    """The colour most of a screenshot has."""
    image = Image.open(io.BytesIO(browser.picture())).convert("RGB")
    count, colour = max(image.getcolors(image.width * image.height) or [])
    assert count > image.width * image.height // 3
    assert len(image.getcolors(image.width * image.height) or []) > 50
    assert isinstance(colour, tuple)
    return colour


def test_the_screen_in_light_and_dark_and_the_button(browser: Browser, url: str) -> None:
    browser.open(url, 1280)
    light = _paper(browser)
    browser.open(url, 1280, theme="dark")
    dark = _paper(browser)
    assert min(light) > 240
    assert max(dark) < 40
    while browser.run("document.activeElement.id") != "theme":
        browser.press("Tab")
    assert browser.run("document.activeElement.textContent") == "Light theme"
    browser.press("Enter")
    assert _paper(browser) == light
    assert browser.run("document.activeElement.textContent") == "Dark theme"
    browser.run("localStorage.clear()")


def test_charts_are_drawn_in_the_colours_of_the_theme(browser: Browser, url: str) -> None:
    for theme, line in (("light", (0, 114, 178)), ("dark", (86, 180, 233))):
        browser.open(url, 1280, 1400, theme)
        browser.run("document.querySelector('#curves').scrollIntoView()")
        image = Image.open(io.BytesIO(browser.picture())).convert("RGB")
        counts = {colour: n for n, colour in image.getcolors(image.width * image.height) or []}
        assert counts.get(line, 0) > 200, theme


def test_only_the_file_itself_is_loaded_and_nothing_is_refused_or_runs(browser: Browser, url: str) -> None:
    browser.open(url, 1280)
    browser.run(OPEN)
    asked = {
        e["params"]["request"]["url"].partition(",")[0]
        for e in browser.events
        if e["method"] == "Network.requestWillBeSent"
    }
    assert {u for u in asked if not u.startswith("data:")} == {url}
    told = [e for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    assert told == []
    assert browser.run("typeof window.taken") == "undefined"
    blocked = "fetch('https://example.org').then(() => 'loaded', () => 'refused')"
    assert browser.run(blocked) == "refused"
