"""The page's parts, each by itself: names, tokens, health, curves, thinning, previews, news, the index."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import instrument
import numpy as np
import pytest
from lab import Lab

from nanolab_daemon.config import Config, Paths
from nanolab_daemon.procedures import Registry
from nanolab_daemon.tally import LATENCY_S, Latency
from nanolab_daemon.web import curves, hub, state, svg
from nanolab_daemon.web.guard import is_allowed, is_token, read_token
from nanolab_daemon.web.index import Index, Query
from nanolab_daemon.web.preview import Preview

WELL: dict[str, Any] = {"degraded": None, "paused": None, "frozen": [], "trouble": None, "pools": []}


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("lab-pc:8321", True),
        ("LAB-PC", True),
        ("lab-pc.:80", True),
        ("192.168.1.5", True),
        ("[fe80::1]:80", True),
        ("evil.example", False),
        ("lab-pc.evil.example", False),
        ("lab-pc:80:80", False),
        ("lab-pc@evil.example", False),
        ("", False),
    ],
)
def test_a_host_is_an_address_or_a_known_name(host: str, allowed: bool) -> None:
    assert is_allowed(host, {"lab-pc"}) is allowed


def test_a_token_is_long_and_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    assert read_token(None)[0] == ""
    assert "can't be read" in read_token(file)[1]
    file.write_text("short\n")
    assert "fewer than 16" in read_token(file)[1]
    file.write_text("long enough, surely\n")
    assert read_token(file) == ("long enough, surely", "")
    assert is_token("long enough, surely", "long enough, surely")
    assert not is_token("", "")
    assert not is_token("ñ", "long enough, surely")


@pytest.mark.parametrize(
    ("changes", "word", "well"),
    [
        ({}, "ok", True),
        ({"trouble": "few watches"}, "ok", True),
        ({"frozen": ["a share"]}, "frozen", False),
        ({"frozen": ["a share"], "paused": "disk full"}, "paused", False),
        ({"degraded": "gone", "paused": "disk full"}, "degraded", False),
        ({"pools": [{"name": "stage", "start_failure": "x", "ready": 0}]}, "unwell", False),
    ],
)
def test_health_names_the_gravest_and_gives_all_reasons(changes: dict[str, Any], word: str, well: bool) -> None:
    found = state.health({**WELL, **changes})
    assert (found.word, found.well) == (word, well)
    assert len(found.reasons) == sum(key != "trouble" for key in changes)


def test_silence_and_the_pages_own_trouble_are_no_health() -> None:
    assert state.health(None, "no answer").reasons == ("no answer",)
    assert state.health(WELL, own="ledger").word == "unwell"


def test_a_scan_that_is_late_is_a_remark() -> None:
    late = {**WELL, "scanned_at": time.time() - 1000, "rescan_s": 60.0}
    assert "16 min ago" in state.health(late).remarks[0] or "17 min ago" in state.health(late).remarks[0]
    assert not state.health({**late, "scanned_at": time.time() - 100}).remarks


def test_latencies_are_counted_below_their_limits() -> None:
    latency = Latency()
    for seconds in (0.0, 0.1, 0.11, 1e9):
        latency.add(seconds)
    assert latency.counts[:2] == [2, 1]
    assert latency.counts[-1] == 1
    assert len(latency.counts) == len(LATENCY_S) + 1


def test_thinning_keeps_ends_order_and_what_stands_out() -> None:
    x = np.arange(100_000.0)
    y = np.zeros(100_000)
    y[54_321] = 7.0
    y[12_345] = -3.0
    thin_x, thin_y = curves.thinned(x, y, 400)
    assert len(thin_x) <= 402
    assert (thin_x[0], thin_x[-1]) == (0.0, 99_999.0)
    assert (np.diff(thin_x) > 0).all()
    assert (thin_y.max(), thin_y.min()) == (7.0, -3.0)


@pytest.mark.parametrize(
    ("procedure", "columns", "wanted"),
    [
        ("IV", ["Vsd (V)", "I (A)", "Plate T (degC)"], ("Vsd (V)", "I (A)")),
        ("It", ["t (s)", "I (A)", "VL (V)"], ("t (s)", "I (A)")),
        ("VVg", ["Vg (V)", "VDS (V)", "t (s)"], ("Vg (V)", "VDS (V)")),
        ("ItVg", ["t (s)", "I (A)", "Vg (V)"], ("t (s)", "I (A)")),
        ("Tt", ["Time (s)", "Plate T (degC)"], ("Time (s)", "Plate T (degC)")),
        ("nobody knows it", ["a", "b", "c"], ("a", "b")),
    ],
)
def test_axes_follow_the_registry(procedure: str, columns: list[str], wanted: tuple[str, str]) -> None:
    found = curves.axes(Registry.builtin().get(procedure), columns)
    assert found is not None
    assert (found.x, found.y) == wanted


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [1e-300, 2e-300], [-1e300, 1e300], [0.0, 0.0, 5e-324]])
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    y = np.array(values)
    x = np.arange(float(len(y)))
    assert "nan" not in svg.thumbnail(x, y)
    whole = curves.Series("", x, y)
    for log in (False, True):
        drawn = svg.plot(curves.Axes("t (s)", "I (A)"), whole, [], log=log)
        assert drawn is None or "nan" not in drawn.lines[0].points


def test_values_are_written_with_a_prefix() -> None:
    assert svg.with_unit(4.05e-8, "I (A)") == "I 40.5 nA"
    assert svg.with_unit(-0.1, "Vsd (V)") == "Vsd −100 mV"
    assert svg.with_unit(float("nan"), "I (A)") == "I nan A"


def test_a_preview_reads_what_was_appended_and_begins_anew_with_another_header(tmp_path: Path) -> None:
    config = replace(Config(), paths=Paths(raw=tmp_path))
    preview = Preview(config, Registry.builtin())
    path = tmp_path / "one.csv"
    sweep = instrument.iv(2)
    path.write_bytes(sweep.data(11) + b"0.5,")  # a torn line is not data
    (seen,) = preview.look(["one.csv"])
    assert (seen.rows, seen.percent, seen.goal, len(seen.x)) == (11, 25.0, "of 44 rows", 11)
    path.write_bytes(sweep.data(22))
    (seen,) = preview.look(["one.csv"])
    assert (seen.rows, seen.percent) == (22, 50.0)
    timed = instrument.it(3)
    path.write_bytes(timed.data(30))
    (seen,) = preview.look(["one.csv"])
    assert (seen.proc, seen.rows) == ("It", 30)
    assert seen.percent == pytest.approx(49, abs=2)
    assert not [link for link in Path("/proc/self/fd").iterdir() if _target(link) == str(path)]
    path.unlink()
    assert preview.look(["one.csv"]) == []


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def test_a_preview_follows_no_link_and_waits_at_no_pipe(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    secret = instrument.iv(1).write(tmp_path / "secret.csv")
    (raw / "link.csv").symlink_to(secret)
    os.mkfifo(raw / "pipe.csv")
    preview = Preview(replace(Config(), paths=Paths(raw=raw)), Registry.builtin())
    assert preview.look(["link.csv", "pipe.csv", "../secret.csv", "none.csv"]) == []


def test_news_tell_what_changed_and_a_newcomer_everything() -> None:
    views = [
        hub.View("ok", {"a": "1"}, {"r1": "x"}, 1),
        hub.View("ok", {"a": "2", "b": "1"}, {"r1": "x"}, 1),
        hub.View("ok", {"a": "2", "b": "1"}, {"r1": "x"}, 1),
        hub.View("bad", {}, {"r2": "y", "r1": "x"}, 2),
    ]

    async def story() -> tuple[list[str], str]:
        left = list(views)
        one = hub.Hub(lambda: left.pop(0) if left else views[-1])
        work = asyncio.create_task(one.work())
        listener = one.listen()
        told: list[str] = []
        while not any('"r2"' in text for text in told):
            told.append(await anext(listener))
        second = one.listen()
        await anext(second)
        newcomer = await anext(second)
        one.end()
        work.cancel()
        return told, newcomer

    told, newcomer = asyncio.run(story())
    changed = next(text for text in told if '"b"' in text)
    assert '"items": {"a": "2", "b": "1"}' in changed
    assert "event: runs" not in changed
    assert '"r1": "x"' in newcomer
    assert '"r2": "y"' in newcomer


def test_a_listener_who_does_not_keep_up_is_let_go() -> None:
    inbox: asyncio.Queue[str | None] = asyncio.Queue(hub.MOST_UNREAD)
    assert all(hub._put(inbox, "news") for _ in range(hub.MOST_UNREAD))
    assert not hub._put(inbox, "news")
    assert inbox.get_nowait() is None


def test_the_index_follows_the_ledger_also_to_another_file(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    instrument.lab(lab.raw, 6)
    lab.age()
    lab.backfill()
    moment = [0.0]
    index = Index(lab.state / "ledger.sqlite", clock=lambda: moment[0])
    assert len(index.runs()) == 6
    assert [one.start_us for one in index.runs()] == sorted((one.start_us for one in index.runs()), reverse=True)
    assert {one.proc for one in index.search(Query(procedure="It"))} == {"It"}
    instrument.iv(50).write(lab.raw / "more.csv")
    lab.age()
    lab.backfill()
    moment[0] += 100
    assert len(index.runs()) == 7
    for path in lab.state.glob("ledger.sqlite*"):
        path.unlink()
    (lab.raw / "more.csv").unlink()
    moment[0] += 100
    assert len(index.runs()) == 7
    assert "can't be read" in index.trouble
    lab.backfill()
    moment[0] += 100
    assert len(index.runs()) == 6
    assert not index.trouble
    index.close()
