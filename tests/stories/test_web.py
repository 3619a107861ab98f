"""The page beside a real daemon: what it tells, what it refuses, and how little the daemon has to do with it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import instrument
import polars as pl
import pytest
from lab import until
from prometheus_client.parser import text_string_to_metric_families
from website import TOKEN, Website, laboratory, website

from nanolab_daemon.names import shown_path

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    lab = laboratory(tmp_path_factory.mktemp("lab"))
    instrument.lab(lab.raw, 12)
    hostile = instrument.iv(90)
    hostile = replace(hostile, parameters={**hostile.parameters, "Information": HOSTILE, HOSTILE: HOSTILE})
    hostile.write(lab.raw / "hostile" / "<b>bold</b> & co.csv")
    broken = instrument.iv(91)
    rows = [*broken.rows[:5], f"0.1,{HOSTILE},nan,nan,nan", *broken.rows[6:]]
    replace(broken, rows=rows).write(lab.raw / "broken.csv")
    lab.age()
    with website(lab) as site:
        lab.wait_quiet()
        yield site


def run_ids(site: Website) -> list[str]:
    runs = site.lab.runs()
    until(lambda: len(re.findall(r'class="row"', site.get("runs/rows?limit=200").text)) == len(runs))
    return list(runs)


def test_every_run_has_a_page_with_its_curve_its_header_and_its_files(site: Website) -> None:
    for run_id, run in site.lab.runs().items():
        page = site.get(f"runs/{run_id}").text
        assert "<polyline points=" in page
        assert page.count('class="legend"') == bool(run.segment_files)
        if run.segment_files:
            assert page.count('<g class="series') == len(run.segment_files) + 1
        staged = site.get(f"runs/{run_id}/run.parquet")
        assert staged.headers["Content-Disposition"].startswith("attachment;")
        assert pl.read_parquet(io.BytesIO(staged.body)).height == run.facts.rows
        assert site.get(f"runs/{run_id}/raw.csv").body == (site.lab.raw / os.fsdecode(run.source)).read_bytes()
        points = site.get(f"runs/{run_id}/points").json
        assert sum(len(one["x"]) for one in points["series"]) == run.facts.rows - (run.rows_outside or 0)


def test_what_others_wrote_is_shown_as_text_on_every_page(site: Website) -> None:
    ids = run_ids(site)
    why = "why?" + urllib.parse.urlencode({"file": shown_path(b"hostile/<b>bold</b> & co.csv")})
    pages = [
        "",
        "runs",
        "runs/rows",
        "rejects",
        "status",
        why,
        "why?file=broken.csv",
        *(f"runs/{one}" for one in ids),
    ]
    told = "".join(site.get(page).text for page in pages)
    assert "<script>alert" not in told
    assert "<img src=x" not in told
    assert "<b>bold" not in told
    assert told.count("&lt;script&gt;alert(1)") >= 4
    assert not re.search(r"<script(?![^>]* src=\"/static/)", told)
    assert not re.search(r"<[a-z][^<>]* (on[a-z]+|style)=", told)


def test_a_reject_is_told_with_its_line_and_its_remedy(site: Website) -> None:
    listed = site.get("rejects").text
    assert "broken.csv" in listed
    assert "bad rows" in listed
    page = site.get("why?file=broken.csv").text
    assert "is no number" in page
    assert "Mend the line" in page
    assert re.search(r'class="offending"><b> *\d+</b>  0\.1,&lt;script', page)


def test_only_with_the_token_a_reject_is_tried_again(site: Website) -> None:
    form = {"file": "broken.csv", "skip_bad_rows": "yes"}
    assert site.get("retry", data=form).code == 403
    assert site.get("retry", data={**form, "token": TOKEN + "x"}).code == 403
    assert site.get("retry").code == 405
    assert site.lab.state_of("broken.csv") == "rejected"
    assert site.get("retry", data={"file": "no.csv", "token": TOKEN}).code == 409
    sent = site.get("retry", data={**form, "token": TOKEN})
    assert (sent.code, sent.headers["Location"]) == (303, "/why?file=broken.csv&told=retry")
    until(lambda: site.lab.state_of("broken.csv") == "segmented")


def test_runs_are_found_by_chip_procedure_date_and_name(site: Website) -> None:
    runs = site.lab.runs()
    ids = run_ids(site)
    some = runs[ids[0]]

    def found(**query: str) -> set[str]:
        text = site.get("runs/rows?limit=200&" + urllib.parse.urlencode(query)).text
        return set(re.findall(r'href="/runs/([0-9a-f]{16})"', text))

    assert found(procedure="IVg") == {key for key, run in runs.items() if run.facts.proc == "IVg"}
    assert found(since=some.facts.date, until=some.facts.date) == {
        key for key, run in runs.items() if run.facts.date == some.facts.date
    }
    assert found(chip="79") == set(ids)
    assert found(chip="alisson 79F") == set(ids)
    assert found(chip="7") == set()
    assert found(text="bold") == {key for key, run in runs.items() if b"bold" in run.source}
    assert found(text=ids[0]) == {ids[0]}
    assert found(procedure="'; DROP TABLE runs --") == set()


def test_nothing_outside_is_told_or_given(site: Website) -> None:
    for name in ("/etc/passwd", "../state/ledger.sqlite", "a/../../x", "", "\\x00"):
        assert site.get("why?" + urllib.parse.urlencode({"file": name})).code == 404
    for path in ("static/x/page.css", "static/../page.css", "runs/../../etc/passwd", "runs/0000000000000000"):
        assert site.get(path).code == 404


def test_answers_forbid_what_a_page_does_not_need(site: Website) -> None:
    for path in ("", "health", "metrics", "nothing", "runs"):
        headers = site.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_another_name_is_refused(site: Website) -> None:
    port = site.address.rsplit(":", 1)[1].rstrip("/")
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "", "127.0.0.1.evil.example"):
        assert site.get("", {"Host": host}).code in (400, 421), host
    for host in (f"localhost:{port}", "127.0.0.1", "[::1]:80", socket.gethostname()):
        assert site.get("", {"Host": host}).code == 200, host


def test_metrics_agree_with_the_ledger(site: Website) -> None:
    site.lab.wait_quiet()
    families = {one.name: one for one in text_string_to_metric_families(site.get("metrics").text)}
    states = {sample.labels["state"]: sample.value for sample in families["nanolab_files"].samples}
    files = site.lab.files()
    assert {key: value for key, value in states.items() if value} == {
        state: sum(one == state for one, _ in files.values()) for state in {one for one, _ in files.values()}
    }
    assert families["nanolab_files_seen"].samples[0].value == len(files)
    assert families["nanolab_published_runs"].samples[0].value == len(site.lab.runs())
    assert families["nanolab_up"].samples[0].value == 1
    assert families["nanolab_lost_events"].samples[0].value == 0
    assert {s.labels["pool"] for s in families["nanolab_pool_replaced"].samples} == {"stage", "segment"}
    assert families["nanolab_scan_lag_seconds"].samples[0].value < 60
    for name in ("nanolab_latency_seconds", "nanolab_backlog_age_seconds", "nanolab_rejections"):
        assert name in families


def test_a_file_is_news_while_it_is_measured_and_when_it_has_arrived(site: Website) -> None:
    """Rows show within two seconds; what is shown of a file under way is nowhere among the published."""
    measurement = instrument.iv(70, start=time.time() - 3600 * 70)
    path = site.lab.raw / "under way.csv"
    before = set(site.lab.runs())
    with site.events() as news:
        lags = []
        with path.open("wb", buffering=0) as file:
            file.write(measurement.data(0))
            for rows in (10, 20, 30):
                file.write(measurement.data(rows)[path.stat().st_size :])
                began = time.monotonic()
                told = wait_for(news, "live", f'data-rows="{rows}"')
                lags.append(time.monotonic() - began)
                assert f">{100 * rows / 44:.0f} %<" in told
                assert "<polyline" in told
                assert set(site.lab.runs()) == before
                until(lambda: str(path) not in open_files(site.described["pid"]))  # but for moments, it is closed
            file.write(measurement.data()[path.stat().st_size :])
        assert max(lags) < 2.0, lags
        wait_for(news, "runs", "under way.csv")
    new = set(site.lab.runs()) - before
    assert len(new) == 1
    assert site.lab.runs()[new.pop()].facts.rows == 44


def open_files(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(link))
    return found


def wait_for(news: Iterator[tuple[str, Any]], kind: str, words: str) -> str:
    """Wait until some news hold some words; give those news."""
    for name, data in news:
        told = "".join(data["items"].values()) if name == kind else ""
        if words in told:
            return told
    raise AssertionError("the news have ended")


def test_the_daemon_does_not_feel_slow_silent_and_many_clients(site: Website) -> None:
    host, port = urllib.parse.urlsplit(site.address).hostname, urllib.parse.urlsplit(site.address).port
    clients = [socket.create_connection((host, port)) for _ in range(150)]
    try:
        for number, client in enumerate(clients):
            client.sendall(b"GET /runs HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * (number % 3))
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            assert site.lab.status()
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2.0
        instrument.iv(71).write(site.lab.raw / "meanwhile.csv")
        until(lambda: site.lab.state_of("meanwhile.csv") == "segmented")
    finally:
        for client in clients:
            client.close()
    assert until(lambda: site.get("health").code == 200)


def test_a_page_that_dies_comes_back_at_the_same_address_and_is_counted(site: Website) -> None:
    first = site.described
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: site.described["pid"] not in (first["pid"], None))
    assert site.described["address"] == first["address"]
    assert site.described["restarts"] == first["restarts"] + 1
    assert site.get("health").code == 200


def test_the_page_says_so_when_the_raw_folder_is_gone(tmp_path: Path) -> None:
    lab = laboratory(tmp_path)
    instrument.iv(1).write(lab.raw / "one.csv")
    with website(lab) as site:
        lab.wait_quiet()
        assert site.get("health").json["status"] == "ok"
        os.rename(lab.raw, tmp_path / "elsewhere")
        answer = until(lambda: (a := site.get("health")).code == 503 and a)
        assert answer.json["status"] == "degraded"
        assert str(lab.raw) in answer.json["reasons"][0]
        assert site.get("status").code == 200
        os.rename(tmp_path / "elsewhere", lab.raw)
        until(lambda: site.get("health").code == 200)


def test_the_page_says_so_when_the_daemon_is_silent(site: Website) -> None:
    os.kill(site.process.pid, signal.SIGSTOP)
    try:
        answer = until(lambda: (a := site.get("health")).code == 503 and a)
        assert answer.json["status"] == "silent"
        assert site.get("").code == 200
    finally:
        os.kill(site.process.pid, signal.SIGCONT)
    until(lambda: site.get("health").code == 200)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_the_page_ends_with_the_daemon_however_that_ends(tmp_path: Path, ending: signal.Signals) -> None:
    lab = laboratory(tmp_path)
    with website(lab) as site:
        page = site.described["pid"]
        listening = threading.Event()
        with site.events() as news:  # an open page keeps nobody from ending
            next(news)
            listening.set()
            began = time.monotonic()
            site.process.send_signal(ending)
            site.process.wait(15)
            until(lambda: not Path(f"/proc/{page}").exists() or _is_dead(page), 5)
            assert time.monotonic() - began < 10


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
