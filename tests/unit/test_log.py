from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from nanolab_daemon import log
from nanolab_daemon.log import configure, logger, make_printable

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def restored():
    """Leave the logging of the test run as it was."""
    root, own = logging.getLogger(), logging.getLogger(log.OWN_LOGGER)
    before = (root.level, own.level, list(root.handlers), warnings.showwarning)
    yield
    logging.captureWarnings(False)
    root.setLevel(before[0])
    own.setLevel(before[1])
    root.handlers[:] = before[2]
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    assert warnings.showwarning is before[3]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def records(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines():
    """A record is one JSON object with time, level and event first, then its keys in their order."""
    stream = io.StringIO()
    configure("info", "json", stream)
    logger("engine").info("file staged", **{log.SOURCE_FILE: "a.csv", log.ROWS: 3})
    (record,) = records(stream)
    assert list(record)[:5] == ["ts", "level", "event", "source_file", "rows"]
    assert (record["level"], record["event"], record["rows"]) == ("info", "file staged", 3)
    assert record["logger"] == "nanolab_daemon.engine"
    when = datetime.fromisoformat(record["ts"])
    assert when.utcoffset() == timedelta(0)
    assert abs((datetime.now(UTC) - when).total_seconds()) < 60


@pytest.mark.parametrize(
    ("format_", "stream", "is_json", "coloured"),
    [
        ("auto", io.StringIO, True, False),
        ("auto", Terminal, False, True),
        ("console", io.StringIO, False, False),
        ("console", Terminal, False, True),
        ("json", Terminal, True, False),
    ],
)
def test_formats(monkeypatch, format_, stream, is_json, coloured):
    """Auto means coloured lines on a terminal and JSON elsewhere; colours are for terminals only."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    target = stream()
    configure("info", format_, target)
    logger().info("started", count=1)
    text = target.getvalue()
    assert text.startswith("{") == is_json
    assert ("\x1b[" in text) == coloured
    assert text.count("\n") == 1


def test_no_color(monkeypatch):
    """NO_COLOR is respected."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure("info", "console", stream)
    logger().info("started")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("format_", ["console", "json"])
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("caf\udce9.csv", r"caf\xe9.csv"),
        (b"caf\xe9.csv", r"caf\xe9.csv"),
        (Path("caf\udce9.csv"), r"caf\xe9.csv"),
        ("a\nb\x1b[31m\r.csv", r"a\nb\x1b[31m\r.csv"),
        ("a\x00\u202eb", r"a\x00\u202eb"),
        ("Ω µ ñ", "Ω µ ñ"),
    ],
)
def test_names_never_garble(format_, value, shown):
    """What can't be printed in a name is escaped, in both formats alike; letters of any language stay."""
    stream = io.StringIO()
    configure("info", format_, stream)
    logger().warning("rejected", source_file=value)
    assert stream.getvalue().count("\n") == 1
    if format_ == "json":
        assert records(stream)[0]["source_file"] == shown
    else:
        assert f"source_file={shown}" in stream.getvalue().replace("'", "")


def test_event_and_keys_are_escaped():
    """Nothing that comes with a record can begin a line of its own."""
    stream = io.StringIO()
    configure("info", "json", stream)
    logger().info("a\nb", **{"k\n": 1, "nested": {"x\n": [b"\xff", Path("/a\n")]}})
    (record,) = records(stream)
    assert (record["event"], record["k\\n"]) == ("a\\nb", 1)
    assert record["nested"] == {"x\\n": ["\\xff", "/a\\n"]}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("format_", ["console", "json"])
def test_any_encoding_of_the_stream(encoding, format_):
    """A stream that can't hold a letter gets an escape for it, and JSON stays JSON."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    configure("info", format_, stream)
    logger().info("measured", source_file="Ωµ.csv")
    text = raw.getvalue().decode(encoding)
    assert "measured" in text
    if format_ == "json":
        assert json.loads(text)["source_file"] == "Ωµ.csv"


def test_exceptions_are_text():
    """An exception is written with its traceback, whose lines are kept and whose contents are escaped."""
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        raise ValueError("bad \x1b name \udce9")
    except ValueError:
        logger().exception("broke")
    (record,) = records(stream)
    lines = record["exception"].split("\n")
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == r"ValueError: bad \x1b name \xe9"


def test_exceptions_on_a_console():
    """On a console the traceback follows the line, and no warning is raised for it."""
    stream = io.StringIO()
    configure("info", "console", stream)
    try:
        raise ValueError("bad")
    except ValueError:
        logger().exception("broke")
    assert stream.getvalue().rstrip().endswith("ValueError: bad")


def test_libraries_go_the_same_way():
    """Records of libraries appear in the same form, from the grade of a warning."""
    stream = io.StringIO()
    configure("debug", "json", stream)
    library = logging.getLogger("watchdog.observers.inotify_c")
    library.debug("every single event")
    library.warning("Inotify %s overflowed\n", "queue")
    (record,) = records(stream)
    assert record["event"] == "Inotify queue overflowed"
    assert (record["level"], record["logger"]) == ("warning", "watchdog.observers.inotify_c")


def test_python_warnings_are_records():
    """Python's own warnings don't stand as bare text between JSON lines."""
    code = "import warnings, nanolab_daemon.log as log; log.configure('info', 'json'); warnings.warn('deprecated')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    record = json.loads(done.stderr)
    assert "UserWarning: deprecated" in record["event"]
    assert (record["level"], record["logger"]) == ("warning", "py.warnings")


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level, count):
    """The level is the least grave that is written."""
    stream = io.StringIO()
    configure(level, "json", stream)
    own = logger()
    own.debug("a")
    own.info("b")
    own.warning("c")
    own.error("d")
    assert len(records(stream)) == count


def test_reload_reaches_loggers_made_before():
    """After a reload the loggers that parts already hold follow the new level, format and stream."""
    old, new = io.StringIO(), io.StringIO()
    configure("error", "console", old)
    held = logger("engine").bind(run_id="0123456789abcdef")
    held.info("unseen")
    configure("info", "json", new)
    held.info("seen")
    assert old.getvalue() == ""
    assert [record["run_id"] for record in records(new)] == ["0123456789abcdef"]


def test_context_of_a_run():
    """Keys bound to the context stand on every record."""
    stream = io.StringIO()
    configure("info", "json", stream)
    with structlog.contextvars.bound_contextvars(run_id="r1"):
        logger().info("staged")
    logger().info("idle")
    assert [record.get("run_id") for record in records(stream)] == ["r1", None]


def test_numbers_that_json_lacks():
    """Values that are no finite numbers stay valid JSON."""
    stream = io.StringIO()
    configure("info", "json", stream)
    logger().info("x", a=float("nan"), b=[float("inf")], c={1}, d=datetime(2024, 1, 2, tzinfo=UTC))
    (record,) = records(stream)
    assert (record["a"], record["b"], record["c"]) == ("nan", ["inf"], [1])
    assert record["d"] == "2024-01-02 00:00:00+00:00"


def test_a_renderer_of_ones_own(capsys):
    """A last processor that sends records itself drops them from the stream without a complaint."""
    sent = []

    def journal(_logger, _method, record):
        sent.append(record)
        raise structlog.DropEvent

    stream = io.StringIO()
    configure("info", "auto", stream, renderer=journal)
    logger().info("staged", run_id="r1")
    assert (stream.getvalue(), capsys.readouterr().err) == ("", "")
    assert (sent[0]["event"], sent[0]["run_id"]) == ("staged", "r1")


def test_a_stream_that_fails(capsys):
    """A full disk or a closed pipe behind the log does not stop the program."""

    class Broken(io.StringIO):
        def write(self, _text):
            raise OSError(28, "No space left on device")

    configure("info", "json", Broken())
    logger().info("still alive")
    assert "No space left on device" in capsys.readouterr().err


def test_default_stream_is_standard_error(capsys):
    """Standard output is left to the commands."""
    configure("info", "json")
    logger().info("started")
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["event"] == "started"


def test_before_configuration(capsys):
    """A record before the log is set up does not land on standard output."""
    logger("early").info("hm")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("level", "format_", "wrong"), [("loud", "json", "loud"), ("info", "xml", "xml")])
def test_unknown_words(level, format_, wrong):
    """An unknown level or format is an error of the caller."""
    with pytest.raises(ValueError, match=wrong):
        configure(level, format_, io.StringIO())


def test_import_is_light():
    """Importing the module imports no structlog; only making a logger does."""
    code = "import sys, nanolab_daemon.log; print('structlog' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(record=st.dictionaries(st.text(), ANYTHING, max_size=4))
def test_anything_becomes_one_printable_json_line(record):
    """Whatever a record holds, it becomes one line of strict JSON in printable characters."""
    clean = make_printable(None, "info", dict(record))
    line = json.dumps(clean, ensure_ascii=False, allow_nan=False)
    if not {"exception", "stack"} & {*record}:
        assert line.isprintable()
