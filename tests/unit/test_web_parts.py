"""The page's parts, each by itself: names, tokens, health, curves, thinning, previews, news, the index."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import instrument
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lab import Lab
from starlette.applications import Starlette

from nanolab_daemon.config import Config, Paths
from nanolab_daemon.procedures import Registry
from nanolab_daemon.secret import read_token
from nanolab_daemon.tally import LATENCY_S, Latency
from nanolab_daemon.web import curves, hub, state, svg
from nanolab_daemon.web.app import make_app
from nanolab_daemon.web.guard import HEADERS, is_allowed, is_token
from nanolab_daemon.web.index import Index, Query, chip_name
from nanolab_daemon.web.preview import Preview
from nanolab_daemon.web.show import Shown, coded

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


FLOATS = st.floats(allow_nan=True, allow_infinity=True)
CURVES = st.lists(st.tuples(FLOATS, FLOATS), max_size=8)


@given(whole=CURVES, segment=CURVES, log=st.booleans(), unit=st.sampled_from(["I (A)", "T (degC)"]))
@example(whole=[(0.0, -1e308), (1.0, 1e308)], segment=[], log=False, unit="I (A)")
@example(whole=[(-1.7e308, 0.0), (1.7e308, 1.79e308)], segment=[], log=False, unit="T (degC)")
@example(whole=[(0.0, 0.0), (1.0, 5e-324)], segment=[(1e308, -1e308)], log=False, unit="I (A)")
def test_no_numbers_whatever_can_break_a_drawing(whole: Any, segment: Any, log: bool, unit: str) -> None:
    series = [curves.Series("", *np.array(one, dtype=float).reshape(-1, 2).T) for one in (whole, segment)]
    small = svg.thumbnail(series[0].x, series[0].y)
    drawn = svg.plot(curves.Axes("t (s)", unit), series[0], series[1:], log=log)
    told = [small]
    if drawn is not None:
        ticks = (*drawn.x_ticks, *drawn.y_ticks)
        assert all(np.isfinite(tick.at) for tick in ticks)
        told += [line.points for line in drawn.lines] + [tick.label for tick in ticks]
        left, top, right, bottom = drawn.frame
        for place in (place for line in drawn.lines for place in line.points.split()):
            x, y = map(float, place.split(","))
            assert left - 0.1 <= x <= right + 0.1
            assert top - 0.1 <= y <= bottom + 0.1
    assert not [text for text in told if "nan" in text or "inf" in text]


def ask(app: Starlette, path: str) -> tuple[int, dict[str, str], str]:
    """Ask an application without a server; give the answer's code, headers and text, even if it then raises."""
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        told.append(message)

    target, _, query = path.partition("?")
    scope = {"type": "http", "method": "GET", "path": target, "query_string": query.encode(), "root_path": ""}
    with contextlib.suppress(ZeroDivisionError):
        asyncio.run(app({**scope, "headers": [(b"host", b"localhost")]}, receive, send))
    headers = {name.decode(): value.decode() for name, value in told[0]["headers"]}
    return told[0]["status"], headers, b"".join(one.get("body", b"") for one in told).decode()


@pytest.mark.parametrize(
    ("path", "broken", "frame"),
    [("/status", "counts", True), ("/status", "health", False), ("/health", "health", False)],
)
def test_a_fault_of_the_page_is_told_in_its_frame_and_as_guarded_as_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, broken: str, frame: bool
) -> None:
    """Where the frame itself can't be made, plain words do."""

    def fault(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(state, broken, fault)
    code, headers, text = ask(make_app(Lab(tmp_path).config), path)
    assert code == 500
    assert "This page has a fault" in text
    assert ('<header class="top">' in text) is frame
    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= headers.items()


def test_values_are_written_with_a_prefix() -> None:
    assert svg.with_unit(4.05e-8, "I (A)") == "I 40.5 nA"
    assert svg.with_unit(-0.1, "Vsd (V)") == "Vsd −100 mV"
    assert svg.with_unit(float("nan"), "I (A)") == "I nan A"


@pytest.mark.parametrize(
    ("group", "number", "sample", "name"),
    [
        ("Alisson", 71, "F", "Alisson 71F"),
        ("Alisson", 71, "other", "Alisson 71 other"),
        ("Alisson", None, "F", "Alisson F"),
        (None, 7, None, "7"),
        (None, None, None, ""),
    ],
)
def test_a_chip_is_called_as_the_lab_does(
    group: str | None, number: int | None, sample: str | None, name: str
) -> None:
    assert chip_name(group, number, sample) == name


def test_a_command_in_a_remedy_is_code_and_nothing_in_it_is_markup() -> None:
    assert coded("Type `a <b>` now.") == "Type <code>a &lt;b&gt;</code> now."
    assert coded("One ` <script> alone") == "One ` &lt;script&gt; alone"


def test_what_can_not_be_seen_is_written_out_on_every_page_and_lines_stay_lines(tmp_path: Path) -> None:
    shown = Shown(Lab(tmp_path).config)
    words = "F\x1b[31m\u202e\u200b\ud800 µ <i>\r\nnext\tone"
    page = shown.render("refused.html", path="/", badge="<b></b>", zone="UTC", code=404, words=words)
    assert r"<p>F\x1b[31m\u202e\u200b\ud800 µ &lt;i&gt;" + "\nnext\tone</p>" in page
    assert "<b></b>" in page
    assert coded("`a\x1b`") == r"<code>a\x1b</code>"


def test_segments_of_one_name_are_told_apart() -> None:
    x = np.array([0.0, 1.0])
    parts = [curves.Series(name, x, x) for name in ("forward_negative", "forward_positive", "forward_negative")]
    drawn = svg.plot(curves.Axes("Vg (V)", "I (A)"), curves.Series("", x, x), parts, log=False)
    assert drawn is not None
    assert [line.name for line in drawn.lines[1:]] == ["forward_negative 1", "forward_positive", "forward_negative 2"]


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
