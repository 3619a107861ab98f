from __future__ import annotations

import pickle
import subprocess
import sys
import tomllib
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from nanolab_daemon import config as config_module
from nanolab_daemon.config import VARIABLES, Config, Paths, Source, WatchMode, load
from nanolab_daemon.errors import ConfigError
from nanolab_daemon.sections import RULES, SECTIONS, default_workers
from nanolab_daemon.settings import escaped, shown

ROOT = Path(__file__).parents[2]
FOUR = {"paths.raw": "r", "paths.stage": "s", "paths.output": "o", "paths.state": "l"}


@pytest.fixture
def write(tmp_path):
    def _write(text: str | bytes) -> Path:
        file = tmp_path / "config.toml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return _write


def refused(file: Path | None = None, environ=None, overrides=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, environ=environ or {}, overrides=overrides)
    assert caught.value.exit_code == 78
    return str(caught.value)


def outcome(call, *args, **options) -> object:
    """Give what a call gives, or the text of its ConfigError."""
    try:
        return call(*args, **options)
    except ConfigError as error:
        return str(error)


def test_file_of_defaults_and_code_agree():
    """Every key stands in config.toml with the default that the code has, and no other key does."""
    table = tomllib.loads((ROOT / "config.toml").read_text())
    assert table.pop("procedures") == {}
    assert {section: set(keys) for section, keys in table.items()} == {
        section: {one.name for one in fields(kind)} for section, kind in SECTIONS.items()
    }
    read = load(ROOT / "config.toml", environ={})
    assert read == load(environ={}, overrides={f"paths.{key}": ROOT / value for key, value in table["paths"].items()})


def test_every_key_of_the_file_has_a_comment():
    """A person who reads config.toml finds a comment at each key."""
    lines = [line for line in (ROOT / "config.toml").read_text().splitlines() if " = " in line and line[0] != "#"]
    assert len(lines) == len(RULES)
    assert [line for line in lines if "  # " not in line] == []


def test_default_text_is_the_commented_file():
    """The installed service writes the same commented file that stands in the repository."""
    assert config_module.default_text() == (ROOT / "config.toml").read_text()


def test_variables_are_unambiguous():
    """No two keys share an environment variable."""
    assert len(VARIABLES) == len(RULES)


def test_precedence(write, monkeypatch, tmp_path):
    """The command line wins over the environment, the environment over the file, the file over the default."""
    file = write("[watch]\nsettle_s = 2\nquiet_s = 2\nrescan_s = 2")
    config = load(
        file,
        environ={"NANOLAB_WATCH_QUIET_S": "3", "NANOLAB_WATCH_RESCAN_S": "3"},
        overrides={"watch.rescan_s": 4, "watch.poll_s": None},
    )
    watch = config.watch
    assert (watch.settle_s, watch.quiet_s, watch.rescan_s, watch.poll_s) == (2.0, 3.0, 4.0, 0.5)
    keys = ("settle_s", "quiet_s", "rescan_s", "poll_s")
    assert [config.source(f"watch.{key}") for key in keys] == [Source.FILE, Source.ENV, Source.FLAG, Source.DEFAULT]


def test_relative_paths(write, monkeypatch, tmp_path):
    """Relative paths start at the folder of the file, or at the current folder where they were typed."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    file = write('[paths]\nraw = "in"')
    config = load(file, environ={"NANOLAB_PATHS_STAGE": "s"}, overrides={"paths.output": Path("o")})
    assert config.paths == Paths(
        raw=tmp_path / "in", stage=here / "s", output=here / "o", state=tmp_path / "data/.nanolab"
    )


def test_home_is_expanded(write, monkeypatch):
    """A leading ~ is the user's home."""
    monkeypatch.setenv("HOME", "/home/lab")
    assert load(write('[paths]\nraw = "~/raw"'), environ={}).paths.raw == Path("/home/lab/raw")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[watch]\nsettle_s = -1", ["watch.settle_s = -1 must be a number of seconds from 0 to 3600"]),
        ("[watch]\nsettle_s = nan", ["watch.settle_s = nan must be a number"]),
        ("[watch]\nsettle_s = inf", ["watch.settle_s = inf must be a number"]),
        ("[watch]\nsettle_s = true", ["watch.settle_s = true must be a number"]),
        ('[watch]\nsettle_s = "1"', ['watch.settle_s = "1" must be a number']),
        ("[watch]\nsettle_s = 2020-01-01", ["watch.settle_s = 2020-01-01 must be"]),
        pytest.param(f"[watch]\nsettle_s = 0x{'f' * 9000}", ["a number of more than 70 digits must be"], id="huge"),
        ("[watch]\nsetle_s = 1", ["watch.setle_s is no key", "did you mean settle_s?"]),
        ("[watch]\nport = 1", ["watch.port is no key", "belongs to [http]"]),
        ("[wach]", ["[wach] is no section", "did you mean watch?"]),
        ('timezone = "UTC"', ["timezone is no section", "below the line [lab]"]),
        ("watch = 3", ["watch = 3 must be a table, begun by the line [watch]"]),
        ("[[watch]]", ["watch = [a table] must be a table"]),
        ("procedures = 1", ["procedures = 1 must be a table"]),
        ('[watch]\nmode = "Event"', ['must be one of "auto", "events", "scan"', "did you mean events?"]),
        ("[watch]\nmode = 1", ["watch.mode = 1 must be one of"]),
        ('[watch]\ninclude = "*.csv"', ['must be a list of file name patterns, such as ["*.csv"]']),
        ("[watch]\ninclude = []", ["at least one pattern"]),
        ('[watch]\nexclude = ["a", 1]', ['["a", 1] must be a list']),
        ("[watch]\nexclude = [[], []]", ["a list of 2 must be a list"]),
        ("[pools]\nstage_workers = 1.0", ["pools.stage_workers = 1.0 must be a whole number from 0 to 64"]),
        ("[pools]\nstage_workers = true", ["pools.stage_workers = true must be a whole number"]),
        ("[http]\nport = 70000", ["http.port = 70000 must be a whole number from 0 to 65535"]),
        ("[http]\nenabled = 1", ["http.enabled = 1 must be true or false"]),
        ('[http]\nhost = " "', ["http.host"]),
        ('[pools]\nengine = "Dask"', ['must be one of "local", "dask"', "did you mean dask?"]),
        ('[pools]\nscheduler = "lab-server:8786"', ['must be an address such as "tcp://lab-server:8786"']),
        ('[pools]\nscheduler = "tcp://lab-server"', ["must be an address"]),
        ('[pools]\nscheduler = "tcp://lab-server:0"', ["must be an address"]),
        ('[pools]\nscheduler = "tcp://a b:\u00b2"', ["must be an address"]),
        ('[pools]\nscheduler = "http://lab-server:8786"', ["must be an address"]),
        ('[pools]\nfallback = "remote"', ['pools.fallback = "remote" must be one of "none", "local"']),
        ('[pools]\npath_map = { "srv" = "/mnt" }', ["pools.path_map", "must be a table of absolute folders"]),
        ('[pools]\npath_map = { "/srv" = "/a", "/srv/" = "/b" }', ["must name each folder once"]),
        ('[pools]\npath_map = ["/srv"]', ["must be a table of absolute folders"]),
        ('[pools]\npath_map = { "/srv" = 1 }', ["must be a table of absolute folders"]),
        ('[lab]\nname = "Nano East"', ["lab.name", "small letters, digits and hyphens"]),
        ('[lab]\nname = "a/b"', ["lab.name", "small letters, digits and hyphens"]),
        ('[lab]\nname = ".."', ["lab.name", "small letters, digits and hyphens"]),
        ("[lab]\nname = 7", ["lab.name", "small letters, digits and hyphens"]),
        ('[lab]\ntimezone = "america/santiago"', ["did you mean America/Santiago?"]),
        ('[lab]\ntimezone = "America"', ["lab.timezone", "must be the name of a time zone"]),
        ('[lab]\ntimezone = "../etc/passwd"', ["must be the name of a time zone"]),
        ("[lab]\ntimezone = 3", ["must be the name of a time zone"]),
        ('[paths]\nraw = ""', ["paths.raw", "must be the path of a folder"]),
        ('[paths]\nraw = "a\\u0000b"', ["must be the path of a folder"]),
        ('[paths]\nraw = "~nobody-here/x"', ['"~nobody-here" is no user\'s home']),
        ('["a\\nb"]', ["[a\\nb] is no section"]),
        ('[watch]\n"" = 1', ['watch."" is no key']),
        ("[watch\n", ["is no TOML", "line 1, column"]),
        ("[watch]\nsettle_s = \n", ["is no TOML", "line 2, column 12"]),
        (b"[lab]\ntimezone = '\xff'", ["is no UTF-8 (at line 2, column 13)"]),
        pytest.param(f"x = {'[' * 5000}", ["nested too deeply"], id="deep"),
        pytest.param(f"x = {'1' * 5000}", ["is no TOML"], id="long"),
    ],
)
def test_mistakes_are_named(write, text, words):
    """A mistake is refused with the file, the key, the value and what would be right, on printable lines."""
    file = write(text)
    message = refused(file)
    for word in (str(file), *words):
        assert word in message
    assert all(line.isprintable() for line in message.splitlines())


def test_an_engine_elsewhere_needs_an_address(write):
    """Without one there is nothing to connect to; no other address is guessed."""
    assert 'pools.engine = "dask" needs pools.scheduler' in refused(write('[pools]\nengine = "dask"'))
    file = write('[pools]\nengine = "dask"\nscheduler = "tls://[::1]:8786"')
    assert load(file, environ={}).pools.scheduler == "tls://[::1]:8786"


def test_all_mistakes_at_once(write):
    """Every mistake of file, environment and command line stands in one message, each once."""
    message = refused(
        write("[watch]\nsettle_s = -1\nquiet_s = -1\n[http]\nport = -1"),
        environ={"NANOLAB_LOG_LEVEL": "loud"},
        overrides={"pools.stage_workers": -3, "pools.segment_workers": -3},
    )
    assert message.startswith("The configuration has 5 mistakes:")
    for word in ("watch.settle_s", "watch.quiet_s", "http.port", "environment: NANOLAB_LOG_LEVEL", "--workers = -3"):
        assert message.count(word) == 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("NANOLAB_WATCH_SETTLE_S", "2.5", 2.5),
        ("NANOLAB_WATCH_MODE", " scan ", WatchMode.SCAN),
        ("NANOLAB_WATCH_INCLUDE", "*.csv, *.CSV", ("*.csv", "*.CSV")),
        ("NANOLAB_WATCH_EXCLUDE", "", ()),
        ("NANOLAB_POOLS_STAGE_WORKERS", "3", 3),
        ("NANOLAB_HTTP_ENABLED", "Yes", True),
        ("NANOLAB_HTTP_ENABLED", "0", False),
        ("NANOLAB_LAB_TIMEZONE", "UTC", "UTC"),
        ("NANOLAB_PATHS_RAW", "/caf\udce9", Path("/caf\udce9")),
    ],
)
def test_environment_is_read_as_typed(write, name, text, value):
    """Text from the environment becomes the type of its key."""
    config = load(write(""), environ={name: text, "PATH": "/bin"})
    assert config.values()[VARIABLES[name]] == value
    assert config.source(VARIABLES[name]) is Source.ENV
    assert len(config.digest) == 64


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("NANOLAB_WATCH_SETTLE", "1", "did you mean NANOLAB_WATCH_SETTLE_S?"),
        ("NANOLAB_CONFG", "x", "did you mean NANOLAB_CONFIG?"),
        ("NANOLAB_PROCEDURES_IV", "x", "only be set in the file"),
        ("NANOLAB_WATCH_SETTLE_S", "nan", "must be a number"),
        ("NANOLAB_WATCH_SETTLE_S", "soon", '"soon" must be a number'),
        ("NANOLAB_POOLS_STAGE_WORKERS", "1.5", "must be a whole number"),
        ("NANOLAB_POOLS_STAGE_WORKERS", "٣", "must be a whole number"),
        ("NANOLAB_HTTP_ENABLED", "maybe", "must be true or false"),
        ("NANOLAB_WATCH_INCLUDE", "a,,b", "must be a list"),
        ("NANOLAB_PATHS_RAW", "", "must be the path of a folder"),
        ("NANOLAB_X\udce9\n", "1", "NANOLAB_X\\xe9\\n is no variable"),
    ],
)
def test_environment_mistakes_are_named(write, name, text, word):
    """An unknown variable or a bad value in the environment is refused by its name."""
    message = refused(write(""), environ={name: text})
    assert word in message
    assert escaped(name) in message


def test_variables_that_are_no_settings(write):
    """The variables for the file and for the tests' real data are not taken for settings."""
    file = write("[watch]\nsettle_s = 9")
    assert load(environ={"NANOLAB_CONFIG": str(file)}).watch.settle_s == 9.0


def test_flag_for_the_file_wins_over_the_variable(write):
    """`--config` is stronger than NANOLAB_CONFIG."""
    assert load(write(""), environ={"NANOLAB_CONFIG": "/no/such"}).watch.settle_s == 1.0


def test_default_files(tmp_path, monkeypatch):
    """Without --config the file is sought in the current folder, then under /etc."""
    monkeypatch.chdir(tmp_path)
    etc = tmp_path / "etc" / "config.toml"
    etc.parent.mkdir()
    etc.write_text("[watch]\nsettle_s = 7")
    monkeypatch.setattr(config_module, "DEFAULT_FILES", (Path("config.toml"), etc))
    config = load(environ={})
    assert (config.file, config.watch.settle_s, config.paths.raw) == (etc, 7.0, etc.parent / "data/01_raw")
    (tmp_path / "config.toml").write_text("[watch]\nsettle_s = 8")
    config = load(environ={})
    assert (config.file, config.watch.settle_s) == (tmp_path / "config.toml", 8.0)


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_module, "DEFAULT_FILES", (Path("config.toml"),))


@pytest.mark.parametrize("given", [0, 1, 3])
def test_no_file_and_not_all_folders(no_files, given):
    """Without any file the message says which folders are still to be named, and how."""
    overrides = dict(list(FOUR.items())[:given])
    message = refused(overrides=overrides)
    assert "--config FILE" in message
    assert "--state-dir FOLDER" in message
    assert "NANOLAB_PATHS_STATE" in message
    assert ("--raw-root FOLDER" in message) == (given == 0)


def test_no_file_but_all_folders(no_files, tmp_path):
    """Without any file the program runs if flags and environment name the four folders."""
    flags = {key: FOUR[key] for key in ("paths.raw", "paths.stage", "paths.output")}
    config = load(environ={"NANOLAB_PATHS_STATE": "l"}, overrides=flags)
    assert config.file is None
    assert config.paths == Paths(*(tmp_path / name for name in FOUR.values()))


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_file_that_cannot_be_read(tmp_path, kind):
    """A file that was asked for and can't be read is an error, even where others exist."""
    message = refused(tmp_path if kind == "folder" else tmp_path / "no.toml")
    assert str(tmp_path) in message
    assert "can't be read" in message


def test_byte_order_mark(write):
    """A file saved by a Windows editor with a byte order mark is read."""
    assert load(write(b"\xef\xbb\xbf[watch]\r\nsettle_s = 5\r\n"), environ={}).watch.settle_s == 5.0


def test_unknown_override():
    """An override for a key that does not exist is refused."""
    assert "watch.setle_s is no key" in refused(ROOT / "config.toml", overrides={"watch.setle_s": 1})


def test_overrides_as_text(write):
    """A flag's text is read like text from the environment."""
    assert load(write(""), environ={}, overrides={"watch.settle_s": "3"}).watch.settle_s == 3.0


def test_procedures_are_handed_on(write):
    """The table of procedures is passed on as it stands, whatever is in it."""
    config = load(write("[procedures.It]\ncolumns = ['t (s)']\nanything = 1979-05-27"), environ={})
    assert config.procedures["It"]["columns"] == ["t (s)"]
    assert config.source("procedures") is Source.FILE


def test_frozen_and_picklable(write):
    """A configuration can't be changed, and travels to another process unharmed."""
    config = load(write("[procedures.It]\na = 1"), environ={})
    with pytest.raises(FrozenInstanceError):
        config.watch.settle_s = 3
    copy = pickle.loads(pickle.dumps(config))
    assert (copy, copy.digest, copy.sources) == (config, config.digest, config.sources)


def test_digest_follows_the_values(write, tmp_path):
    """The digest depends on each value in force, and on nothing else."""
    base = load(write(f'[paths]\nraw = "{tmp_path}/x"'), environ={})
    same = load(write("# another file\n[watch]\nsettle_s = 1"), environ={}, overrides={"paths.raw": tmp_path / "x"})
    assert (base == same, base.digest == same.digest) == (True, True)
    other = load(write("[watch]\nsettle_s = 1.5"), environ={}, overrides={"paths.raw": tmp_path / "x"})
    procedures = load(write("[procedures.a]"), environ={}, overrides={"paths.raw": tmp_path / "x"})
    assert len({base.digest, other.digest, procedures.digest}) == 3


def test_workers(monkeypatch):
    """A count of 0 means one worker for each CPU that this process may use, and at most 8."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(3)))
    assert (default_workers(), Config().pools.stage_processes) == (3, 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(30)))
    assert Config().pools.segment_processes == 8
    assert config_module.Pools(stage_workers=20).stage_processes == 20


def test_limits_in_bytes():
    """Sizes are powers of two, as the system's own tools show them."""
    limits = Config().limits
    assert (limits.max_file_bytes, limits.max_header_bytes) == (100 * 1024 * 1024, 1024 * 1024)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        ("x" * 100, f'"{"x" * 60}…"'),
        ("a\x1b\udce9\n", '"a\\x1b\\xe9\\n"'),
        ({"a": 1}, "a table"),
        ([1, "b"], '[1, "b"]'),
        (list(range(9)), "a list of 9"),
        pytest.param(1 << 40000, "a number of more than 70 digits", id="huge"),
        (Path("/a b"), '"/a b"'),
    ],
)
def test_shown(value, text):
    """Values in messages are short and printable."""
    assert shown(value) == text


def test_import_is_light():
    """Reading settings imports neither the numeric libraries nor what only rare paths need."""
    code = (
        "import sys, nanolab_daemon.config\n"
        "heavy = 'numpy polars pyarrow structlog click tomllib zoneinfo difflib logging'.split()\n"
        "print({*heavy} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "UTC", "America", "~", "*.csv", "info"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
SECTION_NAMES = st.sampled_from([*SECTIONS, "procedures"]) | st.text(max_size=8)
KEYS = st.sampled_from(sorted({one.partition(".")[2] for one in RULES})) | st.text(max_size=8)
TABLES = st.dictionaries(SECTION_NAMES, st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, max_size=5)


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=TABLES)
def test_any_table_gives_settings_or_an_error(table, monkeypatch, tmp_path):
    """Whatever a file holds, the answer is a usable configuration or a printable ConfigError."""
    monkeypatch.setattr(config_module, "read_toml", lambda _file: table)
    got = outcome(load, tmp_path / "config.toml", environ={})
    if isinstance(got, str):
        assert all(line.isprintable() for line in got.split("\n"))
    else:
        assert pickle.loads(pickle.dumps(got)).digest == got.digest


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    environ=st.dictionaries(
        st.sampled_from(sorted(VARIABLES)) | st.text(max_size=5).map("NANOLAB_".__add__),
        st.text() | st.floats().map(str) | st.integers().map(str),
        max_size=4,
    )
)
def test_any_environment_gives_settings_or_an_error(environ):
    """Whatever the environment holds, the answer is a configuration or a printable ConfigError."""
    environ.pop("NANOLAB_CONFIG", None)
    got = outcome(load, ROOT / "config.toml", environ=environ)
    assert isinstance(got, Config) or all(line.isprintable() for line in got.split("\n"))


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.binary(max_size=60) | st.text(alphabet="[]{}=\".'#\n ab1-_,", max_size=60).map(str.encode))
def test_any_bytes_give_a_table_or_an_error(text, tmp_path):
    """Whatever bytes a file holds, the answer is a table or a printable ConfigError."""
    file = tmp_path / "any.toml"
    file.write_bytes(text)
    got = outcome(config_module.read_toml, file)
    assert isinstance(got, dict) or got.isprintable()
