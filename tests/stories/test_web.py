"""The page beside a real daemon: what it tells, what it refuses, and how little the daemon has to do with it."""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
import signal
import socket
import threading
import time
import urllib.parse
import urllib.request
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

from nanolab_daemon import quality
from nanolab_daemon.names import shown_path
from nanolab_daemon.web.app import FULL
from nanolab_daemon.web.hub import MOST_LISTENERS

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"

UNSEEN = "\x1b[31m\u202e\u200b\u2066"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    lab = laboratory(tmp_path_factory.mktemp("lab"))
    instrument.lab(lab.raw, 12)
    hostile = instrument.iv(90)
    hostile = replace(hostile, parameters={**hostile.parameters, "Information": HOSTILE + UNSEEN, HOSTILE: HOSTILE})
    hostile.write(lab.raw / "hostile" / "<b>bold</b> & co.csv")
    broken = instrument.iv(91)
    rows = [*broken.rows[:5], f"0.1,{HOSTILE},nan,nan,nan", *broken.rows[6:]]
    replace(broken, rows=rows).write(lab.raw / "broken.csv")
    late = instrument.iv(92)  # named long before it started, and with readings that are none
    rows = [*late.rows[:5], late.rows[5].replace(late.rows[5].split(",")[1], "9.9e37"), *late.rows[6:]]
    replace(late, rows=rows).write(lab.raw / "IV2001-01-01_1.csv")
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
    assert not set(UNSEEN) - set("[31m") & set(told)
    assert r"\x1b[31m\u202e\u200b\u2066" in told
    assert told.count("&lt;script&gt;alert(1)") >= 4
    assert not re.search(r"<script(?![^>]* src=\"/static/)", told)
    assert not re.search(r"<[a-z][^<>]* (on[a-z]+|style)=", told)


def test_flags_are_told_with_their_meaning_where_the_run_is_shown_and_where_its_file_is(site: Website) -> None:
    """Also the one of the clock, which is not stored with the run."""
    (run_id,) = [key for key, run in site.lab.runs().items() if run.source == b"IV2001-01-01_1.csv"]
    for page in (f"runs/{run_id}", "why?file=IV2001-01-01_1.csv"):
        text = html.unescape(site.get(page).text)
        for flag in (quality.Flag.OVERFLOW, quality.Flag.CLOCK_MISMATCH):
            assert f">{flag}</span>" in text, page
            assert quality.MEANINGS[flag] in text, page
    assert (
        ">clock_mismatch<"
        not in site.get("why?" + urllib.parse.urlencode({"file": "hostile/<b>bold</b> & co.csv"})).text
    )


def test_a_reject_is_told_with_its_line_and_its_remedy(site: Website) -> None:
    listed = site.get("rejects").text
    assert "broken.csv" in listed
    assert "bad rows" in listed
    page = site.get("why?file=broken.csv").text
    assert "is no number" in page
    assert "Mend the line" in page
    assert re.search(r'class="offending"><b> *\d+</b>  0\.1,&lt;script', page)


def test_what_many_rejects_have_in_common_is_told_once_and_all_are_reached(tmp_path: Path) -> None:
    lab = laboratory(tmp_path)
    lab.raw.mkdir(exist_ok=True)
    for number in range(130):
        (lab.raw / f"notes {number}.csv").write_bytes(b"not a measurement\n" * 9)
    for number in range(3):  # the line is another one in each
        sound = instrument.iv(number)
        rows = [*sound.rows[:number], "x,1,nan,nan,nan", *sound.rows[number + 1 :]]
        replace(sound, rows=rows).write(lab.raw / f"bad {number}.csv")
    lab.age()
    lab.backfill()
    reasons = {name: reason for name, (state, reason) in lab.files().items() if state == "rejected"}
    assert len(reasons) == 133

    def shown(page: str) -> list[str]:
        return [urllib.parse.unquote_plus(one) for one in re.findall(r'href="/why\?file=([^"]+)"', page)]

    with website(lab) as site:
        first = html.unescape(site.get("rejects").text)
        assert len(shown(first)) == 20 + 3
        for name in (b"notes 0.csv", b"bad 0.csv", b"bad 1.csv", b"bad 2.csv"):
            assert first.count(reasons[name]) == 1, name
        assert first.count("Mend the line") == 1
        found, link = [], "rejects?cause=not_instrument_file"
        assert f"/{link}" in first
        while link:
            page = html.unescape(site.get(link).text)
            found += shown(page)
            more = re.search(r'href="/(rejects[^"]+)">More<', page)
            link = more[1] if more else ""
        assert sorted(found) == sorted(f"notes {number}.csv" for number in range(130))


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


def test_a_cause_without_files_is_told_and_one_that_is_none_is_refused(site: Website) -> None:
    page = site.get("rejects?cause=crashed")
    assert page.code == 200
    assert "No file is rejected for this cause (crashed)." in page.text
    assert site.get("rejects?cause=xx").code == 404


def test_a_run_whose_published_file_is_gone_says_what_makes_it_again(tmp_path: Path) -> None:
    lab = laboratory(tmp_path)
    lab.raw.mkdir(exist_ok=True)
    (lab.raw / "a\x1b[31m\n.csv").write_bytes(instrument.iv(1).data())
    lab.age()
    lab.backfill()
    (run_id,) = lab.runs()
    with website(lab) as site:
        assert f"/runs/{run_id}/run.parquet" in site.get(f"runs/{run_id}").text
        sent = site.get(f"runs/{run_id}/raw.csv").headers["Content-Disposition"]
        assert urllib.parse.unquote(sent).endswith(r"''a\x1b[31m\n.csv"), sent
        next(lab.stage.rglob("part-000.parquet")).unlink()
        page = site.get(f"runs/{run_id}").text
        assert re.search("Its published file is gone: <code>nanolab-daemon verify --config .* --repair</code>", page)
        assert f"/runs/{run_id}/run.parquet" not in page


def test_a_day_that_is_none_is_told(site: Website) -> None:
    for query in ("since=2026-99-99", "until=yesterday", "since=20260101"):
        answer = site.get(f"runs?{query}")
        assert answer.code == 400, query
        assert f"{query} is no day" in html.unescape(answer.text)


def test_a_page_that_is_one_too_many_is_told_so_in_its_news(site: Website) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(MOST_LISTENERS):
            stream = opened.enter_context(urllib.request.urlopen(f"{site.address}events", timeout=20))
            assert stream.readline().startswith(b"retry")
        assert site.get("events").text == FULL

    def first() -> bytes:
        with urllib.request.urlopen(f"{site.address}events", timeout=20) as stream:
            line: bytes = stream.readline()
            return line

    until(lambda: first() == b"retry: 1500\n", what="for a place to be free again")


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
