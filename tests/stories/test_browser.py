"""The page in a real browser: what a person sees without doing anything, and how it behaves with very many runs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import instrument
import pytest
from playwright.sync_api import Browser, Page, expect
from website import TOKEN, Website, laboratory, website

from nanolab_daemon.web.app import FULL

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

RUNS = 31_806
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
SMOOTH_MS = 100.0
"""The time between two frames that 95 of 100 keep to while scrolling, unless the machine is too busy anyhow."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    lab = laboratory(tmp_path_factory.mktemp("lab"))
    instrument.lab(lab.raw, 6)
    broken = instrument.iv(91)
    replace(broken, rows=[*broken.rows[:5], "0.1,OVERFLOW,nan,nan,nan", *broken.rows[6:]]).write(lab.raw / "bad.csv")
    hostile = instrument.iv(90)
    parameters = {**hostile.parameters, "Sample": HOSTILE, "Information": HOSTILE, HOSTILE: HOSTILE}
    replace(hostile, parameters=parameters).write(lab.raw / "<img src=x> hostile.csv")
    long = instrument.iv(89)
    parameters = {**long.parameters, "Sample": "W" * 400, "Chip group name": "M" * 400, "Information": "W" * 900}
    replace(long, parameters=parameters).write(lab.raw / f"{'W' * 200}.csv")
    lab.age()
    with website(lab) as site:
        lab.wait_quiet()
        yield site


def test_a_file_appears_without_reload_first_growing_then_with_its_curve(site: Website, page: Page) -> None:
    page.goto(site.address)
    page.evaluate("window.same = true")
    seed = 300 + int(time.time()) % 1000
    measurement = instrument.iv(seed, start=time.time() - 3600 * seed)
    path = site.lab.raw / f"live {seed}.csv"
    card = page.locator("#live a.card", has_text=path.name)
    with path.open("wb", buffering=0) as file:
        file.write(measurement.data(11))
        expect(card).to_contain_text("25 %")
        file.write(measurement.data(22)[path.stat().st_size :])
        expect(card).to_contain_text("50 %")
        expect(card.locator("polyline")).to_be_visible()
        file.write(measurement.data()[path.stat().st_size :])
    arrived = page.locator("#runs li:first-child a.card")
    expect(arrived).to_contain_text(path.name)
    expect(arrived.locator("polyline")).to_be_visible()
    expect(card).to_have_count(0)
    assert page.evaluate("window.same")
    arrived.click()
    expect(page.locator("h1")).to_contain_text("IV")
    expect(page.locator("#plot g.series")).to_have_count(5)
    colours = page.evaluate("[...document.querySelectorAll('.legend line')].map((l) => getComputedStyle(l).stroke)")
    assert len(set(colours)) == 4


def test_a_page_that_is_one_too_many_says_that_it_gets_no_news(site: Website, page: Page) -> None:
    page.route("**/events", lambda route: route.fulfill(body=FULL, content_type="text/event-stream"))
    page.goto(site.address)
    expect(page.locator("#state")).to_contain_text("No news: too many pages are open")
    expect(page.locator("#offline")).to_be_hidden()


def test_values_are_read_off_by_pointer_and_by_keys(site: Website, page: Page) -> None:
    run_id = next(key for key, run in site.lab.runs().items() if run.facts.proc == "IV")
    page.goto(f"{site.address}runs/{run_id}")
    box = page.locator("#plot-box")
    box.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).to_contain_text("forward negative: Vsd (V) = ")
    first = page.locator("#readout").inner_text()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#readout")).not_to_have_text(first)
    box.hover()
    expect(page.locator("#cursor")).to_have_attribute("visibility", "visible")


def test_values_are_read_off_by_a_finger(site: Website, browser: Browser) -> None:
    run_id = next(key for key, run in site.lab.runs().items() if run.facts.proc == "IV")
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = phone.new_page()
    page.goto(f"{site.address}runs/{run_id}")
    page.locator("#plot-box").tap()
    expect(page.locator("#readout")).to_contain_text("Vsd (V) = ")
    phone.close()


def test_a_reject_shows_its_reason_and_is_retried_with_the_token(site: Website, page: Page) -> None:
    page.goto(f"{site.address}rejects")
    page.locator("a.reject", has_text="bad.csv").click()
    expect(page.locator(".reason")).to_have_text("Line 27 holds 'OVERFLOW', which is no number.")
    expect(page.locator(".lines .offending")).to_contain_text("0.1,OVERFLOW")
    page.fill("input[name=token]", TOKEN)
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".note")).to_contain_text("was asked to look at it again")


def test_a_hostile_header_and_a_hostile_name_are_text(site: Website, page: Page) -> None:
    run_id = next(key for key, run in site.lab.runs().items() if b"hostile" in run.source)
    for path in ("", "runs", f"runs/{run_id}", "status"):
        page.goto(site.address + path)
        page.wait_for_function("document.readyState === 'complete'")
        assert page.title() != "taken"
        assert page.locator("img").count() == 0
    page.goto(f"{site.address}runs/{run_id}")
    expect(page.locator("td", has_text=HOSTILE).first).to_be_visible()


def test_keys_lead_everywhere(site: Website, page: Page) -> None:
    page.goto(site.address)
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Tab")
    page.locator("h2").first.click()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("a.row").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/*")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_window(site: Website, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    runs = [f"runs/{run_id}" for run_id in site.lab.runs()]
    for path in ("", "runs", *runs, "rejects", "why?file=bad.csv", f"why?file={'W' * 200}.csv", "status"):
        page.goto(site.address + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def test_very_many_runs_scroll_smoothly(browser: Browser, tmp_path: Path) -> None:
    lab = laboratory(tmp_path)
    instrument.lab(lab.raw, 6)
    lab.age()
    lab.backfill()
    _multiply(lab.state / "ledger.sqlite", RUNS)
    with website(lab) as site:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{site.address}runs")
        expect(page.locator("#total")).to_have_text(f"{RUNS:,}")
        page.evaluate(
            """() => {
                window.gaps = [];
                let last = performance.now();
                const tick = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(tick); };
                requestAnimationFrame(tick);
            }"""
        )
        still = _slow_frame(page, 0)
        scrolling = _slow_frame(page, 900)
        assert scrolling < max(SMOOTH_MS, 3 * still), (still, scrolling)
        expect(page.locator("a.row").first).to_be_visible()
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        last = page.locator("a.row").last
        expect(last).to_contain_text("gone/0.csv")
        expect(last).to_be_in_viewport()
        assert page.locator("a.row").count() < 400
        page.close()


def _slow_frame(page: Page, by: int) -> float:
    """Scroll by so much sixty times; give the time in ms between two frames that 95 of 100 keep to."""
    page.evaluate("window.gaps.length = 0")
    for _ in range(60):
        page.mouse.wheel(0, by)
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    gaps: list[float] = sorted(page.evaluate("window.gaps"))
    return gaps[int(len(gaps) * 0.95)]


def _multiply(ledger: Path, runs: int) -> None:
    """Let a ledger tell of so many runs: copies of one, whose raw files have gone, an hour apart."""
    db = sqlite3.connect(ledger)
    columns = [row[1] for row in db.execute("PRAGMA table_info(runs)")]
    there = db.execute("SELECT count(*) FROM runs").fetchone()[0]
    changed = {
        "run_id": "printf('%016x', n)",
        "start_us": "n * 3600 * 1000000",
        "source": "CAST('gone/' || n || '.csv' AS BLOB)",
        "source_missing": "1",
    }
    chosen = ", ".join(changed.get(name, name) for name in columns)
    db.execute(
        "WITH RECURSIVE many(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM many WHERE n + 1 < ?)"
        f" INSERT INTO runs SELECT {chosen} FROM many, (SELECT * FROM runs LIMIT 1)",
        (runs - there,),
    )
    db.commit()
    db.close()
