"""The leaderboard's page in Chromium: nothing overlaps or sticks out, and it does what a reader asks of it."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

import pytest

from tests.browser import Browser
from tests.runs import ROOT
from tests.test_leaderboard import build, elbo, many_metrics, write_run
from zoo.reports.board.families import FAMILIES

ROWS = 120
LONGEST = 20  # names of so many letters are seen whole: continuous_bernoulli
# The boxes of what stands in one place and must not cover one another, and whatever reaches beyond the page.
OVERLAPS = """
const all = selector => [...document.querySelectorAll(selector)], box = e => e.getBoundingClientRect();
const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > .5
  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > .5;
const overlaps = selector => {
  const boxes = all(selector).map(box).filter(b => b.width && b.height);
  return boxes.reduce((sum, a, i) => sum + boxes.slice(0, i).filter(b => meet(a, b)).length, 0);
};
const beyond = e => box(e).width && (box(e).left < -.5 || box(e).right > innerWidth + .5);
const slides = e => e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
const names = "#forest [aria-label='y-axis tick label'] text";
return {
  page: document.documentElement.scrollWidth, width: innerWidth,
  slides: all("#app *").filter(slides).length,
  labels: overlaps("#scatter .label"), drawn: all("#scatter .label").length,
  names: overlaps(names), lines: all(names).length,
  cells: overlaps("#app tbody td > *"), heads: overlaps("thead th"), columns: all("thead th").length,
  cut: all("#app td > *, #app thead button, .tabs button, .chip, #app svg text").filter(beyond).map(e => e.textContent),
  elided: all(".name > button span").filter(e => e.scrollWidth > e.clientWidth).map(e => e.textContent),
  high: innerWidth > 760 ? Math.max(...all("#app tbody tr").map(r => r.offsetHeight)) : 0,
  requests: performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:")).map(r => r.name),
};"""
VIEWS = ("Overview", "Samples", "Reconstruction", "Likelihood", "Representation", "Cost", "Other")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A made-up board of 120 rows, of every family, with names as long as people make them."""
    folder = tmp_path_factory.mktemp("many")
    chance = random.Random(0)
    names = [name for names in FAMILIES.values() for name in names]
    for number in range(ROWS):
        variant = names[number % len(names)]
        title = f"{variant}_{'with_a_very_long_name_' * (number % 9 == 0)}{number}"
        for seed in range(1 + 2 * (number % 3 == 0)):
            metrics = many_metrics(number, "mse" if number % 5 == 0 else "bce")
            for score in metrics.values():
                score["value"] += chance.gauss(0, 0.5)
            metrics["fd_lenet@prior"]["value"] *= 100 if number % 30 == 7 else 1
            more = {"title": title, "config_hash": f"hash{number}", "images_per_second": 10 ** chance.uniform(1, 4)}
            write_run(folder / "runs" / f"{number}_{seed}", variant, seed, metrics=metrics, **more)
    page = build(folder / "runs", folder / "out")
    assert len(page.encode()) < 3_000_000
    return (folder / "out" / "leaderboard.html").as_uri()


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("few")
    for name, value in (("mlp", -3.0), ("vq", -1.0), ("iwae", -2.0)):
        for seed in range(3):
            metrics: dict[str, Any] = elbo(value - seed / 100) | {
                "psnr": {"value": 1.0 + seed, "higher_is_better": True}
            }
            write_run(folder / "runs" / f"{name}_digits_{seed}", name, seed, metrics=metrics, config_hash=name)
    write_run(folder / "runs" / "none", "0", metrics={"other": {"value": 1.0}}, config_hash="none")
    write_run(folder / "runs" / "mnist", "mlp", dataset="mnist", image=[1, 28, 28])
    build(folder / "runs", folder / "out")
    return (folder / "out" / "leaderboard.html").as_uri()


def names(browser: Browser) -> list[str]:
    return browser.run("return [...document.querySelectorAll('#app tbody th .name > button')].map(b => b.textContent)")


def click(browser: Browser, selector: str, text: str = "") -> None:
    found = browser.run(
        "const b = [...document.querySelectorAll(arguments[0])].find(e => e.textContent.startsWith(arguments[1]));"
        "b?.click(); return Boolean(b);",
        *(selector, text),
    )
    assert found, f"there is no {selector} with {text!r}"


def choose(browser: Browser, label: str, text: str) -> None:
    browser.run(
        "const s = document.querySelector(`select[aria-label='${arguments[0]}']`);"
        "s.value = [...s.options].find(o => o.textContent === arguments[1]).value;"
        "s.dispatchEvent(new Event('change'));",
        *(label, text),
    )


def check_layout(browser: Browser, url: str, width: int, dark: bool) -> None:
    browser.resize(width, dark=dark)
    for view in VIEWS:
        browser.go(f"{url}#{urlencode({'view': view})}")
        seen = browser.run(OVERLAPS)
        where = f"{view} at {width} px"
        assert seen["page"] <= seen["width"] == width and not seen["slides"], f"{where} scrolls sideways: {seen}"
        assert not seen["cut"], f"{where}: {seen['cut']} are cut off"
        short = [name for name in seen["elided"] if len(name) <= LONGEST]
        assert not short, f"{where}: of {short} a part is seen alone"
        assert not any(seen[key] for key in ("labels", "names", "cells", "heads")), f"{where}: {seen}"
        assert seen["columns"] <= 8 and seen["high"] <= 36, f"{where}: {seen}"
        assert seen["requests"] == [] and browser.said() == []
        if view == "Overview":
            assert seen["drawn"] >= 3 and seen["lines"] >= 15, f"{where}: {seen}"


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (1024, True), (390, False)])
def test_nothing_overlaps_or_is_cut_with_120_rows(browser: Browser, many: str, width: int, dark: bool) -> None:
    check_layout(browser, many, width, dark)


@pytest.mark.parametrize("board", ["zoo", "celeba"])
@pytest.mark.parametrize(("width", "dark"), [(1280, True), (1024, False), (390, True)])
def test_nothing_overlaps_or_is_cut_on_the_published_boards(
    browser: Browser, board: str, width: int, dark: bool
) -> None:
    check_layout(browser, (ROOT / f"benchmarks/results/{board}/leaderboard.html").as_uri(), width, dark)


def test_on_a_phone_rows_are_sorted_by_a_list(browser: Browser, few: str) -> None:
    browser.resize(390)
    browser.go(f"{few}#{urlencode({'board': 'digits, 1 × 16 × 16'})}")
    assert names(browser) == ["vq", "iwae", "mlp", "0"]
    choose(browser, "Sort by", "name upwards")
    assert names(browser) == ["0", "iwae", "mlp", "vq"]
    choose(browser, "Sort by", "elbo upwards")
    assert names(browser) == ["mlp", "iwae", "vq", "0"]
    labels = browser.run("return [...document.querySelectorAll('#app td')].map(td => td.dataset.label)")
    assert "elbo ↑ nats" in labels
    chosen = "const s = document.querySelector('.sorter'); return s.options[s.selectedIndex].textContent"
    browser.go(f"{few}#{urlencode({'board': 'digits, 1 × 16 × 16', 'view': 'Cost', 'sort': 'made down'})}")
    assert browser.run(chosen) == "made downwards"
    browser.go(f"{few}#{urlencode({'board': 'digits, 1 × 16 × 16', 'view': 'Cost', 'sort': 'psnr down'})}")
    assert browser.run(chosen) == "psnr downwards"  # which the view does not show
    browser.resize(1280)
    assert browser.run("return document.querySelector('.sorter').offsetWidth") == 0


def test_rows_are_sorted_searched_and_filtered(browser: Browser, few: str) -> None:
    browser.resize(1280)
    browser.go(few)
    choose(browser, "Data set", "digits, 1 × 16 × 16")
    assert names(browser) == ["vq", "iwae", "mlp", "0"]  # the best first, last what has no such number
    click(browser, "thead button", "elbo")
    assert names(browser) == ["vq", "iwae", "mlp", "0"]
    click(browser, "thead button", "elbo")
    assert names(browser) == ["mlp", "iwae", "vq", "0"]
    assert browser.run("return document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"
    click(browser, "thead button", "Name")
    assert names(browser) == ["0", "iwae", "mlp", "vq"]
    click(browser, "[data-family='discrete']")
    assert names(browser) == ["vq"]
    click(browser, "[data-family='plain']")
    assert names(browser) == ["mlp", "vq"]
    search = "const s = document.querySelector('[type=search]'); s.value = arguments[0];"
    search += "s.dispatchEvent(new Event('input'))"
    browser.run(search, "ML")
    assert names(browser) == ["mlp"]
    browser.run(search, "nothing of this name")
    assert names(browser) == [] and "No row is left" in browser.run("return document.body.textContent")
    click(browser, ".none button")
    assert names(browser) == ["0", "iwae", "mlp", "vq"]
    browser.run("location.hash = `${location.hash}&family=no+such`")
    browser.until("return document.querySelector('.none button') !== null")
    click(browser, ".none button")
    assert len(names(browser)) == 4
    assert browser.said() == []


def test_a_row_opens_and_a_second_stands_beside_it(browser: Browser, few: str) -> None:
    browser.resize(1280)
    browser.go(f"{few}#{urlencode({'board': 'digits, 1 × 16 × 16'})}")
    click(browser, "#app tbody th .name > button", "vq")
    text = "return document.querySelector('dialog[open]').textContent"
    assert "name: vq" in browser.run(text)
    shown = "return [...document.querySelectorAll('dialog img')].map(i => [i.alt, i.clientWidth, i.naturalWidth > 0])"
    browser.until(f"return {shown[7:]}.every(i => i[2])")
    pictures = browser.run(shown)
    assert [alt for alt, _, _ in pictures] == ["samples of vq", "reconstructions of vq"]
    assert all(width > 300 for _, width, _ in pictures)
    files = browser.run("return [...document.querySelectorAll('dialog .sides a')].map(a => a.href)")[:2]
    assert [Path(unquote(urlsplit(file).path)).is_file() for file in files] == [True, True]
    assert [Path(file).stem for file in files] == ["generated_samples", "reconstructions"]
    choose(browser, "Compare with", "mlp")
    assert [alt for alt, _, _ in browser.run(shown)] == [
        f"{kind} of {name}" for kind in ("samples", "reconstructions") for name in ("vq", "mlp")
    ]
    said = browser.run(text)
    assert "name: mlp" in said and "run.py compare" in said
    link = browser.run("return location.href")
    click(browser, "dialog .closer")
    browser.until("return !document.querySelector('dialog').open && !location.hash.includes('row=')")
    browser.go(link)
    assert "name: mlp" in browser.run(text) and "name: vq" in browser.run(text)
    assert browser.run("return performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:'))") == []
    assert browser.said() == []


def test_a_command_that_the_page_tells_names_its_two_folders_whatever_they_are_called(
    browser: Browser, tmp_path: Path
) -> None:
    """A quote in a name would end the word, and what follows be run; bytes that are no text would end the page."""
    runs = [tmp_path / "runs" / name for name in ("it's $(touch x) 100%", os.fsdecode(b"\xff0"))]
    for number, folder in enumerate(runs):
        write_run(tmp_path / "runs" / "new", ("mlp", "vq")[number], metrics=elbo(number), config_hash=str(number))
        (tmp_path / "runs" / "new").rename(folder)
    build(tmp_path / "runs", tmp_path / "out")
    browser.go((tmp_path / "out" / "leaderboard.html").as_uri())
    click(browser, "#app tbody th .name > button", "mlp")
    choose(browser, "Compare with", "vq")
    told = browser.run("return document.querySelector('dialog[open]').textContent").split("run.py compare ")[1]
    words = told[: told.index("FF0'") + 4]
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True, cwd=tmp_path)
    assert split.stdout.split(b"\0")[:-1] == [os.fsencode(os.path.relpath(run)) for run in runs]


def test_a_link_shows_what_its_sender_saw(browser: Browser, few: str) -> None:
    browser.resize(1280)
    browser.go(few)
    choose(browser, "Data set", "digits, 1 × 16 × 16")
    click(browser, "[role=tab]", "Reconstruction")
    click(browser, "thead button", "Name")
    click(browser, "[data-family='plain']")
    click(browser, "[data-family='discrete']")
    click(browser, "details.columns > summary")
    click(browser, "details.columns label", " elbo")
    whole = "return document.getElementById('app').textContent"
    before, link = browser.run(whole), browser.run("return location.href")
    assert names(browser) == ["mlp", "vq"]
    assert "elbo" in browser.run("return document.querySelector('thead').textContent")
    browser.go(link)
    assert browser.run(whole) == before


def test_row_and_point_light_up_together(browser: Browser, few: str) -> None:
    browser.resize(1280)
    browser.go(f"{few}#{urlencode({'board': 'digits, 1 × 16 × 16'})}")
    hover = "const at = {clientX: 9, clientY: 9}; const e = document.querySelector(arguments[0]);"
    hover += "e.dispatchEvent(new PointerEvent('pointerenter', at))"
    lit = "return [...document.querySelectorAll('.lit')].map(e => e.dataset.row)"
    browser.run(hover, "tr[data-row=vq]")
    both = browser.run(lit)
    assert set(both) == {"vq"} and len(both) >= 3  # the row, its line in one plot and its point in another
    browser.run(hover, "#scatter [data-row=mlp]")
    assert set(browser.run(lit)) == {"mlp"}
    tip = browser.run(
        "const t = document.getElementById('tip');return [t.hidden, t.textContent, t.querySelectorAll('img').length]"
    )
    assert tip[0] is False and "mlp" in tip[1] and "psnr" in tip[1] and tip[2] == 1


def test_one_likelihood_at_a_time(browser: Browser, many: str) -> None:
    browser.resize(1280)
    browser.go(f"{many}#view=Likelihood")
    others = "return document.querySelectorAll('td.kinds').length"
    assert browser.run(others) == ROWS // 5
    click(browser, "td.kinds button")
    assert browser.run(others) == ROWS - ROWS // 5
