"""What a person sees of a measurement while it is measured, and that nobody else notices that they look."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import instrument
import polars as pl
import pytest
from lab import until
from playwright.sync_api import Browser, Page, expect
from website import Website, laboratory, website

from nanolab_daemon.simulate import Course, ResultsFile, ivg

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

PYMEASURE = Path(__file__).parents[1] / "pymeasure_lab.py"
SEEN = """
window.seen = [];
new MutationObserver(() => {
    const rows = document.querySelector("#live .rows");
    const last = window.seen.at(-1);
    const count = rows && Number(rows.dataset.rows);
    if (rows && (!last || last[1] !== count)) window.seen.push([Date.now() / 1000, count]);
}).observe(document.getElementById("live"), { childList: true, subtree: true, attributes: true });
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Website]:
    with website(laboratory(tmp_path)) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: Website) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(site.address)
    page.evaluate("window.same = true")
    yield page
    page.close()


class Publications:
    """Looks at what is published from now on, again and again, as a reader would: files, and the rows in them."""

    def __init__(self, site: Website) -> None:
        self._stage = site.lab.stage
        self._before = set(self._files())
        self.seen: dict[str, set[int]] = {}
        self.looks = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _files(self) -> Iterator[Path]:
        return self._stage.glob("proc=*/date=*/run_id=*/part-*.parquet")

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            for path in set(self._files()) - self._before:
                rows = pl.scan_parquet(path, hive_partitioning=False).select(pl.len()).collect().item()
                self.seen.setdefault(str(path), set()).add(rows)
            self.looks += 1

    def __enter__(self) -> Publications:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_a_file_that_pymeasure_writes_appears_without_reload_growing_and_then_as_a_run(
    site: Website, page: Page
) -> None:
    """What the page shows while the instrument's own program measures is not published; the whole run is, once."""
    plan = [{"procedure": "IV", "parameters": {"step_time": 0.2, "burn_in": 0.3}}]
    command = [sys.executable, PYMEASURE, site.lab.raw / "2026-11-24", json.dumps(plan)]
    page.evaluate(SEEN)
    with (
        Publications(site) as published,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pc,
    ):
        card = page.locator("#live a.card", has_text="IV2026-11-24_1.csv")
        expect(card).to_contain_text("of 44 rows", timeout=30_000)
        expect(card.locator("polyline")).to_be_visible()
        until(lambda: float(card.locator("progress").get_attribute("value") or 0) > 50, 30, "for half of the sweep")
        assert pc.poll() is None, "it was measured already: nothing was shown while it was"
        assert not published.seen
        arrived = page.locator("#runs li:first-child a.card")
        expect(arrived).to_contain_text("IV2026-11-24_1.csv", timeout=30_000)
        expect(arrived.locator("polyline")).to_be_visible()
        expect(card).to_have_count(0)
        assert pc.wait(30) == 0
    rows = [rows for _, rows in page.evaluate("window.seen")]
    assert rows == sorted(rows)
    assert len(rows) > 3
    assert list(published.seen.values()) == [{44}]
    assert page.evaluate("window.same")


def test_a_writer_at_one_row_a_second_is_followed_and_may_rename_and_delete(site: Website, page: Page) -> None:
    """Each row is on the screen within two seconds, and nothing of it is ever published."""
    (site.lab.raw / "before.csv").write_bytes(instrument.iv(5).data())
    expect(page.locator("#runs a.card")).to_contain_text("before.csv", timeout=20_000)  # the page is at work
    measurement = ivg(5.0, 0.05, seed=1, course=Course())
    file = ResultsFile(site.lab.raw / "slow.csv")
    renamed = site.lab.raw / "renamed by its writer.csv"
    file.queue("laser_setup.procedures.IVg.IVg", measurement.parameters, measurement.columns)
    file.open()
    file.store_metadata({"Start time": repr(time.time())})
    until(lambda: site.lab.state_of("slow.csv") == "started")  # the burn-in: no row comes right after the metadata
    page.evaluate(SEEN)
    written: list[float] = []
    with Publications(site) as published:
        for number, row in enumerate(measurement.rows[:8], 1):
            file.append(row)
            written.append(time.time())
            until(lambda n=number: page.evaluate("window.seen.at(-1)?.[1]") == n, what=f"for row {number}")
            if number == 5:
                file.path.rename(renamed)
            page.wait_for_timeout(max(0.0, 1000 * (written[-1] + 1 - time.time())))
        expect(page.locator("#live a.card")).to_contain_text(renamed.name)
        file.close()
        renamed.unlink()
        expect(page.locator("#live a.card")).to_have_count(0)
        looks = published.looks
        until(lambda: published.looks > looks + 10)
    seen = page.evaluate("window.seen")
    lags = [min(at for at, rows in seen if rows >= number) - at for number, at in enumerate(written, 1)]
    assert max(lags) <= 2.0, lags
    assert statistics.median(lags) <= 1.0, lags
    assert not published.seen
    assert len(site.lab.runs()) == 1


def test_the_head_says_that_there_is_no_connection_and_how_things_stand_when_there_is_one_again(
    site: Website, page: Page
) -> None:
    """What was true before the connection was lost is not shown as if it were known."""
    head = page.locator("#state")
    expect(head).to_have_text("Well")
    expect(head.locator(".dot.good")).to_have_count(1)
    os.kill(site.described["pid"], signal.SIGKILL)  # the daemon starts it anew, at the same address
    expect(head).to_have_text("No connection")
    expect(head.locator(".dot.good")).to_have_count(0)
    expect(head).to_have_text("Well", timeout=30_000)
    assert page.evaluate("window.same")
